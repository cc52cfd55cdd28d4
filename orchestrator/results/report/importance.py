"""How much of the spread of scores each setting explains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from orchestrator.results.report.views import TrialView, Value, sort_values

MIN_TRIALS = 8
"""Below this a variance decomposition says nothing."""
MAX_TRIALS = 160
"""fANOVA's cost grows faster than the number of trials; so many, evenly chosen, take a third of a second."""


class Importance(NamedTuple):
    """Shares that sum to 1, and how they came about."""

    shares: dict[str, float]
    evaluator: str
    trials: int


def importances(trials: Sequence[TrialView], varied: Sequence[str], seed: int = 0) -> Importance | None:
    """fANOVA shares of the varied settings over complete trials; None with too few trials or no spread at all."""
    complete = [trial for trial in trials if trial.complete and trial.score is not None]
    usable = [name for name in varied if len({trial.settings[name] for trial in complete}) > 1]
    if len(complete) < MIN_TRIALS or not usable or len({trial.score for trial in complete}) == 1:
        return None
    chosen = [complete[int(index)] for index in np.linspace(0, len(complete) - 1, min(len(complete), MAX_TRIALS))]
    shares = _fanova(chosen, usable, seed)
    ordered = dict(sorted(shares.items(), key=lambda item: -item[1]))
    return Importance(ordered, "fANOVA (Optuna)", len(chosen))


def _silent_study() -> Any:
    """A study in memory, without the line that Optuna writes to the terminal for each new one."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(direction="maximize")
    finally:
        optuna.logging.set_verbosity(before)


def _fanova(trials: Sequence[TrialView], names: Sequence[str], seed: int) -> dict[str, float]:
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    values: dict[str, list[Value]] = {name: sort_values({t.settings[name] for t in trials}) for name in names}
    numeric = {name for name in names if all(type(v) in (int, float) for v in values[name])}
    space: dict[str, optuna.distributions.BaseDistribution] = {}
    for name in names:
        if name in numeric:
            low, high = float(str(values[name][0])), float(str(values[name][-1]))
            space[name] = FloatDistribution(low, high)
        else:
            space[name] = CategoricalDistribution(tuple(values[name]))
    study = _silent_study()
    for trial in trials:
        params = {n: float(str(v)) if n in numeric else v for n, v in trial.settings.items() if n in space}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=trial.score))
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=24, seed=seed)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}
