"""What a run survives, and what stops it: outages, full disks, failures in a row, a dead Ray, broken callbacks."""

from __future__ import annotations

import errno
import io
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SweepError
from orchestrator.execution import failures
from orchestrator.execution.controller import Controller
from orchestrator.execution.failures import AttemptLimits, FailureStreak, StorageOutage, describe_damaged, persist
from orchestrator.execution.options import Callback, RunOptions, SweepOutcome, SweepSnapshot, SweepStatus
from orchestrator.execution.run import run_sweep
from orchestrator.records import finished_index
from orchestrator.records.failures import ExitCode
from orchestrator.records.index import request_stop, sweep_folder
from orchestrator.records.progress import SweepProgress, sweep_progress
from orchestrator.records.reader import read_trial, read_trials
from orchestrator.records.schema import Row, Status
from orchestrator.records.stored import Damaged
from orchestrator.records.writer import TrialWriter
from orchestrator.resources.usage import Budget
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.base import StorageError
from orchestrator.sweep import Sweep, choice, configure
from orchestrator.worker.job import STORAGE_FAILURE, UNUSABLE_DATASET
from tests.support.execution import FakeCluster, Recorder, Script, StandIn
from tests.support.sweeps import record_of, search, study
from trm_data.errors import DataError

AWAY = "storage failure: StorageError: the bucket is away"


class Faulty:
    """A storage that calls `fault(operation, key)` before it does what it is asked."""

    def __init__(self, inner: Storage, fault: Callable[[str, str], None], prefix: str = "") -> None:
        self._inner, self._fault, self._prefix = inner, fault, prefix

    @property
    def url(self) -> str:
        return self._inner.url

    def patient(self, patience_s: float) -> Faulty:
        return self

    def brief(self) -> Faulty:
        return self

    def sub(self, folder: str) -> Faulty:
        return Faulty(self._inner.sub(folder), self._fault, f"{self._prefix}{folder}/")

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def call(*arguments: Any) -> Any:
            self._fault(name, f"{self._prefix}{arguments[0] if arguments else ''}")
            return method(*arguments)

        return call


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE_S", 0.01)


def run(
    storage: Storage, sweep: Sweep, script: Script = lambda *_: "finish", *callbacks: Callback, **options: Any
) -> tuple[SweepOutcome, StandIn]:
    tune = StandIn(script)
    cluster = options.pop("cluster", None) or FakeCluster()
    execute = options.pop("execute", tune.fit)
    outcome = run_sweep(sweep, storage, RunOptions(**options), callbacks, cluster=cluster, execute=execute)
    return outcome, tune


def no_space(*_: object) -> None:
    raise StorageError("cannot write") from OSError(errno.ENOSPC, "No space left on device")


