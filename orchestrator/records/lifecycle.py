"""Delete and rename sweeps of a storage. Both need the sweep's lease, so a running sweep is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from orchestrator.errors import SweepError, command_line
from orchestrator.records.index import load_definition, load_definitions, sweep_folder
from orchestrator.records.stored import read_json
from orchestrator.storage import Storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.lease import LOCK, Lease
from orchestrator.sweep.definition import Sweep

DEFINITION = "sweep.json"
MOVE = "renaming.json"
"""Exists in the old folder while a sweep is renamed."""
IN_PARALLEL = 64
"""Files that are copied at once, so that the memory holds no more."""


def delete_sweep(storage: Storage, name: str, tracker: Callable[[str], None] | None = None) -> int:
    """Delete all records of a sweep, checkpoints included; return the number of files.

    Datasets stay, and so do trials of other sweeps that reused results of this one: they hold copies. The definition is
    deleted last, so that an interrupted deletion can be repeated.

    Args:
        tracker: called with the name before anything is deleted, to delete the sweep there; what it raises leaves the
            records as they are.

    Raises:
        SweepError: there is no such sweep, or it runs.
    """
    load_definition(storage, name)
    folder = sweep_folder(storage, name)
    with Lease(folder, name, storage.url):
        if tracker is not None:
            tracker(name)
        keys = [key for key in folder.list() if key not in (DEFINITION, LOCK)]
        folder.delete_many(keys)
        folder.delete(DEFINITION)
    return len(keys) + 1


def rename_sweep(storage: Storage, name: str, new: str, tracker: Callable[[str, str], None] | None = None) -> Sweep:
    """Move a sweep to another name; return its definition there. Other sweeps whose `warm_start` names it are updated.

    A call that is cut short can be repeated with the same names: a file in the old folder says where it moves to.

    Args:
        tracker: called with both names once the records are there, to rename the sweep in the tracker; if it raises,
            the old records are still there.

    Raises:
        SweepError: there is no such sweep, it or one that starts from it runs, the new name is taken, or the sweep is
            partly renamed to another name.
        ConfigError: the new name is reserved or not valid.
    """
    moved = Sweep.parse({**load_definition(storage, name).plain(), "name": new})
    source, target = sweep_folder(storage, name), sweep_folder(storage, new)
    destination = _destination(source)
    if destination not in (None, new):
        raise SweepError(
            f"sweep {name!r} is partly renamed to {destination!r}",
            f"Finish it with `{command_line('sweep', 'rename', name, destination, storage=storage.url)}`",
        )
    is_copied = target.exists(DEFINITION)
    if is_copied and destination is None:
        raise SweepError(f"there is a sweep {new!r} already", "Choose another name, or delete that one")
    with ExitStack() as leases:
        for held in (name, new, *(sweep.name for sweep in _started_from(storage, name))):
            leases.enter_context(Lease(sweep_folder(storage, held), held, storage.url))
        keys = [key for key in source.list() if key not in (DEFINITION, MOVE, LOCK) and not key.endswith(f"/{LOCK}")]
        if not is_copied:
            source.write(MOVE, to_json_bytes({"to": new}))
            for start in range(0, len(keys), IN_PARALLEL):
                for key, data in source.read_many(keys[start : start + IN_PARALLEL]).items():
                    target.write(key, data)
            target.write(DEFINITION, to_json_bytes(moved.plain()))
        for sweep in _started_from(storage, name):
            names = tuple(new if earlier == name else earlier for earlier in sweep.warm_start)
            changed = Sweep.parse({**sweep.plain(), "warm_start": names})
            sweep_folder(storage, sweep.name).write(DEFINITION, to_json_bytes(changed.plain()))
        if tracker is not None:
            tracker(name, new)
        source.delete_many(keys)
        source.delete(DEFINITION)
        source.delete(MOVE)
    return moved


def _destination(folder: Storage) -> str | None:
    """Return the name to which a sweep is half moved, if its renaming was cut short."""
    try:
        return str(read_json(folder, MOVE)["to"])
    except KeyError:
        return None


def _started_from(storage: Storage, name: str) -> list[Sweep]:
    """Return the sweeps whose `warm_start` names a sweep."""
    return [sweep for sweep in load_definitions(storage)[0] if name in sweep.warm_start and sweep.name != name]
