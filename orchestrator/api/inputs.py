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
from orchestrator.sweep.loader import load_sweep
from orchestrator.sweep.plan_file import SUFFIX
from trm_data.errors import ConfigError, nearest


def as_sweep(sweep: Sweep | str | Path, storage: Storage) -> Sweep:
    """Return the sweep itself, or read it from a file, or from the records by its name.

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
    hint = nearest(str(sweep), sweep_names(storage)) or "Name a sweep file, e.g. sweeps/demo.py"
    raise SweepError(f"no sweep {str(sweep)!r} in {storage.url}, and no sweep file of that name", hint)


def is_file_name(path: Path) -> bool:
    """Return whether a string refers to a sweep file, and not to a recorded sweep."""
    return path.suffix in (".py", SUFFIX) or len(path.parts) != 1 or path.is_file()


def as_run_options(values: Mapping[str, Any]) -> RunOptions:
    """Return the options of a run.

    Raises:
        SweepError: an unknown name, with the nearest known one, or a value that is not allowed.
    """
    try:
        return RunOptions.parse(values)
    except ConfigError as error:
        raise SweepError(error.what, error.remedy) from None
