"""Records: what is written once is read once, on a disk and on S3; one driver per sweep."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from orchestrator.records.index import new_head, request_stop, stop_requested
from orchestrator.records.reader import read_trial, read_trials
from orchestrator.records.schema import AttemptEnd, AttemptStart, DatasetInfo, Row, Status, StopDecision, TrialResult
from orchestrator.records.writer import TrialWriter
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.lease import Lease
from orchestrator.sweep.trials import search_trial
from tests.support.sweeps import fingerprint, search


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_bucket"))


def announce(storage: Storage) -> str:
    trial = search_trial(search(), fingerprint, "T=1", {"T": 1})
    head = new_head("explore", "T=1", trial.config, DatasetInfo(benchmark="b", fingerprint="f"))
    storage.write(f"sweeps/s/trials/{trial.trial_id}/trial.json", head.encode())
    return trial.trial_id


def attempt(storage: Storage, trial_id: str, first: int, last: int, status: Status | None) -> TrialWriter:
    """An attempt that took over at `first` and wrote a row per step up to `last`, in segments of three."""
    writer = TrialWriter(storage, "s", trial_id)
    writer.start(AttemptStart(from_step=first, started_s=1000.0))
    for step in range(first + 1, last + 1):
        writer.add(Row(step, 1000.0 + step, "validation", {"exact_accuracy": step / 100}))
        if step % 3 == 0:
            writer.flush()
    writer.flush()
    if status is not None:
        writer.end(AttemptEnd(status=status, step=last, train_s=1.0, ended_s=0.0))
    return writer


def test_attempts_fold_into_one_curve_in_which_no_step_counts_twice(storage: Storage) -> None:
    trial_id = announce(storage)
    assert read_trial(storage, "s", trial_id).status is Status.PENDING
    attempt(storage, trial_id, 0, 8, None)
    assert read_trial(storage, "s", trial_id).status is Status.RUNNING
    attempt(storage, trial_id, 5, 7, Status.INTERRUPTED)
    assert read_trial(storage, "s", trial_id).status is Status.INTERRUPTED
    last = attempt(storage, trial_id, 7, 10, None)
    last.finish(TrialResult(split="validation", items=10, metrics={"exact_accuracy": 0.1}), {})
    last.end(AttemptEnd(status=Status.FINISHED, step=10, ended_s=1.0, train_s=2.0))
    record = read_trial(storage, "s", trial_id)
    assert record.status is Status.FINISHED and record.step == 10
    assert [step for step, _ in record.curve("exact_accuracy")] == list(range(1, 11))
    assert [a.number for a in record.attempts] == [1, 2, 3]
    assert record.result and record.result.metrics["exact_accuracy"] == 0.1
    assert read_trials(storage, "s") == [record]


@pytest.mark.parametrize("status", [Status.FAILED, Status.DIVERGED, Status.OUT_OF_MEMORY])
def test_an_end_decides_the_status_and_a_stop_decision_wins_over_it(status: Status, tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    trial_id = announce(storage)
    attempt(storage, trial_id, 0, 3, status)
    assert read_trial(storage, "s", trial_id).status is status
    storage.write(f"sweeps/s/trials/{trial_id}/stopped.json", StopDecision(step=3, reason="rank").encode())
    assert read_trial(storage, "s", trial_id).status is Status.STOPPED


def test_unknown_trial_is_a_key_error_and_an_unknown_sweep_is_empty(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    assert read_trials(storage, "s") == []
    with pytest.raises(KeyError):
        read_trial(storage, "s", "nobody")


def test_a_request_to_stop_reaches_the_driver_and_not_the_next_one(storage: Storage) -> None:
    with Lease(storage, "s"):
        assert not stop_requested(storage)
        threading.Thread(target=request_stop, args=(storage,)).run()
        assert stop_requested(storage)
    with Lease(storage, "s"):
        assert not stop_requested(storage)
        assert json.loads(storage.read("lock.json"))["pid"] == os.getpid()
