"""Suggest the next configuration of a search with Optuna.

The study lives in memory and is rebuilt from the records at every start (`optuna_trials`). A Gaussian process takes
about a second per suggestion; the other samplers take milliseconds.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from orchestrator.records.schema import TrialRecord
from orchestrator.search.objectives import values
from orchestrator.search.optuna_trials import STATES, as_optuna, create_study
from orchestrator.search.own_code import explained
from orchestrator.search.warm_start import WarmStart
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.domains import Choice
from orchestrator.sweep.settings import label
from orchestrator.sweep.space import Cell
from orchestrator.sweep.trials import Fingerprint, PlannedTrial, search_trial
from trm_data.own_code import is_address, load_function
from trm_data.settings import digest

DRAWS = 50
"""Suggestions of known or forbidden cells that are discarded before an unknown cell is drawn at random."""
FEWEST_SOURCES = 10
"""CMA-ES takes its first mean from the best tenth of the earlier trials, which must contain at least one."""
NO_WARM_START = WarmStart()


class Sampler:
    """Suggest configurations that have not been tried, and learn from trials that have ended."""

    def __init__(
        self,
        sweep: Sweep,
        fingerprint: Fingerprint,
        known: Iterable[TrialRecord],
        earlier: WarmStart = NO_WARM_START,
    ) -> None:
        self._sweep = sweep
        self._space = sweep.search_space
        self._fingerprint = fingerprint
        records = list(known)
        results = [as_optuna(record, sweep) for record in (*earlier.known, *records) if record.status.is_final]
        self._study = create_study(sweep, _optuna_sampler(sweep, results))
        self._study.add_trials(results)
        self._open: dict[str, optuna.Trial] = {}
        self._tried = {record.trial_id for record in records}
        self._repeats = len(self._tried) if sweep.sampler == "random" else 0
        """Draws with which a new random sampler first repeats the cells that are known."""
        self._first = list(earlier.first)
        self._rng = random.Random(sweep.sampler_seed)
        self._grid: Iterator[Cell] | None = None
        self._max_cells = self._space.max_cells()

    @property
    def is_exhausted(self) -> bool:
        """Return whether every cell has been tried. Ranges and rare cells show it only in `suggest`."""
        return self._max_cells is not None and len(self._tried) >= self._max_cells

    def suggest(self) -> PlannedTrial | None:
        """Return a configuration that is new to this sweep, or None if the space holds no other."""
        while self._first:
            trial = self._trial(self._first.pop(0))
            if trial.trial_id not in self._tried:
                return self._take(trial)
        draws, self._repeats = DRAWS + self._repeats, 0
        for _ in range(draws):
            with explained("sampler", self._sweep.sampler):
                suggested = self._study.ask()
                settings = _suggest_cell(suggested, self._sweep)
                _require_inside(settings, self._sweep)
            trial = self._trial(settings)
            if trial.trial_id not in self._tried and not self._space.is_forbidden(settings):
                self._tried.add(trial.trial_id)
                self._open[trial.trial_id] = suggested
                return trial
            # A repeated or forbidden cell has no result of its own, so Optuna must not take it for one.
            self._study.tell(suggested, state=TrialState.FAIL)
        return self._untried()

    def _untried(self) -> PlannedTrial | None:
        """Return a cell that the sampler does not suggest: one drawn at random, else the next one of the grid."""
        drawn = filter(None, (self._space.random(self._rng) for _ in range(DRAWS)))
        for settings in drawn:
            trial = self._trial(settings)
            if trial.trial_id not in self._tried:
                return self._take(trial)
        if not self._space.is_countable:
            return None
        if self._grid is None:
            self._grid = self._space.grid()
        for settings in self._grid:  # continues where the last call ended: all cells before have been tried
            trial = self._trial(settings)
            if trial.trial_id not in self._tried:
                return self._take(trial)
        return None

    def _trial(self, settings: Cell) -> PlannedTrial:
        return search_trial(self._sweep, self._fingerprint, label(settings), settings)

    def _take(self, trial: PlannedTrial) -> PlannedTrial:
        self.adopt(trial)
        return trial

    def adopt(self, trial: PlannedTrial) -> None:
        """Take over a trial that an earlier driver suggested and that is now resumed."""
        self._tried.add(trial.trial_id)
        self._study.enqueue_trial(self._space.cell_of(trial.config))
        with explained("sampler", self._sweep.sampler):
            suggested = self._study.ask()
            _suggest_cell(suggested, self._sweep)
        self._open[trial.trial_id] = suggested

    def tell(self, record: TrialRecord) -> None:
        """Learn from a trial of this search that has ended."""
        suggested = self._open.pop(record.trial_id, None)
        if suggested is None:
            return
        if not self._sweep.minimise:  # Optuna has no intermediate values of several objectives
            for step, value in dict(record.curve(self._sweep.metric)).items():  # a resumed trial repeats steps
                suggested.report(value, step)
        state = STATES[record.status]
        scores = values(record, self._sweep) if state is TrialState.COMPLETE else None
        with explained("sampler", self._sweep.sampler):
            self._study.tell(suggested, scores, state=state)


def drawn_cells(sweep: Sweep, most: int) -> list[Cell] | None:
    """Return the cells that a new random search will explore, in order.

    None where they are not known beforehand, because results decide them, or where there are more than `most`.
    """
    if sweep.kind != "search" or sweep.sampler != "random" or sweep.warm_start or (sweep.trials or 0) > most:
        return None
    sampler = Sampler(sweep, lambda request: digest(request.plain()), ())
    trials = itertools.islice(iter(sampler.suggest, None), sweep.trials)
    return [sweep.search_space.cell_of(trial.config) for trial in trials]


def _suggest_cell(suggested: optuna.Trial, sweep: Sweep) -> Cell:
    """Let Optuna choose a value of every active axis; which ones are active may depend on the axes before."""
    cell, space = Cell(), sweep.search_space
    for path, domain in sweep.space.items():
        if not space.is_active(path, cell):
            continue
        value: bool | int | float | str | None
        if isinstance(domain, Choice):
            value = suggested.suggest_categorical(path, _scalars(domain))
        elif domain.integer:
            step = int(domain.step or 1)
            value = suggested.suggest_int(path, int(domain.low), int(domain.high), log=domain.log, step=step)
        else:
            number = suggested.suggest_float(path, domain.low, domain.high, log=domain.log, step=domain.step)
            value = number if domain.step is None else domain.snapped(number)
        cell[path] = value
    return cell


def _require_inside(cell: Cell, sweep: Sweep) -> None:
    """Raise ValueError for a value of the user's own sampler that the space does not hold; Optuna does not look."""
    for path, value in cell.items() if is_address(sweep.sampler) else ():
        if not sweep.space[path].holds(value):
            raise ValueError(f"it chose {path}={value!r}, which is outside of the space")


