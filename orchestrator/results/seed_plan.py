"""Predict, before a sweep runs, how many seeds each of its configurations needs for an ablation to detect a difference.

The test, its power and its correction are those of `ablation`: Welch's test over seeds with Holm's procedure, whose
strictest level (0.05 divided by the number of comparisons) counts, because the order of the p values is not known yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from orchestrator.records.index import load_definitions
from orchestrator.records.reader import read_sweep
from orchestrator.records.schema import TrialRecord
from orchestrator.results.ablation import SIGNIFICANT
from orchestrator.results.leaderboard import PUBLISHED, is_confirmed
from orchestrator.results.leaderboard.confirmed import group_families, puzzles_scored
from orchestrator.results.power import POWER, WelchPower, seeds_needed
from orchestrator.storage import Storage, as_storage
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.text import plural

DIFFERENCES = (1.0, 2.0, 5.0, 10.0)
"""Points."""
METRIC = "exact_accuracy"
_ASSUMED = "sudoku-extreme"
"""Published benchmark whose spread over seeds was measured."""
_ASSUMED_SCORE = 0.87
"""Score of the runs of which it was measured."""


class Spread(NamedTuple):
    """Hold the standard deviation of a score over seeds, in points, and where it is from."""

    points: float
    is_recorded: bool
    basis: str


@dataclass(frozen=True, slots=True)
class SeedPlan:
    """Hold the numbers of seeds for several differences."""

    comparisons: int
    level: float
    """Significance level of each comparison: 0.05 divided by their number."""
    spread: Spread
    needed: dict[float, int | None]
    """By difference in points: seeds of each configuration that detect it with 80 % power; None above 10,000."""
    seeds: int
    """As planned."""
    detectable: float | None
    """Difference in points that these detect with 80 % power; None for one seed, and above 100 points."""

    @property
    def sentences(self) -> tuple[str, str]:
        """Return the numbers of seeds, and what they assume and what the planned seeds detect."""
        shown = [f"{difference:g} pt {_count(count)}" for difference, count in self.needed.items()]
        correction = f", Holm for {self.comparisons} comparisons" if self.comparisons > 1 else ""
        kind = "recorded" if self.spread.is_recorded else "assumed"
        if self.seeds < 2:
            planned = "one seed, as planned, cannot be tested"
        elif self.detectable is None:
            planned = f"{self.seeds} seeds, as planned, detect nothing"
        else:
            planned = f"{self.seeds} seeds, as planned, detect {self.detectable:.1f} points"
        test = f"{100 * POWER:.0f} % power, Welch's test{correction}"
        return (
            f"seeds needed for a difference of: {', '.join(shown)} ({test})",
            f"  {kind} spread over seeds {self.spread.points:.1f} points ({self.spread.basis}); {planned}",
        )

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "comparisons": self.comparisons,
            "correction": "Holm",
            "level": self.level,
            "power": POWER,
            "test": "Welch",
            "spread": self.spread._asdict(),
            "needed": [{"points": points, "seeds": count} for points, count in self.needed.items()],
            "seeds": self.seeds,
            "detectable": self.detectable,
        }


def plan_seeds(sweep: Sweep, num_cells: int, storage: Storage | str | Path) -> SeedPlan | None:
    """Return the seeds that comparisons of a sweep's configurations with one of them need.

    Args:
        num_cells: cells of a study.
        storage: where the spread over seeds on the same benchmark may be recorded.

    Returns:
        None if the sweep compares nothing.
    """
    confirm = sweep.confirm
    is_study = sweep.kind == "study"
    comparisons = (num_cells if is_study else confirm.top + len(confirm.controls)) - 1
    if comparisons < 1:
        return None
    items = _items(sweep)
    spread = recorded_spread(_records(as_storage(storage), sweep), items) or assumed_spread(items)
    level, resolution = SIGNIFICANT / comparisons, 100 / (items or math.inf)
    deviations = (spread.points, spread.points)

    def power_at(count: int) -> WelchPower:
        return WelchPower(deviations, (count, count), level, resolution)

    seeds = sweep.seeds if is_study else confirm.seeds
    detectable = power_at(seeds).detectable() if seeds > 1 else math.inf
    needed = {difference: seeds_needed(difference, power_at) for difference in DIFFERENCES}
    return SeedPlan(comparisons, level, spread, needed, seeds, detectable if detectable <= 100 else None)


def _records(storage: Storage, sweep: Sweep) -> list[TrialRecord]:
    """Return the confirmed trials of all sweeps of a storage on the same benchmark."""
    benchmark = sweep.base.data.benchmark
    names = [known.name for known in load_definitions(storage)[0] if known.base.data.benchmark == benchmark]
    trials = [trial for name in names for trial in read_sweep(storage, name).trials]
    return [trial for trial in trials if is_confirmed(trial) and trial.config.data.benchmark == benchmark]


def _items(sweep: Sweep) -> int | None:
    """Return the number of test puzzles that a trial scores; None where it is not known without the dataset."""
    data = sweep.base.data
    published = PUBLISHED.get(data.benchmark)
    known = published.items if published and data.source is None else None
    items = known or data.num_test
    return min(filter(None, (items, sweep.base.evaluation.max_puzzles)), default=None)


def recorded_spread(records: Sequence[TrialRecord], items: int | None) -> Spread | None:
    """Return the pooled standard deviation over seeds of recorded configurations; None if none has two seeds.

    Configurations within one puzzle of 0 or 100 % are left out: their seeds do not show their spread.
    """
    squares, degrees, families = 0.0, 0, 0
    for group in group_families(records, METRIC).values():
        scores = [100 * record.result.metrics[METRIC] for record in group if record.result is not None]
        puzzles = puzzles_scored(group[0])
        away = min(float(np.mean(scores)), 100 - float(np.mean(scores))) / 100 * puzzles
        if len(scores) < 2 or away < 1 or (items is not None and puzzles < items / 2):
            continue
        squares += float(np.var(scores, ddof=1)) * (len(scores) - 1)
        degrees += len(scores) - 1
        families += 1
    if not degrees:
        return None
    benchmark = records[0].config.data.benchmark
    basis = f"pooled over {plural(families, 'configuration')} and {degrees + families} runs on {benchmark}"
    return Spread(math.sqrt(squares / degrees), True, basis)


def assumed_spread(items: int | None) -> Spread:
    """Return the spread that was measured on Sudoku-Extreme, with the sampling error of a test set of this size."""
    published = PUBLISHED[_ASSUMED]
    basis = f"{published.seed_spread:g} as 4 seeds of TRM on {published.title}"
    variance = published.seed_spread**2
    if items is not None and items < (published.items or 0):
        variance += 100**2 * _ASSUMED_SCORE * (1 - _ASSUMED_SCORE) / items
        basis += f", and the sampling error of {plural(items, 'puzzle')} at {100 * _ASSUMED_SCORE:.0f} %"
    return Spread(math.sqrt(variance), False, basis)


def _count(count: int | None) -> str:
    return "above 10,000" if count is None else f"{count:,}"
