"""Define rows and tables of a leaderboard. All scores and intervals are percentages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.resources.usage import Cost
from orchestrator.results import power, stats
from orchestrator.results.leaderboard.comparable import METRIC_TITLES, PROTOCOL_TITLES, SPLIT_TITLES
from orchestrator.results.seeds import coverage_note, seed_interval
from orchestrator.results.stats import Interval
from orchestrator.sweep.text import plural

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
"""Evidence of a language model that `trm baselines run-llm` scored."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Describe the origin of a row that was measured here: everything needed to find its records again."""

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
    """Interval of the mean over seeds, per cent: see `orchestrator.results.seeds`."""
    warning: str | None
    """Why that interval may be too narrow."""
    train_flops: float | None
    train_s: float | None
    puzzles_presented: float | None
    """Means over seeds."""
    cost: Cost | None
    """Mean over seeds of the cost of a run; None without GPUs."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Hold a row of a table. `score` and intervals are percentages."""

    system: str
    kind: str
    score: float
    items: int | None
    item_interval: Interval | None
    """Over the scored puzzles: Wilson's, for ARC task means a bootstrap; None where their number is not published."""
    seeds: int | None
    params: int | None
    ranks: tuple[int, int] | None = None
    """Ranks that the data leave possible; None where its error is not known (no number of puzzles, one seed)."""
    role: str = "headline"
    cost_per_task_usd: float | None = None
    passes: int | None = None
    votes: int | None = None
    samples: int | None = None
    """Supervision steps at evaluation, views that vote and answers per attempt; None where the source does not say."""
    curve: str = ""
    """Name of the depth curve that the row is a point of: rows of one model, or of one own configuration, that differ
    in their passes alone. Empty for a published model with a single row."""
    first_step_score: float | None = None
    """Of the same own checkpoints after their first supervision step, per cent: the point of the curve at one pass.
    None where more than one answer was combined."""
    train_puzzles: int | None = None
    gpu_hours: float | None = None
    """Of training; for own rows of all attempts, the mean over seeds."""
    gpu: str = ""
    """Type of the GPUs of training."""
    source: str = ""
    detail: str = ""
    date: str = ""
    evidence: str = ""
    own: Provenance | None = None

    @property
    def measured_here(self) -> bool:
        """Return whether this project's code scored the row: an own model, or a language model."""
        return self.own is not None or self.evidence == MEASURED_HERE

    @property
    def solved(self) -> float:
        """Return the number of puzzles solved by a run, on average."""
        return self.score / 100 * (self.items or 0)

    @property
    def answer_passes(self) -> int | None:
        """Return the supervision steps that one answer takes, over all views and samples; None where that is not
        stated."""
        if self.passes is None or self.samples is None:
            return None
        return self.passes * (self.votes or 1) * self.samples

    @property
    def is_contradicted(self) -> bool:
        """Return whether another source, or the same one elsewhere, gives another figure; the detail says which."""
        return "contradicted" in self.detail

    @property
    def stands_out(self) -> bool:
        """Return whether a shortened table keeps the row: measured here, TRM, HRM, or a competitor of the paper."""
        return self.measured_here or self.kind in ("trm", "hrm", "direct") or self.system in RIVALS

    @property
    def interval(self) -> Interval | None:
        """Return the interval to draw: over seeds if there is one, else over puzzles."""
        return (self.own and self.own.seed_interval) or self.item_interval


@dataclass(frozen=True, slots=True)
class Best:
    """Describe the best of several own rows on one test set, with an interval that corrects for the selection."""

    system: str
    candidates: int
    interval: Interval
    """Over seeds; it holds the mean of the configuration that was chosen of so many in at least 95 % of studies."""

    @property
    def sentence(self) -> str:
        """Return a sentence with the chosen row, the number of candidates, and the corrected interval."""
        return (
            f"{self.system} is the best of {self.candidates} configurations on this test set; corrected for that "
            f"choice, its interval over seeds is {self.interval.low:.1f} to {self.interval.high:.1f} % (confidence at "
            "least 95 %)."
        )


