"""Return the data of figures as rows, the first of them the names: what a figure downloads as CSV."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.results.ablation import Ablation
from orchestrator.results.leaderboard import Entry
from orchestrator.results.report.importance import Importance

Cell = str | float | None
Rows = tuple[tuple[Cell, ...], ...]


def of_entries(entries: Sequence[Entry]) -> Rows:
    """Return scores and their intervals in per cent, and what they cost."""
    head = ("system", "kind", "score", "low", "high", "seeds", "parameters", "train_flops", "usd_per_task")
    return (head, *map(_entry, entries))


def _entry(entry: Entry) -> tuple[Cell, ...]:
    low, high = entry.interval or (None, None)
    flops = entry.own.train_flops if entry.own else None
    return (
        *(entry.system, entry.kind, round(entry.score, 4), _rounded(low), _rounded(high)),
        *(entry.seeds, entry.params, flops, entry.cost_per_task_usd),
    )


def of_ablation(ablation: Ablation) -> Rows:
    """Return differences from the control in points, with their intervals."""
    head = ("configuration", "control", "difference", "low", "high", "p_adjusted", "seeds", "seeds_of_control", "paper")
    rows: list[tuple[Cell, ...]] = []
    for effect in ablation.effects:
        low, high = effect.interval or (None, None)
        paper = effect.published.difference if effect.published else None
        numbers = (_rounded(effect.difference), _rounded(low), _rounded(high), effect.p_adjusted, *effect.seeds, paper)
        rows.append((effect.name, ablation.control.system, *numbers))
    return (head, *rows)


def of_importance(importance: Importance) -> Rows:
    """Return shares of the variance of the scores, with their ranges where they were computed."""
    rows: list[tuple[Cell, ...]] = []
    for name, share in importance.shares.items():
        low, high = importance.intervals.get(name, (None, None))
        rows.append((name, _rounded(share), _rounded(low), _rounded(high)))
    return (("setting", "share", "low_90", "high_90"), *rows)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
