"""Compare configurations with a control, over seeds.

The unit is the training run. Groups are compared with Welch's test, or with the paired t test where both ran the same
seeds and these visibly move together. P values are corrected with Holm's procedure; intervals, detectable differences
and numbers of seeds use the level at which that procedure tested the comparison, so that they agree with the verdict.
All scores are percentages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from orchestrator.records.schema import TrialRecord
from orchestrator.results import stats
from orchestrator.results.baselines import Baseline
from orchestrator.results.leaderboard import Entry, Provenance, Table, build_leaderboard
from orchestrator.results.seed_test import SeedTest
from orchestrator.results.stats import Interval
from orchestrator.sweep.settings import describe_change, differences
from orchestrator.sweep.text import plural
from trm_data.errors import MAX_NAMED, UserError, nearest

SIGNIFICANT = 0.05
Method = Literal["Welch", "paired by seed", "none"]
Bound = Literal["floor of 0 %", "ceiling of 100 %"]
_CHANGES_NAMED = 4
"""Changed settings that are named; another architecture changes many."""


@dataclass(frozen=True, slots=True)
class Published:
    """Hold the TRM paper's result of the same change on Sudoku-Extreme: one run per configuration, without an error
    estimate."""

    system: str
    difference: float
    source: str


@dataclass(frozen=True, slots=True)
class Effect:
    """Hold the comparison of one configuration with the control."""

    name: str
    changes: dict[str, tuple[Any, Any]]
    """Setting path: (control's value, this one's)."""
    seeds: tuple[int, int]
    """Runs of this configuration and of the control."""
    mean: float
    difference: float
    """This configuration minus the control, in points."""
    method: Method
    p_value: float | None = None
    p_adjusted: float | None = None
    """After Holm's correction for all comparisons with this control."""
    comparisons: int = 0
    level: float | None = None
    """Significance level at which Holm's procedure tested this comparison."""
    interval: Interval | None = None
    """Interval of the difference at confidence 1 - level, inside -100..100; None with a single run on a side. It
    excludes zero exactly if the difference is significant."""
    detectable: float | None = None
    """True difference, in points, that these numbers of runs detect with 80 % power at this level; None where even 100
    points would not be detected, and at a bound."""
    seeds_needed: int | None = None
    """Runs of each configuration that detect the difference seen with 80 % power; None above 10,000, and at a bound."""
    compute_saved: float | None = None
    """1 - training FLOPs of this configuration / of the control."""
    published: Published | None = None
    warning: str | None = None
    """Why the test may not hold: seeds that differ widely."""
    bounds: tuple[Bound | None, Bound | None] = (None, None)
    """Bounds at which the runs of this configuration and of the control score: on average less than one puzzle away.
    There the spread over seeds that a difference would have does not show, so that no power is stated."""
    entry: Entry = field(kw_only=True, repr=False)
    """The configuration's row of the leaderboard: scores, intervals, compute, records."""

    @property
    def change(self) -> str:
        """Return what was changed, in words: `T 3 -> 2, ema 0.999 -> 0.0`; empty if no setting differs."""
        made = [(path, *pair) for path, pair in self.changes.items() if path not in _FOLLOWING]
        words = [describe_change(*one) for one in made[:_CHANGES_NAMED]]
        more = [plural(len(made) - _CHANGES_NAMED, "more setting")] if len(made) > _CHANGES_NAMED else []
        return ", ".join([*words, *more])

    @property
    def compute_ratio(self) -> float | None:
        """Return the training FLOPs of this configuration as a share of those of the control."""
        return None if self.compute_saved is None else 1 - self.compute_saved

    @property
    def is_separated(self) -> bool:
        """Return whether the difference is significant after the correction."""
        return self.p_adjusted is not None and self.p_adjusted < SIGNIFICANT

    @property
    def verdict(self) -> str:
        """Return the result in one or two sentences: what was compared, with which test, and what it could detect."""
        if self.p_adjusted is None or self.level is None:
            return "No verdict about the configuration: one of the two has a single run."
        test = "Welch's test over seeds" if self.method == "Welch" else "the paired t test over seeds"
        corrected = f" for {self.comparisons} comparisons" if self.comparisons > 1 else ""
        p_words = f"p {show_p(self.p_adjusted)} by {test}{', Holm' if corrected else ''}{corrected}"
        caution = f" Caution: {self.warning}." if self.warning else ""
        if self.is_separated:
            direction = "above" if self.difference > 0 else "below"
            return f"{abs(self.difference):.1f} points {direction} the control ({p_words}).{caution}"
        return f"Not separated from the control ({p_words}). {self._power}{caution}"

    @property
    def _power(self) -> str:
        own, control = self.bounds
        if own or control:
            who = "Both" if own == control else "It" if own else "The control"
            where = f"{'are' if who == 'Both' else 'is'} at the {own or control}"
            return f"{who} {where}, where seeds do not show their spread: the power is not known."
        if self.detectable is None:
            sentence = "So few seeds detect no difference with 80 % power"
        else:
            sentence = f"A true difference of {self.detectable:.1f} points would be detected with 80 % power"
        if self.seeds_needed is not None and self.seeds_needed > min(self.seeds):
            needed = "the difference seen, if it is the true one"
            return f"{sentence}; about {self.seeds_needed} seeds of each would detect {needed}."
        return f"{sentence}."


