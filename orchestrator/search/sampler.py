"""Choose the next configuration of a search with an Optuna study that is rebuilt from records at every start.

The study lives in memory and is fed from the records (`optuna_trials`). A suggestion takes milliseconds, or a second
with a Gaussian process: callers make it outside of their locks (`Planner.suggest`).
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Sequence
from typing import Protocol

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from orchestrator.records.schema import TrialRecord
from orchestrator.search.objectives import values
from orchestrator.search.optuna_trials import STATES, as_optuna, create_study
from orchestrator.search.warm_start import WarmStart
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.domains import Choice, Value
from orchestrator.sweep.settings import label
from orchestrator.sweep.space import Cell, drawn_settings, grid, is_active, is_countable, is_forbidden, random_cell
from orchestrator.sweep.trials import Fingerprint, PlannedTrial, search_trial

DRAWS = 50
"""Suggestions of known or forbidden cells that are thrown away before an unknown one is drawn at random."""
FEWEST_SOURCES = 10
"""CMA-ES takes its first mean from the best tenth of what it is given, which must hold one."""
NOTHING_EARLIER = WarmStart()


class Sampler(Protocol):
    """Where a planner gets configurations from."""

    def suggest(self) -> PlannedTrial | None:
        """Return a configuration that is new to this sweep, or None if the space holds no other."""

    def adopt(self, trial: PlannedTrial) -> None:
        """Take up a trial that an earlier driver suggested and that continues now."""

    def tell(self, record: TrialRecord) -> None:
        """Take in the result of a trial of this search."""


def make_sampler(
    sweep: Sweep, fingerprint: Fingerprint, known: Sequence[TrialRecord], earlier: WarmStart = NOTHING_EARLIER
) -> Sampler:
    """Return the sampler that the sweep asks for, with what is known taken in."""
    return Explorer(sweep, fingerprint, known, earlier)


class Explorer:
    """Suggests configurations that have not been tried, and learns from those that have."""

    def __init__(
        self,
        sweep: Sweep,
        fingerprint: Fingerprint,
        known: Iterable[TrialRecord],
        earlier: WarmStart = NOTHING_EARLIER,
    ) -> None:
        self._sweep = sweep
        self._fingerprint = fingerprint
        records = list(known)
        results = [as_optuna(record, sweep) for record in (*earlier.known, *records) if record.status.is_final]
        self._study = create_study(sweep, _sampler(sweep, results))
        self._study.add_trials(results)
        self._open: dict[str, optuna.Trial] = {}
        self._tried = {record.trial_id for record in records}
        self._first = list(earlier.first)
        self._rng = random.Random(sweep.sampler_seed)
        self._cells: list[Cell] | None = None

    def suggest(self) -> PlannedTrial | None:
        """A configuration that is new to this sweep, or None if the space holds no other."""
        while self._first:
            trial = self._trial(self._first.pop(0))
            if trial.trial_id not in self._tried:
                return self._take(trial)
        for _ in range(DRAWS):
            asked = self._study.ask()
            settings = _draw(asked, self._sweep)
            trial = self._trial(settings)
            if trial.trial_id not in self._tried and not is_forbidden(self._sweep, settings):
                self._tried.add(trial.trial_id)
                self._open[trial.trial_id] = asked
                return trial
            # Told as a failure and not as a result: it has nothing new to say.
            self._study.tell(asked, state=TrialState.FAIL)
        return self._untried()

    def _untried(self) -> PlannedTrial | None:
        """A cell that the sampler would not come to: any of a countable space, one drawn at random from another."""
        if is_countable(self._sweep):
            if self._cells is None:
                self._cells = grid(self._sweep)
                self._rng.shuffle(self._cells)
            found = iter(self._cells)
        else:
            found = iter(filter(None, [random_cell(self._sweep, self._rng) for _ in range(DRAWS)]))
        for settings in found:
            trial = self._trial(settings)
            if trial.trial_id not in self._tried:
                return self._take(trial)
        return None

    def _trial(self, settings: Cell) -> PlannedTrial:
        return search_trial(self._sweep, self._fingerprint, label(settings), settings)

    def _take(self, trial: PlannedTrial) -> PlannedTrial:
        self._tried.add(trial.trial_id)
        self.adopt(trial)
        return trial

    def adopt(self, trial: PlannedTrial) -> None:
        """Take up a trial that an earlier driver suggested and that goes on now."""
        self._study.enqueue_trial(drawn_settings(self._sweep, trial.config))
        asked = self._study.ask()
        _draw(asked, self._sweep)
        self._open[trial.trial_id] = asked

    def tell(self, record: TrialRecord) -> None:
        """A trial of this search has ended."""
        asked = self._open.pop(record.trial_id, None)
        if asked is None:
            return
        if not self._sweep.minimise:  # Optuna knows no curves of several values
            for step, value in record.curve(self._sweep.metric):
                asked.report(value, step)
        state = STATES[record.status]
        self._study.tell(asked, values(record, self._sweep) if state is TrialState.COMPLETE else None, state=state)


def _draw(asked: optuna.Trial, sweep: Sweep) -> Cell:
    """Let Optuna choose every axis that counts; which ones do may follow from those before."""
    found: Cell = {}
    for path, domain in sweep.space.items():
        if not is_active(sweep, path, found):
            continue
        value: Value
        if isinstance(domain, Choice):
            value = asked.suggest_categorical(path, domain.values)
        elif domain.integer:
            value = asked.suggest_int(path, int(domain.low), int(domain.high), log=domain.log)
        else:
            value = asked.suggest_float(path, domain.low, domain.high, log=domain.log)
        found[path] = value
    return found


def _sampler(sweep: Sweep, results: Sequence[FrozenTrial]) -> BaseSampler:
    seed = sweep.sampler_seed
    # A third of a small search is drawn at random; Optuna's own default of 10 would leave a model no say.
    startup = max(4, min(10, (sweep.trials or 10) // 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # interfaces may change; Optuna is pinned
        match sweep.sampler:
            case "random":
                return RandomSampler(seed=seed)
            case "qmc":
                return QMCSampler(seed=seed, warn_independent_sampling=False)
            case "cmaes":
                # Its own state dies with the driver: a new one starts from what the earlier ones found.
                complete = [trial for trial in results if trial.state is TrialState.COMPLETE]
                return CmaEsSampler(
                    seed=seed,
                    n_startup_trials=startup,
                    warn_independent_sampling=False,
                    source_trials=complete if len(complete) >= FEWEST_SOURCES and not sweep.only_if else None,
                )
            case "gp":
                return GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
            case "tpe":
                is_conditional = bool(sweep.only_if)
                return TPESampler(
                    seed=seed,
                    n_startup_trials=startup,
                    multivariate=not sweep.minimise,
                    group=is_conditional and not sweep.minimise,
                    constant_liar=True,
                )
