"""Sweeps that are deleted and renamed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.errors import SweepError, command_line
from orchestrator.records.index import load_definition, sweep_names
from orchestrator.records.lifecycle import delete_sweep, rename_sweep
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status
from orchestrator.storage import Storage, StorageError, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.lease import Lease
from orchestrator.sweep.definition import RESERVED_NAMES
from tests.records.test_reader import run, sweep_of
from tests.support.sweeps import search


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    made = open_storage(str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_bucket"))
    sweep_of(made, 2)
    made.write("sweeps/study-2/sweep.json", b"{}")
    return made


def test_a_deleted_sweep_leaves_nothing_and_others_alone(storage: Storage) -> None:
    said: list[str] = []
    assert delete_sweep(storage, "study", said.append) > 6
    assert storage.list() == ["sweeps/study-2/sweep.json"] and said == ["study"]
    with pytest.raises(SweepError, match="no sweep 'study'"):
        delete_sweep(storage, "study")


def test_a_deletion_that_was_cut_short_is_finished(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Storage, keys: list[str]) -> None:
        self.delete(keys[0])
        raise StorageError("the storage is unavailable", "Try again")

    with monkeypatch.context() as patched:
        patched.setattr(type(storage), "delete_many", refuse)
        with pytest.raises(StorageError):
            delete_sweep(storage, "study")
    assert sweep_names(storage) == ["study", "study-2"]
    delete_sweep(storage, "study")
    assert sweep_names(storage) == ["study-2"] and not storage.list("sweeps/study")


def test_a_tracker_that_fails_leaves_the_records(storage: Storage) -> None:
    def refuse(name: str) -> None:
        raise SweepError(f"no answer about {name}", "Try again")

    before = storage.list("sweeps/study")
    with pytest.raises(SweepError, match="no answer about study"):
        delete_sweep(storage, "study", refuse)
    assert storage.list("sweeps/study") == before


def test_records_of_single_runs_are_not_deleted_as_a_sweep(storage: Storage) -> None:
    storage.write("sweeps/train/trials/abc/trial.json", b"{}")
    with pytest.raises(SweepError, match="no sweep 'train'"):
        delete_sweep(storage, "train")
    assert storage.list("sweeps/train") == ["sweeps/train/trials/abc/trial.json"]


def test_a_sweep_that_runs_is_neither_deleted_nor_renamed(storage: Storage) -> None:
    before = storage.list("sweeps/study")
    with Lease(storage.sub("sweeps/study"), "study"):
        for call in (lambda: delete_sweep(storage, "study"), lambda: rename_sweep(storage, "study", "other")):
            with pytest.raises(SweepError, match="is being run"):
                call()
    assert storage.list("sweeps/study") == before


def test_a_renamed_sweep_has_the_same_trials_under_its_new_name(storage: Storage) -> None:
    run(storage, 2, Status.FAILED)
    before = {record.trial_id: (record.status, list(record.rows)) for record in read_trials(storage, "study")}
    said: list[tuple[str, str]] = []
    assert rename_sweep(storage, "study", "depth", lambda *names: said.append(names)).name == "depth"
    after = {record.trial_id: (record.status, list(record.rows)) for record in read_trials(storage, "depth")}
    assert after == before and said == [("study", "depth")]
    assert sweep_names(storage) == ["depth", "study-2"] and not storage.list("sweeps/study")


@pytest.mark.parametrize(
    ("name", "message"),
    [("study-2", "already"), ("no name", "name"), *((name, "is reserved for") for name in RESERVED_NAMES)],
)
def test_a_name_that_is_taken_or_reserved_is_refused(storage: Storage, name: str, message: str) -> None:
    before = storage.list()
    with pytest.raises(Exception, match=message):
        rename_sweep(storage, "study", name)
    assert storage.list() == before


@pytest.mark.parametrize("cut", ["while copying", "in the tracker", "while deleting"])
def test_a_renaming_that_was_cut_short_is_finished(storage: Storage, cut: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {record.trial_id: list(record.rows) for record in read_trials(storage, "study")}

    def fail(*_: object) -> None:
        raise StorageError("the storage is unavailable", "Try again")

    method = {"while copying": "read_many", "while deleting": "delete_many"}.get(cut)
    with monkeypatch.context() as patched:
        if method is not None:
            patched.setattr(type(storage), method, fail)
        with pytest.raises(StorageError):
            rename_sweep(storage, "study", "depth", fail if cut == "in the tracker" else None)
    finish = re.escape(command_line("sweep", "rename", "study", "depth", storage=storage.url))
    with pytest.raises(SweepError, match=f"partly renamed to 'depth'.*`{finish}`"):
        rename_sweep(storage, "study", "another")
    rename_sweep(storage, "study", "depth")
    assert sweep_names(storage) == ["depth", "study-2"] and not storage.list("sweeps/study")
    assert {record.trial_id: list(record.rows) for record in read_trials(storage, "depth")} == before


def test_a_sweep_that_starts_from_a_renamed_one_still_finds_it(storage: Storage) -> None:
    follower = search(name="next", warm_start=("published", "study"))
    storage.write("sweeps/next/sweep.json", to_json_bytes(follower.plain()))
    with Lease(storage.sub("sweeps/next"), "next"), pytest.raises(SweepError, match="sweep 'next' is being run"):
        rename_sweep(storage, "study", "depth")
    rename_sweep(storage, "study", "depth")
    assert load_definition(storage, "next").warm_start == ("published", "depth")
