"""What a run decides, with a stand-in for Ray Tune that loses nodes as it is told. No Ray, no training."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import SweepError
from orchestrator.execution.budget import BudgetTracker, require_budget_for_one
from orchestrator.execution.controller import Controller
from orchestrator.execution.options import RunOptions, SweepOutcome, SweepStatus
from orchestrator.execution.run import run_sweep
from orchestrator.records.extend import retry
from orchestrator.records.failures import ExitCode
from orchestrator.records.index import last_address, note_address, trial_folder
from orchestrator.records.progress import SweepProgress
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import AttemptEnd, AttemptStart, Status, StopDecision, TrialRecord
from orchestrator.records.writer import TrialWriter
from orchestrator.resources.estimate import MAX_STUDY_CELLS
from orchestrator.resources.runtime import RuntimeModel, TrialCost
from orchestrator.resources.usage import Budget, attempt_usage
from orchestrator.search.planner import Planner
from orchestrator.storage import LocalStorage, Storage, open_storage
from orchestrator.sweep import ResourceRule, Resources, Sweep, choice
from orchestrator.sweep.trials import Fingerprint, PlannedTrial, study_trials
from orchestrator.worker.job import Job
from tests.support.execution import FakeCluster, Recorder, Script, StandIn
from tests.support.sweeps import study, tiny_config
from trm_data.files import machine_id

FULL = "No space left on device"
Run = Callable[..., tuple[SweepOutcome, StandIn, Recorder]]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path))


@pytest.fixture
def run(storage: Storage) -> Run:
    def run(
        sweep: Sweep, script: Script = lambda *_: "finish", **options: Any
    ) -> tuple[SweepOutcome, StandIn, Recorder]:
        tune, recorder = StandIn(script), Recorder()
        outcome = run_sweep(sweep, storage, RunOptions(**options), [recorder], cluster=FakeCluster(), execute=tune.fit)
        return outcome, tune, recorder

    return run


def records(storage: Storage, sweep: str = "study") -> list[TrialRecord]:
    return read_trials(storage, sweep)


SPACE = {
    "lr": choice(*(1e-5 * n for n in range(1, 101))),
    "optimizer.weight_decay": choice(*(0.01 * n for n in range(100))),
}
MILLION = {**SPACE, "ema": choice(*(0.9 + 0.0009 * n for n in range(100)))}


@pytest.fixture
def expanded(monkeypatch: pytest.MonkeyPatch) -> list[PlannedTrial]:
    """The trials of studies that are expanded, in order."""
    found: list[PlannedTrial] = []

    def noted(sweep: Sweep, fingerprint: Fingerprint) -> Iterator[PlannedTrial]:
        for trial in study_trials(sweep, fingerprint):
            found.append(trial)
            assert len(found) < 20, "the cells of a study are expanded one by one"
            yield trial

    monkeypatch.setattr("orchestrator.search.planner.study_trials", noted)
    return found


def test_of_a_million_cells_a_run_expands_those_that_it_starts_and_the_next(
    run: Run, storage: Storage, expanded: list[PlannedTrial]
) -> None:
    sweep = study(space=MILLION, seeds=1)
    outcome, tune, _ = run(sweep, budget=Budget(trials=2, wall_hours=1))
    assert outcome.status is SweepStatus.OUT_OF_BUDGET
    assert str(outcome.snapshot.progress) == "2 of 1000000 trials done"
    assert [trial for trial, _ in tune.order] == [trial.trial_id for trial in expanded[:2]]
    assert len(expanded) == 4, "the third did not fit the budget, and one more waited"
    expanded.clear()
    outcome, tune, _ = run(sweep, budget=Budget(trials=3))
    assert str(outcome.snapshot.progress) == "3 of 1000000 trials done" and len(expanded) == 5
    assert [trial for trial, _ in tune.order] == [expanded[2].trial_id]


def test_budget_of_a_large_study_is_checked_on_the_cells_that_its_plan_is_estimated_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked: list[str] = []

    def check(self: BudgetTracker, trial_id: str, need: TrialCost) -> str:
        checked.append(trial_id)
        return "no"

    monkeypatch.setattr(BudgetTracker, "check", check)
    with pytest.raises(SweepError, match="too small for one trial: no"):
        require_budget_for_one(study(space=SPACE, seeds=1), Budget(trials=1))
    assert len(checked) == MAX_STUDY_CELLS


def test_an_outcome_knows_of_ends_that_were_written_late_and_of_trials_that_never_began(
    storage: Storage, expanded: list[PlannedTrial], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No second planner reads the records at the end: it would expand a study, or fit a sampler, again."""
    made: list[Planner] = []

    class Counted(Planner):
        def __init__(self, *arguments: Any) -> None:
            made.append(self)
            super().__init__(*arguments)

    monkeypatch.setattr("orchestrator.execution.run.Planner", Counted)

    def execute(controller: Controller, slots: int) -> None:
        first, second, _ = (Job.from_json(controller.suggest()["job"]) for _ in range(3))  # type: ignore[index]
        controller.stop(SweepStatus.STOPPED)
        for job, status in ((first, "failed"), (second, "interrupted")):
            writer = TrialWriter(storage, job.sweep, job.trial_id)
            writer.start(AttemptStart(from_step=0, started_s=1000.0))
            writer.end(AttemptEnd.parse({"status": status, "step": 4, "ended_s": 1001.0, "reason": "late"}))

    outcome = run_sweep(study(), storage, RunOptions(), [], cluster=FakeCluster(), execute=execute)
    assert outcome.snapshot.counts == {Status.FAILED: 1, Status.INTERRUPTED: 1, Status.PENDING: 1}
    assert outcome.snapshot.progress == SweepProgress(planned=8, done=1, failed=1)
    assert {trial.trial_id for trial in outcome.snapshot.trials} == {trial.trial_id for trial in expanded[:3]}
    assert len(expanded) == 4 and len(made) == 1


