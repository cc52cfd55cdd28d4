"""Sweeps that are deleted and renamed."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import orchestrator as api
from orchestrator.api.run import run_defined
from orchestrator.errors import SweepError, command_line
from orchestrator.execution.options import RunOptions
from orchestrator.records.index import load_definition, load_definitions, sweep_names
from orchestrator.records.lifecycle import delete_sweep, rename_sweep
from orchestrator.records.reader import read_trials
from orchestrator.records.retention import unused_weights
from orchestrator.records.schema import Status
from orchestrator.records.stored import DamagedRecordError
from orchestrator.records.unfinished import TAKE_OVER_S, Mark, UnfinishedError, held
from orchestrator.results.report.storage_page import read_sweep_records
from orchestrator.search.warm_start import warm_start
from orchestrator.storage import LocalStorage, Storage, StorageError, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.lease import Lease
from orchestrator.sweep.definition import RESERVED_NAMES
from orchestrator.tracking.live import only_writer
from orchestrator.tracking.mlflow_connection import default_uri
from tests.records.test_reader import run, sweep_of
from tests.storage.test_lease import claim_of, sleeping_process
from tests.support.commands import call
from tests.support.foreign import LATIN_1, names_of, put
from tests.support.sweeps import fingerprint, search, study
from trm_data.errors import UserError
from trm_data.files import machine_id


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


def named_weights(storage: Storage) -> dict[str, str]:
    """Weights that a sweep, a trial of `trm train` and nothing name, by who does; one has a base."""
    names = {who: digit * 64 for who, digit in (("study", "a"), ("train", "b"), ("nothing", "c"), ("both", "d"))}
    for sha256 in names.values():
        storage.write(f"weights/{sha256}/checkpoint.safetensors", b"12345")
    storage.write(f"weights/{names['nothing']}/base-00000002.safetensors", b"123")
    for path, named in (
        ("study/trials/ffff/trial.json", names["study"]),
        ("study/trials/fffe/trial.json", names["both"]),
        ("study-2/sweep.json", names["both"]),
        ("train/trials/aaaa/trial.json", names["train"]),
    ):
        content = {"config": {"train": {"start_from": f"/gone.safetensors#sha256={named}"}}}
        storage.write(f"sweeps/{path}", to_json_bytes(content))
    return names


def test_weights_that_nothing_names_go_with_a_deleted_sweep(storage: Storage) -> None:
    names = named_weights(storage)
    assert [one.num_bytes for one in unused_weights(storage)] == [8]
    assert [one.num_bytes for one in unused_weights(storage, without="study")] == [5, 8]
    before = len(storage.list())
    assert delete_sweep(storage, "study") == before - len(storage.list())
    kept = {key.split("/")[1] for key in storage.list("weights")}
    assert kept == {names["train"], names["both"]}


def test_weights_that_nothing_names_are_pruned_and_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    storage = open_storage(str(tmp_path))
    sweep_of(storage, 2)
    names = named_weights(storage)
    storage.delete("sweeps/study-2/sweep.json")
    for trial in ("ffff", "fffe"):
        storage.delete(f"sweeps/study/trials/{trial}/trial.json")
    words = ["sweep", "prune", "study", "--keep-bytes", "1GB", "--storage", str(tmp_path), "--json"]
    for more in (["--dry-run"], []):
        code, out, _ = call(capfd, *words, *more)
        assert code == 0 and json.loads(out)["freed"] == 18 and len(json.loads(out)["deleted"]) == 3
    assert storage.list("weights") == [f"weights/{names['train']}/checkpoint.safetensors"]


def cut_after(monkeypatch: pytest.MonkeyPatch, storage: Storage, count: int) -> None:
    """Let a storage fail for good after `count` changes, each of one file; those of leases do not count."""
    kind, left = type(storage), itertools.count(-count)

    def count_one() -> None:
        if next(left) >= 0:
            raise StorageError("the storage is unavailable", "Try again")

    def cut(name: str) -> None:
        real = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda self, *given: (count_one(), real(self, *given))[1])

    def copy_many(self: Storage, keys: dict[str, str]) -> None:
        for key, to in keys.items():
            count_one()
            copy(self, {key: to})

    copy = kind.copy_many
    cut("write")
    cut("delete")
    monkeypatch.setattr(kind, "delete_many", lambda self, keys: [self.delete(key) for key in keys] and None)
    monkeypatch.setattr(kind, "copy_many", copy_many)


def trials_of(storage: Storage, name: str) -> dict[str, list[Any]]:
    return {record.trial_id: [record.status, *record.rows] for record in read_trials(storage, name)}


@pytest.mark.parametrize("changes", [1, 2, 5])
def test_a_deletion_that_was_cut_short_is_named_ranked_nowhere_and_finished(
    storage: Storage, changes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        cut_after(patched, storage, changes)
        with pytest.raises(StorageError):
            delete_sweep(storage, "study")
    finish = f"partly deleted. Finish it with `{command_line('sweep', 'delete', 'study', storage=storage.url)}`"
    found = read_sweep_records(storage)
    assert sweep_names(storage) == ["study-2"] and not found.trials
    for damaged in (found.damaged, load_definitions(storage)[1][:1]):
        assert [each.reason for each in damaged] == [f"sweep 'study' is {finish}"]
    for refused in refused_calls(storage, "study"):
        with pytest.raises(UnfinishedError, match=re.escape(finish)):
            refused()
    with pytest.raises(UnfinishedError, match=re.escape(finish)):
        rename_sweep(storage, "study", "depth")
    delete_sweep(storage, "study")
    assert storage.folders("sweeps") == ["study-2"] and not load_definitions(storage)[1][1:]


def refused_calls(storage: Storage, name: str) -> list[Callable[[], object]]:
    """Return what may not be done with a sweep that is deleted or renamed in part."""
    return [
        lambda: api.run(study(name=name), storage),
        lambda: api.extend_sweep(name, storage, seeds=9),
        lambda: api.retry_trials(name, storage),
        lambda: api.prune_checkpoints(name, storage, keep_bytes=0),
        lambda: load_definition(storage, name),
        lambda: warm_start(search(warm_start=(name,)), storage, fingerprint),
    ]


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


def test_a_name_that_holds_other_files_is_refused(storage: Storage) -> None:
    storage.write("sweeps/depth/trials/x/trial.json", b"{}")
    before = storage.list()
    with pytest.raises(SweepError, match=r"depth.* holds trials/x/trial\.json already"):
        rename_sweep(storage, "study", "depth")
    assert storage.list() == before


@pytest.mark.parametrize("cut", ["while copying", "in the tracker", "while deleting"])
def test_a_renaming_that_was_cut_short_is_finished(storage: Storage, cut: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = trials_of(storage, "study")

    def fail(*_: object) -> None:
        raise StorageError("the storage is unavailable", "Try again")

    method = {"while copying": "copy_many", "while deleting": "delete_many"}.get(cut)
    with monkeypatch.context() as patched:
        if method is not None:
            patched.setattr(type(storage), method, fail)
        with pytest.raises(StorageError):
            rename_sweep(storage, "study", "depth", fail if cut == "in the tracker" else None)
    rename_sweep(storage, "study", "depth")
    assert sweep_names(storage) == ["depth", "study-2"] and not storage.list("sweeps/study")
    assert trials_of(storage, "depth") == before


def test_a_renaming_that_was_cut_short_anywhere_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for changes in itertools.count():
        storage = open_storage(str(tmp_path / str(changes)))
        sweep_of(storage, 1)
        before = trials_of(storage, "study")
        with monkeypatch.context() as patched:
            cut_after(patched, storage, changes)
            try:
                rename_sweep(storage, "study", "depth")
            except StorageError:
                is_cut = True
            else:
                is_cut = False
        if is_cut:
            whole = {name: trials_of(storage, name) for name in sweep_names(storage)}
            assert whole in ({}, {"study": before}, {"depth": before}), "a part of a sweep is not taken for all of it"
            assert rename_sweep(storage, "study", "depth").name == "depth"
        assert trials_of(storage, "depth") == before and storage.folders("sweeps") == ["depth"]
        assert "unfinished.json" not in "".join(storage.list())
        if not is_cut:
            break
    assert changes > 10


def test_both_names_of_a_renaming_that_was_cut_short_are_taken(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        cut_after(patched, storage, 3)  # two marks and a copy
        with pytest.raises(StorageError):
            rename_sweep(storage, "study", "depth")
    before = storage.list()
    (copied,) = storage.sub("sweeps/depth/trials").list()
    finish = f"partly renamed to 'depth'. Finish it with `{command_line(*RENAME, storage=storage.url)}`"
    changes = [lambda: rename_sweep(storage, "study", "another"), lambda: rename_sweep(storage, "study-2", "depth")]
    for name in ("study", "depth"):
        for refused in (*refused_calls(storage, name), *changes, partial(delete_sweep, storage, name)):
            with pytest.raises(UnfinishedError, match=re.escape(finish)):
                refused()
    assert [each.reason for each in read_sweep_records(storage).damaged] == [f"sweep 'study' is {finish}"] * 2
    assert storage.list() == before
    original = storage.read(f"sweeps/study/trials/{copied}")
    storage.write(f"sweeps/depth/trials/{copied}", b"something else")
    rename_sweep(storage, "study", "depth")
    assert storage.read(f"sweeps/depth/trials/{copied}") == original, "what was copied is compared"


RENAME = ("sweep", "rename", "study", "depth")


def test_a_driver_that_was_about_to_run_a_sweep_is_refused_too(storage: Storage) -> None:
    mark = Mark(sweep="study")
    with held(storage, "study"):
        storage.write("sweeps/study/unfinished.json", to_json_bytes(mark.plain()))
    with pytest.raises(UnfinishedError, match="partly deleted"), held(storage, "study"):
        pass
    with held(storage, "study", mark):
        pass


def test_marks_of_a_renaming_whose_sweep_is_gone_are_removed(storage: Storage) -> None:
    storage.write("sweeps/depth/unfinished.json", to_json_bytes(Mark(sweep="gone", new="depth").plain()))
    with pytest.raises(SweepError, match="no sweep 'gone'"):
        rename_sweep(storage, "gone", "depth")
    assert rename_sweep(storage, "study", "depth").name == "depth"


def test_a_renaming_reads_no_file_of_a_trial(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("read", "read_many"):
        real = getattr(type(storage), name)

        def checked(self: Storage, keys: Any, real: Any = real) -> Any:
            assert "trials/" not in str(keys), "a file passes through the memory"
            return real(self, keys)

        monkeypatch.setattr(type(storage), name, checked)
    rename_sweep(storage, "study", "depth")
    monkeypatch.undo()
    assert len(read_trials(storage, "depth")) == 2


def test_nothing_of_a_folder_stays(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    sweep_of(storage, 1)
    rename_sweep(storage, "study", "depth")
    assert [path.name for path in (tmp_path / "sweeps").iterdir()] == ["depth"]
    delete_sweep(storage, "depth")
    assert list((tmp_path / "sweeps").iterdir()) == []


@pytest.mark.parametrize("kind", ["text", "folder", "link", "pipe"])
def test_a_damaged_definition_is_named_and_its_sweep_can_be_deleted(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, path, other = (
        open_storage(str(tmp_path / "runs")),
        tmp_path / "runs/sweeps/study/sweep.json",
        tmp_path / "s",
    )
    sweep_of(storage, 1)
    path.rename(other)
    make: dict[str, Callable[[], object]] = {
        "text": lambda: path.write_text("no JSON"),
        "folder": lambda: (path / "x").mkdir(parents=True),
        "link": lambda: path.symlink_to(other),
        "pipe": lambda: os.mkfifo(path),
    }
    make[kind]()
    shown = [("sweep", "status")] if kind == "text" else [("sweep", "status"), ("leaderboard",)]
    for words in shown:
        code, out, err = call(capsys, *words, "--storage", storage.url)
        assert code == 0 and "1 unreadable file skipped" in err and f"{path}: " in err, out
    code, _, err = call(capsys, "sweep", "status", "study", "--storage", storage.url)
    assert code == 2 and f"{path} is damaged" in err
    code, _, err = call(capsys, "sweep", "rename", "study", "x", "--yes", "--storage", storage.url)
    assert code == 2 and f"{path} is damaged" in err
    with pytest.raises(DamagedRecordError):
        api.run(study(), storage)
    code, out, err = call(capsys, "sweep", "delete", "study", "--yes", "--tracking", "none", "--storage", storage.url)
    assert code == 0 and not (tmp_path / "runs/sweeps/study").exists(), err
    assert other.exists()


def test_a_folder_that_was_copied_by_hand_is_named_with_what_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = open_storage(str(tmp_path))
    sweep_of(storage, 1)
    shutil.copytree(tmp_path / "sweeps/study", tmp_path / "sweeps/study-backup")
    where = ("--storage", storage.url)
    code, _, err = call(capsys, "sweep", "status", "study-backup", *where)
    assert code == 2 and err.count("\n") == 1 and "damaged" not in err
    assert "study-backup has the records of sweep 'study': the folder was copied or renamed by hand" in err
    delete = command_line("sweep", "delete", "study-backup", storage=storage.url)
    assert f"Delete a copy with `{delete}`, or name the folder study again" in err
    code, out, err = call(capsys, "sweep", "status", *where)
    assert code == 0 and "study-backup has the records of sweep 'study'" in err, out
    assert call(capsys, "sweep", "delete", "study-backup", "--yes", *where)[0] == 0
    assert sweep_names(storage) == ["study"]
    (tmp_path / "sweeps/study").rename(tmp_path / "sweeps/moved")
    with pytest.raises(SweepError, match="name the folder study again"):
        load_definition(storage, "moved")


@pytest.mark.parametrize("name", ["Icon\r", "trials/new\rline/trial.json", LATIN_1])
def test_files_whose_names_are_no_keys_keep_a_sweep_from_being_renamed_and_are_deleted_with_it(
    storage: Storage, name: str
) -> None:
    if name == LATIN_1 and not isinstance(storage, LocalStorage):
        pytest.skip("the names in a bucket are text")
    put(storage, f"sweeps/study/{name}", b"{}")
    before = names_of(storage)
    with pytest.raises(SweepError, match=r" cannot be renamed: it holds '.*', whose name cannot be printed"):
        rename_sweep(storage, "study", "depth")
    assert names_of(storage) == before
    delete_sweep(storage, "study")
    assert names_of(storage) == {"sweeps/study-2/sweep.json"}


@pytest.mark.parametrize("content", [b'{"sweep": "other"}', b'{"sweep": "other", "new": "third"}', b"no JSON", b""])
def test_a_mark_that_is_damaged_or_of_another_sweep_is_named_and_the_sweep_can_be_deleted(
    storage: Storage, content: bytes
) -> None:
    storage.write("sweeps/study/unfinished.json", content)
    finish = command_line("sweep", "delete", "study", storage=storage.url)
    for refused in (*refused_calls(storage, "study"), lambda: rename_sweep(storage, "study", "depth")):
        with pytest.raises(UnfinishedError, match=rf"sweep 'study' is damaged: .*{re.escape(finish)}.*, or only "):
            refused()
    assert [each.reason.count(finish) for each in read_sweep_records(storage).damaged] == [1]
    delete_sweep(storage, "study")
    assert names_of(storage) == {"sweeps/study-2/sweep.json"}


def test_a_sweep_that_starts_from_a_renamed_one_still_finds_it(storage: Storage) -> None:
    follower = search(name="next", warm_start=("published", "study"))
    storage.write("sweeps/next/sweep.json", to_json_bytes(follower.plain()))
    with Lease(storage.sub("sweeps/next"), "next"), pytest.raises(SweepError, match="sweep 'next' is being run"):
        rename_sweep(storage, "study", "depth")
    rename_sweep(storage, "study", "depth")
    assert load_definition(storage, "next").warm_start == ("published", "depth")


def meanwhile(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something once, just before the next lease is taken, as another process may."""
    enter = Lease.__enter__

    def enter_late(self: Lease) -> Lease:
        monkeypatch.setattr(Lease, "__enter__", enter)
        action()
        return enter(self)

    monkeypatch.setattr(Lease, "__enter__", enter_late)


