"""What `trm baselines update` found."""

from __future__ import annotations

import json

from rich.markup import escape

from orchestrator.cli.views.console import out
from orchestrator.results.baselines import Baseline
from orchestrator.results.baselines.arc_prize import Update

_SHOWN = 20
"""Rows of each kind; the rest is counted."""


def show_update(update: Update, written_to: str, as_json: bool) -> None:
    """New, changed and gone rows; `written_to` is empty after a look only."""
    if as_json:
        changed = [{"before": before.plain(), "after": after.plain()} for before, after in update.changed]
        rows = {"new": [row.plain() for row in update.new], "gone": [row.plain() for row in update.gone]}
        counts = {"unchanged": update.unchanged, "ignored": update.ignored, "written_to": written_to or None}
        print(json.dumps({**rows, "changed": changed, **counts}, indent=1))
        return
    _list("new", [f"{_name(row)}: {row.score:g} %" for row in update.new])
    _list("changed", [f"{_name(after)}: {_change(before, after)}" for before, after in update.changed])
    _list("gone", [_name(row) for row in update.gone])
    out.print(f"{update.unchanged} unchanged, {update.ignored} on test sets that are no benchmark here")
    if update.new:
        out.print("[dim]look at kind and protocol of new rows: the export does not say what is an ensemble[/]")
    if written_to:
        out.print(f"written to {written_to}; rows that are gone stay as they were, with their date")
    elif update.rows:
        out.print("nothing is written without --write")


def _list(word: str, lines: list[str]) -> None:
    out.print(f"[bold]{len(lines)} {word}[/]")
    for line in lines[:_SHOWN]:
        out.print(f"  {escape(line)}")
    if len(lines) > _SHOWN:
        out.print(f"  and {len(lines) - _SHOWN} more")


def _name(row: Baseline) -> str:
    return f"{row.benchmark} {row.split}, {row.system}"


def _change(before: Baseline, after: Baseline) -> str:
    words = [f"{before.score:g} -> {after.score:g} %"] if before.score != after.score else []
    if before.cost_per_task_usd != after.cost_per_task_usd:
        costs = (
            "unknown" if cost is None else f"${cost:g}" for cost in (before.cost_per_task_usd, after.cost_per_task_usd)
        )
        words.append(" -> ".join(costs) + " a task")
    return ", ".join(words)


def _cost(row: Baseline) -> str:
    return "unknown" if row.cost_per_task_usd is None else f"${row.cost_per_task_usd:g}"
