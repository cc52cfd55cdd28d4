"""Rows and tables of a leaderboard. All scores and intervals are percentages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from orchestrator.resources.usage import Cost
from orchestrator.results import stats
from orchestrator.results.baselines import AS_PRINTED
from orchestrator.results.stats import Interval


class Benchmark(NamedTuple):
    """A published test set: the split on which an own `test` score may stand beside published ones, and its size."""

    title: str
    test_split: str
    items: int
    seed_spread: float = 0.0
    """Measured standard deviation over seeds, in points; assumed for published results of which only one run is known.
    Sudoku-Extreme: 4 seeds of TRM (SiC, arXiv 2601.19085). Nobody has published one for the others."""


PUBLISHED = {
    "sudoku-extreme": Benchmark("Sudoku-Extreme", "test", 422_786, seed_spread=1.3),
    "maze-hard": Benchmark("Maze-Hard", "test", 1_000),
    "arc-agi-1": Benchmark("ARC-AGI-1", "public-eval", 400),
    "arc-agi-2": Benchmark("ARC-AGI-2", "public-eval", 120),
}
SPLIT_TITLES = {
    "test": "test split",
    "public-eval": "public evaluation",
    "semi-private": "semi-private evaluation",
    "private": "private evaluation",
    "unstated-subset": "subset of unstated size",
    "one-percent-of-test": "1 % of the test split",
    "own-9x9-test": "authors' own 9x9 test",
    "own-250k-subset": "authors' own subset of 250,000",
    AS_PRINTED: "as printed in TRM Table 5",
}
METRIC_TITLES = {
    "exact_accuracy": "exact accuracy",
    "peak_exact_accuracy": "best exact accuracy of a run",
    "pass@1": "one attempt",
    "pass@2": "two attempts",
}


RIVALS = (
    "o3-mini (High)",
    "Gemini 2.5 Pro (Thinking 32K)",
    "Gemini 2.5 Pro (Thinking 16K)",
    "Deepseek R1",
    "Claude 3.7 (16K)",
    "Grok 4 (Thinking)",
)
"""The language models that the TRM paper compares with, by their names on the ARC Prize leaderboard."""


MEASURED_HERE = "measured here"
"""Evidence of a language model that was asked by `trm baselines run-llm`."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an own row comes from: everything needed to find its records again."""

    trial_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    """Per cent, one per seed."""
    sweeps: tuple[str, ...]
    stages: tuple[str, ...]
    settings: dict[str, Any]
    """The configuration without seed, label and runtime."""
    fingerprint: str
    commits: tuple[str, ...]
    machines: tuple[str, ...]
    spread: float | None
    """Standard deviation over seeds, in points."""
    seed_interval: Interval | None
    """Student's t interval of the mean over seeds, per cent."""
    train_flops: float | None
    train_s: float | None
    puzzles_presented: float | None
    """Means over seeds."""
    cost: Cost | None
    """Mean over seeds of what a run cost; None without GPUs."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of a table. `score` and intervals are percentages."""

    system: str
    kind: str
    score: float
    items: int | None
    item_interval: Interval | None
    """Over the scored puzzles: Wilson's, for ARC task means a bootstrap; None where their number is not published."""
    seeds: int | None
    params: int | None
    ranks: tuple[int, int] | None = None
    """The ranks that the data leave possible; None where its error is not known (no number of puzzles, one seed)."""
    role: str = "headline"
    cost_per_task_usd: float | None = None
    source: str = ""
    detail: str = ""
    date: str = ""
    evidence: str = ""
    own: Provenance | None = None

    @property
    def measured_here(self) -> bool:
        """Whether this project's code scored it: an own model, or a language model that was asked."""
        return self.own is not None or self.evidence == MEASURED_HERE

    @property
    def solved(self) -> float:
        """Puzzles solved by a run, on average."""
        return self.score / 100 * (self.items or 0)

    @property
    def stands_out(self) -> bool:
        """Whether it is shown in a shortened table too: what was measured here, TRM and its kin, the paper's rivals."""
        return self.measured_here or self.kind in ("trm", "hrm", "direct") or self.system in RIVALS

    @property
    def interval(self) -> Interval | None:
        """The interval to draw, inside 0..100: that over seeds where there is one, else that over puzzles."""
        found = (self.own and self.own.seed_interval) or self.item_interval
        return Interval(max(0.0, found.low), min(100.0, found.high)) if found else None


@dataclass(frozen=True, slots=True)
class Table:
    """Comparable rows, best first."""

    benchmark: str
    title: str
    split: str
    metric: str
    protocol: str
    items: int | None
    entries: tuple[Entry, ...]
    fingerprint: str = ""
    """Of the dataset, where the test set is not a published one."""
    test_scorings: int = 0
    """Times that own trials were scored on this test set: each look at it makes a chance winner likelier."""

    @property
    def has_own(self) -> bool:
        """Whether a row is our own."""
        return any(entry.own for entry in self.entries)

    @property
    def has_measured(self) -> bool:
        """Whether a row was measured here: an own model, or a language model that was asked."""
        return any(entry.measured_here for entry in self.entries)

    @property
    def heading(self) -> str:
        """Benchmark, split, metric and protocol in words."""
        split = SPLIT_TITLES.get(self.split, self.split)
        words = [self.title, split, METRIC_TITLES.get(self.metric, self.metric)]
        return ", ".join([*words, *(["ensembles"] if self.protocol == "ensemble" else [])])

    @property
    def power(self) -> str:
        """What a test set of this size cannot show, in words; empty where its size is unknown."""
        if self.items is None or not self.entries:
            return ""
        typical = float(np.median([entry.score for entry in self.entries])) / 100
        near = min(max(typical, 0.05), 0.95)
        gap = f"{100 * stats.detectable_gap(near, self.items):.1f} points near {100 * near:.0f} %"
        return f"With {self.items:,} items a gap below {gap} cannot be seen (80 % power)."


class TableKey(NamedTuple):
    """What rows must share to stand in one table."""

    benchmark: str
    split: str
    metric: str
    protocol: str
    fingerprint: str


def table_key(benchmark: str, fingerprint: str, metric: str, puzzles: int, puzzles_in_split: int) -> TableKey:
    """Where a result measured here belongs: the published split if its whole test set was scored, else a table of those
    puzzles alone."""
    published = PUBLISHED.get(benchmark)
    total = published.items if published else puzzles_in_split
    if puzzles != total:
        return TableKey(benchmark, f"{puzzles:,} of {total:,} test items", metric, "single", fingerprint)
    if published:
        return TableKey(benchmark, published.test_split, metric, "single", "")
    return TableKey(benchmark, "test", metric, "single", fingerprint)


def item_interval(score: float, items: int) -> Interval:
    """Wilson interval over the scored puzzles."""
    low, high = stats.wilson(score / 100, items)
    return Interval(100 * low, 100 * high)


def task_interval(shares: Sequence[float]) -> Interval:
    """Bootstrap interval over ARC tasks, of which each may be solved in part; Wilson's where all are alike."""
    if len(set(shares)) < 2:
        return item_interval(100 * shares[0], len(shares))
    low, high = stats.bootstrap_mean(shares, np.random.default_rng(0))
    return Interval(100 * low, 100 * high)
