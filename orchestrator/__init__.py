"""Plan, place, run, record and compare trials of recursive puzzle solvers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from orchestrator.storage import Storage

__all__ = ["load_results"]


def load_results(storage: Storage | str | Path = "runs", sweep: str | None = None) -> pd.DataFrame:
    """Every trial of a sweep, or of all sweeps of a storage, as a table: see `orchestrator.results.dataframe`."""
    from orchestrator.results import dataframe  # what only commands need is not imported with the package

    return dataframe.load_results(storage, sweep)
