"""Estimate how much of the spread of scores each setting explains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from orchestrator.results.report.forest import Setting, main_effects
from orchestrator.results.report.views import TrialView, Value, sort_values

MIN_TRIALS = 8
"""Below this a variance decomposition says nothing."""
BOOTSTRAPS = 12
"""Few, because each takes half as long as the estimate itself."""
BOOTSTRAP_TRIALS = 60
"""With more trials the shares are steady, and bootstraps would take seconds."""
MAX_TRIALS = 160
"""A forest takes half a second with this many, which are chosen evenly."""


class Importance(NamedTuple):
    """Hold shares that sum to 1, and how they were computed."""

    shares: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """90 % ranges of the shares over bootstrap samples of the trials; empty above `BOOTSTRAP_TRIALS` trials."""
    evaluator: str
    trials: int


def importances(trials: Sequence[TrialView], varied: Sequence[str], seed: int = 0) -> Importance | None:
    """Return fANOVA shares of the varied settings over complete trials; None with too few trials or no spread."""
    complete = [trial for trial in trials if trial.complete and trial.score is not None]
    usable = [name for name in varied if len({trial.settings[name] for trial in complete}) > 1]
    if len(complete) < MIN_TRIALS or not usable or len({trial.score for trial in complete}) == 1:
        return None
    chosen = [complete[int(index)] for index in np.linspace(0, len(complete) - 1, min(len(complete), MAX_TRIALS))]
    shares = _fanova(chosen, usable, seed)
    ordered = dict(sorted(shares.items(), key=lambda item: -item[1]))
    return Importance(ordered, _intervals(chosen, usable, shares, seed), "fANOVA", len(chosen))


def _intervals(
    trials: Sequence[TrialView], names: Sequence[str], shares: dict[str, float], seed: int
) -> dict[str, tuple[float, float]]:
    """Return 90 % ranges of the shares over bootstrap samples; a sample without any spread is skipped."""
    if len(trials) > BOOTSTRAP_TRIALS:
        return {}
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [share] for name, share in shares.items()}
    for _ in range(BOOTSTRAPS):
        sample = [trials[index] for index in rng.integers(0, len(trials), len(trials))]
        varied = [name for name in names if len({trial.settings[name] for trial in sample}) > 1]
        if not varied or len({trial.score for trial in sample}) == 1:
            continue
        drawn = _fanova(sample, varied, seed, trees=12)
        for name in names:
            found[name].append(drawn.get(name, 0.0))
    low_high = {name: np.quantile(values, [0.05, 0.95]) for name, values in found.items()}
    return {name: (float(low), float(high)) for name, (low, high) in low_high.items()}


def _fanova(trials: Sequence[TrialView], names: Sequence[str], seed: int, trees: int = 24) -> dict[str, float]:
    """Return the main effects of the settings, scaled to sum to 1."""
    values: dict[str, list[Value]] = {name: sort_values({t.settings[name] for t in trials}) for name in names}
    position = {name: {value: index for index, value in enumerate(values[name])} for name in names}
    settings = [Setting(len(values[n]), all(type(v) in (int, float) for v in values[n])) for n in names]
    codes = np.array([[position[name][trial.settings[name]] for name in names] for trial in trials])
    scores = np.array([trial.score for trial in trials], float)
    shares = main_effects(codes, scores, settings, trees, seed)
    total = sum(shares)
    return {name: share / total if total else 0.0 for name, share in zip(names, shares, strict=True)}
