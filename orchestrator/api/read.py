"""Read what a storage holds: trials, tables of published and own results, comparisons, the page."""

from __future__ import annotations

from pathlib import Path

from orchestrator.api.inputs import as_storage
from orchestrator.records import reader
from orchestrator.records.index import load_definition
from orchestrator.records.schema import TrialRecord
from orchestrator.results import ablation
from orchestrator.results.baselines import load_baselines
from orchestrator.results.baselines.own import OwnBaselines
from orchestrator.results.leaderboard import Table, build_leaderboard
from orchestrator.results.llm_results import read_measurements
from orchestrator.results.report.storage_page import read_sweep_trials, write_storage_page
from orchestrator.storage import Storage


def read_trials(storage: Storage | str | Path, sweep: str) -> list[TrialRecord]:
    """Read every trial of a sweep. Raises SweepError if the storage holds no sweep of that name."""
    store = as_storage(storage)
    load_definition(store, sweep)
    return reader.read_trials(store, sweep)


def leaderboard(storage: Storage | str | Path = "runs", benchmark: str | None = None) -> list[Table]:
    """Rank the confirmed results of a storage with published ones, one table per set of scored puzzles.

    Raises:
        UserError: an unknown benchmark, or a row of the user's own that cannot be read.
    """
    store = as_storage(storage)
    baselines = load_baselines(None, OwnBaselines(store).read())
    return build_leaderboard(benchmark, read_sweep_trials(store), baselines, read_measurements(store))


def ablate(storage: Storage | str | Path, sweep: str, control: str) -> ablation.Ablation:
    """Compare every configuration of a sweep with the family `control`: effects, intervals, adjusted p values.

    Raises:
        UserError: no such sweep, or nothing is confirmed by the name of the control.
    """
    return ablation.compare_with_control(read_trials(storage, sweep), control, baselines=load_baselines())


def write_report(path: str | Path, storage: Storage | str | Path = "runs") -> Path:
    """Write the results page of everything in a storage to `path` and return it. Raises UserError if it cannot."""
    write_storage_page(as_storage(storage), Path(path))
    return Path(path)
