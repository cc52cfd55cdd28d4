"""Decide which trials are stopped early: pure functions over learning curves, one per rule.

Exact accuracy stays near zero for a third of a run and then jumps, so nothing is stopped before the grace period. If
fewer than half of the trials solve anything, cell accuracy with raw weights is compared instead: it improves earlier,
and averaged weights lag at the start. `benchmarks/stopping.py` measures what each rule saves and loses on real curves.

halving: of the trials seen at a rung, the better share `keep` continues; the rungs lie at grace, grace / keep,
grace / keep^2. A trial counts as better only if it is better by more than the sampling noise of a few hundred puzzles:
during the jump, when every trial improves fast, ranks are noise.
median: a trial is stopped if it was never better than the median of the other trials' averages up to the same step.
patience: a trial is stopped if it has not improved for a share of the run; it is compared with itself alone.
path/to/file.py:function: a function of the user's gets a trial's curve, those of the others by id, and the steps of a
whole run; it returns why the trial is stopped, or None.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from orchestrator.search.own_code import explained
from orchestrator.sweep.definition import Stopping
from trm_data.own_code import load_function


class Rung(NamedTuple):
    """Hold the result of one evaluation."""

    step: int
    exact_accuracy: float
    raw_cell_accuracy: float
    items: int = 0
    """Number of puzzles that were scored; 0 if unknown, and the accuracies count as exact."""


class Decision(NamedTuple):
    """Hold whether to stop a trial, and why."""

    stop: bool
    reason: str = ""


Curve = Sequence[Rung]
"""The evaluations of one trial, oldest first."""
Metric = Literal["exact_accuracy", "raw_cell_accuracy"]
CONTINUE = Decision(False)
MIN_PEERS = 4
"""Trials that must have reached a rung before any is judged there."""
SOLVING = 0.01
"""Exact accuracy from which a trial counts as solving something."""
Z_95 = 1.96
IMPROVEMENT = 0.002
"""Smallest gain in exact accuracy that counts, below the noise of a few hundred puzzles."""


def decide(rule: Stopping, max_steps: int, trial: Curve, others: Mapping[str, Curve]) -> Decision:
    """Decide about a trial at its newest rung.

    Args:
        trial: the trial's rungs so far, oldest first.
        others: the rungs of every other explored trial, by id, stopped and finished ones too.
    """
    if not trial or trial[-1].step < rule.grace * max_steps or trial[-1].step >= max_steps:
        return CONTINUE
    return RULES.get(rule.rule, _own)(rule, max_steps, trial, others)


def _own(rule: Stopping, max_steps: int, trial: Curve, others: Mapping[str, Curve]) -> Decision:
    """Decide by the function that the rule names. Raises ConfigError if it fails."""
    with explained("stopping rule", rule.rule):
        copies = {other: list(rungs) for other, rungs in others.items()}  # the curves themselves stay as they are
        reason = load_function(rule.rule)(list(trial), copies, max_steps)
        if not isinstance(reason, str | None) or reason == "":
            raise TypeError(f"it returned {reason!r}, which is neither a reason nor None")
    return Decision(reason is not None, reason or "")


def _none(rule: Stopping, max_steps: int, trial: Curve, others: Mapping[str, Curve]) -> Decision:
    return CONTINUE


def _halving(rule: Stopping, max_steps: int, trial: Curve, others: Mapping[str, Curve]) -> Decision:
    here = trial[-1]
    if not _is_rung(rule, max_steps, trial):
        return CONTINUE
    peers = [rung for rungs in others.values() for rung in rungs if rung.step == here.step]
    if len(peers) + 1 < MIN_PEERS:
        return CONTINUE
    metric = _judged([*peers, here])
    mine = getattr(here, metric)
    rank = 1 + sum(_is_better(rung, here, metric) for rung in peers)
    allowed = math.ceil(rule.keep * (len(peers) + 1))
    if rank <= allowed:
        return CONTINUE
    worse = f"{rank - 1} of {len(peers)} others are better by {_describe(metric, mine, here)}"
    return Decision(True, f"{worse}; {allowed} of {len(peers) + 1} continue")


def _is_better(one: Rung, other: Rung, metric: Metric) -> bool:
    """Return whether a score exceeds another beyond the 95 % interval of their difference.

    The interval is that of Agresti and Caffo (2000), with a success and a failure added to each sample. Cells of one
    puzzle are correlated, so that the sample size is the number of puzzles for cell accuracy, too.
    """
    a, b = getattr(one, metric), getattr(other, metric)
    if not (one.items and other.items):
        return bool(a > b)
    p, q = ((rate * n + 1) / (n + 2) for rate, n in ((a, one.items), (b, other.items)))
    variance = p * (1 - p) / (one.items + 2) + q * (1 - q) / (other.items + 2)
    return bool(p - q > Z_95 * math.sqrt(variance))


def _is_rung(rule: Stopping, max_steps: int, trial: Curve) -> bool:
    """Return whether the newest evaluation is the first one at or after a rung."""
    if rule.keep == 1 or rule.grace == 0:
        return True
    before = trial[-2].step if len(trial) > 1 else 0
    rung = rule.grace * max_steps
    while rung <= before:
        rung /= rule.keep
    return rung <= trial[-1].step


def _median(rule: Stopping, max_steps: int, trial: Curve, others: Mapping[str, Curve]) -> Decision:
    here = trial[-1]
    reached = [
        [rung for rung in rungs if rung.step <= here.step]
        for rungs in others.values()
        if rungs and rungs[-1].step >= here.step
    ]
    if len(reached) + 1 < MIN_PEERS:
        return CONTINUE
    metric = _judged([here, *(rungs[-1] for rungs in reached)])
    best = max(getattr(rung, metric) for rung in trial)
    middle = statistics.median(statistics.fmean(getattr(rung, metric) for rung in rungs) for rungs in reached)
    if best >= middle:
        return CONTINUE
    said = _describe(metric, best, here)
    return Decision(True, f"below the median of {len(reached)} others ({middle:.3f}): {said} at best")


def _patience(rule: Stopping, max_steps: int, trial: Curve, others: Mapping[str, Curve]) -> Decision:
    here, best = trial[-1], trial[0]
    for rung in trial:
        if rung.exact_accuracy >= best.exact_accuracy + IMPROVEMENT:
            best = rung
    waited = here.step - best.step
    if waited < rule.patience * max_steps:
        return CONTINUE
    return Decision(
        True, f"no gain for {waited} steps: {_describe('exact_accuracy', best.exact_accuracy, here)} at best"
    )


def _judged(rungs: Sequence[Rung]) -> Metric:
    """Choose the metric by which trials are compared at one step."""
    solving = sum(rung.exact_accuracy > SOLVING for rung in rungs)
    return "exact_accuracy" if 2 * solving >= len(rungs) else "raw_cell_accuracy"


def _describe(metric: Metric, value: float, here: Rung) -> str:
    return f"{metric.replace('_', ' ')} ({value:.3f}) at step {here.step}"


RULES: dict[str, Callable[[Stopping, int, Curve, Mapping[str, Curve]], Decision]] = {
    "none": _none,
    "halving": _halving,
    "median": _median,
    "patience": _patience,
}
