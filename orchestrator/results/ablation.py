"""What a change does: configurations against a control, with verdicts that claim no more than the seeds show.

The unit is the training run. Groups are compared with Welch's test, or paired by seed where both ran the same seeds and
these visibly move together; p values are corrected for the number of comparisons (Holm). All scores are percentages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from orchestrator.records.schema import TrialRecord
from orchestrator.results import stats
from orchestrator.results.baselines import Baseline
from orchestrator.results.leaderboard import Entry, Provenance, Table, build_leaderboard
from orchestrator.results.stats import Interval
from orchestrator.sweep.settings import differences
from trm_data.errors import UserError, nearest

SIGNIFICANT = 0.05
PAIRED_SEEDS = 8
PAIRED_CORRELATION = 0.7
"""Fewest common seeds, and least correlation over them, for a paired test. Choosing the test by a look at the data
raises false alarms: 6 seeds and 0.5 gave 6.4 % instead of 5 in 40,000 simulated pairs of equal groups; this gives 5.2.
"""


@dataclass(frozen=True, slots=True)
class Published:
    """The same change in the TRM paper: on Sudoku-Extreme, one run a side, no error known."""

    system: str
    difference: float
    source: str


@dataclass(frozen=True, slots=True)
class Effect:
    """One configuration against the control."""

    name: str
    changes: dict[str, tuple[Any, Any]]
    """Setting path: (control's value, this one's)."""
    seeds: tuple[int, int]
    """Runs of this configuration and of the control."""
    mean: float
    difference: float
    """This configuration minus the control, in points."""
    interval: Interval | None
    """95 % interval of the difference; None with a single run on a side."""
    p_value: float | None
    p_adjusted: float | None
    method: Literal["Welch", "paired by seed", "none"]
    detectable: float | None
    """Smallest true difference, in points, that this many runs would have shown 4 times in 5."""
    seeds_needed: int | None
    """Runs a side that would show the difference seen, if it is the true one; None above 10,000."""
    compute_saved: float | None
    """1 - training FLOPs of this configuration / of the control."""
    published: Published | None

    @property
    def is_separated(self) -> bool:
        """Whether the data tell it from the control after the correction."""
        return self.p_adjusted is not None and self.p_adjusted < SIGNIFICANT

    @property
    def verdict(self) -> str:
        """The finding in words."""
        if self.p_adjusted is None:
            return "One run on a side: no verdict about the configuration."
        direction = "above" if self.difference > 0 else "below"
        if self.is_separated:
            return f"{abs(self.difference):.1f} points {direction} the control (adjusted p {show_p(self.p_adjusted)})."
        runs = f"{min(self.seeds)} seeds cannot separate these"
        if self.seeds_needed is not None and self.seeds_needed > min(self.seeds):
            return f"{runs}; {self.seeds_needed} would, if the true difference is the one seen."
        return f"{runs}; a true difference of {self.detectable:.1f} points would have shown 4 times in 5."


class Ablation(NamedTuple):
    """The control and every other configuration of its table, largest loss first."""

    table: Table
    control: Entry
    effects: tuple[Effect, ...]


def ablate(
    records: Sequence[TrialRecord], control: str, *, baselines: Sequence[Baseline] = (), metric: str = "exact_accuracy"
) -> Ablation:
    """Compare every confirmed configuration with the control that shares its test set.

    Raises:
        UserError: the control has no confirmed result, stands in several tables, or is alone in its own.
    """
    tables = [table for table in build_leaderboard(None, records, []) if table.metric == metric]
    names = {entry.system for table in tables for entry in table.entries}
    holding = [table for table in tables if any(entry.system == control for entry in table.entries)]
    if not holding:
        raise UserError(f"no confirmed result of a configuration {control!r}", nearest(control, names))
    if len(holding) > 1:
        raise UserError(f"{control!r} was scored on {len(holding)} test sets", "Name one sweep or benchmark")
    table = holding[0]
    first = next(entry for entry in table.entries if entry.system == control)
    others = [entry for entry in table.entries if entry is not first]
    if not others:
        raise UserError(f"{control!r} is alone on its test set", "Run another configuration to compare it with")
    effects = _corrected([_effect(entry, first, baselines) for entry in others])
    return Ablation(table, first, tuple(sorted(effects, key=lambda effect: effect.difference)))


def _effect(entry: Entry, control: Entry, baselines: Sequence[Baseline]) -> Effect:
    own, base = _own(entry), _own(control)
    changes = differences(base.settings, own.settings)
    resolution = 100 / min(entry.items or 1, control.items or 1)
    comparison, method = _compare(own, base, resolution)
    spread = max(stats.pooled_spread(own.scores, base.scores), resolution)
    fewest = min(len(own.scores), len(base.scores))
    return Effect(
        name=entry.system,
        changes=changes,
        seeds=(len(own.scores), len(base.scores)),
        mean=entry.score,
        difference=entry.score - control.score,
        interval=comparison.interval if comparison else None,
        p_value=comparison.p_value if comparison else None,
        p_adjusted=None,
        method=method,
        detectable=stats.detectable_effect(spread, fewest) if fewest > 1 else None,
        seeds_needed=stats.seeds_needed(entry.score - control.score, spread),
        compute_saved=1 - own.train_flops / base.train_flops if own.train_flops and base.train_flops else None,
        published=published_delta(changes, baselines),
    )


def _compare(
    own: Provenance, base: Provenance, resolution: float
) -> tuple[stats.Comparison | None, Literal["Welch", "paired by seed", "none"]]:
    if min(len(own.scores), len(base.scores)) < 2:
        return None, "none"
    common = sorted(set(own.seeds) & set(base.seeds))
    if len(common) == len(own.seeds) == len(base.seeds) >= PAIRED_SEEDS:
        first, second = ([dict(zip(g.seeds, g.scores, strict=True))[s] for s in common] for g in (own, base))
        # Two groups without spread have no correlation; Welch's test handles them with its resolution.
        if min(np.ptp(first), np.ptp(second)) > 0 and np.corrcoef(first, second)[0, 1] >= PAIRED_CORRELATION:
            return stats.paired(first, second), "paired by seed"
    return stats.welch(own.scores, base.scores, resolution=resolution), "Welch"


def _corrected(effects: list[Effect]) -> list[Effect]:
    tested = [effect for effect in effects if effect.p_value is not None]
    adjusted = iter(stats.holm([effect.p_value for effect in tested if effect.p_value is not None]))
    return [replace(e, p_adjusted=next(adjusted)) if e.p_value is not None else e for e in effects]


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
"""Settings that must change along with another and are no change of their own: the mixer decides the positions."""


def published_delta(changes: dict[str, tuple[Any, Any]], baselines: Sequence[Baseline]) -> Published | None:
    """The TRM paper's figure for exactly these changes, if it has one."""
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
    """`0.032`, `< 0.001`."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


class CheckpointComparison(NamedTuple):
    """Two checkpoints on the same puzzles: a statement about these two runs, not about their configurations."""

    items: int
    only_first: int
    only_second: int
    p_value: float
    """McNemar's exact test."""
    interval: Interval
    """Paired bootstrap of the difference in points, 95 %."""

    @property
    def words(self) -> str:
        """The finding, labelled as what it is."""
        difference = 100 * (self.only_first - self.only_second) / self.items
        error = f"{self.interval.low:+.1f} to {self.interval.high:+.1f}, McNemar p {show_p(self.p_value)}"
        return (
            f"These two checkpoints: {difference:+.1f} points on {self.items:,} shared puzzles ({error}). "
            "It says nothing about other seeds."
        )


