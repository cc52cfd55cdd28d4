"""Delete and rename sweeps of a storage. Both need the sweep's lease, so a running sweep is refused.

What has begun is marked first (`orchestrator.records.unfinished`), and a call that is cut short can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from orchestrator.errors import SweepError
from orchestrator.records.index import load_definition, load_definitions, read_definition, sweep_folder
from orchestrator.records.retention import delete_unused_weights
from orchestrator.records.schema import DEFINITION
from orchestrator.records.unfinished import MARK, Mark, held, require_finished
from orchestrator.storage import Storage, StorageError
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.lease import LOCK
from orchestrator.sweep.definition import Sweep
from trm_data.errors import is_out_of_space


def delete_sweep(storage: Storage, name: str, tracker: Callable[[str], None] | None = None) -> int:
    """Delete all records of a sweep, checkpoints included; return the number of files.

    So are the weights in the storage that nothing else starts from. Datasets stay, and so do trials of other sweeps
    that reused results of this one: they hold copies.

    Args:
        tracker: called with the name before anything is deleted, to delete the sweep there; what it raises leaves the
            records as they are.

    Raises:
        SweepError: there is no such sweep, it runs, or it is renamed in part.
    """
    mark, folder = Mark(sweep=name), sweep_folder(storage, name)
    if not (require_finished(storage, name, mark) or folder.is_blocked(DEFINITION) or folder.exists(DEFINITION)):
        load_definition(storage, name)  # raises an error with the nearest name
    with held(storage, name, mark):
        if tracker is not None:
            tracker(name)
        _write_mark(folder, mark)
        keys = [key for key in folder.list() if key not in (LOCK, MARK)]
        folder.delete_many(keys)
        weights = delete_unused_weights(storage)  # before the mark: a call that fails here can be repeated
        folder.delete(MARK)
    storage.remove_leftovers(f"sweeps/{name}")
    return len(keys) + sum(1 + len(one.shared) for one in weights)


def _write_mark(folder: Storage, mark: Mark) -> None:
    """Mark a deletion. On a full disk the checkpoints are deleted first, without which the sweep is as if pruned."""
    try:
        folder.write(MARK, to_json_bytes(mark.plain()))
    except StorageError as error:
        if not is_out_of_space(error):
            raise
        folder.delete_many([key for key in folder.list("trials") if key.split("/")[2] == "checkpoints"])
        folder.write(MARK, to_json_bytes(mark.plain()))


def rename_sweep(storage: Storage, name: str, new: str, tracker: Callable[[str, str], None] | None = None) -> Sweep:
    """Move a sweep to another name; return its definition there. Other sweeps whose `warm_start` names it are updated.

    Args:
        tracker: called with both names once the records are there, to rename the sweep in the tracker; if it raises,
            the old records are still there.

    Raises:
        SweepError: there is no such sweep, it or one that starts from it runs, the new name is taken, or one of the two
            is deleted or renamed in part.
        ConfigError: the new name is reserved or not valid.
    """
    mark = Mark(sweep=name, new=new)
    source, target = sweep_folder(storage, name), sweep_folder(storage, new)
    renamed(storage, name, new)
    with ExitStack() as leases:
        for each in (name, new):
            leases.enter_context(held(storage, each, mark))
        moved = renamed(storage, name, new)
        for sweep in started_from(storage, name):
            leases.enter_context(held(storage, sweep.name))
        if source.exists(DEFINITION):
            for folder in (target, source):  # in this order: nothing is copied to a name that does not say so
                folder.write(MARK, to_json_bytes(mark.plain()))
            keys = _copy(storage, mark)
            target.write(DEFINITION, to_json_bytes(moved.plain()))
            for sweep in started_from(storage, name):
                names = tuple(new if earlier == name else earlier for earlier in sweep.warm_start)
                changed = Sweep.from_record({**sweep.plain(), "warm_start": names})
                sweep_folder(storage, sweep.name).write(DEFINITION, to_json_bytes(changed.plain()))
            if tracker is not None:
                tracker(name, new)
            source.delete_many(keys)
            source.delete(DEFINITION)
        for folder in (target, source):  # in this order: the old name is free again once the new one is complete
            folder.delete(MARK)
    storage.remove_leftovers(f"sweeps/{name}")
    return moved


def renamed(storage: Storage, name: str, new: str) -> Sweep:
    """Return the definition of a sweep under a new name that it may get; see `rename_sweep` for the errors."""
    mark = Mark(sweep=name, new=new)
    has_begun = [require_finished(storage, each, mark) for each in (name, new)]
    definition = read_definition(storage, name)
    if definition is None and any(has_begun):  # all but the marks is done
        definition = read_definition(storage, new)
    if definition is None:
        for each in (name, new) if any(has_begun) else ():  # the sweep was deleted since: the marks lead nowhere
            sweep_folder(storage, each).delete(MARK)
        definition = load_definition(storage, name)
    moved = Sweep.parse({**definition.plain(), "name": new})
    source = sweep_folder(storage, name)
    if unusable := source.unusable(is_deep=True):
        raise SweepError(f"{source.url} cannot be renamed: {unusable[0]}", "Move that away first")
    if not any(has_begun):
        target = sweep_folder(storage, new)
        found = [key for key in target.list() if key != LOCK]
        if DEFINITION in found:
            raise SweepError(f"there is a sweep {new!r} already", "Choose another name, or delete that one")
        if found or target.is_blocked(DEFINITION):
            raise SweepError(f"{target.url} holds {(found or [DEFINITION])[0]} already", "Choose another name")
    return moved


def _copy(storage: Storage, mark: Mark) -> list[str]:
    """Copy what the new folder lacks or has otherwise, but for the definition and leases; return the names of all files
    but those that are deleted last.

    Raises:
        StorageError: a copy differs from its original.
    """
    source, target = (sweep_folder(storage, name) for name in (mark.sweep, str(mark.new)))
    versions, there = source.versions(), target.versions()
    found = [key for key in versions if key not in (DEFINITION, MARK, LOCK)]
    keys = [key for key in found if not key.endswith(f"/{LOCK}")]
    missing = [key for key in keys if there.get(key) != versions[key]]
    storage.copy_many({f"sweeps/{mark.sweep}/{key}": f"sweeps/{mark.new}/{key}" for key in missing})
    sizes, copied = source.sizes(), target.sizes()
    if wrong := [key for key in keys if sizes.get(key) != copied.get(key)]:
        raise StorageError(f"the copy of {source.url}/{wrong[0]} differs from it", "Rename the sweep again")
    return found


def started_from(storage: Storage, name: str) -> list[Sweep]:
    """Return the sweeps whose `warm_start` names a sweep."""
    return [sweep for sweep in load_definitions(storage)[0] if name in sweep.warm_start and sweep.name != name]
