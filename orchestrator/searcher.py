"""The next configuration of a search: Optuna asked and told, rebuilt from records at every start.

The study lives in memory and is fed from the records: an early-stopped trial is PRUNED with its steps, a diverged one
FAIL, so that the sampler never takes a low-fidelity value for a final one.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Iterable

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from orchestrator.errors import SweepError
from orchestrator.plan import Fingerprint, PlannedTrial, explored
from orchestrator.record import Status, TrialRecord
from orchestrator.sweep import Choice, Domain, Sweep, Value, get_setting, label

optuna.logging.set_verbosity(optuna.logging.WARNING)

DRAWS = 50
"""Suggestions of known cells that are thrown away before an unknown cell is drawn at random."""

STATES = {
    Status.FINISHED: TrialState.COMPLETE,
    Status.STOPPED: TrialState.PRUNED,
    Status.DIVERGED: TrialState.FAIL,
    Status.FAILED: TrialState.FAIL,
    Status.OUT_OF_MEMORY: TrialState.FAIL,
}


class Explorer:
    """Suggests configurations that have not been tried, and learns from those that have."""

    def __init__(self, sweep: Sweep, fingerprint: Fingerprint, known: Iterable[TrialRecord]) -> None:
        self._sweep = sweep
        self._fingerprint = fingerprint
        self._space = {path: distribution(domain) for path, domain in sweep.space.items()}
        self._study = optuna.create_study(direction="maximize", sampler=_sampler(sweep))
        self._open: dict[str, optuna.Trial] = {}
        self._tried: set[str] = set()
        for record in known:
            self._tried.add(record.trial_id)
            if record.status.is_final:
                self._study.add_trial(as_optuna(record, sweep))

    def suggest(self) -> PlannedTrial | None:
        """A configuration that is new to this sweep, or None if the space holds no other."""
        for _ in range(DRAWS):
            asked = self._study.ask(self._space)
            settings: dict[str, Value] = dict(asked.params)
            trial = explored(self._sweep, self._fingerprint, label(settings), settings)
            if trial.trial_id not in self._tried:
                self._tried.add(trial.trial_id)
                self._open[trial.trial_id] = asked
                return trial
            # Told as a failure and not as a result: a duplicate has nothing new to say.
            self._study.tell(asked, state=TrialState.FAIL)
        return self._first_untried()

    def _first_untried(self) -> PlannedTrial | None:
        for settings in _shuffled_cells(self._sweep):
            trial = explored(self._sweep, self._fingerprint, label(settings), settings)
            if trial.trial_id not in self._tried:
                self._tried.add(trial.trial_id)
                self.adopt(trial)
                return trial
        return None

    def adopt(self, trial: PlannedTrial) -> None:
        """Take up a trial that an earlier driver suggested and that goes on now."""
        settings = {path: get_setting(trial.config, path) for path in self._space}
        self._study.enqueue_trial(settings)
        self._open[trial.trial_id] = self._study.ask(self._space)

    def tell(self, record: TrialRecord) -> None:
        """A trial of this search has ended."""
        asked = self._open.pop(record.trial_id, None)
        if asked is None:
            return
        for step, value in record.curve(self._sweep.metric):
            asked.report(value, step)
        state = STATES[record.status]
        value = final_value(record, self._sweep.metric)
        self._study.tell(asked, value if state is TrialState.COMPLETE else None, state=state)


def _shuffled_cells(sweep: Sweep) -> list[dict[str, Value]]:
    """Every cell of a space of choices in a seeded order; none where a range makes the cells uncountable."""
    domains = sweep.space.values()
    if not all(isinstance(domain, Choice) for domain in domains):
        return []
    grid = itertools.product(*(domain.values for domain in domains if isinstance(domain, Choice)))
    found = [dict(zip(sweep.space, values, strict=True)) for values in grid]
    random.Random(sweep.sampler_seed).shuffle(found)
    return found


def final_value(record: TrialRecord, metric: str) -> float:
    """The final score of a finished trial, else the last value of its curve (minus infinity if there is none).

    Raises:
        SweepError: a finished trial does not measure `metric`.
    """
    if record.result is not None:
        metrics = record.result["metrics"]
        if metric not in metrics:
            raise SweepError(f"trials do not measure {metric!r}", f"Known: {', '.join(sorted(metrics))}")
        return float(metrics[metric])
    curve = record.curve(metric)
    return curve[-1][1] if curve else float("-inf")


def as_optuna(record: TrialRecord, sweep: Sweep) -> optuna.trial.FrozenTrial:
    """A final record as a trial of an Optuna study, with the ids that join them."""
    state = STATES[record.status]
    return optuna.create_trial(
        state=state,
        value=final_value(record, sweep.metric) if state is TrialState.COMPLETE else None,
        params={path: get_setting(record.config, path) for path in sweep.space},
        distributions={path: distribution(domain) for path, domain in sweep.space.items()},
        intermediate_values=dict(record.curve(sweep.metric)),
        user_attrs={"trial_id": record.trial_id, "status": str(record.status)},
    )


def distribution(domain: Domain) -> BaseDistribution:
    """A domain in Optuna's terms."""
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def _sampler(sweep: Sweep) -> BaseSampler:
    seed = sweep.sampler_seed
    match sweep.sampler:
        case "random":
            return RandomSampler(seed=seed)
        case "qmc":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)  # its interface may change; its points do not
                return QMCSampler(seed=seed, warn_independent_sampling=False)
        case "tpe":
            # A third of a small search is drawn at random; Optuna's own default of 10 would leave TPE no say.
            startup = max(4, min(10, (sweep.trials or 10) // 3))
            return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)