class Ablation(NamedTuple):
    """Hold the control and every other configuration of its table, largest loss first."""

    table: Table
    control: Entry
    effects: tuple[Effect, ...]


def _without_numbers(name: str) -> str:
    return re.sub(r"[\d.]+", "0", name)


def configurations(records: Sequence[TrialRecord]) -> set[str]:
    """Return the names of the configurations that have a confirmed result."""
    return {entry.system for table in _tables(records) for entry in table.entries}


def _tables(records: Sequence[TrialRecord]) -> list[Table]:
    return [table for table in build_leaderboard(None, records, []) if table.metric == "exact_accuracy"]


def _but_training(table: Table) -> tuple[str, ...]:
    """Return what two tables share whose training alone differs."""
    return (table.benchmark, table.split, table.metric, table.protocol, table.compute, table.scoring, table.fingerprint)


def compare_with_control(
    records: Sequence[TrialRecord], control: str, *, baselines: Sequence[Baseline] = ()
) -> Ablation:
    """Compare every confirmed configuration with the control that shares its test set.

    Raises:
        UserError: the control has no confirmed result, is in several tables, or is alone in its own.
    """
    tables = _tables(records)
    holding = [table for table in tables if any(entry.system == control for entry in table.entries)]
    if not holding:
        names = configurations(records)
        hint = nearest(control, names) or "No configuration has one yet"
        if _without_numbers(control) in map(_without_numbers, names):  # T=9 is no misspelling of T=1
            hint = f"Known: {', '.join(sorted(names)[:MAX_NAMED])}"
        raise UserError(f"no confirmed result of a configuration {control!r}", hint)
    if len(holding) > 1:
        raise UserError(f"{control!r} was scored on {len(holding)} test sets", "Name one sweep or benchmark")
    table = holding[0]
    first = next(entry for entry in table.entries if entry.system == control)
    # What training started from, or on, is a difference that an effect names.
    same = [each for each in tables if _but_training(each) == _but_training(table)]
    others = [entry for each in same for entry in each.entries if entry is not first]
    if not others:
        raise UserError(f"{control!r} is alone on its test set", "Run another configuration to compare it with")
    effects = _corrected([_effect(entry, first, baselines) for entry in others])
    return Ablation(table, first, tuple(sorted(effects, key=lambda effect: effect.difference)))


def _effect(entry: Entry, control: Entry, baselines: Sequence[Baseline]) -> tuple[Effect, SeedTest | None]:
    """Return the effect and its test, without the fields that depend on the other comparisons."""
    own, base = _own(entry), _own(control)
    test = None
    if min(len(own.scores), len(base.scores)) > 1:
        by_seed = [dict(zip(group.seeds, group.scores, strict=True)) for group in (own, base)]
        test = SeedTest(by_seed[0], by_seed[1], resolution=max(_least_deviation(entry), _least_deviation(control)))
    changes = differences(base.settings, own.settings)
    effect = Effect(
        name=entry.system,
        changes=changes,
        seeds=(len(own.scores), len(base.scores)),
        mean=entry.score,
        difference=entry.score - control.score,
        method=test.method if test else "none",
        p_value=test.compare(SIGNIFICANT).p_value if test else None,
        compute_saved=1 - own.train_flops / base.train_flops if own.train_flops and base.train_flops else None,
        published=published_delta(changes, baselines),
        warning=own.warning or base.warning,
        bounds=(_bound(entry), _bound(control)),
        entry=entry,
    )
    return effect, test


