"""What `trm eval` shows and writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from orchestrator.cli.views.console import bar, duration, out
from orchestrator.evaluation.checkpoints import Scored
from orchestrator.results.stats import Interval
from trm_data import Dataset
from trm_data.files import write_atomic

_NAMES = {"exact_accuracy": "exact %", "valid_accuracy": "valid %", "pass@1": "pass@1 %", "pass@2": "pass@2 %"}
_NAMES |= {"task_pass@2": "whole tasks @2 %"}


class Bar:
    """A progress bar over cells; its length is that of the cell at hand."""

    def __init__(self, total: int) -> None:
        self._bar = bar()
        self._task = self._bar.add_task("scoring", total=total, note="")
        self._finished = 0

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, label: str, done: int, total: int) -> None:
        """Told by `score`."""
        self._bar.update(self._task, completed=self._finished + done / total, note=label)
        self._finished += done == total


def show(rows: Sequence[Scored], dataset: Dataset) -> None:
    """One row per cell and checkpoint; 95 % intervals in brackets."""
    several = len({row.checkpoint for row in rows}) > 1
    shown = [name for name in _NAMES if any(row.metric(name) is not None for row in rows)]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    if several:
        table.add_column("checkpoint")
    for heading in (*(_NAMES[name] for name in shown), "cells %", "steps", "time", "FLOPs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        names = [row.cell.label, row.checkpoint] if several else [row.cell.label]
        steps, cells = row.metric("halting_steps"), row.metric("cell_accuracy")
        numbers = [_percent(row.metric(name), row.interval(name)) for name in shown]
        numbers += [_percent(cells, None), "" if steps is None else f"{steps:.1f}"]
        table.add_row(*names, *numbers, duration(row.seconds), f"{row.flops:.2e}")
    first = rows[0].result
    out.print(table)
    out.print(f"[dim]{first.items:,} {first.split} items of {dataset.path.name}; 95 % intervals over them[/]")
    if first.unscored:
        out.print(f"{first.unscored:,} items have no known answer: they are in no score")


def _percent(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return ""
    around = "" if interval is None else f" [dim]\\[{100 * interval.low:.1f}, {100 * interval.high:.1f}][/]"
    return f"{100 * value:.1f}{around}"


def write_files(rows: Sequence[Scored], folder: Path, several: bool) -> None:
    """All rows so far as `evaluation.json`; of the newest, the outcomes per item and, for ARC, the submission."""
    write_atomic(folder / "evaluation.json", json.dumps([row.plain() for row in rows], indent=1).encode())
    newest = rows[-1]
    name = f"{newest.cell.label} {newest.checkpoint}" if several else newest.cell.label
    stem = "".join(letter if letter.isalnum() or letter in "=.-" else "-" for letter in name)
    newest.result.write(folder / f"{stem}.arrow")
    if newest.result.test_inputs:
        write_atomic(folder / f"{stem}.submission.json", json.dumps(newest.result.submission()).encode())
