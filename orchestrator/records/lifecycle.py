"""Delete and rename sweeps of a storage. Both need the sweep's lease, so a running sweep is refused."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.errors import SweepError
from orchestrator.records.index import RESERVED_NAMES, load_definition, sweep_folder
from orchestrator.storage import Storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.lease import LOCK, Lease
from orchestrator.sweep.definition import Sweep

DEFINITION = "sweep.json"
IN_PARALLEL = 64
"""Files that are copied at once, so that the memory holds no more."""


def delete_sweep(storage: Storage, name: str, tracker: Callable[[str], None] | None = None) -> int:
    """Delete all records of a sweep, checkpoints included; return the number of files.

    The definition goes first: a deletion that is cut short leaves no sweep, and the same call deletes the rest.

    Args:
        tracker: called with the name before anything is deleted, to delete the sweep there.

    Raises:
        SweepError: there is no such sweep, or it runs.
    """
    folder = sweep_folder(storage, name)
    if not folder.list():
        load_definition(storage, name)  # raises, with the nearest name
    with Lease(folder, name):
        if tracker is not None:
            tracker(name)
        keys = [key for key in folder.list() if key not in (DEFINITION, LOCK)]
        folder.delete(DEFINITION)
        folder.delete_many(keys)
    return len(keys) + 1


def rename_sweep(storage: Storage, name: str, new: str, tracker: Callable[[str, str], None] | None = None) -> Sweep:
    """Move a sweep to another name; return its definition there.

    The new definition is written last and the old one deleted first, so that a call that is cut short can be repeated.

    Args:
        tracker: called with both names at the end, to rename the sweep there.

    Raises:
        SweepError: there is no such sweep, it runs, or the new name is taken or reserved.
    """
    sweep = load_definition(storage, name)
    if new in RESERVED_NAMES:
        raise SweepError(f"a sweep cannot be called {new!r}", "That folder holds the records of single runs")
    moved = Sweep.parse({**sweep.plain(), "name": new})
    if storage.exists(f"sweeps/{new}/{DEFINITION}"):
        raise SweepError(f"there is a sweep {new!r} already", "Choose another name, or delete that one")
    source, target = sweep_folder(storage, name), sweep_folder(storage, new)
    with Lease(source, name), Lease(target, new):
        keys = [key for key in source.list() if key not in (DEFINITION, LOCK) and not key.endswith(f"/{LOCK}")]
        for start in range(0, len(keys), IN_PARALLEL):
            for key, data in source.read_many(keys[start : start + IN_PARALLEL]).items():
                target.write(key, data)
        target.write(DEFINITION, to_json_bytes(moved.plain()))
        source.delete(DEFINITION)
        source.delete_many(keys)
        if tracker is not None:
            tracker(name, new)
    return moved
