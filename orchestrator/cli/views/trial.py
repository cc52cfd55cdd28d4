"""Implement `trm trial show`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from orchestrator.cli.views.console import clock_of, out
from orchestrator.records.events import trial_events
from orchestrator.records.index import find_definition
from orchestrator.records.schema import Origin, TrialRecord
from orchestrator.records.state import find_standing, shown
from orchestrator.storage import Storage
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.settings import describe_differences
from orchestrator.sweep.text import duration
from trm_data.settings import strict_json

BLOCKS = [chr(0x2581 + level) for level in range(8)]
WIDTH = 40
"""Characters of a curve."""


def show_trial(storage: Storage, address: str, as_json: bool) -> None:
    """Print one trial. Raises SweepError if there is none, or several whose ids start with the address."""
    record = find_standing(storage, address)
    sweep = find_definition(storage, record.sweep)
    found = described(record, sweep)
    if as_json:
        print(strict_json(found, indent=1))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _lines(record, found):
        table.add_row(name, text)
    out.print(table)
    for event in trial_events([record]):
        out.print(f"{clock_of(event.time_s)} {event.text}", soft_wrap=True)
        if event.detail:
            out.print(event.detail.rstrip(), style="dim", soft_wrap=True)


def described(record: TrialRecord, sweep: Sweep | None) -> dict[str, Any]:
    """Return plain data for a script: identity, status, differences from the sweep's base, curve, attempts, result."""
    result = record.result and {key: value for key, value in record.result.plain().items() if key != "per_item"}
    return {
        "trial_id": record.trial_id,
        "sweep": record.sweep,
        "stage": record.stage,
        "family": record.family,
        "seed": record.config.seed,
        "status": str(record.status),
        "superseded": record.is_superseded,
        "reason": record.reason,
        "step": record.step,
        "max_steps": record.config.train.max_steps,
        "dataset": record.dataset.plain(),
        "origin": record.origin and record.origin.plain(),
        "differs_from_base": describe_differences(sweep.base.plain(), record.config.plain()) if sweep else [],
        "curve": record.curve("exact_accuracy"),
        "attempts": [
            {"number": a.number, "start": a.start.plain(), "end": a.end and a.end.plain()} for a in record.attempts
        ],
        "retries": [retry.plain() for retry in record.retries],
        "result": result,
    }


def _lines(record: TrialRecord, found: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [
        ("trial", f"{record.trial_id} of {record.sweep} ({record.stage})"),
        ("configuration", f"{record.family}, seed {record.config.seed}, {record.dataset.benchmark}"),
        ("status", f"{shown(record)} at step {record.step}/{record.config.train.max_steps}"),
    ]
    if record.reason:
        lines.append(("reason", record.reason))
    if record.origin:
        lines.append(("origin", _format_origin(record.origin)))
    if record.attempts and (started_from := record.attempts[0].start.started_from):
        lines.append(("started from", started_from))
    lines += [("" if index else "differs from base", text) for index, text in enumerate(found["differs_from_base"])]
    for split in ("train", "validation"):
        curve = record.curve("exact_accuracy", split)
        if curve:
            lines.append((f"exact on {split}", f"{sparkline([v for _, v in curve])} {100 * curve[-1][1]:.1f} %"))
    if record.result is not None:
        metrics = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in record.result.metrics.items())
        lines.append(("result", f"{metrics} on {record.result.items} {record.result.split} puzzles"))
        lines.append(("training", duration(record.result.train_s or 0.0)))
    return lines


def _format_origin(origin: Origin) -> str:
    if origin.kind == "reused":
        return f"reused from sweep {origin.sweep}: nothing was run again"
    return f"continues trial {origin.trial_id}, which had fewer steps"


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """Return a curve as one line of blocks, from its lowest to its highest value; a longer one is thinned out."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    if len(finite) > width:
        finite = [finite[round(index * (len(finite) - 1) / (width - 1))] for index in range(width)]
    low, span = min(finite), max(finite) - min(finite)
    return "".join(BLOCKS[round(7 * (value - low) / span) if span else 0] for value in finite)
