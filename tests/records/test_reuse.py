"""Trials that another sweep of the storage has finished are taken over. No Ray here."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.records.index import new_head
from orchestrator.records.reader import read_trial, read_trials
from orchestrator.records.reuse import FinishedTrials
from orchestrator.records.schema import DatasetInfo, Origin, Status, TrialHead
from orchestrator.records.unfinished import Mark
from orchestrator.resources.usage import spending
from orchestrator.storage import LocalStorage, Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep.trials import PlannedTrial, study_trials
from tests.records.test_extend import ran
from tests.support.sweeps import fingerprint, study


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path))


def planned(number: int = 0) -> PlannedTrial:
    return list(study_trials(study(), fingerprint))[number]


def head(trial: PlannedTrial) -> TrialHead:
    dataset = DatasetInfo(benchmark="sudoku-4x4", fingerprint="f")
    return new_head(trial.stage, "under another name", trial.config, dataset)


def test_a_finished_trial_of_another_sweep_is_taken_over_with_its_curve_and_says_so(storage: Storage) -> None:
    storage.write("sweeps/study/sweep.json", to_json_bytes(study().plain()))
    ran(storage, study(), planned(0), Status.FINISHED)
    ran(storage, study(), planned(1), Status.FAILED)
    earlier = FinishedTrials(storage, "mine")
    assert earlier.take_over(planned(1), head(planned(1))) is None
    assert earlier.take_over(planned(2), head(planned(2))) is None
    taken = earlier.take_over(planned(0), head(planned(0)))
    original = read_trial(storage, "study", planned(0).trial_id)
    assert taken and taken.status is Status.FINISHED and taken.family == "under another name"
    assert taken.origin == Origin(kind="reused", sweep="study", trial_id=planned(0).trial_id)
    assert (taken.result, taken.rows, taken.attempts) == (original.result, original.rows, original.attempts)
    assert not [key for key in storage.list("sweeps/mine") if "checkpoints" in key], "they stay where they are"
    assert spending(read_trials(storage, "mine"), 2000.0).trials == 0, "it costs this sweep nothing"


def test_a_sweep_does_not_take_from_itself_nor_from_what_is_no_sweep(storage: Storage) -> None:
    storage.write("sweeps/study/sweep.json", to_json_bytes(study().plain()))
    ran(storage, study(), planned(0), Status.FINISHED)
    ran(storage, study().model_copy(update={"name": "train"}), planned(1), Status.FINISHED)
    assert FinishedTrials(storage, "study").take_over(planned(0), head(planned(0))) is None
    assert FinishedTrials(storage, "mine").take_over(planned(1), head(planned(1))) is None


@pytest.mark.parametrize("file", ["trial.json", "attempts/001/end.json"])
def test_a_damaged_record_of_another_sweep_is_not_taken_over(
    file: str, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    storage.write("sweeps/study/sweep.json", to_json_bytes(study().plain()))
    ran(storage, study(), planned(0), Status.FINISHED)
    storage.write(f"sweeps/study/trials/{planned(0).trial_id}/{file}", b"{")
    assert FinishedTrials(storage, "mine").take_over(planned(0), head(planned(0))) is None
    assert storage.list("sweeps/mine") == [] and file in caplog.text


def test_a_copy_that_was_cut_short_is_made_again(storage: Storage) -> None:
    storage.write("sweeps/study/sweep.json", to_json_bytes(study().plain()))
    ran(storage, study(), planned(0), Status.FINISHED)
    whole = FinishedTrials(storage, "mine").take_over(planned(0), head(planned(0)))
    for key in ("result.json", "attempts/001/end.json"):
        storage.delete(f"sweeps/mine/trials/{planned(0).trial_id}/{key}")
    assert not read_trial(storage, "mine", planned(0).trial_id).status.is_final
    assert FinishedTrials(storage, "mine").take_over(planned(0), head(planned(0))) == whole


def test_a_trial_that_has_run_here_is_not_replaced_by_that_of_another_sweep(storage: Storage) -> None:
    """The other sweep finished it after this one was interrupted; what was used here stays in the account."""
    storage.write("sweeps/study/sweep.json", to_json_bytes(study().plain()))
    ran(storage, study(), planned(0), Status.FINISHED)
    ran(storage, study().model_copy(update={"name": "mine"}), planned(0), Status.INTERRUPTED)
    before = read_trials(storage, "mine")
    assert FinishedTrials(storage, "mine").take_over(planned(0), head(planned(0))) is None
    assert read_trials(storage, "mine") == before and before[0].attempts
    assert spending(before, 2000.0).trials == 1


def test_a_trial_of_a_sweep_whose_deletion_begins_meanwhile_is_not_taken_over(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write("sweeps/study/sweep.json", to_json_bytes(study().plain()))
    ran(storage, study(), planned(0), Status.FINISHED)
    earlier, read = FinishedTrials(storage, "mine"), LocalStorage.read

    def begin(self: LocalStorage, key: str) -> bytes:
        if key == "attempts/001/end.json":
            storage.write("sweeps/study/unfinished.json", to_json_bytes(Mark(sweep="study").plain()))
        return read(self, key)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "read", begin)
        assert earlier.take_over(planned(0), head(planned(0))) is None
        storage.delete(f"sweeps/study/trials/{planned(0).trial_id}/result.json")
        assert earlier.take_over(planned(0), head(planned(0))) is None
    assert not storage.list("sweeps/mine")
