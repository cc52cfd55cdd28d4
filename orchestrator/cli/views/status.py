"""Sweeps at rest, from their records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.views.console import duration, err, out
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.records.stored import Damaged
from orchestrator.sweep.definition import Sweep


def summary(sweep: Sweep, records: list[TrialRecord], driver: dict[str, Any] | None) -> dict[str, Any]:
    """For a script: counts by status, the driver, and a row per trial."""
    return {
        "name": sweep.name,
        "kind": sweep.kind,
        "driver": driver,
        "counts": {str(status): count for status, count in _counts(records, driver).items() if count},
        "trials": [_row(sweep, record, driver) for record in records],
    }


def _row(sweep: Sweep, record: TrialRecord, driver: dict[str, Any] | None) -> dict[str, Any]:
    if record.result:  # reading the rows of thousands of finished trials would take most of the time
        value = record.result.metrics.get(sweep.metric)
    else:
        curve = record.curve(sweep.metric)
        value = curve[-1][1] if curve else None
    last = record.attempts[-1] if record.attempts else None
    return {
        "trial_id": record.trial_id,
        "stage": record.stage,
        "family": record.family,
        "seed": record.config.seed,
        "status": str(_shown(record, driver)),
        "step": record.step,
        "max_steps": record.config.train.max_steps,
        sweep.metric: value,
        "split": record.result.split if record.result else "validation",
        "attempts": len(record.attempts),
        "host": last.start.host if last else None,
        "gpu_type": last.start.gpu_type if last else None,
        "reason": record.reason,
    }


def _shown(record: TrialRecord, driver: dict[str, Any] | None) -> Status:
    """Without a living driver nothing runs: an attempt without an end was cut off."""
    return Status.INTERRUPTED if record.status is Status.RUNNING and driver is None else record.status


def _counts(records: list[TrialRecord], driver: dict[str, Any] | None) -> dict[Status, int]:
    shown = [_shown(record, driver) for record in records]
    return {status: shown.count(status) for status in Status}


def show_sweep(sweep: Sweep, records: list[TrialRecord], driver: dict[str, Any] | None) -> None:
    """One sweep: a row per trial, the best first."""
    out.print(sweep_view(sweep, records, driver))


def sweep_view(sweep: Sweep, records: list[TrialRecord], driver: dict[str, Any] | None) -> RenderableType:
    """Who runs it, a row per trial, and the counts."""
    where = f"runs as process {driver['pid']} on {driver['host']}" if driver else "is not running"
    spent = sum(a.end.train_s for r in records for a in r.attempts[-1:] if a.end)
    counts = ", ".join(f"{count} {status}" for status, count in _counts(records, driver).items() if count)
    return Group(
        Text.from_markup(f"[bold]{sweep.name}[/] ({sweep.kind}) {where}"),
        _table(sweep, records, driver),
        Text(f"{counts or 'no trials yet'}; {duration(spent)} of training"),
    )


COLUMNS = ("trial", "stage", "configuration", "seed", "status", "step", "metric", "on")
RIGHT = ("seed", "step", "metric")


def _table(sweep: Sweep, records: list[TrialRecord], driver: dict[str, Any] | None) -> Text:
    """A row per trial as aligned text: a rich table of ten thousand rows takes half a minute."""
    rows = [_row(sweep, record, driver) for record in records]
    rows.sort(key=lambda row: (row["stage"], -(row[sweep.metric] if row[sweep.metric] is not None else -1)))
    header = [sweep.metric.replace("_", " ") if name == "metric" else name for name in COLUMNS]
    cells = [_cells(row, sweep.metric) for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(header, *cells, strict=True)]
    text = Text(no_wrap=True, overflow="ignore")
    text.append(_line(header, widths), style="dim")
    text.append("".join(f"\n{_line(row, widths)}" for row in cells))
    return text


def _cells(row: dict[str, Any], metric: str) -> list[str]:
    value = "-" if row[metric] is None else f"{100 * row[metric]:.1f} %"
    where = row["split"] if row[metric] is not None else ""
    step = f"{row['step']}/{row['max_steps']}"
    return [row["trial_id"], row["stage"], row["family"], str(row["seed"]), row["status"], step, value, where]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        " " * (width - cell_len(cell)) + cell if name in RIGHT else cell + " " * (width - cell_len(cell))
        for name, cell, width in zip(COLUMNS, cells, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()


def show_damaged(damaged: Sequence[Damaged]) -> None:
    """Print how many files were skipped, and which."""
    if damaged:
        err.print(f"{len(damaged)} unreadable file{'s' if len(damaged) > 1 else ''} skipped:", style="yellow")
    for each in damaged:
        err.print(f"  {each}", style="yellow", markup=False, soft_wrap=True)


def show_sweeps(found: list[dict[str, Any]], url: str) -> None:
    """All sweeps of a storage, a line each."""
    if not found:
        out.print(f"no sweeps in {url} yet. Start one: trm sweep run --recipe sudoku-mini --vary T=1,2 --max-steps 50")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("sweep", "kind", "state", "trials"):
        table.add_column(name)
    for each in found:
        counts = ", ".join(f"{count} {status}" for status, count in each["counts"].items())
        table.add_row(each["name"], each["kind"], "running" if each["driver"] else "at rest", counts or "none")
    out.print(table)
