"""One attempt at a trial: its own failures are results, those of the storage and the machine are not."""

from __future__ import annotations

import errno
import functools
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from orchestrator.records import datasets, writer
from orchestrator.records.datasets import provide
from orchestrator.records.events import trial_events
from orchestrator.records.failures import MachineError
from orchestrator.records.index import trial_folder
from orchestrator.records.reader import read_trial
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.records.writer import TrialWriter
from orchestrator.storage import LocalStorage, Storage, StorageError, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.patience import TransientError, retry_transient
from orchestrator.sweep.identity import trial_id
from orchestrator.worker import attempt, telemetry
from orchestrator.worker.attempt import child_main, run_attempt
from orchestrator.worker.job import UNUSABLE_DATASET, Job, TrialReport
from tests.support.refusing import refusing_proxy
from tests.support.sweeps import attempted, tiny_config
from trm_model.config import TrialConfig
from trm_model.evaluation import evaluate
from trm_model.training.launch import ProcessLostError
from trm_model.training.trainer import Trainer


def job_of(storage: Storage, config: TrialConfig, **options: Any) -> Job:
    """Return a job whose dataset is built and whose trial is announced, as a driver does it."""
    dataset = provide(storage, config.data.request())
    name = trial_id(config, dataset.fingerprint)
    head = {"stage": "study", "family": "", "config": config.plain(), "dataset": {"benchmark": "b", "fingerprint": "f"}}
    trial_folder(storage, "s", name).create("trial.json", to_json_bytes(head))
    return Job(storage.url, "s", name, config.plain(), dataset.path.name, **options)


def go(job: Job, should_stop: Callable[[], bool] = lambda: False) -> tuple[list[TrialReport], TrialRecord]:
    """Run an attempt. Returns its reports and the record after it."""
    reports: list[TrialReport] = []
    last = run_attempt(job, reports.append, should_stop)
    assert reports[-1] == last
    return reports, read_trial(LocalStorage(Path(job.storage_url)), job.sweep, job.trial_id)


def test_missing_gpu_is_a_result_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It once killed the trial's process silently: 21 times, then 'its machine was lost'."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    reports: list[TrialReport] = []
    config = tiny_config(**{"runtime.device": "cuda"})
    record = attempted(LocalStorage(tmp_path), config, {"gpu_type": "L40S", "gpu_count": 1}, reports.append)
    assert record.status is Status.FAILED and "no usable CUDA" in record.reason
    assert record.attempts[0].start.device == "cuda" and record.attempts[0].start.gpu_type == "L40S"
    assert [(report.kind, report.status) for report in reports] == [("end", "failed")]


def test_trial_on_a_cpu_uses_no_gpu(tmp_path: Path) -> None:
    _, record = go(job_of(LocalStorage(tmp_path), tiny_config(**{"train.max_steps": 1})))
    assert record.status is Status.FINISHED and record.attempts[0].start.gpu_count == 0


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EACCES, "storage failure: StorageError: cannot write"),
        (errno.EDQUOT, "storage failure: No space left on device: StorageError: cannot write"),
    ],
)
def test_fault_of_the_storage_interrupts_a_trial_and_is_not_its_failure(
    code: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise StorageError("cannot write") from OSError(code, os.strerror(code))

    monkeypatch.setattr(attempt, "ensure_local", fails)
    record = attempted(LocalStorage(tmp_path), tiny_config(), {})
    assert (record.status, record.reason) == (Status.INTERRUPTED, reason)


@pytest.mark.parametrize("lost", ["folder", "manifest", "file", "bytes"])
def test_a_dataset_that_the_storage_loses_interrupts_a_trial_and_is_not_its_failure(lost: str, tmp_path: Path) -> None:
    job = job_of(LocalStorage(tmp_path), tiny_config(**{"train.max_steps": 1}))
    folder = tmp_path / "datasets" / job.dataset
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    if lost == "folder":
        shutil.rmtree(folder)
    elif lost == "bytes":
        (folder / "examples.arrow").write_bytes(b"something else")
    else:
        (folder / {"manifest": "manifest.json", "file": "examples.arrow"}[lost]).unlink()
    _, record = go(job)
    assert record.status is Status.INTERRUPTED and record.reason.startswith("storage failure: ")
    assert UNUSABLE_DATASET in record.reason
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept, folder)
    assert go(job)[1].status is Status.FINISHED


