"""Convert a user's argument (a name, a path, a URL) to the object that it refers to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import SweepError
from orchestrator.execution.options import RunOptions
from orchestrator.records.index import find_definition, sweep_names
from orchestrator.storage import Storage
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.loader import load_sweep, require_no_folder
from orchestrator.sweep.packaged import packaged_sweeps
from orchestrator.sweep.text import FILE_ENDINGS
from trm_data.errors import ConfigError, nearest


def as_sweep(sweep: Sweep | str | Path, storage: Storage) -> Sweep:
    """Return the sweep itself, or read it from a file, from the records by its name, or from the packaged sweeps.

    Raises:
        SweepError: there is neither such a file nor such a record, or the file defines no sweep.
    """
    if isinstance(sweep, Sweep):
        return sweep
    path = Path(sweep)
    if is_file_name(path):
        return load_sweep(path)
    recorded = find_definition(storage, str(sweep))
    if recorded is not None:
        return recorded
    if str(sweep) in packaged_sweeps():
        return load_sweep(path)
    require_no_folder(path)
    hint = nearest(str(sweep), [*sweep_names(storage), *packaged_sweeps()])
    raise SweepError(f"no sweep {str(sweep)!r} in {storage.url}, and no sweep file of that name", hint)


def is_file_name(path: Path) -> bool:
    """Return whether a string refers to a sweep file, and not to a recorded or packaged sweep."""
    return path.name.endswith(FILE_ENDINGS) or len(path.parts) != 1 or path.is_file()


def is_recorded(sweep: Sweep | str | Path, storage: Storage) -> bool:
    """Return whether `as_sweep` takes a sweep from the records of the storage."""
    if isinstance(sweep, Sweep) or is_file_name(Path(sweep)):
        return False
    return find_definition(storage, str(sweep)) is not None


def as_run_options(values: Mapping[str, Any]) -> RunOptions:
    """Return the options of a run.

    Raises:
        SweepError: an unknown name, with the nearest known one, or a value that is not allowed.
    """
    try:
        return RunOptions.parse(values)
    except ConfigError as error:
        raise SweepError(error.what, error.remedy) from None