def _bound(entry: Entry) -> Bound | None:
    """Return the bound that the runs of a row are at, on average less than one puzzle away; None elsewhere."""
    if entry.items is None:
        return None
    if entry.solved < 1:
        return "floor of 0 %"
    return "ceiling of 100 %" if entry.items - entry.solved < 1 else None


def _least_deviation(entry: Entry) -> float:
    return 100 * stats.least_deviation([score / 100 for score in _own(entry).scores], entry.items or 1)


def _corrected(effects: list[tuple[Effect, SeedTest | None]]) -> list[Effect]:
    """Add adjusted p values, and all fields that depend on the level of each comparison in Holm's procedure."""
    p_values = [effect.p_value for effect, _ in effects if effect.p_value is not None]
    corrections = zip(stats.holm_levels(p_values, SIGNIFICANT), stats.holm(p_values), strict=True)
    return [
        _at_level(effect, test, *next(corrections), comparisons=len(p_values)) if test else effect
        for effect, test in effects
    ]


def _at_level(effect: Effect, test: SeedTest, level: float, p_adjusted: float, comparisons: int) -> Effect:
    low, high = test.compare(level).interval
    powered = not any(effect.bounds)
    detectable = test.detectable(level) if powered else None
    return replace(
        effect,
        p_adjusted=p_adjusted,
        comparisons=comparisons,
        level=level,
        interval=Interval(max(-100.0, low), min(100.0, high)),
        detectable=detectable if detectable is not None and detectable <= 100 else None,
        seeds_needed=test.seeds_needed(effect.difference, level) if powered else None,
    )


_PAPER_CONTROL = "TRM-MLP T=3 n=6"
_PAPER: tuple[tuple[dict[str, Any], str], ...] = (
    ({"optimizer.ema_rate": 0.0}, "TRM-MLP no EMA"),
    ({"model.mixer": "attention"}, "TRM self-attention"),
    ({"model.gradient": "step"}, "TRM-MLP 1-step gradient"),
    ({"model.shared_network": False}, "TRM-MLP separate fH and fL"),
    ({"model.halting": "continue"}, "TRM-MLP with ACT continue loss"),
    ({"model.num_latents": 0}, "TRM-MLP single z"),
    ({"model.num_layers": 4, "model.latent_steps": 3}, "TRM-MLP 4 layers n=3"),
    ({"model.cycles": 2, "model.latent_steps": 2}, "TRM-MLP T=2 n=2"),
    ({"model.cycles": 1, "model.latent_steps": 2}, "TRM-MLP T=1 n=2"),
    ({"model.cycles": 2, "model.latent_steps": 4}, "TRM-MLP T=2 n=4"),
    ({"model.cycles": 4, "model.latent_steps": 8}, "TRM-MLP T=4 n=8"),
    ({"model.cycles": 6}, "TRM-MLP T=6 n=6"),
)
"""The changes of TRM Tables 1-3 as settings, all against T=3 n=6."""
_PAPER_BEFORE: dict[str, tuple[Any, ...]] = {
    "model.mixer": ("mlp",),
    "model.gradient": (None, "cycle"),
    "model.shared_network": (None, True),
    "model.halting": (None, "sign"),
    "model.num_latents": (1,),
    "model.num_layers": (2,),
    "model.cycles": (3,),
    "model.latent_steps": (6,),
}
"""What the control must have for a change to be the paper's."""
_FOLLOWING = {"model.positions"}
"""Settings that must change along with another and are not a change of their own: the mixer decides the positions."""


def published_delta(changes: dict[str, tuple[Any, Any]], baselines: Sequence[Baseline]) -> Published | None:
    """Return the TRM paper's result for exactly these changes; None if it has none."""
    made = {path: after for path, (_, after) in changes.items() if path not in _FOLLOWING}
    if any(before not in _PAPER_BEFORE.get(path, (before,)) for path, (before, _) in changes.items()):
        return None
    scores = {row.system: row for row in baselines if row.role == "ablation" and row.benchmark == "sudoku-extreme"}
    for wanted, system in _PAPER:
        if made == wanted and system in scores and _PAPER_CONTROL in scores:
            row = scores[system]
            return Published(system, row.score - scores[_PAPER_CONTROL].score, f"{row.source}, {row.detail}")
    return None


def show_p(p_value: float) -> str:
    """Format a p value as `0.032` or `< 0.001`."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _own(entry: Entry) -> Provenance:
    assert entry.own is not None, "an ablation's table holds own rows only"
    return entry.own
