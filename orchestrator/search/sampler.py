"""The next configuration of a search: Optuna asked and told, rebuilt from records at every start.

The study lives in memory and is fed from the records (`optuna_trials`). `Explorer` answers at once; `Ahead` lets a
thread of its own do the same work, for samplers that take a second per suggestion.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
SLOW_SAMPLERS = {"gp"}
"""Samplers that may not keep the scheduler waiting."""
NOTHING_EARLIER = WarmStart()


class Sampler(Protocol):
    """Where a planner gets configurations from."""

    def is_ready(self) -> bool:
        """Whether `suggest` answers at once; asking sets to work what is not ready."""

    def suggest(self) -> PlannedTrial | None:
        """A configuration that is new to this sweep, or None if the space holds no other. Only when ready."""

    def adopt(self, trial: PlannedTrial) -> None:
        """Take up a trial that an earlier driver suggested and that goes on now."""

    def tell(self, record: TrialRecord) -> None:
        """A trial of this search has ended."""


def make_sampler(
    sweep: Sweep, fingerprint: Fingerprint, known: Sequence[TrialRecord], earlier: WarmStart = NOTHING_EARLIER
) -> Sampler:
    """The suggester that the sweep's sampler needs."""
    explorer = Explorer(sweep, fingerprint, known, earlier)
    return Ahead(explorer) if sweep.sampler in SLOW_SAMPLERS else explorer


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

    def is_ready(self) -> bool:
        """Always."""
        return True

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


class Ahead:
    """An explorer whose work is done by a thread of its own, one suggestion ahead, in the order of the calls."""

    def __init__(self, explorer: Explorer) -> None:
        self._explorer = explorer
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="suggest")
        self._next: Future[PlannedTrial | None] | None = None
        self._told: list[Future[None]] = []

    def is_ready(self) -> bool:
        """Whether the next suggestion is made; if nobody works on it yet, somebody does from now on."""
        while self._told and self._told[0].done():
            self._told.pop(0).result()  # raises what the work raised
        if self._next is None:
            self._next = self._worker.submit(self._explorer.suggest)
        return self._next.done()

    def suggest(self) -> PlannedTrial | None:
        """The suggestion that was prepared."""
        assert self._next is not None, "ask is_ready first"
        found = self._next.result()
        self._next = None
        return found

    def adopt(self, trial: PlannedTrial) -> None:
        """Take up a trial that an earlier driver suggested and that goes on now."""
        self._told.append(self._worker.submit(self._explorer.adopt, trial))

    def tell(self, record: TrialRecord) -> None:
        """A trial of this search has ended."""
        self._told.append(self._worker.submit(self._explorer.tell, record))


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
