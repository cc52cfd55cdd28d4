"""Decide which trial starts next, from records alone, so that a new driver continues where the last one ended.

Order: trials that an earlier driver left unfinished; then a study's cells, or a search's explored configurations; then
the controls (they need no result of the search, so they fill the slots while its last trials end); then the best.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.records.schema import Status, TrialRecord
from orchestrator.search import objectives
from orchestrator.search.early_stopping import Decision, Rung, decide
from orchestrator.search.learner import learner, planned_of
from orchestrator.search.order import Order, Recorded
from orchestrator.search.sampler import NO_WARM_START
from orchestrator.search.warm_start import WarmStart
from orchestrator.sweep.definition import BEST_PREFIX, Sweep
from orchestrator.sweep.settings import label
from orchestrator.sweep.trials import (
    Fingerprint,
    PlannedTrial,
    confirm_trials,
    control_trials,
    count_explored,
    count_trials,
    study_trials,
)


@dataclass
class TrialState:
    """Hold one trial as the driver knows it."""

    trial: PlannedTrial
    status: Status = Status.PENDING
    step: int = 0
    value: float | None = None
    """Newest value of the sweep's metric."""
    record: TrialRecord | None = None
    """As it was when the driver started: its rows are read when a decision needs them."""
    _rungs: list[Rung] | None = None

    @property
    def rungs(self) -> list[Rung]:
        """Return the evaluations so far."""
        if self._rungs is None:
            self._rungs = [] if self.record is None else rungs_of(self.record)
        return self._rungs

    def add(self, rung: Rung) -> None:
        """Add an evaluation; it replaces those at its step and later."""
        self._rungs = [known for known in self.rungs if known.step < rung.step] + [rung]
        self.step = rung.step