@dataclass(frozen=True, slots=True)
class Table:
    """Hold comparable rows, best first."""

    benchmark: str
    title: str
    split: str
    metric: str
    protocol: str
    items: int | None
    entries: tuple[Entry, ...]
    compute: str = ""
    training: str = ""
    scoring: str = ""
    """See `TableKey`."""
    fingerprint: str = ""
    """Of the dataset, where the test set is not a published one."""
    test_scorings: int = 0
    """Times that own trials were scored on this test set: each adds to the chance of a lucky winner."""
    dataset: str = ""
    """In words, where another table has the same heading: see `tell_apart`."""

    @property
    def has_own(self) -> bool:
        """Return whether the table has a row that was measured here."""
        return any(entry.own for entry in self.entries)

    @property
    def has_measured(self) -> bool:
        """Return whether a row was measured here: an own model, or a language model."""
        return any(entry.measured_here for entry in self.entries)

    @property
    def heading(self) -> str:
        """Return benchmark, split, metric, protocol, test-time compute, training set, scoring and dataset in a line."""
        split = SPLIT_TITLES.get(self.split, self.split)
        parts = [self.title, split, METRIC_TITLES.get(self.metric, self.metric)]
        parts += [PROTOCOL_TITLES[self.protocol]] if self.protocol in PROTOCOL_TITLES else []
        return ", ".join([*parts, *filter(None, [self.compute, self.training, self.scoring, self.dataset])])

    @property
    def power(self) -> str:
        """Return the difference that two single runs must show to be significant on a test set of this size; empty if
        unknown."""
        if self.items is None or not self.entries:
            return ""
        typical = float(np.median([entry.score for entry in self.entries])) / 100
        near = min(max(typical, 0.05), 0.95)
        gap = f"{100 * power.detectable_gap(near, self.items):.1f} points near {100 * near:.0f} %"
        return (
            f"Two single runs on {self.items:,} items, compared without pairing (z test of two proportions), detect a "
            f"difference of {gap} with 80 % power; variation between seeds is not included."
        )

    @property
    def best(self) -> Best | None:
        """Return the best of several own rows; None with fewer than two rows, if two of them share the highest score,
        or if the best has a single seed."""
        own = [entry for entry in self.entries if entry.own]
        if len(own) < 2 or own[0].own is None or not own[0].items or self.tied:
            return None
        scores = [score / 100 for score in own[0].own.scores]
        found = seed_interval(scores, own[0].items, candidates=len(own))
        return Best(own[0].system, len(own), Interval(100 * found.low, 100 * found.high)) if found else None

    @property
    def tied(self) -> tuple[Entry, ...]:
        """Return the own rows that share the highest score of all own rows; empty where one is above all others."""
        own = [entry for entry in self.entries if entry.own]
        first = tuple(entry for entry in own if own[0].score - entry.score < 1e-9)
        return first if len(first) > 1 else ()

    @property
    def notes(self) -> list[str]:
        """Return notes on what the table can show, how often its test set was used, and what its intervals assume."""
        own = [entry for entry in self.entries if entry.own]
        scorings = (
            f"Own trials were scored on this test set {plural(self.test_scorings, 'time')}."
            if self.test_scorings
            else ""
        )
        warned = [f"{entry.system}: {entry.own.warning}." for entry in own if entry.own and entry.own.warning]
        assumed = coverage_note([len(entry.own.scores) for entry in own if entry.own])
        chosen = self.best.sentence if self.best else ""
        return list(filter(None, [self.power, scorings, chosen, assumed, *warned]))


def item_interval(score: float, items: int) -> Interval:
    """Return the Wilson interval over the scored puzzles."""
    low, high = stats.wilson(score / 100, items)
    return Interval(100 * low, 100 * high)


def task_interval(shares: Sequence[float]) -> Interval:
    """Return the bootstrap interval over ARC tasks, of which each may be solved in part."""
    low, high = stats.bootstrap_mean(shares, np.random.default_rng(0))
    return Interval(100 * low, 100 * high)