@pytest.mark.parametrize("change", ["extend", "rename", "delete"])
def test_a_run_that_read_a_definition_before_it_changed_is_refused(
    storage: Storage, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Callable[[], object]] = {
        "extend": lambda: api.extend_sweep("study", storage, seeds=9),
        "rename": lambda: rename_sweep(storage, "study", "depth"),
        "delete": lambda: delete_sweep(storage, "study"),
    }
    meanwhile(monkeypatch, changes[change])
    with pytest.raises(SweepError, match="just changed, renamed, deleted or begun sweep 'study'"):
        api.run(study(), storage, tracking="none")
    names = {"extend": ["study", "study-2"], "rename": ["depth", "study-2"], "delete": ["study-2"]}[change]
    assert sweep_names(storage) == names
    if change == "extend":
        assert load_definition(storage, "study").seeds == 9
    else:
        assert not storage.list("sweeps/study")
        with pytest.raises(SweepError, match="no sweep 'study'"):  # `trm sweep resume study` has read it before
            run_defined(study(), storage, "none", (), [], RunOptions(), is_stored=True)


def test_a_new_sweep_does_not_replace_one_that_was_just_renamed_to_its_name(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, lambda: rename_sweep(storage, "study", "depth"))
    with pytest.raises(SweepError, match="begun sweep 'depth'"):
        api.run(study(name="depth", seeds=7), storage, tracking="none")
    assert load_definition(storage, "depth") == study(name="depth")


