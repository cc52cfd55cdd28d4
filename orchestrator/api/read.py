"""Read the trials of a storage, and write its results page."""

from __future__ import annotations

from pathlib import Path

from orchestrator.records.index import load_definition, sweep_name
from orchestrator.records.schema import TrialRecord
from orchestrator.records.state import standing_trials
from orchestrator.results.report.storage_page import write_storage_page
from orchestrator.storage import Storage, as_storage
from orchestrator.sweep.definition import Sweep


def read_trials(sweep: Sweep | str, storage: Storage | str | Path = "runs") -> list[TrialRecord]:
    """Read every trial of a sweep. Raises SweepError if the storage holds no sweep of that name."""
    store = as_storage(storage)
    load_definition(store, sweep_name(sweep))
    return standing_trials(store, sweep_name(sweep))


def write_report(path: str | Path, storage: Storage | str | Path = "runs") -> Path:
    """Write the results page of everything in a storage to `path` and return it. Raises UserError if it cannot."""
    write_storage_page(as_storage(storage), Path(path))
    return Path(path)