class Planner:
    """Hold the state of a sweep, rebuilt from records. Decide what starts next and what stops early."""

    def __init__(
        self,
        sweep: Sweep,
        fingerprint: Fingerprint,
        records: Iterable[TrialRecord],
        earlier: WarmStart = NO_WARM_START,
        excluded: Iterable[str] = (),
        order: Order | None = None,
        replay: Recorded | None = None,
    ) -> None:
        """Rebuild the state of a sweep.

        Args:
            excluded: ids of trials that are planned, and do not run because their records are damaged.
            order: what earlier drivers recorded of this search; it is continued.
            replay: what is to be repeated.
        """
        self.sweep = sweep
        self.trials: dict[str, TrialState] = {}
        self._found_nothing = False
        """Whether the sampler has found no further configuration."""
        self._excluded = set(excluded)
        self._fingerprint = fingerprint
        self._ended: list[TrialRecord] = []
        """Ended trials of the explore stage, among which the best are chosen."""
        self._running: set[str] = set()
        known = list(records)
        explored = [record for record in known if record.stage == "explore"]
        self._num_explored = len(explored)
        self._most_explored = count_explored(sweep)
        self.order = Order() if order is None else order
        self._learner = learner(sweep, fingerprint, explored, earlier, self.order, replay)
        self._queue: deque[PlannedTrial] = deque()
        self._adopt(known)
        is_study = sweep.kind == "study"
        self._cells = study_trials(sweep, fingerprint) if is_study else iter(())
        """Trials of a study that have yet to be expanded: there may be millions."""
        self._num_cells_left = count_trials(sweep) if is_study else 0
        self._recorded_ahead = set(self.trials) if is_study else set()
        """Trials with a record that the expansion has yet to reach."""
        self._fill()
        self._has_chosen = is_study
        """Whether every trial is known or counted: those of a study, or of a search whose best are queued."""
        self._queue_confirm()

    @property
    def total(self) -> int:
        """Return how many trials the sweep will have in the end."""
        if self._has_chosen:
            num_queued = sum(trial.trial_id not in self.trials for trial in self._queue)
            return len(self.trials) + num_queued + max(0, self._num_cells_left - len(self._recorded_ahead))
        confirm = self.sweep.confirm
        explore = self._num_explored if self.exhausted else max(self._num_explored, self._most_explored)
        return explore + confirm.seeds * (len(confirm.controls) + confirm.top)

    @property
    def exhausted(self) -> bool:
        """Return whether the space of a search holds no further configuration."""
        return self._found_nothing or (self.sweep.kind == "search" and self._learner.is_exhausted)

    @property
    def is_done(self) -> bool:
        """Return whether no trial is left to start or to wait for."""
        return not (self._queue or self._running or self.wants_suggestion)

    @property
    def wants_suggestion(self) -> bool:
        """Return whether the next trial is one that the sampler has yet to choose.

        A search chooses as late as possible, when nothing else waits, so that every result is available. If no trial
        is left that could bring what a replay waits for, the choice is due, and raises.
        """
        return not self._queue and self._wants_more() and (self._learner.is_ready or not self._running)

    def suggest(self) -> PlannedTrial | None:
        """Choose the next configuration of a search; None if the space holds no other.

        This touches the sampler alone, so a caller need not hold the lock that guards the rest of the planner: a
        Gaussian process takes a second.
        """
        return self._learner.suggest()

    def add_suggestion(self, trial: PlannedTrial | None) -> None:
        """Queue the trial that `suggest` returned."""
        if trial is None:
            self._found_nothing = True
        else:
            # A replay that continues may suggest a trial again that has a record.
            self._num_explored += trial.trial_id not in self.trials
            self._enqueue([trial])
        self._queue_confirm()

    def next(self) -> PlannedTrial | None:
        """Return the trial to start now; None if there is nothing to start (yet)."""
        if self.wants_suggestion:
            self.add_suggestion(self.suggest())
        if not self._queue:
            return None
        trial = self._queue.popleft()
        self.trials.setdefault(trial.trial_id, TrialState(trial)).status = Status.RUNNING
        self._running.add(trial.trial_id)
        self._fill()
        return trial

    def set_waiting(self, trial_id: str) -> None:
        """Record that a trial from `next` waits for resources."""
        self.trials[trial_id].status = Status.PENDING

    def set_running(self, trial_id: str) -> None:
        """Record that a trial from `next` has its resources."""
        self.trials[trial_id].status = Status.RUNNING

    def set_step(self, trial_id: str, step: int) -> None:
        """Record the step that a running trial has reached."""
        self.trials[trial_id].step = step

    def _queue_confirm(self) -> None:
        """Queue controls once a search has chosen its last configuration, and the best once all of them have ended."""
        if self._has_chosen or self._wants_more():
            return
        self._enqueue(control_trials(self.sweep, self._fingerprint))
        waiting = [trial.stage for trial in self._queue]
        if "explore" in waiting or any(self.trials[one].trial.stage == "explore" for one in self._running):
            return
        self._has_chosen = True
        for record in self.best(self.sweep.confirm.top):
            family = f"{BEST_PREFIX}{label(self.sweep.search_space.cell_of(record.config))}"
            self._enqueue(confirm_trials(self.sweep, self._fingerprint, family, record.config))

    def _wants_more(self) -> bool:
        """Return whether a search is to try further configurations."""
        is_search = self.sweep.kind == "search"
        return is_search and self._num_explored < (self.sweep.trials or 0) and not self.exhausted

    def _fill(self) -> None:
        """Queue the next trial of a study where no other waits."""
        while not self._queue:
            if (trial := next(self._cells, None)) is None:
                self._num_cells_left = 0
                return
            is_ahead = trial.trial_id in self._recorded_ahead
            self._num_cells_left -= is_ahead or trial.trial_id not in self.trials
            self._recorded_ahead.discard(trial.trial_id)
            self._enqueue([trial])

    def _enqueue(self, trials: Iterable[PlannedTrial]) -> None:
        waiting = {trial.trial_id for trial in self._queue}
        for trial in trials:
            if trial.trial_id in self._excluded:
                self.trials[trial.trial_id] = TrialState(trial, Status.INTERRUPTED)
            elif trial.trial_id not in self.trials and trial.trial_id not in waiting:
                waiting.add(trial.trial_id)
                self._queue.append(trial)

    def _adopt(self, records: Iterable[TrialRecord]) -> None:
        """Take over the state of trials from their records, and queue those that have not ended."""
        for record in records:
            trial = planned_of(record, self.sweep)
            value = _newest_value(record, self.sweep.metric)
            self.trials[record.trial_id] = TrialState(trial, record.status, record.step, value, record)
            if not record.status.is_final:
                self._queue.append(trial)
            elif record.stage == "explore":
                self._ended.append(record)

    def refresh(self, records: Iterable[TrialRecord], excluded: Iterable[str] = ()) -> None:
        """Take over what is recorded once nothing runs any more: trials may have written their end late.

        The sampler of a search does not learn of it: a planner is not asked for further trials after this.
        """
        planned = [*(state.trial for state in self.trials.values()), *self._queue]
        self.trials = {}
        for forgotten in (self._running, self._ended, self._queue):
            forgotten.clear()
        self._excluded.update(excluded)
        self._adopt(records)
        self._enqueue(planned)
        self._queue_confirm()

    def best(self, count: int) -> list[TrialRecord]:
        """Return the best explored trials: see `objectives.best`."""
        return objectives.best(self._ended, self.sweep, count)

    def rung(self, trial_id: str, rung: Rung, value: float | None) -> Decision:
        """Process an evaluation and decide whether the trial is stopped. Only explored trials are ever stopped."""
        state = self.trials[trial_id]
        state.value = value
        state.add(rung)
        if state.trial.stage != "explore":
            return Decision(False)
        if (decision := self._learner.recorded_decision(trial_id, rung.step)) is not None:
            return decision
        others = {
            other: progress.rungs
            for other, progress in self.trials.items()
            if other != trial_id and progress.trial.stage == "explore"
        }
        return decide(self.sweep.stopping, state.trial.config.train.max_steps, state.rungs, others)

    def exclude(self, trial_id: str) -> None:
        """Note that a trial from `next` does not run any more, because its record is damaged."""
        self._excluded.add(trial_id)
        self.trials[trial_id].status = Status.INTERRUPTED
        self._running.discard(trial_id)
        self._queue_confirm()

    def ended(self, record: TrialRecord) -> None:
        """Process the record of a trial that has ended or was interrupted."""
        state = self.trials[record.trial_id]
        state.status, state.step = record.status, record.step
        self._running.discard(record.trial_id)
        if record.status.is_final and record.stage == "explore":
            self._ended.append(record)
            self._learner.tell(record)
        if record.result is not None:
            state.value = record.result.metrics.get(self.sweep.metric)
        self._queue_confirm()


def rung_of(step: int, metrics: Mapping[str, float]) -> Rung:
    """Return the metrics of one evaluation that early stopping uses."""
    cell, items = metrics.get("raw_cell_accuracy", 0.0), metrics.get("items", 0)
    return Rung(step, metrics["exact_accuracy"], cell, int(items))


def rungs_of(record: TrialRecord) -> list[Rung]:
    """Return the evaluations of a record."""
    return [
        rung_of(row.step, row.metrics)
        for row in record.rows
        if row.split == "validation" and "exact_accuracy" in row.metrics
    ]


def _newest_value(record: TrialRecord, metric: str) -> float | None:
    """Return the final score, which is read without the rows, else the last value of the curve."""
    if record.result is not None:
        return record.result.metrics.get(metric)
    curve = record.curve(metric)
    return curve[-1][1] if curve else None