def compare_checkpoints(
    first: TrialRecord, second: TrialRecord, rng: np.random.Generator, resamples: int = 5_000
) -> CheckpointComparison:
    """Item by item, for two finished trials scored on the same puzzles.

    Raises:
        UserError: one is not finished, or they were scored on other puzzles.
    """
    from trm_model.evaluation.outcomes import unpack_items  # imports numba and pyarrow, which nothing else here needs

    results = []
    for record in (first, second):
        if record.result is None or record.result.per_item is None:
            raise UserError(f"trial {record.trial_id} has no outcome per puzzle", "Only finished trials have one")
        puzzles = (record.result.split, record.result.items, record.dataset.fingerprint)
        results.append((puzzles, unpack_items(record.result.per_item, record.result.items)))
    if results[0][0] != results[1][0]:
        raise UserError(
            f"trials {first.trial_id} and {second.trial_id} were scored on different puzzles",
            "Name two that share them",
        )
    one, two = (answers for _, answers in results)
    gains = 100 * (one.astype(float) - two.astype(float))
    return CheckpointComparison(
        items=len(one),
        only_first=int(np.sum(one & ~two)),
        only_second=int(np.sum(~one & two)),
        p_value=stats.mcnemar(one, two),
        interval=stats.bootstrap_mean(gains, rng, resamples=resamples),
    )


def _own(entry: Entry) -> Provenance:
    assert entry.own is not None, "an ablation's table holds own rows only"
    return entry.own
