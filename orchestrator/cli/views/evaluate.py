"""Show and write the results of `trm eval`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from orchestrator.cli.views.console import PLAIN_EVERY_S, bar, err, line, out, table
from orchestrator.evaluation.checkpoints import Scored
from orchestrator.results.report.markup import flops
from orchestrator.results.stats import Interval
from orchestrator.sweep.text import duration
from trm_data import Dataset
from trm_data.files import write_atomic
from trm_data.settings import strict_json

_NAMES = {"exact_accuracy": "exact %", "valid_accuracy": "valid %", "pass@1": "pass@1 %", "pass@2": "pass@2 %"}
_NAMES |= {"task_pass@2": "whole tasks @2 %", "coverage": "coverage %"}


class Bar:
    """Show a progress bar over cells."""

    def __init__(self, total: int) -> None:
        self._bar = bar()
        self._total = total
        self._task = self._bar.add_task("scoring", total=total, note="")
        self._finished = 0
        self._printed_s = time.monotonic()

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, label: str, done: int, total: int) -> None:
        """Update the bar; without a terminal, print a line every 15 seconds. `score` calls this."""
        self._bar.update(self._task, completed=self._finished + done / total, note=label)
        self._finished += done == total
        if not err.is_terminal and time.monotonic() - self._printed_s > PLAIN_EVERY_S:
            self._printed_s = time.monotonic()
            err.print(f"scoring {label}: {100 * done / total:.0f} %, {self._finished} of {self._total} done")


def show(rows: Sequence[Scored], dataset: Dataset) -> None:
    """Print one row per cell and checkpoint; 95 % intervals in brackets."""
    several = len({row.checkpoint for row in rows}) > 1
    shown = [name for name in _NAMES if any(row.metric(name) is not None for row in rows)]
    numbers_of = (*(_NAMES[name] for name in shown), "cells %", "steps", "time", "FLOPs")
    names_of = ("", "checkpoint") if several else ("",)
    longest = max(len(word) for row in rows for word in row.cell.label.split())
    dropped = ["FLOPs", "time", "steps", "cells %"]
    if "pass@2" in shown:
        dropped += [_NAMES["task_pass@2"], _NAMES["exact_accuracy"]]
    found = table(*names_of, *numbers_of, right=numbers_of, drop=dropped, least={"": longest})
    for row in rows:
        names = [row.cell.label, row.checkpoint] if several else [row.cell.label]
        steps, cells = row.metric("halting_steps"), row.metric("cell_accuracy")
        numbers = [_percent(row.metric(name), row.interval(name)) for name in shown]
        numbers += [_percent(cells, None), Text("" if steps is None else f"{steps:.1f}")]
        found.add_row(*names, *numbers, duration(row.seconds), flops(row.flops))
    first = rows[0].result
    out.print(found)
    out.print(f"{first.items:,} {first.split} items of {dataset.path.name}; 95 % intervals over them", style="dim")
    if kinds := sorted({row.cell.embedding for row in rows} - {"trained"}):
        out.print(f"puzzle embeddings: {', '.join(kinds)}, an ablation that no leaderboard ranks")
    if first.unscored:
        out.print(f"{first.unscored:,} items have no known answer: they are in no score")


def _percent(value: float | None, interval: Interval | None) -> Text:
    if value is None:
        return Text()
    around = "" if interval is None else f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    return line(f"{100 * value:.1f}", (around, "dim"))


def write_files(rows: Sequence[Scored], folder: Path, several: bool) -> None:
    """Write all rows so far as `evaluation.json`, and the newest row's outcomes per item and, for ARC, submission."""
    write_atomic(folder / "evaluation.json", strict_json([row.plain() for row in rows], indent=1).encode())
    newest = rows[-1]
    name = f"{newest.cell.label} {newest.checkpoint}" if several else newest.cell.label
    stem = "".join(letter if letter.isalnum() or letter in "=.-" else "-" for letter in name)
    newest.result.write(folder / f"{stem}.arrow")
    if newest.result.test_inputs:
        write_atomic(folder / f"{stem}.submission.json", strict_json(newest.result.submission()).encode())
