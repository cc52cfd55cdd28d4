"""Delete the records of a sweep."""

from __future__ import annotations

from orchestrator.records.index import load_definition, sweep_folder
from orchestrator.storage import Storage
from orchestrator.storage.lease import Lease


def delete_sweep(storage: Storage, name: str) -> int:
    """Delete a sweep that is not running: definition, records and checkpoints. Return the number of files.

    Datasets stay, and so do trials of other sweeps that reused results of this one: they hold copies.

    Raises:
        SweepError: there is no such sweep, or it runs.
    """
    load_definition(storage, name)
    folder = sweep_folder(storage, name)
    with Lease(folder, name):
        # The definition goes last: where this is cut off, the sweep is still listed and can be deleted again.
        keys = sorted((key for key in folder.list() if key != "lock.json"), key=lambda key: key == "sweep.json")
        for key in keys:
            folder.delete(key)
    return len(keys)
