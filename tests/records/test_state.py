"""What trials are called and which of them count: the same in every view."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.api.status import status
from orchestrator.execution.options import RunOptions
from orchestrator.execution.run import run_sweep
from orchestrator.records.extend import Extension, extend, retry
from orchestrator.records.schema import Status
from orchestrator.results.dataframe import load_results
from orchestrator.results.leaderboard import refusals
from orchestrator.results.report.storage_page import read_sweep_records
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.lease import Lease
from orchestrator.sweep.budget import Budget
from orchestrator.tracking.notifications import SweepWatcher
from orchestrator.web.feed import SweepFeed
from tests.records.test_extend import recorded_study
from tests.support.commands import call
from tests.support.execution import FakeCluster, Recorder, StandIn


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "runs"))


def test_a_trial_without_an_end_runs_only_while_a_driver_lives_in_every_view(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    (trial,) = recorded_study(storage, Status.RUNNING)

    def views() -> dict[str, set[str]]:
        shown = call(capsys, "trial", "show", trial, "--storage", storage.url)[1]
        page = SweepFeed(storage, "study").view().summary()
        return {
            "status": set(status("study", storage).counts),
            "page": set(page["counts"]),
            "notification": set(SweepWatcher(storage, "study", Budget()).snapshot().event("stopped").counts),
            "leaderboard": {text[14:-1] for text in refusals(read_sweep_records(storage).trials)},
            "export": set(load_results("study", storage).status),
            "trial": {word for word in ("running", "interrupted") if f"{word} at step 4/12" in shown},
        }

    with Lease(storage.sub("sweeps/study"), "study"):
        assert all(found == {"running"} for found in views().values()), views()
    assert all(found == {"interrupted"} for found in views().values()), views()


def test_trials_that_longer_ones_have_replaced_are_marked_and_not_counted(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    shorter = recorded_study(storage, Status.RUNNING, Status.FINISHED, Status.FAILED)
    wider = extend(storage, "study", Extension(max_steps=24))
    state = status("study", storage)
    assert state.counts == {} and str(state.progress) == "0 of 8 trials done"
    _, out, _ = call(capsys, "sweep", "status", "study", "--storage", storage.url)
    assert out.count("superseded") == 3 and "running" not in out.replace("is not running", "")
    assert SweepFeed(storage, "study").view().summary()["counts"] == {}
    assert refusals(read_sweep_records(storage).trials) == {
        "not finished (superseded)": 1,
        "not finished (failed)": 1,
        "scored on validation": 1,
    }

    recorder = Recorder()
    execute = StandIn(lambda *_: "finish").fit
    outcome = run_sweep(wider, storage, RunOptions(), [recorder], cluster=FakeCluster(), execute=execute)
    ends = [event for event in recorder.events if event.startswith("trial end")]
    assert ends == [f"trial end {number}/8" for number in range(1, 9)]
    assert outcome.snapshot.counts == status("study", storage).counts == {"finished": 8}
    frame = load_results("study", storage)
    assert list(frame[frame.trial_id.isin(shorter)].status.sort_values()) == ["failed", "finished", "superseded"]


def test_a_trial_that_was_marked_for_retry_is_to_be_retried(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    failed, _ = recorded_study(storage, Status.FAILED, Status.INTERRUPTED)
    retry(storage, "study")
    assert status("study", storage).counts == {"interrupted": 1, "to be retried": 1}
    _, out, _ = call(capsys, "sweep", "status", "study", "--storage", storage.url)
    assert "0 of 8 trials done (1 interrupted, 1 to be retried)" in out
    found = json.loads(call(capsys, "sweep", "status", "study", "--json", "--storage", storage.url)[1])
    assert {row["trial_id"] for row in found["trials"] if row["state"] == "to be retried"} == {failed}