def _scalars(domain: Choice) -> tuple[bool | int | float | str | None, ...]:
    """Return the values of an axis; a search has no lists among them, which `Sweep` checks."""
    return tuple(value for value in domain.values if not isinstance(value, tuple))


def _optuna_sampler(sweep: Sweep, results: Sequence[FrozenTrial]) -> BaseSampler:
    seed = sweep.sampler_seed
    # A third of a small search is drawn at random; with Optuna's default of 10 the model would choose none.
    startup = max(4, min(10, (sweep.trials or 10) // 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the interfaces may change, and Optuna is pinned
        match sweep.sampler:
            case "random":
                return RandomSampler(seed=seed)
            case "qmc":
                return QMCSampler(seed=seed, warn_independent_sampling=False)
            case "cmaes":
                # Its state is not stored: a new driver starts it from the results of earlier ones.
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
            case _:
                return _own_sampler(sweep.sampler, seed)


def _own_sampler(address: str, seed: int) -> BaseSampler:
    """Return what the user's function makes of a seed. Raises ConfigError if it fails or makes no sampler."""
    with explained("sampler", address):
        made = load_function(address)(seed)
        if not isinstance(made, BaseSampler):
            raise TypeError(f"it returned {made!r}, which is no optuna.samplers.BaseSampler")
    return made