class TestStorage:
    def test_outage_while_the_driver_reads_or_writes_a_trial_costs_nothing(self, storage: Storage) -> None:
        faults: list[str] = []

        def fault(operation: str, key: str) -> None:
            is_trial = "/trials/" in key and threading.current_thread().name == "tune"
            if is_trial and len(faults) < 6:
                faults.append(key)
                raise StorageError("the bucket is away")

        outcome, tune = run(Faulty(storage, fault), study())
        assert len(faults) == 6
        assert outcome.status is SweepStatus.COMPLETE and outcome.exit_code == ExitCode.COMPLETE
        assert len(tune.order) == 8

    def test_nothing_is_read_from_the_storage_while_decisions_wait(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A read takes minutes in an outage. Meanwhile the main thread watches Ray, the lease and signals."""
        flush, faults, blocked = TrialWriter.flush, [], []
        controllers: list[Controller] = []

        def flush_twice(self: TrialWriter) -> None:  # in two segments: the rows of a lost attempt have to be read
            flush(self)
            self.add(Row(5, 1012.0, "validation", {"exact_accuracy": 0.5, "raw_cell_accuracy": 0.5, "train_s": 0.6}))
            flush(self)

        def fault(operation: str, key: str) -> None:
            if "/trials/" not in key or threading.current_thread().name != "tune" or not controllers:
                return
            other = threading.Thread(target=controllers[0].snapshot, daemon=True)
            other.start()
            other.join(20)
            if other.is_alive():
                blocked.append(f"{operation} {key}")
            if operation == "read_many" and len(faults) < 3:
                faults.append(key)
                raise StorageError("the bucket is away")

        def execute(controller: Controller, slots: int) -> None:
            controllers.append(controller)
            StandIn(lambda _, start: "lose" if start == 1 else "finish").fit(controller, slots)

        monkeypatch.setattr(TrialWriter, "flush", flush_twice)
        sweep = study(seeds=1, resources={"gpus": 1})
        outcome, _ = run(Faulty(storage, fault), sweep, execute=execute, budget=Budget(usd=1000.0))
        assert faults and not blocked
        assert outcome.status is SweepStatus.COMPLETE, outcome.reason

    def test_a_trial_whose_record_is_deleted_while_it_runs_is_left_out(self, storage: Storage, tmp_path: Path) -> None:
        deleted: list[str] = []

        def script(trial_id: str, start: int) -> str:
            if not deleted:
                deleted.append(trial_id)
            return "finish"

        tune = StandIn(script)

        def execute(controller: Controller, slots: int) -> None:
            ended = controller.ended

            def end(trial_id: str, *arguments: Any, **options: Any) -> None:
                if trial_id in deleted:
                    shutil.rmtree(tmp_path / "sweeps/study/trials" / trial_id)
                ended(trial_id, *arguments, **options)

            controller.ended = end  # type: ignore[method-assign]
            tune.fit(controller, slots)

        outcome, _ = run(storage, study(), execute=execute)
        assert len(tune.order) == 8, "the others run"
        assert outcome.exit_code == ExitCode.STOPPED
        assert deleted[0] in outcome.reason and "it was deleted while the trial ran" in outcome.reason
        assert run(storage, study())[0].status is SweepStatus.COMPLETE

    def test_outage_while_a_stop_request_is_looked_for_is_no_request(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("orchestrator.execution.driver.CHECK_S", 0.0)
        asked = threading.Event()

        def fault(operation: str, key: str) -> None:
            if operation == "exists" and key.endswith("stop.json"):
                asked.set()
                raise StorageError("the bucket is away")

        tune = StandIn(lambda *_: "finish")

        def execute(controller: Controller, slots: int) -> None:
            assert asked.wait(60)
            tune.fit(controller, slots)

        outcome, _ = run(Faulty(storage, fault), study(), execute=execute)
        assert outcome.status is SweepStatus.COMPLETE

    def test_a_dataset_that_vanishes_in_mid_run_is_built_again(self, storage: Storage, tmp_path: Path) -> None:
        found: list[int] = []

        def script(trial_id: str, started: int) -> str:
            found.append(len(list(tmp_path.glob("datasets/*/manifest.json"))))
            shutil.rmtree(tmp_path / "datasets", ignore_errors=True)
            return "finish" if started > 1 else f"interrupt {AWAY}"

        outcome, _ = run(storage, study(), script, max_concurrent=1)
        assert outcome.status is SweepStatus.COMPLETE and found == [1] * 16

    def test_a_dataset_that_a_trial_finds_damaged_ends_the_run_at_once_with_the_way_out(
        self, storage: Storage, tmp_path: Path
    ) -> None:
        started: list[str] = []

        def script(trial_id: str, _: int) -> str:
            started.append(trial_id)
            for file in tmp_path.glob("datasets/*/examples.arrow"):
                file.write_bytes(b"something else")
            return f"interrupt {STORAGE_FAILURE}: StorageError: {UNUSABLE_DATASET} x: its content has changed"

        with pytest.raises(DataError, match=r"its content has changed.*Delete the dataset's folder and build it again"):
            run(storage, study(), script, max_concurrent=1)
        assert len(started) == 1

    def test_outage_that_does_not_end_stops_cleanly_with_the_reason(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("orchestrator.execution.driver.CHECK_S", 0.0)
        monkeypatch.setattr("orchestrator.execution.driver.OUTAGE_S", 0.0)

        def fault(operation: str, key: str) -> None:
            if operation == "exists" and key.endswith("stop.json"):
                raise StorageError("the bucket is away")

        def execute(controller: Controller, slots: int) -> None:
            assert controller.stopping.wait(60)

        outcome, _ = run(Faulty(storage, fault), study(), execute=execute)
        assert (outcome.status, outcome.reason) == (SweepStatus.STOPPED, "the bucket is away")
        assert outcome.exit_code == ExitCode.STOPPED

    def test_full_disk_stops_the_sweep_at_the_first_trial(self, storage: Storage) -> None:
        def fault(operation: str, key: str) -> None:
            if key.endswith("trial.json") and operation == "create":
                no_space()

        outcome, tune = run(Faulty(storage, fault), study())
        assert outcome.status is SweepStatus.STOPPED and outcome.exit_code == ExitCode.STOPPED
        assert outcome.reason.startswith("cannot write") and tune.order == []

    @pytest.mark.parametrize("end", ["fail", "interrupt"])
    def test_full_disk_of_a_trial_stops_the_sweep_and_is_not_the_trial_s_failure(
        self, storage: Storage, end: str
    ) -> None:
        reason = "StorageError: cannot write /x: No space left on device"
        outcome, tune = run(storage, study(), lambda *_: f"{end} {reason}", max_concurrent=1)
        assert outcome.status is SweepStatus.STOPPED and "ran out of space" in outcome.reason
        assert len(tune.order) == 1

    def test_trials_that_their_storage_interrupts_are_never_lost_and_finish_once_it_works(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(failures, "LONGEST_PAUSE_S", 0.02)
        recorder, interruption = Recorder(), f"interrupt {AWAY}"
        script: Script = lambda trial, start: interruption if start <= 10 else "finish"  # noqa: E731
        outcome, tune = run(storage, study(seeds=1), script, recorder, max_concurrent=2)
        assert outcome.status is SweepStatus.COMPLETE and outcome.exit_code == ExitCode.COMPLETE
        assert set(tune.starts.values()) == {11} and outcome.snapshot.progress == SweepProgress(4, 4, 0)
        assert any(AWAY in message and "nothing starts for" in message for message in recorder.messages)

    @pytest.mark.parametrize("deed", ["interrupt", "unrecorded"])
    def test_a_trial_that_storage_faults_interrupt_again_and_again_without_progress_has_failed(
        self, deed: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its own code may raise such errors. The other trials end meanwhile, so that the storage is not away."""
        monkeypatch.setattr(failures, "LONGEST_PAUSE_S", 0.02)
        bad: list[str] = []

        def script(trial: str, start: int) -> str:
            if not bad:
                bad.append(trial)
            return f"{deed} {AWAY}" if trial in bad else "finish"

        outcome, tune = run(storage, study(), script, max_concurrent=2)
        assert outcome.status is SweepStatus.COMPLETE and outcome.exit_code == ExitCode.FAILED
        assert tune.starts[bad[0]] == failures.STORAGE_FAULTS + 1
        (failed,) = [record for record in read_trials(storage, "study") if record.status is not Status.FINISHED]
        assert failed.status is Status.FAILED
        assert failed.reason == f"interrupted {failures.STORAGE_FAULTS + 1} times without progress by a {AWAY}"

    def test_a_trial_that_makes_progress_between_storage_faults_never_fails(self) -> None:
        (trial, *_), limits = _planned(study()), AttemptLimits([], retries=0)
        for step in (4, *(4,) * 20, *(8,) * 20, *range(12, 100), *(40,) * 20):
            assert not limits.why_over(record_of(trial, Status.INTERRUPTED, step=step), False, "", AWAY)

    def test_an_outage_ends_the_sweep_before_it_ends_a_trial(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(failures, "FIRST_PAUSE_S", 1.0)
        now_s, limits, record = [0.0], AttemptLimits([], retries=0), record_of(_planned(study())[0], Status.INTERRUPTED)
        outage = StorageOutage(clock=lambda: now_s[0])
        with pytest.raises(StorageError, match="interrupted trials for 10 min"):
            while True:
                now_s[0] += outage.interrupted(record)
                assert not limits.why_over(record, False, "", AWAY)

    @pytest.mark.parametrize("deed", ["interrupt", "unrecorded"])
    def test_storage_that_interrupts_trials_for_too_long_stops_the_sweep_and_resume_continues(
        self, deed: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(failures, "OUTAGE_S", 0.1)
        monkeypatch.setattr(failures, "LONGEST_PAUSE_S", 0.02)
        outcome, _ = run(storage, study(seeds=1), lambda *_: f"{deed} {AWAY}", max_failures=1)
        assert outcome.status is SweepStatus.STOPPED and outcome.exit_code == ExitCode.STOPPED
        assert outcome.reason.startswith("the storage has interrupted trials for ") and AWAY in outcome.reason
        assert "\n" not in outcome.reason and outcome.snapshot.progress.failed == 0
        assert not any(record.status.is_final for record in read_trials(storage, "study"))
        again, _ = run(storage, study(seeds=1))
        assert again.status is SweepStatus.COMPLETE and again.exit_code == ExitCode.COMPLETE

    def test_progress_between_two_interruptions_ends_an_outage(self) -> None:
        now_s = [0.0]
        outage, trial = StorageOutage(60.0, lambda: now_s[0]), _planned(study())[0]

        def interrupted(from_step: int) -> float:
            record = record_of(trial, Status.INTERRUPTED)
            start = record.attempts[0].start.model_copy(update={"from_step": from_step})
            return outage.interrupted(replace(record, attempts=[replace(record.attempts[0], start=start)]))

        pauses = []
        for step in (0, 0, 8, 16, 16):
            pauses.append(interrupted(step))
            now_s[0] += 40.0
        assert pauses == pytest.approx([0.01, 0.02, 0.01, 0.01, 0.02]), "longer each time, until a checkpoint was saved"
        with pytest.raises(StorageError, match="interrupted trials for 1 min"):
            interrupted(16)

    def test_two_faults_with_a_quiet_period_between_them_are_two_outages(self) -> None:
        now_s = [0.0]
        outage = StorageOutage(60.0, lambda: now_s[0])
        for trial in _planned(study())[:3]:
            assert outage.interrupted(record_of(trial, Status.INTERRUPTED)) == pytest.approx(0.01)
            now_s[0] += 7200.0

    def test_full_disk_of_an_earlier_run_stops_no_trial_that_cannot_be_launched(self, storage: Storage) -> None:
        full = "interrupt storage failure: No space left on device"
        run(storage, study(seeds=1), lambda *_: full, max_concurrent=1)
        outcome, _ = run(storage, study(seeds=1), lambda trial, start: "vanish" if start == 1 else "finish")
        assert outcome.status is SweepStatus.COMPLETE

    def test_persist_gives_up_at_once_where_waiting_cannot_help(self) -> None:
        calls: list[int] = []

        def write() -> None:
            calls.append(1)
            no_space()

        with pytest.raises(StorageError):
            persist(write, threading.Event())
        assert len(calls) == 1

    def test_persist_gives_up_when_the_sweep_is_to_stop(self) -> None:
        stopping = threading.Event()

        def write() -> None:
            stopping.set()
            raise StorageError("away")

        with pytest.raises(StorageError, match="away"):
            persist(write, stopping)

    def test_curve_of_an_ended_trial_is_not_read_again(self, storage: Storage) -> None:
        read: list[str] = []

        def fault(operation: str, key: str) -> None:
            if operation.startswith("read") and "/rows-" in key:
                read.append(key)

        outcome, _ = run(
            Faulty(storage, fault), study(), lambda trial, start: "interrupt busy" if start < 3 else "finish"
        )
        assert outcome.status is SweepStatus.COMPLETE
        assert read == []


class TestDamagedRecords:
    @pytest.mark.parametrize(
        ("count", "begin", "end"),
        [
            (1, "trial t0 does not run, its record is damaged", ": f0: bad"),
            (3, "3 trials do not run, their records are damaged", ": f0: bad; f1: bad; f2: bad"),
            (4, "4 trials do not run, their records are damaged", ": f0: bad; f1: bad; f2: bad; and 1 more"),
        ],
    )
    def test_at_most_three_files_are_named(self, count: int, begin: str, end: str) -> None:
        line = describe_damaged({f"t{number}": Damaged(f"f{number}", "bad") for number in range(count)})
        assert line.startswith(begin) and line.endswith(end)

    @pytest.mark.parametrize("file", ["trial.json", "attempts/001/end.json"])
    def test_damaged_record_of_an_earlier_run_is_named_and_its_trial_does_not_run_again(
        self, file: str, storage: Storage
    ) -> None:
        _, first = run(storage, study(seeds=1), budget=Budget(trials=1))
        trial_id = first.order[0][0]
        storage.write(f"sweeps/study/trials/{trial_id}/{file}", b"")
        for count in (3, 0):
            recorder = Recorder()
            outcome, tune = run(storage, study(seeds=1), lambda *_: "finish", recorder)
            assert len(tune.order) == count and trial_id not in tune.starts
            assert outcome.status is SweepStatus.STOPPED and outcome.exit_code == ExitCode.STOPPED
            assert outcome.snapshot.progress == SweepProgress(planned=4, done=3, failed=0)
            assert f"{trial_id}/{file}" in outcome.reason and "\n" not in outcome.reason
            assert len(recorder.messages) == 1 and f"{trial_id}/{file}" in recorder.messages[0]
        storage.delete_many(list(storage.list(f"sweeps/study/trials/{trial_id}")))
        outcome, tune = run(storage, study(seeds=1))
        assert outcome.status is SweepStatus.COMPLETE and [one for one, _ in tune.order] == [trial_id]

    def test_a_finished_trial_whose_result_is_lost_is_scored_again(self, storage: Storage) -> None:
        _, first = run(storage, study(seeds=1))
        trial_id = first.order[0][0]
        storage.delete(f"sweeps/study/trials/{trial_id}/result.json")
        outcome, tune = run(storage, study(seeds=1))
        assert outcome.status is SweepStatus.COMPLETE and [one for one, _ in tune.order] == [trial_id]
        assert read_trial(storage, "study", trial_id).result is not None

    def test_a_record_states_its_trial_so_that_a_copy_is_known(self, storage: Storage) -> None:
        _, tune = run(storage, study(seeds=1))
        for trial_id, _ in tune.order:
            assert json.loads(storage.read(f"sweeps/study/trials/{trial_id}/trial.json"))["trial_id"] == trial_id

    @pytest.mark.parametrize("sweep", [study(seeds=1), search()], ids=["study", "search"])
    def test_record_that_is_damaged_while_the_sweep_runs_stops_no_other_trial(
        self, sweep: Sweep, storage: Storage
    ) -> None:
        damaged: list[str] = []

        def script(trial: str, start: int) -> str:
            if not damaged:
                damaged.append(trial)
            return "damage" if trial in damaged else "finish"

        recorder = Recorder()
        outcome, tune = run(storage, sweep, script, recorder)
        assert set(tune.starts.values()) == {1} and len(tune.starts) > 3
        assert outcome.status is SweepStatus.STOPPED and outcome.exit_code == ExitCode.STOPPED
        assert outcome.snapshot.progress.left == 1 and outcome.snapshot.progress.done == len(tune.starts) - 1
        assert len(recorder.messages) == 1 and f"{damaged[0]}/result.json" in recorder.messages[0]
        assert recorder.ends[damaged[0]] is Status.INTERRUPTED


class TestFailures:
    def test_failures_in_a_row_with_one_reason_stop_the_sweep(self, storage: Storage) -> None:
        script: Script = lambda *_: "fail FileNotFoundError: /data/0x7f12 is missing"  # noqa: E731
        outcome, tune = run(storage, study(), script, max_failures=3, max_concurrent=1)
        assert outcome.status is SweepStatus.FAILING and outcome.exit_code == ExitCode.FAILED
        assert len(tune.order) == 3
        assert outcome.reason == "3 trials in a row failed with: FileNotFoundError: /data/0x7f12 is missing"
        assert outcome.snapshot.progress == SweepProgress(planned=8, done=3, failed=3)
        again, tune = run(storage, study(), max_concurrent=1)
        assert again.status is SweepStatus.COMPLETE and len(tune.order) == 5
        assert again.exit_code == ExitCode.FAILED, "three trials have no result"

    @pytest.mark.parametrize("other", ["finish", "fail another reason", "diverge"])
    def test_anything_else_in_between_ends_the_row(self, storage: Storage, other: str) -> None:
        ends: list[str] = []

        def script(trial: str, start: int) -> str:
            ends.append("fail" if len(ends) % 3 < 2 else other)
            return ends[-1]

        outcome, tune = run(storage, study(), script, max_failures=3, max_concurrent=1)
        assert outcome.status is SweepStatus.COMPLETE and len(tune.order) == 8

    def test_trials_that_diverge_never_stop_a_sweep_but_tell_in_the_exit_code(self, storage: Storage) -> None:
        outcome, _ = run(storage, study(), lambda *_: "diverge", max_failures=2)
        assert outcome.status is SweepStatus.COMPLETE and outcome.exit_code == ExitCode.FAILED
        assert outcome.snapshot.progress == SweepProgress(8, 8, 8)

    def test_the_first_random_configurations_of_a_search_never_stop_it(self) -> None:
        sweep = search(trials=30)
        trial = next(iter(_planned(sweep)))
        streak = FailureStreak(sweep, 3, num_explored=0)
        reasons = [streak.add(record_of(trial, Status.FAILED)) for _ in range(12)]
        assert reasons[:10] == [""] * 10 and all(reasons[10:])

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (
                "cannot compile /tmp/torchinductor/3f2abc9d/kernel.so",
                "cannot compile /tmp/torchinductor/be77a0aa/kernel.so",
            ),
            ("no file /tmp/tmpabcdefgh/x", "no file /tmp/tmpzyxwvuts/x"),
            ("run 9f1c2b3a-aaaa-bbbb-cccc-0123456789ab is lost", "run 0a0b0c0d-ffff-eeee-dddd-ba9876543210 is lost"),
            ("node ip-10-0-0-5 ran out of 23.5 GB", "node ip-10-0-0-17 ran out of 8 GB"),
        ],
    )
    def test_reasons_are_the_same_but_for_names_that_are_made_up(self, first: str, second: str) -> None:
        trial = next(iter(_planned(study())))
        streak = FailureStreak(study(), 2, num_explored=0)
        found = []
        for reason in (first, second):
            record = record_of(trial, Status.FAILED)
            assert record.attempts[-1].end is not None
            end = record.attempts[-1].end.model_copy(update={"reason": reason})
            found.append(streak.add(replace(record, attempts=[replace(record.attempts[-1], end=end)])))
        assert found == ["", f"2 trials in a row failed with: {second}"]

    def test_retries_let_a_failed_trial_run_again_so_many_times(self, storage: Storage) -> None:
        outcome, tune = run(storage, study(), lambda trial, start: "fail" if start < 3 else "finish", retries=2)
        assert outcome.status is SweepStatus.COMPLETE and outcome.exit_code == ExitCode.COMPLETE
        assert {len(record.retries) for record in read_trials(storage, "study")} == {2}
        assert set(tune.starts.values()) == {3}

    def test_retries_end(self, storage: Storage) -> None:
        outcome, tune = run(storage, study(), lambda *_: "fail", retries=1, max_failures=None)
        assert outcome.snapshot.progress.failed == 8 and set(tune.starts.values()) == {2}


def _planned(sweep: Sweep) -> list[Any]:
    from orchestrator.search.planner import Planner
    from tests.support.sweeps import fingerprint

    planner = Planner(sweep, fingerprint, [])
    return [planner.next()]


class TestEnds:
    def test_a_sweep_that_is_stopped_in_its_last_trials_is_not_complete(self, storage: Storage) -> None:
        def execute(controller: Controller, slots: int) -> None:
            def script(trial: str, start: int) -> str:
                controller.stop(SweepStatus.STOPPED)
                return "leave"

            StandIn(script).fit(controller, slots)

        one = study(seeds=1, space={"T": choice(1)})
        outcome, _ = run(storage, one, execute=execute)
        assert outcome.status is SweepStatus.STOPPED and outcome.exit_code == ExitCode.STOPPED
        assert outcome.snapshot.progress == SweepProgress(planned=1, done=0, failed=0)
        assert Status.RUNNING not in outcome.snapshot.counts, "nothing runs any more"

    def test_a_budget_of_two_trials_is_two_of_eight(self, storage: Storage) -> None:
        outcome, _ = run(storage, study(), budget=Budget(trials=2))
        progress = sweep_progress(study(), read_trials(storage, "study"))
        assert outcome.status is SweepStatus.OUT_OF_BUDGET and outcome.exit_code == ExitCode.STOPPED
        assert progress == outcome.snapshot.progress == SweepProgress(planned=8, done=2, failed=0)
        assert not progress.is_complete and str(progress) == "2 of 8 trials done"

    def test_a_dead_ray_is_noticed_and_ends_the_run_with_its_reason(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("orchestrator.execution.driver.CHECK_S", 0.0)
        cluster, released = FakeCluster(), threading.Event()

        def execute(controller: Controller, slots: int) -> None:
            controller.suggest()
            cluster.failed = "Ray's raylet on this machine has died"
            released.wait(60)  # Tune waits for its actors for ever

        outcome, _ = run(storage, study(), cluster=cluster, execute=execute)
        released.set()
        assert outcome.status is SweepStatus.ABANDONED and outcome.exit_code == ExitCode.STOPPED
        assert outcome.reason == "Ray's raylet on this machine has died. Run the same command again to continue"
        assert cluster.shutdowns == [5.0], "a Ray that does not answer is not waited for"

    def test_an_abandoned_stop_tells_its_cause(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("orchestrator.execution.driver.STOP_LIMIT_S", 0.0)
        released = threading.Event()

        def execute(controller: Controller, slots: int) -> None:
            controller.fail(StorageError("the bucket is away"))
            released.wait(60)

        outcome, _ = run(storage, study(), execute=execute)
        released.set()
        assert (outcome.status, outcome.reason) == (SweepStatus.ABANDONED, "the bucket is away")

    def test_a_stop_lasts_as_long_as_a_trial_needs_for_its_last_checkpoint(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("orchestrator.execution.driver.STOP_LIMIT_S", 0.0)
        monkeypatch.setattr("orchestrator.execution.driver.POLL_S", 0.01)
        looks: list[str] = []

        class Looks(Callback):
            def on_progress(self, snapshot: SweepSnapshot) -> None:
                looks.append(snapshot.name)

        def execute(controller: Controller, slots: int) -> None:
            config = controller.suggest()
            assert config is not None
            report = {"kind": "progress", "trial_step": 4, "metrics": (), "grace_s": 600.0}
            controller.result(config["trial_id"], {"node_id": "a", "gpu_type": None, **report})
            controller.stop(SweepStatus.STOPPED)
            seen = len(looks)
            while len(looks) < seen + 5:
                threading.Event().wait(0.01)

        outcome, _ = run(storage, study(), lambda *_: "finish", Looks(), execute=execute)
        assert outcome.status is SweepStatus.STOPPED

    def test_a_run_leaves_an_index_of_its_trials(self, storage: Storage) -> None:
        run(storage, study())
        assert len(finished_index.read(sweep_folder(storage, "study"))) == 8

    def test_run_of_a_finished_sweep_says_that_nothing_was_run(self, storage: Storage) -> None:
        first, again = Recorder(), Recorder()
        run(storage, study(), lambda *_: "finish", first)
        outcome, tune = run(storage, study(), lambda *_: "finish", again)
        assert outcome.status is SweepStatus.COMPLETE and not tune.order
        assert (first.messages, again.messages) == ([], ["nothing was run: all trials of sweep study have ended"])

    def test_error_of_the_executor_is_raised(self, storage: Storage) -> None:
        def execute(controller: Controller, slots: int) -> None:
            raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            run(storage, study(), execute=execute)

    def test_request_to_stop_is_heard_with_its_reason(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("orchestrator.execution.driver.CHECK_S", 0.0)

        def execute(controller: Controller, slots: int) -> None:
            request_stop(sweep_folder(storage, "study"), "60 of 50 USD used")
            assert controller.stopping.wait(60)
            assert announced.wait(60)

        class Announced(Recorder):
            def on_message(self, text: str) -> None:
                super().on_message(text)
                announced.set()

        recorder, announced = Announced(), threading.Event()
        outcome, _ = run(storage, study(), lambda *_: "finish", recorder, execute=execute)
        assert (outcome.status, outcome.reason) == (SweepStatus.STOPPED, "60 of 50 USD used")
        assert recorder.messages == ["stopping: running trials write a last checkpoint; a second signal ends at once"]


class Broken(Callback):
    """Fail in every event."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_"):
            raise_error = object.__getattribute__(self, "_raise")
            return lambda *_: raise_error(name)
        return object.__getattribute__(self, name)

    def _raise(self, name: str) -> None:
        raise KeyError(f"{name}: [/pytorch/gloo/transport.cc] is not markup")


class TestCallbacks:
    def test_events_come_in_order_from_the_calling_thread(self, storage: Storage) -> None:
        recorder = Recorder()
        run(storage, study(), lambda *_: "finish", recorder, max_concurrent=1)
        starts_and_ends = [event for n in range(1, 9) for event in ("trial start", f"trial end {n}/8")]
        assert recorder.events == ["start", *starts_and_ends, "end complete"]
        assert recorder.threads == {threading.current_thread().name}

    def test_a_callback_that_raises_is_logged_once_and_stops_nothing(
        self, storage: Storage, caplog: pytest.LogCaptureFixture
    ) -> None:
        recorder = Recorder()
        outcome, _ = run(storage, study(), lambda *_: "finish", Broken(), recorder)
        assert outcome.status is SweepStatus.COMPLETE and recorder.events[-1] == "end complete"
        logged = [record.getMessage() for record in caplog.records if "Broken.on_trial_end" in record.getMessage()]
        assert len(logged) == 1

    def test_snapshots_may_be_read_while_another_thread_changes_the_sweep(self, storage: Storage) -> None:
        taken: list[SweepSnapshot] = []
        errors: list[BaseException] = []
        tune = StandIn(lambda *_: "finish")

        def execute(controller: Controller, slots: int) -> None:
            def read() -> None:
                try:
                    while not done.is_set():
                        taken.append(controller.snapshot())
                        controller.budget_exceeded()
                except BaseException as error:
                    errors.append(error)

            done = threading.Event()
            readers = [threading.Thread(target=read) for _ in range(4)]
            for reader in readers:
                reader.start()
            while not taken and not errors:
                threading.Event().wait(0.001)
            tune.fit(controller, slots)
            done.set()
            for reader in readers:
                reader.join()

        outcome, _ = run(storage, study(seeds=5), execute=execute, budget=Budget(trials=100))
        assert errors == [] and outcome.status is SweepStatus.COMPLETE
        assert all(len(snapshot.trials) >= snapshot.progress.done for snapshot in taken)
        counts = [snapshot.progress.done for snapshot in taken]
        assert counts[0] == 0 and len(taken[0].trials) <= 1, "an old snapshot does not change"

    @pytest.mark.parametrize("look", ["snapshot", "budget_exceeded"])
    def test_another_thread_changes_nothing_while_one_looks(self, storage: Storage, look: str) -> None:
        looks, is_changed = threading.Event(), threading.Event()
        errors: list[BaseException] = []

        class Slow(dict[str, Any]):
            """A dictionary that pauses the display at each key, until another thread has changed it or for a second."""

            def __iter__(self) -> Iterator[str]:
                for key in super().__iter__():
                    if threading.current_thread().name == "display":
                        looks.set()
                        is_changed.wait(1.0)
                    yield key

            def values(self) -> Any:
                return (self[key] for key in self)

        def execute(controller: Controller, slots: int) -> None:
            def read() -> None:
                try:
                    getattr(controller, look)()
                except RuntimeError as error:
                    errors.append(error)

            assert controller.suggest() is not None
            if look == "snapshot":
                controller._planner.trials = Slow(controller._planner.trials)
            else:
                assert controller._budget is not None
                controller._budget._running = Slow(controller._budget._running)
            reader = threading.Thread(target=read, name="display")
            reader.start()
            assert looks.wait(60) and controller.suggest() is not None
            is_changed.set()
            reader.join()
            controller.stop(SweepStatus.STOPPED)

        run(storage, study(), execute=execute, budget=Budget(trials=100))
        assert errors == []

    def test_progress_of_a_dataset_that_is_built_between_trials_comes_from_the_calling_thread(
        self, storage: Storage
    ) -> None:
        threads: list[str] = []

        class Builds(Callback):
            def on_build(self, stage: str, done: int, total: int) -> None:
                threads.append(threading.current_thread().name)

        sweep = study(seeds=1, space={"data.num_train": choice(20, 24)})
        run(storage, sweep, lambda *_: "finish", Builds())
        assert len({manifest for manifest in storage.list("datasets") if manifest.endswith("manifest.json")}) == 3
        assert set(threads) == {threading.current_thread().name}

    def test_slow_sampler_holds_up_no_snapshot(self, storage: Storage) -> None:
        """A Gaussian process takes a second to choose: displays and the budget do not wait for it."""
        chosen = threading.Event()
        tune = StandIn(lambda *_: "finish")

        def execute(controller: Controller, slots: int) -> None:
            planner = controller._planner
            suggest = planner.suggest

            def slow() -> Any:
                reader = threading.Thread(target=lambda: (controller.snapshot(), chosen.set()))
                reader.start()
                assert chosen.wait(60), "the snapshot waits for the sampler"
                reader.join()
                return suggest()

            planner.suggest = slow  # type: ignore[method-assign]
            tune.fit(controller, slots)

        outcome, _ = run(storage, search(), execute=execute)
        assert outcome.status is SweepStatus.COMPLETE and outcome.best is not None

    def test_outcome_of_a_search_has_the_configuration_of_its_best_trial(self, storage: Storage) -> None:
        sweep = search()
        outcome, _ = run(storage, sweep)
        assert outcome.best is not None and outcome.best_config is not None
        best = next(each for each in read_trials(storage, sweep.name) if each.trial_id == outcome.best.trial_id)
        assert outcome.best_config == best.config
        assert outcome.best_params == {
            "model.cycles": best.config.model.cycles,
            "model.latent_steps": best.config.model.latent_steps,
        }
        assert best.result is not None and outcome.best_value == best.result.metrics["exact_accuracy"]
        assert configure(sweep.base, outcome.best_params) == outcome.best_config

    def test_outcome_of_a_study_names_no_best_trial(self, storage: Storage) -> None:
        outcome, _ = run(storage, study())
        assert (outcome.best, outcome.best_config, outcome.best_params, outcome.best_value) == (None, None, {}, None)


class TestLog:
    def test_every_change_of_state_is_in_the_sweep_s_own_log(self, storage: Storage, tmp_path: Path) -> None:
        script: Script = lambda trial, start: "lose" if start == 1 else "fail"  # noqa: E731
        log, level = tmp_path / "sweeps" / "study" / "driver.log", logging.getLogger("orchestrator").level
        run(storage, study(), script, max_failures=None, max_concurrent=1, budget=Budget(trials=1))
        first = log.read_text()
        for text in ("study: started", "started on CPU", "requeued: lost", "failed (boom)", "study: out of budget"):
            assert text in first, text
        run(storage, study(), max_concurrent=1)
        assert log.read_text().startswith(first) and "study: complete" in log.read_text()
        assert logging.getLogger("orchestrator").level == level

    def test_a_terminal_shows_no_more_than_without_the_log(self, storage: Storage, tmp_path: Path) -> None:
        package, shown = logging.getLogger("orchestrator"), io.StringIO()
        terminal = logging.StreamHandler(shown)
        package.addHandler(terminal)
        try:
            run(storage, study(), lambda *_: "finish", Broken())
        finally:
            package.removeHandler(terminal)
        assert "Broken.on_sweep_start failed" in shown.getvalue() and "started" not in shown.getvalue()
        assert "started on CPU" in (tmp_path / "sweeps" / "study" / "driver.log").read_text()

    def test_an_object_store_gets_numbered_segments(self, storage: Storage) -> None:
        plain = Faulty(storage, lambda operation, key: None)
        for _ in range(2):
            run(plain, study(seeds=1))
        keys = storage.list("sweeps/study/driver")
        assert keys == ["sweeps/study/driver/0001.log"], "the second run found nothing to do and logged nothing"
        run(plain, study(seeds=1, name="other"), lambda *_: "diverge")
        assert b"diverged" in storage.read("sweeps/other/driver/0001.log")

    def test_a_log_that_cannot_be_written_stops_nothing(self, storage: Storage) -> None:
        def fault(operation: str, key: str) -> None:
            if "/driver/" in key or key.endswith("/driver"):
                raise StorageError("the bucket is away")

        outcome, _ = run(Faulty(storage, fault), study(seeds=1))
        assert outcome.status is SweepStatus.COMPLETE


def test_another_driver_that_took_over_ends_this_one(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.storage.lease.HEARTBEAT_S", 0.05)

    def execute(controller: Controller, slots: int) -> None:
        assert controller.stopping.wait(60)

    def take_over(operation: str, key: str) -> None:
        if operation == "replace_if" and key.endswith("study/lock.json"):
            storage.write("sweeps/study/lock.json", b'{"host": "other", "pid": 1, "beat_s": 0, "started_s": 0}')

    with pytest.raises(SweepError, match="another driver took over"):
        run(Faulty(storage, take_over), study(), execute=execute)


def test_a_lock_that_somebody_deleted_is_written_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.storage.lease.HEARTBEAT_S", 0.05)

    def execute(controller: Controller, slots: int) -> None:
        storage.delete("sweeps/study/lock.json")
        deadline = time.monotonic() + 60
        while not storage.exists("sweeps/study/lock.json") and time.monotonic() < deadline:
            time.sleep(0.02)
        StandIn(lambda *_: "finish").fit(controller, slots)

    outcome, _ = run(storage, study(), execute=execute)
    assert outcome.status is SweepStatus.COMPLETE
    assert not storage.exists("sweeps/study/lock.json")


def test_a_sweep_whose_folder_is_deleted_ends_and_writes_nothing_more(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.storage.lease.HEARTBEAT_S", 0.05)

    def execute(controller: Controller, slots: int) -> None:
        (tmp_path / "sweeps/study").rename(tmp_path / "removed")
        assert controller.stopping.wait(60)

    with pytest.raises(SweepError, match="folder of this sweep was deleted while it ran"):
        run(storage, study(), execute=execute)
    assert not list((tmp_path / "sweeps").rglob("*"))


def test_a_search_is_repeated_in_the_order_of_another_storage(storage: Storage, tmp_path: Path) -> None:
    sweep = search(space={"T": choice(1, 2, 3, 4, 5, 6)}, trials=5)
    _, first = run(storage, sweep)
    other = open_storage(str(tmp_path / "other"))
    _, second = run(other, sweep, replay=f"{storage.url}/sweeps/{sweep.name}")
    assert second.order == first.order
    events = [json.loads(one.read("sweeps/search/order.json"))["events"] for one in (storage, other)]
    assert events[0] == events[1] and len(events[0]) == 6
    with pytest.raises(SweepError, match="no sweep"):
        run(open_storage(str(tmp_path / "third")), sweep, replay="search")


def test_a_study_keeps_no_order(storage: Storage) -> None:
    run(storage, study())
    assert not [key for key in storage.list() if key.endswith("order.json")]
