"""What the driver decides, with a stand-in for Tune that loses machines as it is told. No Ray, no training here."""

from __future__ import annotations

import io
import random
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from orchestrator.errors import SweepError
from orchestrator.execution import driver as driver_module
from orchestrator.execution.options import Callback, RunOptions, SweepStatus
from orchestrator.execution.run import SweepOutcome, run_sweep
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import AttemptEnd, AttemptStart, Row, Status, TrialRecord, TrialResult
from orchestrator.records.writer import TrialWriter
from orchestrator.resources.usage import Budget
from orchestrator.storage import Storage, open_storage
from orchestrator.sweep import ResourceRule, Resources, Sweep
from orchestrator.worker.job import Job
from tests.support.sweeps import study, tiny_config

NODES = [("a", "L40S", 2), ("b", "H100", 1)]
Script = Callable[[str, int], str]
"""(trial id, how often it was sent off) -> finish | fail | lose | vanish | leave."""


class StandIn:
    """Runs what the driver suggests, in an order of its own; every trial writes a record and no trial trains."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.allocations: dict[str, str] = {}
        self.most: dict[str, int] = {}
        self.order: list[tuple[str, str]] = []
        self.starts: Counter[str] = Counter()

    def fit(self, driver: Any, slots: int) -> None:
        rng, running = random.Random(0), []
        for _ in range(2000):
            while len(running) < slots and (config := driver.suggest()) is not None:
                running.append((Job.from_json(config["job"]), self._sit(config)))
            if not running:
                if driver.is_finished or driver.is_stopping:
                    return
                raise AssertionError("nothing runs, nothing starts, and the sweep is not over")
            if driver.is_stopping:
                return
            self._play(driver, *running.pop(rng.randrange(len(running))))
        raise AssertionError("no end")

    def _sit(self, config: dict[str, Any]) -> tuple[str, str | None]:
        rule = config["bundle"]["labels"].get("ray.io/accelerator-type", "")
        node = next((n for n, kind, _ in NODES if kind in rule or not rule), "a")
        kind = {n: k for n, k, _ in NODES}[node] if config["bundle"]["resources"].get("GPU") else None
        self.allocations[config["trial_id"]] = node
        self.most[node] = max(self.most.get(node, 0), list(self.allocations.values()).count(node))
        self.order.append((config["trial_id"], node))
        return node, kind

    def _play(self, driver: Any, job: Job, seat: tuple[str, str | None]) -> None:
        writer = TrialWriter(open_storage(job.storage_url), job.sweep, job.trial_id)
        self.starts[job.trial_id] += 1
        deed = self.script(job.trial_id, self.starts[job.trial_id])
        where = {"node_id": seat[0], "gpu_type": seat[1]}
        del self.allocations[job.trial_id]
        if deed == "vanish":  # its machine was gone before it began
            driver.ended(job.trial_id, lost=True, why="RuntimeError: exit code 1")
            return
        start = {"from_step": 0, "started_s": 1000.0, "gpu_type": seat[1], "gpu_count": job.placement["gpu_count"]}
        writer.start(AttemptStart.parse({**start, "device": "cpu"}))
        writer.add(Row(4, 1010.0, "validation", {"exact_accuracy": 0.5, "raw_cell_accuracy": 0.5}))
        writer.flush()
        driver.result(job.trial_id, {**where, "kind": "progress", "trial_step": 4, "metrics": ()})
        end = {"step": 4, "train_s": 1.0, "ended_s": 1000.0 + 3600, "traceback": ""}
        if deed == "finish":
            metrics = {"exact_accuracy": 0.5, "cell_accuracy": 0.5}
            result = {"split": "test", "items": 16, "metrics": metrics, "train_s": 1.0, "ended_s": 4600.0}
            writer.finish(TrialResult.parse({**result, "train_flops": 1.0, "per_item": "ff"}), {})
            writer.end(AttemptEnd.parse({**end, "status": "finished", "reason": ""}))
        elif deed == "fail":
            writer.end(AttemptEnd.parse({**end, "status": "failed", "reason": "boom"}))
        elif deed == "leave":
            writer.end(AttemptEnd.parse({**end, "status": "interrupted", "reason": "asked to stop"}))
        driver.ended(job.trial_id, lost=deed == "lose")


class Remarks(Callback):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def remark(self, text: str) -> None:
        self.heard.append(text)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path))


@pytest.fixture
def run(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[SweepOutcome, StandIn, Remarks]]]:
    nodes = [
        {"NodeID": n, "Alive": True, "Labels": {"ray.io/accelerator-type": kind}, "Resources": {"CPU": 8, "GPU": count}}
        for n, kind, count in NODES
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 16, "GPU": 3})
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(driver_module, "connect", lambda address: None)
    monkeypatch.setattr(driver_module, "next_process", lambda is_quiet: io.BytesIO())  # something to close

    def go(sweep: Sweep, script: Script = lambda *_: "finish", **options: Any) -> tuple[SweepOutcome, StandIn, Remarks]:
        tune, remarks = StandIn(script), Remarks()
        module = types.ModuleType("orchestrator.execution.tune")
        module.fit = tune.fit  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "orchestrator.execution.tune", module)
        return run_sweep(sweep, storage, RunOptions(**options), remarks), tune, remarks

    yield go


def records(storage: Storage, sweep: str = "study") -> list[TrialRecord]:
    return read_trials(storage, sweep)


def on(gpu_type: str, gpus: float = 1) -> Resources:
    return Resources(cpus=1, gpus=gpus, gpu_type=gpu_type)


class TestLostMachines:
    def test_a_lost_trial_goes_again_and_ends_once(self, run: Any, storage: Storage) -> None:
        deeds = {1: "vanish", 2: "lose", 3: "vanish", 4: "leave"}
        ran, _, _ = run(study(resources=on("L40S|H100")), lambda trial, start: deeds.get(start, "finish"))
        assert ran.ending is SweepStatus.COMPLETE
        found = records(storage)
        assert len(found) == 8 and all(record.status is Status.FINISHED for record in found)

    def test_five_losses_are_borne_and_the_sixth_ends_the_trial_alone(self, run: Any, storage: Storage) -> None:
        unlucky: list[str] = []

        def script(trial: str, start: int) -> str:
            if not unlucky:
                unlucky.append(trial)
            return "lose" if trial in unlucky else "finish"

        ran, _, _ = run(study(), script)
        (lost,) = [record for record in records(storage) if record.status is Status.FAILED]
        assert ran.ending is SweepStatus.COMPLETE
        assert lost.trial_id in unlucky and len(lost.attempts) == 6 and "lost 6 times" in lost.reason

    def test_a_machine_that_was_announced_to_go_counts_against_nobody(self, run: Any, storage: Storage) -> None:
        ran, _, _ = run(study(), lambda trial, start: "leave" if start < 10 else "finish")
        assert ran.ending is SweepStatus.COMPLETE
        assert all(record.status is Status.FINISHED and len(record.attempts) == 10 for record in records(storage))

    def test_a_trial_that_never_begins_is_given_up_in_the_end(self, run: Any, storage: Storage) -> None:
        ran, _, _ = run(study(), lambda *_: "vanish")
        assert ran.ending is SweepStatus.COMPLETE
        assert all(record.status is Status.FAILED for record in records(storage))


class TestPlacement:
    def test_no_machine_gets_more_than_it_holds_and_each_kind_its_own(self, run: Any, storage: Storage) -> None:
        rules = (ResourceRule(when={"T": 1}, resources=on("H100")), ResourceRule(when={"T": 2}, resources=on("L40S")))
        ran, tune, _ = run(study(resource_rules=rules))
        assert ran.ending is SweepStatus.COMPLETE
        assert tune.most == {"a": 2, "b": 1}
        kinds = {(record.config.model.cycles, record.attempts[0].start.gpu_type) for record in records(storage)}
        assert kinds == {(1, "H100"), (2, "L40S")}
        assert "a" in [node for _, node in tune.order[:3]], "an L40S idled while trials waited for the H100"

    def test_what_fits_on_no_gpu_is_recorded_and_not_sent(
        self, run: Any, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            driver_module, "memory_bytes", lambda config, device: 10**12 if config.model.cycles == 2 else 10**9
        )
        ran, tune, _ = run(study(resources=on("L40S|H100")))
        statuses = {(record.config.model.cycles, record.status) for record in records(storage)}
        assert ran.ending is SweepStatus.COMPLETE and len(tune.order) == 4
        assert statuses == {(1, Status.FINISHED), (2, Status.OUT_OF_MEMORY)}

    def test_a_share_follows_from_memory_and_is_told_to_the_trial(self, run: Any, storage: Storage) -> None:
        _, tune, _ = run(study(resources=on("L40S")), share_gpus=True)
        assert tune.most["a"] > 2
        shares = {record.attempts[0].start.gpu_count for record in records(storage)}
        assert all(0 < share < 1 for share in shares)

    def test_max_gpus_holds(self, run: Any) -> None:
        _, tune, _ = run(study(resources=on("L40S|H100")), max_gpus=1)
        assert max(tune.most.values()) == 1 and len(tune.order) == 8

    def test_a_canary_goes_first_and_its_failure_ends_the_sweep(self, run: Any, storage: Storage) -> None:
        sweep = study(resources=on("L40S"))
        with pytest.raises(SweepError, match=r"first trial on L40S failed within 50 steps.*boom.*--no-canary"):
            run(sweep, lambda *_: "fail", canary=True)
        assert [record.status for record in records(storage)] == [Status.FAILED]
        ran, tune, _ = run(sweep, canary=True)
        assert ran.ending is SweepStatus.COMPLETE and len(tune.order) == 7

    def test_a_canary_whose_process_dies_again_and_again_says_of_what(self, run: Any) -> None:
        with pytest.raises(
            SweepError, match=r"first trial on L40S failed.*lost 21 times, at last: RuntimeError: exit code 1"
        ):
            run(study(resources=on("L40S")), lambda *_: "vanish", canary=True)

    def test_without_a_canary_a_failure_is_one_result_among_others(self, run: Any, storage: Storage) -> None:
        ran, _, _ = run(study(resources=on("L40S")), lambda *_: "fail")
        assert ran.ending is SweepStatus.COMPLETE and len(records(storage)) == 8


class TestBudget:
    def test_a_sweep_ends_cleanly_at_its_limit_and_goes_on_with_a_larger_one(self, run: Any, storage: Storage) -> None:
        ran, tune, _ = run(study(), budget=Budget(trials=3))
        assert ran.ending is SweepStatus.OUT_OF_BUDGET and ran.why.startswith("3 of 3 trials taken")
        assert len(tune.order) == 3 and all(record.status is Status.FINISHED for record in records(storage))
        with pytest.raises(SweepError, match="too small for one trial: 3 of 3 trials taken"):
            run(study(), budget=Budget(trials=3))
        assert run(study(), budget=Budget(trials=8))[0].ending is SweepStatus.COMPLETE

    def test_measured_trials_correct_the_estimate(self, run: Any, storage: Storage) -> None:
        """Each trial of the stand-in takes an hour; the data sheet says seconds."""
        ran, tune, _ = run(study(resources=on("L40S")), budget=Budget(gpu_hours=4.5))
        assert ran.ending is SweepStatus.OUT_OF_BUDGET and "GPU-hours taken" in ran.why
        assert 4 <= len(tune.order) <= 5  # two ran before the first had been measured

    def test_nothing_is_written_for_a_budget_too_small_for_one_trial(self, run: Any, storage: Storage) -> None:
        with pytest.raises(SweepError, match="too small for one trial"):
            run(study(), budget=Budget(wall_hours=1e-12))
        assert storage.list() == []


class TestReuse:
    def test_what_another_sweep_has_finished_is_not_run_again_and_is_named(self, run: Any, storage: Storage) -> None:
        run(study(name="first", space={"T": study().space["model.cycles"]}, base=tiny_config()))
        ran, tune, remarks = run(study(), reuse=True)
        taken = [record for record in records(storage) if record.origin]
        assert ran.ending is SweepStatus.COMPLETE and len(taken) == 4 and len(tune.order) == 4
        assert len(remarks.heard) == 4 and all("taken over from sweep first" in text for text in remarks.heard)
        assert len(records(storage)) == 8

    def test_without_being_asked_everything_is_run(self, run: Any, storage: Storage) -> None:
        run(study(name="first"))
        _, tune, remarks = run(study())
        assert len(tune.order) == 8 and remarks.heard == []