def on(gpu_type: str, gpus: float = 1) -> Resources:
    return Resources(cpus=1, gpus=gpus, gpu_type=gpu_type)


def test_a_stopped_process_is_reported_once_with_what_continues_it(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune waits for a raylet that was stopped without a word, for as long as it is."""
    monkeypatch.setattr("orchestrator.execution.driver.CHECK_S", 0.0)
    monkeypatch.setattr("orchestrator.execution.driver.STOPPED_CHECK_S", 0.0)
    checks: list[int] = []
    deadline = time.monotonic() + 300

    class Halted(FakeCluster):
        def stopped(self) -> dict[int, str]:
            checks.append(1)
            return {4242: "raylet"}

    def script(trial: str, start: int) -> str:
        while len(checks) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        return "finish"

    recorder = Recorder()
    ran = run_sweep(study(), storage, RunOptions(), [recorder], cluster=Halted(), execute=StandIn(script).fit)
    assert ran.status is SweepStatus.COMPLETE
    said = [text for text in recorder.messages if "4242" in text]
    assert said == ["process 4242 (raylet) of this sweep is stopped: `kill -CONT 4242` lets it go on"]


def test_a_storage_that_hangs_delays_no_look_at_ray(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.execution.driver.CHECK_S", 0.0)
    asked, goes_on, waited = threading.Event(), threading.Event(), []
    exists = LocalStorage.exists

    def hang(self: LocalStorage, key: str) -> bool:
        if key == "stop.json":
            asked.set()
            waited.append(goes_on.wait(60))
        return exists(self, key)

    class Dying(FakeCluster):
        def failure(self) -> str:
            return "the raylet has ended" if asked.is_set() else ""

    def script(trial: str, start: int) -> str:
        goes_on.wait(60)
        return "finish"

    monkeypatch.setattr(LocalStorage, "exists", hang)
    ran = run_sweep(study(), storage, RunOptions(), cluster=Dying(), execute=StandIn(script).fit)
    is_late = bool(waited)
    goes_on.set()
    assert ran.status is SweepStatus.ABANDONED and "the raylet has ended" in ran.reason
    assert not is_late, "the storage was waited for"


def test_death_of_ray_is_noticed_while_a_decision_asks_it_for_its_nodes(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray waits for a GCS that has died for a minute, and then ends the process without a word."""
    asked, ended, waited = threading.Event(), threading.Event(), list[int]()

    class Dying(FakeCluster):
        def nodes(self) -> list[dict[str, Any]]:
            if threading.current_thread() is not threading.main_thread():
                asked.set()
                waited.extend([] if ended.wait(30) else [1])
            return super().nodes()

        def failure(self) -> str:
            return "the GCS has ended" if asked.is_set() else ""

    def script(trial: str, start: int) -> str:
        ended.wait(30)
        return "finish"

    monkeypatch.setattr("orchestrator.execution.driver.MACHINES_S", 0.0)
    monkeypatch.setattr("orchestrator.execution.driver.CHECK_S", 0.1)
    ran = run_sweep(study(), storage, RunOptions(), cluster=Dying(), execute=StandIn(script).fit)
    is_late = bool(waited)
    ended.set()
    assert ran.status is SweepStatus.ABANDONED and "the GCS has ended" in ran.reason
    assert not is_late, "Ray was waited for"


class TestLostMachines:
    def test_a_lost_trial_goes_again_and_ends_once(self, run: Run, storage: Storage) -> None:
        deeds = {1: "vanish", 2: "lose", 3: "vanish", 4: "leave"}
        ran, _, seen = run(study(resources=on("L40S|H100")), lambda trial, start: deeds.get(start, "finish"))
        assert ran.status is SweepStatus.COMPLETE
        again = [text for text in seen.messages if "runs again" in text]
        assert len(again) == 3 * 8 and "T=1 n=1 seed 0 runs again: lost: RuntimeError: exit code 1" in again
        found = records(storage)
        assert len(found) == 8 and all(record.status is Status.FINISHED for record in found)

    def test_snapshots_have_what_trials_that_have_ended_cost(self, run: Run, storage: Storage) -> None:
        ran, _, _ = run(study(resources=on("H100")), lambda trial, start: "lose" if start == 1 else "finish")
        expected = [usage for record in records(storage) for usage in attempt_usage(record)]
        # 8 trials of an hour, and what the lost first attempts did.
        assert ran.snapshot.gpu_hours > 8
        assert ran.snapshot.gpu_hours == pytest.approx(sum(usage.gpu_hours for usage in expected))
        assert ran.snapshot.usd == pytest.approx(sum(usage.usd or 0 for usage in expected))
        again, _, _ = run(study(resources=on("H100")))
        assert (again.snapshot.gpu_hours, again.snapshot.usd) == (ran.snapshot.gpu_hours, ran.snapshot.usd)

    def test_a_run_removes_what_killed_attempts_were_writing(self, run: Run, storage: Storage) -> None:
        """The next attempt has a folder of its own: nobody writes to that of a lost one again."""
        left: list[Path] = []

        def script(trial: str, start: int) -> str:
            if start == 2:
                folder = Path(storage.url, "sweeps/study/trials", trial, "attempts/001")
                left.append(folder / f".{machine_id()}-{os.getpid()}-1-01234567.tmp")  # of a process that is gone
                left[-1].write_bytes(b"half of a row")
            return "lose" if start == 1 else "finish"

        ran, _, _ = run(study(), script)
        assert ran.status is SweepStatus.COMPLETE and len(left) == 8
        assert not any(path.exists() for path in left)

    def test_five_losses_are_borne_and_the_sixth_ends_the_trial_alone(self, run: Run, storage: Storage) -> None:
        unlucky: list[str] = []

        def script(trial: str, start: int) -> str:
            if not unlucky:
                unlucky.append(trial)
            return "lose" if trial in unlucky else "finish"

        ran, _, _ = run(study(), script)
        (lost,) = [record for record in records(storage) if record.status is Status.FAILED]
        assert ran.status is SweepStatus.COMPLETE
        assert lost.trial_id in unlucky and len(lost.attempts) == 6 and "lost 6 times" in lost.reason

    def test_a_machine_that_was_announced_to_go_counts_against_nobody(self, run: Run, storage: Storage) -> None:
        ran, _, _ = run(study(), lambda trial, start: "leave" if start < 10 else "finish")
        assert ran.status is SweepStatus.COMPLETE
        assert all(record.status is Status.FINISHED and len(record.attempts) == 10 for record in records(storage))

    def test_a_trial_that_never_begins_is_marked_failed_in_the_end(self, run: Run, storage: Storage) -> None:
        ran, _, _ = run(study(), lambda *_: "vanish", max_failures=None)
        assert ran.status is SweepStatus.COMPLETE
        assert all(record.status is Status.FAILED for record in records(storage))

    @pytest.mark.parametrize("deed", ["fail", f"interrupt {FULL}", f"unrecorded {FULL}"])
    def test_a_trial_that_cannot_be_launched_keeps_the_ends_of_its_attempts(
        self, deed: str, run: Run, storage: Storage
    ) -> None:
        sweep = study(resources=on("H100"))
        run(sweep, lambda *_: deed, max_concurrent=1, max_failures=1)
        (before,) = records(storage)
        if before.status is Status.RUNNING:  # its process was killed after it had been stopped early
            folder = trial_folder(storage, sweep.name, before.trial_id)
            folder.write("stopped.json", StopDecision(step=4, reason="rank").encode())
        if before.status is not Status.INTERRUPTED:
            retry(storage, sweep.name, [before.trial_id])
        ran, tune, _ = run(sweep, lambda trial, start: "vanish" if trial == before.trial_id else "finish")
        (after,) = [record for record in records(storage) if record.trial_id == before.trial_id]
        assert ran.status is SweepStatus.COMPLETE and tune.starts[after.trial_id] == 21
        assert after.status is Status.FAILED and "lost 21 times" in after.reason
        assert after.attempts[0].end == before.attempts[0].end
        assert attempt_usage(after)[:-1] == attempt_usage(before) and attempt_usage(after)[-1].duration_s == 0.0
        assert after.attempts[-1].end and after.attempts[-1].end.train_s == (1.0 if before.attempts[0].end else 0.5)

    def test_an_attempt_that_was_lost_is_charged_up_to_its_last_row(self, run: Run, storage: Storage) -> None:
        run(study(seeds=1, resources=on("H100")), lambda *_: "lose", max_failures=1, max_concurrent=1)
        (lost,) = [record for record in records(storage) if record.status is Status.FAILED]
        assert [usage.duration_s for usage in attempt_usage(lost)] == [10.0] * 6
        assert lost.attempts[-1].end and lost.attempts[-1].end.train_s == 0.5


class TestPlacement:
    def test_no_machine_gets_more_than_it_holds_and_each_kind_its_own(self, run: Run, storage: Storage) -> None:
        rules = (ResourceRule(when={"T": 1}, resources=on("H100")), ResourceRule(when={"T": 2}, resources=on("L40S")))
        ran, tune, _ = run(study(resource_rules=rules))
        assert ran.status is SweepStatus.COMPLETE
        assert tune.most == {"a": 2, "b": 1}
        kinds = {(record.config.model.cycles, record.attempts[0].start.gpu_type) for record in records(storage)}
        assert kinds == {(1, "H100"), (2, "L40S")}
        assert "a" in [node for _, node in tune.order[:3]], "an L40S idled while trials waited for the H100"

    def test_what_fits_on_no_gpu_is_recorded_and_not_sent(self, run: Run, storage: Storage) -> None:
        huge = {"train.batch_size": choice(8, 2**24)}
        ran, tune, _ = run(study(space=huge, resources=on("L40S|H100")))
        statuses = {(record.config.train.batch_size, record.status) for record in records(storage)}
        assert ran.status is SweepStatus.COMPLETE and len(tune.order) == 2
        assert statuses == {(8, Status.FINISHED), (2**24, Status.OUT_OF_MEMORY)}

    def test_a_share_follows_from_memory_and_is_told_to_the_trial(self, run: Run, storage: Storage) -> None:
        _, tune, _ = run(study(resources=on("L40S")), share_gpus=True)
        assert tune.most["a"] > 2
        shares = {record.attempts[0].start.gpu_count for record in records(storage)}
        assert all(0 < share < 1 for share in shares)

    def test_max_gpus_holds(self, run: Run) -> None:
        _, tune, _ = run(study(resources=on("L40S|H100")), max_gpus=1)
        assert max(tune.most.values()) == 1 and len(tune.order) == 8

    def test_a_canary_goes_first_and_its_failure_ends_the_sweep(self, run: Run, storage: Storage) -> None:
        sweep = study(resources=on("L40S"))
        with pytest.raises(SweepError, match=r"first trial on L40S failed within 50 steps.*boom.*--no-canary"):
            run(sweep, lambda *_: "fail", canary=True)
        assert [record.status for record in records(storage)] == [Status.FAILED]
        ran, tune, _ = run(sweep, canary=True)
        assert ran.status is SweepStatus.COMPLETE and len(tune.order) == 7

    def test_a_canary_whose_process_dies_again_and_again_says_of_what(self, run: Run) -> None:
        with pytest.raises(
            SweepError, match=r"first trial on L40S failed.*lost 21 times, most recently: RuntimeError: exit code 1"
        ):
            run(study(resources=on("L40S")), lambda *_: "vanish", canary=True)

    def test_without_a_canary_a_failure_is_one_result_among_others(self, run: Run, storage: Storage) -> None:
        ran, _, _ = run(study(resources=on("L40S")), lambda *_: "fail", max_failures=None)
        assert ran.status is SweepStatus.COMPLETE and len(records(storage)) == 8


class TestBudget:
    def test_a_sweep_ends_cleanly_at_its_limit_and_goes_on_with_a_larger_one(self, run: Run, storage: Storage) -> None:
        ran, tune, _ = run(study(), budget=Budget(trials=3))
        assert ran.status is SweepStatus.OUT_OF_BUDGET and ran.reason.startswith("3 of 3 trials taken")
        assert len(tune.order) == 3 and all(record.status is Status.FINISHED for record in records(storage))
        again, idle, _ = run(study(), budget=Budget(trials=3))
        assert again.status is SweepStatus.OUT_OF_BUDGET and again.reason.startswith("3 of 3 trials taken")
        assert idle.order == [] and again.exit_code == ran.exit_code == ExitCode.STOPPED
        assert run(study(), budget=Budget(trials=8))[0].status is SweepStatus.COMPLETE
        for budget in (Budget(trials=3), Budget(wall_hours=1e-12)):  # nothing is left that either could refuse
            assert run(study(), budget=budget)[0].status is SweepStatus.COMPLETE

    def test_measured_trials_correct_the_estimate(self, run: Run, storage: Storage) -> None:
        """Each trial of the stand-in takes an hour; the data sheet says seconds."""
        ran, tune, _ = run(study(resources=on("L40S")), budget=Budget(gpu_hours=4.5))
        assert ran.status is SweepStatus.OUT_OF_BUDGET and "GPU-hours taken" in ran.reason
        assert 4 <= len(tune.order) <= 5  # two ran before the first had been measured

    def test_nothing_is_written_for_a_budget_too_small_for_one_trial(self, run: Run, storage: Storage) -> None:
        with pytest.raises(SweepError, match="too small for one trial"):
            run(study(), budget=Budget(wall_hours=1e-12))
        assert storage.list() == []

    def test_the_rest_of_an_interrupted_trial_may_fit_where_no_whole_one_does(self, run: Run, storage: Storage) -> None:
        sweep = study(resources=on("L40S"))
        run(sweep, lambda *_: f"interrupt {FULL}", max_concurrent=1)
        interrupted = max(records(storage), key=lambda record: record.step)
        costs = RuntimeModel(())
        whole, rest = (
            costs.need(interrupted.config, "L40S", gpus=1, cpus=1, step=step).hours for step in (0, interrupted.step)
        )
        budget = Budget(wall_hours=(rest + whole) / 2)
        with pytest.raises(SweepError, match="too small for one trial"):
            require_budget_for_one(sweep, budget)
        _, tune, _ = run(sweep, budget=budget)
        assert tune.order[0][0] == interrupted.trial_id


class TestReuse:
    def test_what_another_sweep_has_finished_is_not_run_again_and_is_named(self, run: Run, storage: Storage) -> None:
        run(study(name="first", space={"T": study().space["model.cycles"]}, base=tiny_config()))
        ran, tune, recorder = run(study(), reuse=True)
        taken = [record for record in records(storage) if record.origin]
        assert ran.status is SweepStatus.COMPLETE and len(taken) == 4 and len(tune.order) == 4
        assert len(recorder.messages) == 4 and all("reused from sweep first" in text for text in recorder.messages)
        assert len(records(storage)) == 8

    def test_a_trial_that_was_interrupted_here_goes_on_here(self, run: Run, storage: Storage) -> None:
        sweep = study(resources=on("H100"))
        run(sweep, lambda *_: f"interrupt {FULL}", max_concurrent=1)
        (before,) = records(storage)
        run(sweep.model_copy(update={"name": "first"}))
        ran, tune, _ = run(sweep, reuse=True)
        (after,) = [record for record in records(storage) if record.origin is None]
        assert ran.status is SweepStatus.COMPLETE and [trial for trial, _ in tune.order] == [before.trial_id]
        assert after.attempts[0] == before.attempts[0] and ran.snapshot.gpu_hours == 2.0

    def test_without_being_asked_everything_is_run(self, run: Run, storage: Storage) -> None:
        run(study(name="first"))
        _, tune, recorder = run(study())
        assert len(tune.order) == 8 and recorder.messages == []


@pytest.mark.parametrize("address", ["head.example:6379", None])
def test_a_run_records_the_cluster_for_the_command_that_resumes_it(
    run: Run, storage: Storage, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.execution.run.check_cluster", lambda address: SimpleNamespace(nodes=()))
    note_address(storage, "study", "earlier.example:6379")
    run(study(), address=address)
    assert last_address(storage, "study") == address
