"""Write the results page of everything in a storage."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.records.index import SINGLE_RUNS, list_sweeps, load_definition
from orchestrator.records.reader import SweepRecords
from orchestrator.records.schema import TrialRecord
from orchestrator.records.state import read_standing
from orchestrator.results.baselines import Baseline, load_baselines
from orchestrator.results.baselines.own import OwnBaselines
from orchestrator.results.leaderboard.cost import WORLD_GRID, Grid
from orchestrator.results.llm_results import Measured, read_measurements
from orchestrator.results.report.gallery import stored_galleries
from orchestrator.results.report.page import LiveSource, Report
from orchestrator.storage import Storage

logger = logging.getLogger(__name__)


def read_sweep_records(storage: Storage, sweeps: Sequence[str] = ()) -> SweepRecords:
    """Read every trial of every sweep, or of the named ones, and name the files that cannot be read.

    Single runs (`trm train`) belong to no sweep and are never ranked.

    Raises:
        SweepError: there is no sweep of one of the names.
    """
    for name in sweeps:
        load_definition(storage, name)
    names, damaged = (sweeps, []) if sweeps else list_sweeps(storage)
    found = [read_standing(storage, name) for name in names if name != SINGLE_RUNS]
    trials = [record for each in found for record in each.trials]
    return SweepRecords(trials, damaged + [damaged for each in found for damaged in each.damaged])


def read_sweep_trials(storage: Storage) -> list[TrialRecord]:
    """Read every trial of every sweep whose record can be read; the log names the other files."""
    found = read_sweep_records(storage)
    for each in found.damaged:
        logger.warning("skipped %s", each)
    return found.trials


def storage_report(
    storage: Storage,
    records: Sequence[TrialRecord],
    now: datetime,
    *,
    baselines: Sequence[Baseline] | None = None,
    measured: Sequence[Measured] | None = None,
    grid: Grid | None = WORLD_GRID,
    live: LiveSource | None = None,
    is_served: bool = False,
) -> Report:
    """Return the report of trials of a storage, with its language models and own rows unless arguments replace them.

    Args:
        live, is_served: see `Report`.
    """
    return Report(
        records=records,
        now=now,
        baselines=load_baselines(None, OwnBaselines(storage).read()) if baselines is None else baselines,
        measured=read_measurements(storage) if measured is None else measured,
        gallery=stored_galleries(storage),
        grid=grid,
        live=live,
        is_served=is_served or live is not None,
    )


def write_storage_page(
    storage: Storage,
    path: Path,
    *,
    records: Sequence[TrialRecord] | None = None,
    baselines: Sequence[Baseline] | None = None,
    measured: Sequence[Measured] | None = None,
    grid: Grid | None = WORLD_GRID,
) -> None:
    """Write the page of a storage's trials, language models and own rows; arguments replace what would be read.

    Raises:
        UserError: the page cannot be written to `path`.
    """
    found = read_sweep_trials(storage) if records is None else records
    storage_report(storage, found, datetime.now(UTC), baselines=baselines, measured=measured, grid=grid).write(path)
