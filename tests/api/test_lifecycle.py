"""Functions that change recorded sweeps, as `trm sweep` does."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import (
    Status,
    SweepError,
    delete_sweep,
    extend_sweep,
    prune_checkpoints,
    rename_sweep,
    retry_trials,
    status,
    stop_sweep,
)
from orchestrator.records.index import find_definition, stop_requested, sweep_folder
from orchestrator.records.reader import read_trials
from orchestrator.storage import LocalStorage, Storage
from orchestrator.storage.lease import Lease
from tests.records.test_extend import recorded_study


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A storage with a study of which one trial has failed and one has finished."""
    storage = LocalStorage(tmp_path)
    recorded_study(storage, Status.FINISHED, Status.FAILED)
    return storage


def test_only_a_running_sweep_is_stopped(storage: Storage, tmp_path: Path) -> None:
    folder = sweep_folder(storage, "study")
    with pytest.raises(SweepError, match="'study' is not running"):
        stop_sweep("study", tmp_path)
    assert not stop_requested(folder)
    with Lease(folder, "study"):
        assert stop_sweep("study", tmp_path)["pid"] > 0
        assert stop_requested(folder)


def test_failed_trials_are_marked_to_run_again(storage: Storage, tmp_path: Path) -> None:
    (retried,) = retry_trials("study", str(tmp_path))
    assert retried.status is Status.FAILED
    now = {record.trial_id: record.status for record in read_trials(storage, "study")}
    assert now.pop(retried.trial_id) is not Status.FAILED and set(now.values()) == {Status.FINISHED}


def test_sweep_is_extended_by_values_and_nothing_new_writes_nothing(storage: Storage, tmp_path: Path) -> None:
    before = storage.list()
    recorded = find_definition(storage, "study")
    assert extend_sweep("study", tmp_path, vary={"T": (1,)}) == recorded and storage.list() == before
    wider = extend_sweep("study", tmp_path, vary={"T": [7]})
    assert wider == find_definition(storage, "study") != recorded
    assert wider.space["model.cycles"].holds(7)
    with pytest.raises(SweepError, match="a study: it runs every cell"):
        extend_sweep("study", tmp_path, trials=99)


def test_sweep_is_renamed_and_deleted(storage: Storage, tmp_path: Path) -> None:
    definition = find_definition(storage, "study")
    assert definition is not None and status(definition, tmp_path).counts == status("study", tmp_path).counts
    assert rename_sweep(definition, tmp_path, new="renamed", tracking="none").name == "renamed"
    assert find_definition(storage, "study") is None
    deleted = delete_sweep("renamed", tmp_path, tracking="none")
    assert deleted.files > 0 and deleted.runs == 0 and not storage.list("sweeps/renamed/trials")
    with pytest.raises(SweepError, match="no sweep 'renamed'"):
        delete_sweep("renamed", tmp_path, tracking="none")


def test_checkpoints_are_pruned_to_a_size(storage: Storage, tmp_path: Path) -> None:
    before = {key: size for key, size in storage.sizes("sweeps/study").items() if "/checkpoints/" in key}
    expected = prune_checkpoints(None, tmp_path, keep_bytes=100, dry_run=True)
    assert expected.deleted and expected.kept_bytes <= 100
    assert before.items() <= storage.sizes("sweeps/study").items()
    assert prune_checkpoints("study", tmp_path, keep_bytes="100B") == expected
    left = {key: size for key, size in storage.sizes("sweeps/study").items() if key in before}
    assert sum(left.values()) == expected.kept_bytes
    assert len(left) == len(before) - len(expected.deleted)
    for size in (-1, "much"):
        with pytest.raises(SweepError, match="is not an amount of bytes"):
            prune_checkpoints(None, tmp_path, keep_bytes=size)
