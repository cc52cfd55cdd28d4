"""Whether a trial goes on: pure functions over curves.

Exact accuracy stays near zero for a third of a run and then jumps, so a rung before the grace period stops nothing, and
a rung at which fewer than half of the trials solve anything judges cell accuracy with raw weights: it moves earlier,
and the averaged weights lag at the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orchestrator.sweep import Stopping


class Rung(NamedTuple):
    """What one evaluation said."""

    step: int
    exact_accuracy: float
    raw_cell_accuracy: float


class Decision(NamedTuple):
    """`stop` and, in words, why."""

    stop: bool
    reason: str = ""


GO_ON = Decision(False)
MIN_PEERS = 4
"""Trials that must have reached a rung before anybody is judged there."""


def decide(rule: Stopping, max_steps: int, trial: Sequence[Rung], others: Mapping[str, Sequence[Rung]]) -> Decision:
    """Judge a trial at its newest rung against the trials that have been at the same step.

    Args:
        trial: the trial's rungs so far, oldest first.
        others: the rungs of every other explored trial, by id, stopped and finished ones too.
    """
    if rule.rule == "none" or not trial:
        return GO_ON
    here = trial[-1]
    if here.step < rule.grace * max_steps or here.step >= max_steps:
        return GO_ON
    peers = [rung for rungs in others.values() for rung in rungs if rung.step == here.step]
    if len(peers) + 1 < MIN_PEERS:
        return GO_ON
    solving = sum(rung.exact_accuracy > 0.01 for rung in [*peers, here])
    metric = "exact_accuracy" if 2 * solving >= len(peers) + 1 else "raw_cell_accuracy"
    mine = getattr(here, metric)
    rank = 1 + sum(getattr(rung, metric) > mine for rung in peers)
    allowed = math.ceil(rule.keep * (len(peers) + 1))
    if rank <= allowed:
        return GO_ON
    words = metric.replace("_", " ")
    return Decision(
        True, f"rank {rank} of {len(peers) + 1} by {words} ({mine:.3f}) at step {here.step}; {allowed} go on"
    )
