"""Show the state of sweeps from their records."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from orchestrator.api.status import SweepState, status
from orchestrator.cli.views.console import err, line, out, table
from orchestrator.errors import SweepError, command_line
from orchestrator.records.index import last_address, load_definitions
from orchestrator.records.progress import format_counts
from orchestrator.records.reader import collector_off
from orchestrator.records.schema import DEFINITION, TrialRecord
from orchestrator.records.state import SUPERSEDED, described, shown
from orchestrator.records.stored import Damaged
from orchestrator.resources.usage import elapsed_s, spending
from orchestrator.storage import Storage, storage_to_read
from orchestrator.sweep.commands import resume_command
from orchestrator.sweep.fitted_table import Column, fit, hidden_note
from orchestrator.sweep.text import duration, plural
from trm_data.errors import ConfigError
from trm_data.settings import strict_json


@collector_off()
def show(name: str | None, url: str, *, as_json: bool) -> None:
    """Print one sweep of a storage, or all of them."""
    storage = storage_to_read(url)
    if name is not None:
        state = status(name, storage)
        show_damaged(state.damaged)
        if as_json:
            print(strict_json(summary(state), indent=1))
        else:
            show_sweep(state, storage)
        return
    definitions, unreadable = load_definitions(storage)
    states = []
    for definition in definitions:
        try:
            states.append(status(definition, storage))
        except (ConfigError, SweepError) as error:  # a value that no trial can have, or just deleted
            unreadable.append(Damaged(f"{storage.url}/sweeps/{definition.name}/{DEFINITION}", str(error)))
    show_damaged([*unreadable, *(each for state in states for each in state.damaged)])
    if as_json:
        print(strict_json([summary(state) for state in states], indent=1))
    else:
        show_sweeps(states, storage.url)


def summary(state: SweepState) -> dict[str, Any]:
    """Return the state as plain data, for a script: counts by status, totals, the driver, a row per trial."""
    return {
        "name": state.sweep.name,
        "kind": state.sweep.kind,
        "driver": state.driver,
        "counts": state.counts,
        "planned": state.progress.planned,
        "done": state.progress.done,
        "failed": state.progress.failed,
        "left": state.progress.left,
        "trials": [_row(state, record) for record in state.trials],
        "damaged": [each._asdict() for each in state.damaged],
    }


def _row(state: SweepState, record: TrialRecord) -> dict[str, Any]:
    metric = state.sweep.metric
    if record.result:  # reading the rows of thousands of finished trials would take most of the time
        value = record.result.metrics.get(metric)
    else:
        curve = record.curve(metric)
        value = curve[-1][1] if curve else None
    last = record.attempts[-1] if record.attempts else None
    return {
        "trial_id": record.trial_id,
        "stage": record.stage,
        "family": record.family,
        "seed": record.config.seed,
        "status": str(record.status),
        "state": SUPERSEDED if record.is_superseded else described(record),
        "step": record.step,
        "max_steps": record.config.train.max_steps,
        metric: value,
        "split": record.result.split if record.result else "validation",
        "attempts": len(record.attempts),
        "host": last.start.host if last else None,
        "gpu_type": last.start.gpu_type if last else None,
        "reason": record.reason,
    }


def show_sweep(state: SweepState, storage: Storage) -> None:
    """Print one sweep: a row per trial, the best first, why trials failed, and the commands to run next."""
    out.print(sweep_view(state), crop=False)  # the table does it, which is quicker
    name = state.sweep.name
    failed = [record for record in state.trials if record.status.is_failure and not record.is_superseded]
    for record in failed[:MOST_REASONS]:
        reason = " ".join(record.reason.split()) or "no reason is recorded"
        text = f"{shown(record)}: {record.family} seed {record.config.seed} ({record.trial_id}): {reason}"
        out.print(Text(text, style="red"))
    if (more := len(failed) - MOST_REASONS) > 0:
        logs = command_line("sweep", "logs", name, storage=storage.url)
        out.print(f"and {plural(more, 'more failed trial')}: {logs}", soft_wrap=True)
    if state.has_damaged_lock:
        unlock = command_line("sweep", "unlock", name, storage=storage.url)
        out.print(f"Its lock is damaged: remove it with {unlock}", soft_wrap=True)
    if state.driver is not None:
        return
    resume = resume_command(state.sweep, storage.url, last_address(storage, name))
    if not state.progress.is_complete:
        out.print(f"Resume it: {resume}", soft_wrap=True)
    if failed:
        retry = command_line("sweep", "retry", name, storage=storage.url)
        out.print(f"Try the failed trials again: {retry} && {resume}", soft_wrap=True)


def sweep_view(state: SweepState) -> RenderableType:
    """Return who runs the sweep, a row per trial, and the counts."""
    driver = state.driver
    where = f"runs as process {driver['pid']} on {driver['host']}" if driver else f"is {state.when_idle}"
    if state.has_damaged_lock:
        where = "has a damaged lock"
    return Group(
        line((state.sweep.name, "bold"), f" ({state.sweep.kind}) {where}"),
        _table(state),
        Text(f"{progress(state)}; {used(state.trials)}"),
    )


def used(trials: Sequence[TrialRecord]) -> str:
    """Format what trials have used up to their last signs of life: `3 min of trial time, 0.05 GPU-hours, 0.34 USD`."""
    spent, text = spending(trials), f"{duration(elapsed_s(trials))} of trial time"
    if spent.gpu_hours:
        text += f", {spent.gpu_hours:.3g} GPU-hours"
        text += f", {spent.usd:.2f} USD" if not spent.unpriced_gpu_hours else ""
    return text


def progress(state: SweepState) -> str:
    """Format the progress of a sweep: `2 of 4 trials done, 1 failed (1 finished, 1 failed, 1 running)`."""
    counts = format_counts(state.counts)
    return f"{state.progress} ({counts})" if counts else str(state.progress)


MOST_REASONS = 10
"""Failed trials that are shown with their reasons."""
COLUMNS = ("trial", "stage", "configuration", "seed", "status", "step", "metric", "on")
SHOWN = (
    Column("trial", is_word=True),
    Column("stage", drop=3),
    Column("configuration", least=16),
    Column("seed", is_number=True, drop=1),
    Column("status", is_word=True),
    Column("step", is_number=True, drop=2),
    Column("metric", is_number=True),
    Column("on", drop=4),
)
"""The same columns, as they fit."""
SHORTEST_ID = 6
"""Characters of an id that are always shown."""


@dataclass(frozen=True, slots=True)
class _Table:
    """Show rows as aligned text. A rich table of ten thousand rows takes half a minute, a rich text two seconds."""

    rows: Sequence[Sequence[str]]
    """The first is the header."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows, natural = self.rows, _widths(self.rows)
        if sum(natural) + 2 * (len(natural) - 1) > options.max_width:
            rows = _shortened(rows)
            natural = _widths(rows)
        widths = fit(SHOWN, natural, options.max_width, gap=2)
        aligned = [
            f"{{:{'>' if column.is_number else '<'}{width}}}" if width is not None else ""
            for column, width in zip(SHOWN, widths, strict=True)
        ]
        layout = "  ".join(filter(None, aligned))
        header, *lines = (_line(row, layout, widths, natural) for row in rows)
        yield Segment(f"{header}\n", Style(dim=True))
        yield Segment("".join(f"{text}\n" for text in lines))
        if hidden := [column.name for column, width in zip(SHOWN, widths, strict=True) if width is None]:
            yield hidden_note(hidden)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(_width, column)) for column in zip(*rows, strict=True)]