def test_two_extensions_at_once_are_both_kept(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(monkeypatch, lambda: api.extend_sweep("study", storage, seeds=5))
    api.extend_sweep("study", storage, vary={"T": (4,)})
    extended = load_definition(storage, "study")
    assert extended.seeds == 5 and extended.space["model.cycles"].holds(4)
    assert len(storage.list("sweeps/study/history")) == 2


def test_an_extension_does_not_bring_a_renamed_sweep_back(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(monkeypatch, lambda: rename_sweep(storage, "study", "depth"))
    with pytest.raises(SweepError, match="no sweep 'study'"):
        api.extend_sweep("study", storage, seeds=5)
    assert sweep_names(storage) == ["depth", "study-2"] and not storage.list("sweeps/study")


def test_checkpoints_that_a_driver_wrote_before_it_left_count_in_pruning(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = storage.folders("sweeps/study/trials")[0]
    folder = storage.sub(f"sweeps/study/trials/{trial}/checkpoints")
    folder.write("base-00000000.safetensors", b"base")
    folder.write("step-00000004.safetensors", b"early")
    meanwhile(monkeypatch, lambda: folder.write("step-00000008.safetensors", b"late"))
    api.prune_checkpoints("study", storage, keep_bytes=8)
    assert folder.list() == ["base-00000000.safetensors", "step-00000008.safetensors"]


@pytest.mark.parametrize("change", ["rename", "delete"])
def test_what_killed_processes_were_writing_takes_no_space_afterwards(tmp_path: Path, change: str) -> None:
    storage = open_storage(str(tmp_path))
    sweep_of(storage, 1)
    (trial,) = (tmp_path / "sweeps/study/trials").iterdir()
    (trial / "checkpoints").mkdir()
    (trial / f"checkpoints/.{machine_id()}-{2**30}-1-0123abcd.tmp").write_bytes(b"half a checkpoint")
    if change == "rename":
        rename_sweep(storage, "study", "depth")
    else:
        delete_sweep(storage, "study")
    assert not (tmp_path / "sweeps/study").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda storage: delete_sweep(storage, "study"),
        lambda storage: rename_sweep(storage, "study", "depth"),
        lambda storage: api.retry_trials("study", storage),
        lambda storage: api.prune_checkpoints("study", storage, keep_bytes=0),
    ],
    ids=["delete", "rename", "retry", "prune"],
)
def test_trials_of_a_killed_driver_have_noticed_it_before_their_sweep_is_changed(
    tmp_path: Path, change: Callable[[Storage], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would write to folders that are deleted or have moved."""
    storage = open_storage(str(tmp_path))
    sweep_of(storage, 1)
    run(storage, 1, Status.FAILED)
    with sleeping_process() as pid:
        storage.write("sweeps/study/lock.json", claim_of(pid))
    waited: list[tuple[float, set[Path]]] = []
    here = set(tmp_path.rglob("*.json"))
    monkeypatch.setattr(
        "orchestrator.records.unfinished.time.sleep", lambda s: waited.append((s, set(tmp_path.rglob("*.json"))))
    )
    change(storage)
    assert [seconds for seconds, _ in waited] == [TAKE_OVER_S] and waited[0][1] == here
    waited.clear()
    for name in sweep_names(storage):
        api.prune_checkpoints(name, storage, keep_bytes=0)
    assert waited == [], "a sweep that was released is changed at once"


@pytest.mark.parametrize("free_after", [1, 2])
def test_a_full_disk_does_not_keep_a_sweep_from_being_pruned_and_deleted(
    tmp_path: Path, free_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both need a lease, which is a file. The index goes first, then checkpoints."""
    storage = open_storage(str(tmp_path))
    sweep_of(storage, 1)
    trial = storage.folders("sweeps/study/trials")[0]
    storage.write("sweeps/study/finished.jsonl", b"{}")
    checkpoint = f"sweeps/study/trials/{trial}/checkpoints/step-00000008.safetensors"
    storage.write(checkpoint, b"weights")
    create, write, delete = LocalStorage.create, LocalStorage.write, LocalStorage.delete
    freed: list[str] = []

    def require_space(needed: int) -> None:
        if len(freed) < needed:
            raise StorageError("cannot write") from OSError(errno.ENOSPC, "no space left on device")

    def free(self: LocalStorage, key: str) -> None:
        freed.append(key)
        delete(self, key)

    monkeypatch.setattr(LocalStorage, "create", lambda self, *given: (require_space(1), create(self, *given))[1])
    monkeypatch.setattr(LocalStorage, "write", lambda self, *given: (require_space(free_after), write(self, *given))[1])
    monkeypatch.setattr(LocalStorage, "delete", free)
    if free_after == 1:
        assert [one.key for one in api.prune_checkpoints("study", storage, keep_bytes=0).deleted] == [checkpoint]
    delete_sweep(storage, "study")
    assert freed[0] == "finished.jsonl" and not (tmp_path / "sweeps/study").exists()


def test_a_deletion_waits_for_who_still_sends_the_sweep_to_the_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that has released the sweep may send for a minute longer, and its runs would appear again."""
    storage, uri = open_storage(str(tmp_path)), default_uri(tmp_path)
    sweep_of(storage, 1)
    monkeypatch.setattr("orchestrator.api.lifecycle.TRACKER_WAIT_S", 0.0)
    before = storage.list("sweeps/study")
    with only_writer(storage, "study", uri, wait_s=0.0):
        for change in (
            lambda: api.delete_sweep("study", storage),
            lambda: api.rename_sweep("study", storage, new="depth"),
        ):
            with pytest.raises(UserError, match="is writing sweep 'study' to this tracker"):
                change()
    assert storage.list("sweeps/study") == before
    assert api.rename_sweep("study", storage, new="depth").name == "depth"
    assert api.delete_sweep("depth", storage).runs == 0 and storage.folders("sweeps") == []
