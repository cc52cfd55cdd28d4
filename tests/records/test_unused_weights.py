"""Weights that nothing in a storage names any more are deleted, and no others, whatever else happens meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from orchestrator.records.checkpoints import StoredCheckpoints
from orchestrator.records.lifecycle import delete_sweep, rename_sweep
from orchestrator.records.retention import prune_sweeps, unused_weights
from orchestrator.records.start_weights import provide_start
from orchestrator.storage import LocalStorage, Storage, StorageError, open_storage
from orchestrator.storage.base import to_json_bytes
from tests.records.test_lifecycle import named_weights
from tests.records.test_reader import sweep_of


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    made = open_storage(str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_bucket"))
    sweep_of(made, 1)
    return made


def named(sha256: str) -> bytes:
    return to_json_bytes({"start_from": address_of(sha256)})


def address_of(sha256: str) -> str:
    return f"/gone.safetensors#sha256={sha256}"


def at_look(monkeypatch: pytest.MonkeyPatch, storage: Storage, action: Callable[[int], object], when: str) -> None:
    """Do something just before or after each reading of the records that name weights, whose number it gets."""
    real, looks = type(storage).read_many, list[int]()

    def read_many(self: Storage, keys: Sequence[str]) -> dict[str, bytes]:
        is_look = any(key.startswith("sweeps/") and key.endswith("/trial.json") for key in keys)
        if is_look:
            looks.append(1)
        if is_look and when == "before":
            action(len(looks))
        found = real(self, keys)
        if is_look and when == "after":
            action(len(looks))
        return found

    monkeypatch.setattr(type(storage), "read_many", read_many)


@pytest.mark.parametrize("by", ["prune", "delete"])
@pytest.mark.parametrize("look", [1, 2, 3, 4])
@pytest.mark.parametrize("when", ["before", "after"])
def test_weights_of_a_run_that_begins_meanwhile_stay_or_are_copied_again(
    storage: Storage, by: str, look: int, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run provides its weights, writes its definition, and provides them again, at any moment of a deletion."""
    names, copied = named_weights(storage), list[str]()

    def copy(address: str, store: StoredCheckpoints) -> None:
        store.write("checkpoint.safetensors", b"again")
        copied.append(address)

    def begin() -> None:
        provide_start(storage, address_of(names["nothing"]))
        storage.write("sweeps/new/sweep.json", named(names["nothing"]))
        provide_start(storage, address_of(names["nothing"]))

    def at(number: int) -> None:
        if number == look:
            run.start()
            run.join(1)  # it may have to wait for the end of the deletion

    monkeypatch.setattr("orchestrator.records.start_weights.copy_start", copy)
    run = threading.Thread(target=begin, daemon=True)
    storage.write(f"weights/{'e' * 64}/checkpoint.safetensors", b"1")
    with monkeypatch.context() as patched:
        at_look(patched, storage, at, when)
        if by == "prune":
            prune_sweeps(storage, ["study"], 10**9)
        else:
            delete_sweep(storage, "study")
    run.join(60)
    kept = {key.split("/")[1] for key in storage.list("weights")}
    assert kept == {sha256 for who, sha256 in names.items() if by == "prune" or who != "study"}
    files = storage.list(f"weights/{names['nothing']}")
    assert len(files) == (1 if copied else 2), "the copy is whole, and no mark is left"


def test_weights_that_another_user_copied_keep_no_deletion_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither where nothing may be written beside them, nor where they may not be deleted."""
    storage = LocalStorage(tmp_path)
    sweep_of(storage, 1)
    names = named_weights(storage)
    write, delete = LocalStorage.write, LocalStorage.delete

    def refuse_write(self: LocalStorage, key: str, data: bytes) -> None:
        if names["nothing"] in key:
            raise StorageError(f"cannot write {key}: permission denied")
        write(self, key, data)

    def refuse_delete(self: LocalStorage, key: str) -> None:
        if key == f"weights/{names['study']}/checkpoint.safetensors":
            raise StorageError(f"cannot delete {key}: permission denied")
        delete(self, key)

    monkeypatch.setattr(LocalStorage, "write", refuse_write)
    monkeypatch.setattr(LocalStorage, "delete", refuse_delete)
    delete_sweep(storage, "study")
    assert not storage.list("sweeps/study")
    assert sorted(message.partition(" is kept: ")[0] for message in caplog.messages) == [
        f"weights/{names[who]}" for who in ("study", "nothing")
    ]


def test_the_mark_of_a_deletion_that_died_is_removed(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    names = named_weights(storage)
    monkeypatch.setattr("orchestrator.records.start_weights.DELETION_S", 0.5)
    storage.write(f"weights/{names['both']}/deleting-0.json", b"{}")
    provide_start(storage, address_of(names["both"]))
    assert storage.list(f"weights/{names['both']}") == [f"weights/{names['both']}/checkpoint.safetensors"]
    storage.write(f"weights/{'f' * 64}/deleting-0.json", b"{}")  # everything else had been deleted
    prune_sweeps(storage, ["study"], 10**9)
    assert not storage.list(f"weights/{'f' * 64}")


def test_weights_are_named_by_a_sweep_that_is_renamed_meanwhile(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files that were listed are gone when they are read."""
    named_weights(storage)
    at_look(monkeypatch, storage, lambda number: number == 1 and rename_sweep(storage, "study", "depth"), "before")
    assert [one.num_bytes for one in unused_weights(storage)] == [8]


def test_a_deletion_whose_look_for_weights_fails_can_be_repeated(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = named_weights(storage)

    def fail(_: int) -> None:
        raise StorageError("the storage is away", "Try again")

    with monkeypatch.context() as patched:
        at_look(patched, storage, fail, "before")
        with pytest.raises(StorageError, match="the storage is away"):
            delete_sweep(storage, "study")
    delete_sweep(storage, "study")
    assert not storage.list("sweeps/study") and not storage.list(f"weights/{names['study']}")


def test_weights_of_another_user_are_used_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: LocalStorage, key: str, data: bytes) -> None:
        raise StorageError(f"cannot write {key}: permission denied")

    storage = LocalStorage(tmp_path)
    names = named_weights(storage)
    monkeypatch.setattr(LocalStorage, "write", refuse)
    provide_start(storage, address_of(names["both"]))