def test_a_dataset_that_is_gone_from_a_bucket_interrupts_a_trial(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRM_CACHE", str(tmp_path / "driver"))
    storage = open_storage(s3_bucket)
    job = job_of(storage, tiny_config())
    storage.delete(f"datasets/{job.dataset}/manifest.json")
    monkeypatch.setenv("TRM_CACHE", str(tmp_path / "node"))
    last = run_attempt(job, lambda report: None, lambda: False)
    assert last.status == "interrupted" and f"{UNUSABLE_DATASET} {job.dataset}" in last.reason
    assert "does not hold it any more" in last.reason


def node_without_a_cache(code: int, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Return a job whose dataset is in a bucket, for this process, which cannot write to its cache."""
    monkeypatch.setenv("TRM_CACHE", str(tmp_path / "driver"))
    job = job_of(open_storage(s3_bucket), tiny_config())

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setenv("TRM_CACHE", str(tmp_path / "node"))
    monkeypatch.setattr(datasets, "temporary_folder", fails)
    return job


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EIO])
def test_cache_that_cannot_be_written_is_the_fault_of_the_machine_and_not_of_the_storage(
    code: int, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = node_without_a_cache(code, s3_bucket, tmp_path, monkeypatch)
    with pytest.raises(MachineError, match=r"cannot write to the cache.*Set TRM_CACHE"):
        run_attempt(job, lambda report: None, lambda: False)


def test_machine_without_a_home_folder_is_at_fault_itself(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = node_without_a_cache(errno.EACCES, s3_bucket, tmp_path, monkeypatch)

    def unknown() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("TRM_CACHE")
    monkeypatch.setattr(Path, "home", unknown)
    with pytest.raises(MachineError, match="no home folder"):
        run_attempt(job, lambda report: None, lambda: False)


def test_full_cache_is_a_lack_of_space(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = node_without_a_cache(errno.ENOSPC, s3_bucket, tmp_path, monkeypatch)
    last = run_attempt(job, lambda report: None, lambda: False)
    assert last.status == "interrupted" and last.reason.startswith("storage failure: No space left on device")


class SteppedClock:
    """A wall clock that is set back by an hour with every look at it, and a monotonic clock of a second per look."""

    def __init__(self) -> None:
        self.looks = 0

    def time(self) -> float:
        self.looks += 1
        return 1.8e9 - 3600 * self.looks

    def monotonic(self) -> float:
        self.looks += 1
        return float(self.looks)


def test_wall_clock_that_steps_changes_no_time_within_an_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "time", SteppedClock())
    _, record = go(job_of(LocalStorage(tmp_path), tiny_config()))
    start_s, times = record.attempts[0].start.started_s, [row.time_s for row in record.rows]
    assert len(times) > 3 and times == sorted(times)
    assert start_s <= times[0] and times[-1] < start_s + 1000


def test_attempt_lasts_until_the_storage_has_taken_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds its GPU while it waits."""
    clock = SteppedClock()
    write_rows = writer.TrialWriter.write_rows

    def slowly(self: writer.TrialWriter) -> None:
        clock.looks += 500
        write_rows(self)

    monkeypatch.setattr(attempt, "time", clock)
    monkeypatch.setattr(writer.TrialWriter, "write_rows", slowly)
    _, record = go(job_of(LocalStorage(tmp_path), tiny_config()))
    end = record.attempts[0].end
    assert end is not None and end.elapsed_s is not None and end.elapsed_s > 1000, "with the result, and at the end"


@dataclass(frozen=True, slots=True)
class Faulty(LocalStorage):
    """A folder of which writes fail as `fault` says, which is called with the path of every key."""

    fault: ClassVar[Callable[[str], int | None]] = lambda path: None

    def write(self, key: str, data: bytes) -> None:
        def write() -> None:
            self._fail(key)
            LocalStorage.write(self, key, data)

        retry_transient(write, self.patience_s)

    def create(self, key: str, data: bytes) -> bool:
        def create() -> bool:
            self._fail(key)
            return LocalStorage.create(self, key, data)

        return retry_transient(create, self.patience_s)

    def _fail(self, key: str) -> None:
        code = Faulty.fault(str(self.root / key))
        if code is not None:
            kind = StorageError if code == errno.ENOSPC else TransientError
            raise kind(f"cannot write {key}") from OSError(code, os.strerror(code))

    def sub(self, folder: str) -> Faulty:
        return Faulty(self.root / folder, self.patience_s)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make attempts use a `Faulty` storage."""

    def use(fault: Callable[[str], int | None], patience_s: float = 60.0) -> None:
        monkeypatch.setattr(attempt, "open_storage", lambda url: Faulty(Path(url), patience_s))
        monkeypatch.setattr(Faulty, "fault", staticmethod(fault))

    return use


def failing(pattern: str, code: int, times: int) -> Callable[[str], int | None]:
    """Fail so many writes of keys that contain `pattern`."""
    left = [times]

    def fault(key: str) -> int | None:
        if pattern not in key or left[0] == 0:
            return None
        left[0] -= 1
        return code

    return fault


@pytest.mark.parametrize(
    "pattern", ["start.json", "rows-", "checkpoints/", "outcomes.arrow", "result.json", "end.json"]
)
def test_storage_fault_is_survived_wherever_it_happens(pattern: str, tmp_path: Path, faulty: Any) -> None:
    job = job_of(LocalStorage(tmp_path), tiny_config())
    faulty(failing(pattern, errno.EIO, 2))
    _, record = go(job)
    assert record.status is Status.FINISHED and len(record.attempts) == 1
    assert [step for step, _ in record.curve("exact_accuracy")] == [4, 8, 12], "no row is lost"


@pytest.mark.parametrize("pattern", ["rows-", "checkpoints/", "result.json", "start.json"])
def test_outage_that_lasts_interrupts_the_trial_which_then_resumes(pattern: str, tmp_path: Path, faulty: Any) -> None:
    job = job_of(LocalStorage(tmp_path), tiny_config())
    faulty(failing(pattern, errno.EIO, 100), patience_s=0.0)
    reports, record = go(job)
    if pattern == "checkpoints/":  # training does without, and what it lost is nothing
        assert record.status is Status.FINISHED
        return
    assert reports[-1].status == "interrupted" and reports[-1].reason.startswith("storage failure: ")
    assert record.status in (Status.INTERRUPTED, Status.RUNNING, Status.PENDING) and not record.status.is_final
    faulty(lambda key: None)
    assert go(job)[1].status is Status.FINISHED


def test_start_whose_answer_was_lost_is_the_start_of_the_same_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, create, begun = job_of(LocalStorage(tmp_path), tiny_config()), LocalStorage.create, list[bytes]()

    def loses_first_answer(self: LocalStorage, key: str, data: bytes) -> bool:
        is_created = create(self, key, data)
        if key.endswith("start.json"):
            begun.append(data)
            if len(begun) == 1:
                raise StorageError("the answer is lost, and the storage is away for minutes")
        return is_created

    monkeypatch.setattr(LocalStorage, "create", loses_first_answer)
    reports, record = go(job)
    assert len(begun) == 2 and reports[-1].reason.endswith("the storage is away for minutes")
    assert record.status is Status.INTERRUPTED
    assert [(each.number, each.end is not None) for each in record.attempts] == [(1, True)]


def test_failure_that_cannot_be_recorded_is_reported_as_an_interruption_by_the_storage(
    tmp_path: Path, faulty: Any
) -> None:
    job = job_of(LocalStorage(tmp_path), tiny_config(**{"runtime.device": "cuda"}))
    faulty(failing("end.json", errno.EIO, 100), patience_s=0.0)
    reports, record = go(job)
    assert record.status is Status.RUNNING and reports[-1].status == "interrupted"
    assert reports[-1].reason.startswith("storage failure: ") and "no usable CUDA" in reports[-1].reason


FULL = """
import resource, sys
from orchestrator.worker.attempt import child_main, run_attempt
from orchestrator.worker.job import Job
job = Job.from_json(sys.argv[1])
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
last = run_attempt(job, lambda report: None, lambda: False)
print(last.status, last.reason, sep="\\n")
"""


def test_full_disk_interrupts_the_trial_at_once_and_space_lets_it_finish(tmp_path: Path) -> None:
    job = job_of(LocalStorage(tmp_path), tiny_config())
    environment = {**os.environ, "TRM_RECORD_DIFF": "0"}
    command = [sys.executable, "-c", FULL, job.to_json(), "16384"]  # larger than rows, smaller than a checkpoint
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    status, reason = done.stdout.splitlines()
    assert status == "interrupted" and "No space left on device" in reason and "no checkpoint at step" in reason
    record = read_trial(LocalStorage(tmp_path), "s", job.trial_id)
    assert record.status is Status.INTERRUPTED and "No space left on device" in record.reason
    assert not list(tmp_path.rglob("*.tmp"))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert go(job)[1].status is Status.FINISHED


def test_failure_that_cannot_be_recorded_is_found_again_by_the_next_attempt(
    tmp_path: Path, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial whose end is missing in its record is resumed, and must not be reported as failed."""
    job = job_of(LocalStorage(tmp_path), tiny_config(**{"runtime.device": "cuda"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(writer, "SPACE_WAIT_S", 0.0)
    faulty(failing("end.json", errno.ENOSPC, 1))
    reports, record = go(job)
    assert reports[-1].status == "interrupted" and record.status is Status.RUNNING
    assert go(job)[1].status is Status.FAILED


def test_busy_bucket_costs_time_and_no_trial(s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "open_storage", lambda url: open_storage(url, attempts=1))
    chance, refused = random.Random(1), []

    def refuses(method: str, path: str) -> bool:
        is_refused = chance.random() < 0.3
        if is_refused:
            refused.append(f"{method} {path}")
        return is_refused

    config = tiny_config(**{"train.max_steps": 4})
    with refusing_proxy(s3_endpoint, refuses) as address:
        job = job_of(open_storage(s3_bucket), config)
        job = replace(job, storage_url=s3_bucket.replace(s3_endpoint, address))
        last = run_attempt(job, lambda report: None, lambda: False)
    assert last.status == "finished" and len(refused) > 3
    assert read_trial(open_storage(s3_bucket), "s", job.trial_id).status is Status.FINISHED


def test_half_copied_checkpoint_of_a_shorter_trial_is_copied_again(tmp_path: Path, faulty: Any) -> None:
    storage = LocalStorage(tmp_path)
    shorter = job_of(storage, tiny_config(**{"train.max_steps": 4}))
    assert go(shorter)[1].status is Status.FINISHED
    longer = job_of(storage, tiny_config(**{"train.max_steps": 8}), continues=shorter.trial_id)
    faulty(failing(f"{longer.trial_id}/checkpoints/step-", errno.EIO, 1))
    _, record = go(longer)
    assert record.status is Status.FINISHED and record.attempts[0].start.from_step == 4


def test_damaged_checkpoint_of_a_shorter_trial_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = LocalStorage(tmp_path)
    shorter = job_of(storage, tiny_config(**{"train.max_steps": 4}))
    assert go(shorter)[1].status is Status.FINISHED
    for path in tmp_path.glob(f"sweeps/*/trials/{shorter.trial_id}/checkpoints/*"):
        path.write_bytes(path.read_bytes()[:-100])
    longer = job_of(storage, tiny_config(**{"train.max_steps": 8}), continues=shorter.trial_id)
    _, record = go(longer)
    assert record.status is Status.FINISHED and record.attempts[0].start.from_step == 0
    assert record.curve("exact_accuracy")[-1][0] == 8
    assert "step-00000004.safetensors is not usable" in caplog.text


def test_a_trial_says_which_damaged_checkpoints_it_skipped(tmp_path: Path) -> None:
    job = job_of(LocalStorage(tmp_path), tiny_config(**{"train.max_steps": 12, "runtime.evaluate_every": 4}))
    steps = iter(range(100))
    assert go(job, lambda: next(steps) > 5)[1].status is Status.INTERRUPTED
    *_, newest = sorted(tmp_path.glob("sweeps/*/trials/*/checkpoints/step-*"))
    newest.write_bytes(newest.read_bytes()[:-100])
    _, record = go(job)
    assert record.status is Status.FINISHED and record.attempts[1].start.skipped == (newest.name,)
    told = [event.text for event in trial_events([record]) if event.kind == "started"]
    assert not told[0].endswith("damaged") and told[1].endswith(f"(attempt 2); skipped as damaged: {newest.name}")


ON_CPU = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: 9999 bytes"
ON_GPU = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("trm_model.training.trainer.Trainer.train_step", ON_CPU),
        ("tests", ON_CPU),
        ("tests", ON_GPU),
        ("open_dataset", ON_CPU),
    ],
)
def test_lack_of_memory_is_a_result_with_both_figures_wherever_it_happens(
    where: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(LocalStorage(tmp_path), tiny_config())

    def fails(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError(message)

    if where == "tests":
        monkeypatch.setattr(evaluate, "final_answers", fails)
    elif where == "open_dataset":
        monkeypatch.setattr(attempt, "ensure_local", fails)
    else:
        monkeypatch.setattr(where, fails)
    _, record = go(job)
    assert record.status is Status.OUT_OF_MEMORY
    assert "GiB predicted" in record.reason and "GiB held" in record.reason


def test_lost_process_of_a_run_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(LocalStorage(tmp_path), tiny_config())

    def dies(*arguments: Any, **options: Any) -> Any:
        raise ProcessLostError("process 1 of 2 died with signal 9")

    monkeypatch.setattr(attempt, "train_in_processes", dies)
    with pytest.raises(ProcessLostError):
        go(job)
    assert not read_trial(LocalStorage(tmp_path), "s", job.trial_id).status.is_final


def test_full_cache_of_the_compiler_is_a_lack_of_space_and_not_the_trials_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch raises its own error `from None`."""
    from torch._inductor.exc import InductorError

    def compiles(self: Trainer) -> Any:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise InductorError(error, None) from None

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with monkeypatch.context() as full:
        full.setattr(Trainer, "train_step", compiles)
        job = job_of(LocalStorage(tmp_path), tiny_config(**{"train.max_steps": 1}))
        _, record = go(job)
    assert record.status is Status.INTERRUPTED
    assert record.reason.startswith("storage failure: No space left on device: ")
    assert f"Free some space in {tmp_path / 'cache'}" in record.reason and "compiler" not in record.reason
    assert go(job)[1].status is Status.FINISHED


@pytest.mark.parametrize(("fails", "expected"), [(False, "with a checkpoint"), (True, "without a last checkpoint")])
def test_interrupted_trial_says_whether_a_checkpoint_was_written(
    fails: bool, expected: str, tmp_path: Path, faulty: Any
) -> None:
    job = job_of(LocalStorage(tmp_path), tiny_config())
    if fails:
        faulty(failing("checkpoints/", errno.EIO, 100))
    reports, record = go(job, should_stop=lambda: True)
    assert (reports[-1].status, reports[-1].reason) == ("interrupted", f"asked to stop at step 0, {expected}")
    assert record.reason == reports[-1].reason
    assert bool(record.status) and bool(list(tmp_path.rglob("step-*.safetensors"))) is not fails


def test_an_evaluation_can_be_seen_by_others_when_it_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows wait for seconds otherwise."""
    monkeypatch.setattr(writer, "FLUSH_S", 3600.0)
    job = job_of(LocalStorage(tmp_path), tiny_config())
    seen: list[list[int]] = []

    def listen(report: TrialReport) -> None:
        if report.kind == "rung":
            record = read_trial(LocalStorage(tmp_path), "s", job.trial_id)
            seen.append([step for step, _ in record.curve("exact_accuracy")])

    run_attempt(job, listen, lambda: False)
    assert seen == [[4], [4, 8], [4, 8, 12]]


def test_a_point_is_seen_while_the_next_steps_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a slow trial, whose next point is far away, are written between its steps."""
    seldom = {"runtime.log_every": 4, "runtime.evaluate_every": 12, "runtime.checkpoint_every_s": 3600}
    job = job_of(LocalStorage(tmp_path), tiny_config(**seldom))
    now = [0.0]
    monkeypatch.setattr(attempt, "TrialWriter", functools.partial(TrialWriter, clock=lambda: now[0]))
    seen: list[list[int]] = []

    def should_stop() -> bool:  # asked before every step; by this clock the first four are quick, the others slow
        now[0] += 0.3 if len(seen) < 4 else 3.0
        rows = read_trial(LocalStorage(tmp_path), "s", job.trial_id).rows
        seen.append([row.step for row in rows if row.split == "train"])
        return False

    run_attempt(job, lambda report: None, should_stop)
    assert [4] in seen, seen


@pytest.mark.parametrize("refused", [0, 3], ids=["rows are written", "rows are refused for a while"])
def test_a_checkpoint_is_written_after_the_rows_before_it(
    refused: int, tmp_path: Path, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was killed after a checkpoint lost the rows that waited: its successor does not repeat them."""
    monkeypatch.setattr(writer, "FLUSH_S", 3600.0)
    settings = {"runtime.log_every": 1, "runtime.checkpoint_every_s": 1e-3, "runtime.evaluate_every": 12}
    job = job_of(LocalStorage(tmp_path), tiny_config(**settings))
    rows_fail, seen = failing("rows-", errno.EIO, refused), {}

    def fault(path: str) -> int | None:
        if "checkpoints/step-" in path:
            rows = read_trial(LocalStorage(tmp_path), "s", job.trial_id).rows
            seen[int(path.rpartition("-")[2].partition(".")[0])] = [row.step for row in rows if row.split == "train"]
        return rows_fail(path)

    faulty(fault)
    _, record = go(job)
    assert record.status is Status.FINISHED and seen
    for step, steps in seen.items():
        assert steps == list(range(1, step + 1))


def test_reports_say_how_long_a_stop_takes(tmp_path: Path) -> None:
    reports, _ = go(job_of(LocalStorage(tmp_path), tiny_config(**{"runtime.log_every": 1})))
    assert all(report.stop_s > 0 for report in reports)


def test_trial_that_cannot_hear_its_actor_any_more_does_not_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that died of a message that it could not read would leave a trial that nobody can stop."""
    exited = threading.Event()
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        exited.set()
        threading.Event().wait(0.1)

    class Damaged:
        def recv(self) -> str:
            raise pickle.UnpicklingError("invalid load key")

    monkeypatch.setattr(attempt.os, "_exit", leave)
    monkeypatch.setattr(attempt, "run_attempt", lambda job, report, should_stop: exited.wait(60))
    child_main(Job("", "s", "t", {}, "d").to_json(), Damaged())  # type: ignore[arg-type]
    assert codes == [1]


LOST_ACTOR = """
import sys, threading
from orchestrator.worker.attempt import child_main
class Pipe:
    def recv(self):
        threading.Event().wait()  # on a busy machine this thread has not been woken yet
    def send(self, message):
        if message.kind == sys.argv[2]:
            raise BrokenPipeError(32, "Broken pipe")
child_main(sys.argv[1], Pipe())
"""


@pytest.mark.parametrize("kind", ["progress", "rung"])
def test_trial_whose_actor_is_gone_has_not_failed(kind: str, tmp_path: Path) -> None:
    job = job_of(LocalStorage(tmp_path), tiny_config(**{"runtime.log_every": 1}))
    command = [sys.executable, "-c", LOST_ACTOR, job.to_json(), kind]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    record = read_trial(LocalStorage(tmp_path), "s", job.trial_id)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert record.status is Status.RUNNING and record.reason == ""


def test_error_after_a_request_to_stop_is_no_failure_of_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a driver ends, its temporary files may be gone before the trial has stopped."""
    job = job_of(LocalStorage(tmp_path), tiny_config())
    is_asked = threading.Event()

    def step(trainer: Trainer) -> None:
        is_asked.set()
        raise FileNotFoundError(2, "No such file or directory")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", step)
        reports, record = go(job, is_asked.is_set)
        assert reports[-1].status == "interrupted" and record.status is Status.INTERRUPTED
        assert (
            record.reason
            == "asked to stop at step 0, and ended by FileNotFoundError: [Errno 2] No such file or directory"
        )
        assert go(job)[1].status is Status.FAILED, "without such a request it is one"


def test_resumption_that_fails_before_it_has_read_its_checkpoint_hides_no_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU whose energy is measured, its last sample was written as a row at step 0, which replaced all others."""

    class Meter:
        def energy_j(self) -> float:
            return 1.0

        def sample(self) -> dict[str, float]:
            return {}

    monkeypatch.setattr(telemetry, "LAST_S", 0.0)
    monkeypatch.setattr(attempt, "gpus_of", lambda device: Meter())
    job = job_of(LocalStorage(tmp_path), tiny_config(**{"runtime.log_every": 1}))
    reports: list[TrialReport] = []
    run_attempt(job, reports.append, lambda: any(report.kind == "rung" for report in reports))
    stopped = read_trial(LocalStorage(tmp_path), "s", job.trial_id)
    assert stopped.status is Status.INTERRUPTED and stopped.curve("exact_accuracy")

    def refuse(storage: Storage, name: str) -> Path:
        raise StorageError("the bucket does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(attempt, "ensure_local", refuse)
        _, failed = go(job)
    assert failed.status is Status.INTERRUPTED and len(failed.attempts) == 2
    assert failed.curve("exact_accuracy") == stopped.curve("exact_accuracy")
    assert [step for step, _ in go(job)[1].curve("exact_accuracy")] == [4, 8, 12]
