"""Show the result of `trm baselines update`."""

from __future__ import annotations

from orchestrator.cli.views.console import line, out
from orchestrator.results.baselines import Baseline
from orchestrator.results.baselines.arc_prize import Update
from trm_data.settings import strict_json

_SHOWN = 20
"""Rows of each kind; the rest is counted."""


def show_update(update: Update, written_to: str, as_json: bool) -> None:
    """Print new, changed and removed rows; `written_to` is empty if nothing was written."""
    if as_json:
        changed = [{"before": before.plain(), "after": after.plain()} for before, after in update.changed]
        rows = {"new": [row.plain() for row in update.new], "gone": [row.plain() for row in update.gone]}
        counts = {"unchanged": update.unchanged, "ignored": update.ignored, "written_to": written_to or None}
        print(strict_json({**rows, "changed": changed, **counts}, indent=1))
        return
    _list("new", [f"{_name(row)}: {row.score:g} %" for row in update.new])
    _list("changed", [f"{_name(after)}: {_change(before, after)}" for before, after in update.changed])
    _list("gone", [_name(row) for row in update.gone])
    out.print(
        f"{update.unchanged} unchanged, {update.ignored} without a score or on test sets that are no benchmark here"
    )
    if update.new:
        out.print("check kind and protocol of new rows: the export does not say what is an ensemble", style="dim")
    if written_to:
        out.print(f"written to {written_to}; rows that the export no longer has are kept, with their date")
    elif update.rows:
        out.print("nothing is written without --write")


def _list(word: str, rows: list[str]) -> None:
    out.print(line((f"{len(rows)} {word}", "bold")))
    for row in rows[:_SHOWN]:
        out.print(f"  {row}")
    if len(rows) > _SHOWN:
        out.print(f"  and {len(rows) - _SHOWN} more")


def _name(row: Baseline) -> str:
    return f"{row.benchmark} {row.split}, {row.system}"


def _change(before: Baseline, after: Baseline) -> str:
    words = [f"{before.score:g} -> {after.score:g} %"] if before.score != after.score else []
    if before.cost_per_task_usd != after.cost_per_task_usd:
        words.append(f"{_cost(before)} -> {_cost(after)} a task")
    return ", ".join(words)


def _cost(row: Baseline) -> str:
    return "unknown" if row.cost_per_task_usd is None else f"${row.cost_per_task_usd:g}"