def _shortened(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Return rows with the beginnings of ids that are unique, which commands take, and one word for the metric."""
    header, *others = rows
    ids = {row[0] for row in others}
    length = SHORTEST_ID
    while len({each[:length] for each in ids}) < len(ids):
        length += 1
    metric = COLUMNS.index("metric")
    top = [name.split()[0] if index == metric else name for index, name in enumerate(header)]
    return [top, *([row[0][:length], *row[1:]] for row in others)]


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _line(row: Sequence[str], layout: str, widths: Sequence[int | None], natural: Sequence[int]) -> str:
    """Return a row as aligned text. Names that are too long continue on the next line; numbers do not."""
    if widths == natural and all(map(str.isascii, row)):
        return layout.format(*row).rstrip()
    shown = [(column, width) for column, width in zip(SHOWN, widths, strict=True) if width is not None]
    folded = [_folded(cell, width) for cell, width in zip(row, widths, strict=True) if width is not None]
    return "\n".join(
        "  ".join(
            _padded(cell, width, is_right=column.is_number) for cell, (column, width) in zip(cells, shown, strict=True)
        ).rstrip()
        for cells in zip_longest(*folded, fillvalue="")
    )


def _folded(cell: str, width: int) -> list[str]:
    if _width(cell) <= width:
        return [cell]
    return textwrap.wrap(cell, width, break_on_hyphens=False) if cell.isascii() else chop_cells(cell, width)


def _padded(cell: str, width: int, *, is_right: bool) -> str:
    missing = " " * (width - _width(cell))
    return missing + cell if is_right else cell + missing


def _table(state: SweepState) -> _Table:
    """Return a row per trial, the best first."""
    metric = state.sweep.metric
    rows = [_row(state, record) for record in state.trials]
    rows.sort(key=lambda row: (row["stage"], -(row[metric] if row[metric] is not None else -1)))
    header = [metric.replace("_", " ") if name == "metric" else name for name in COLUMNS]
    return _Table([header, *(_cells(row, metric) for row in rows)])


def _cells(row: dict[str, Any], metric: str) -> list[str]:
    value = "-" if row[metric] is None else f"{100 * row[metric]:.1f} %"
    where = row["split"] if row[metric] is not None else ""
    step = f"{row['step']}/{row['max_steps']}"
    words = row["state"].replace("_", " ")
    return [row["trial_id"], row["stage"], row["family"], str(row["seed"]), words, step, value, where]


def show_damaged(damaged: Sequence[Damaged]) -> None:
    """Print how many files were skipped, and which."""
    if damaged:
        err.print(f"{plural(len(damaged), 'unreadable file')} skipped:", style="yellow")
    for each in damaged:
        err.print(f"  {each}", style="yellow", soft_wrap=True)


def show_sweeps(states: Sequence[SweepState], storage: str) -> None:
    """Print all sweeps of a storage, a line each."""
    if not states:
        words = ("sweep", "run", "--recipe", "sudoku-mini", "--vary", "T=1,2", "--max-steps", "50")
        out.print(f"no sweeps in {storage} yet. Start one: {command_line(*words, storage=storage)}", soft_wrap=True)
        return
    found = table("sweep", "kind", "state", "trials", words=("sweep", "state"), drop=("kind",))
    for state in states:
        at = "damaged lock" if state.has_damaged_lock else "running" if state.driver else state.when_idle
        found.add_row(state.sweep.name, state.sweep.kind, at, progress(state))
    out.print(found)
