"""What starts next, and where: the planner says what, the dispatcher where, the treasury whether."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from orchestrator.dispatch import Dispatcher, Machine
from orchestrator.pace import CPU, Need, Pace
from orchestrator.placement import Bundle, Candidate, candidates
from orchestrator.plan import PlannedTrial
from orchestrator.planner import Planner
from orchestrator.record import Status, TrialRecord
from orchestrator.treasury import Treasury

MOST_AHEAD = 8
"""Trials that wait for their kind of machine while later ones start on another."""


class Start(NamedTuple):
    """A trial and its seat."""

    trial: PlannedTrial
    candidate: Candidate


NOWHERE = Candidate((), Bundle({}, {}))
"""For a trial that fits no GPU: it is not sent off."""
Finder = Callable[[PlannedTrial], list[Candidate]]
"""Where a trial may run, the preferred place first; nowhere, if it fits no GPU."""


class Starts:
    """The line of trials before the machines."""

    def __init__(
        self,
        planner: Planner,
        dispatcher: Dispatcher,
        machines: Callable[[], list[Machine]],
        find: Finder,
        pace: Pace,
        treasury: Treasury | None,
        clock: Callable[[], float],
    ) -> None:
        self.refused = ""
        """Why the budget lets nothing more start."""
        self._planner = planner
        self._dispatcher = dispatcher
        self._machines = machines
        self._find = find
        self._pace = pace
        self._treasury = treasury
        self._clock = clock
        self._line: deque[PlannedTrial] = deque()
        resources = planner.sweep.resources
        self._is_mixed = bool(planner.sweep.resource_rules) or resources.gpus > 0
        """Whether a later trial may find room where an earlier one does not."""
        self._usual = candidates(resources, ())

    @property
    def is_over(self) -> bool:
        """Whether the budget lets nothing more start."""
        return bool(self.refused)

    def next(self) -> Start | None:
        """The first trial in line that finds room now and can be paid for. The seat is taken with it."""
        if self.is_over:
            return None
        machines = self._machines()
        for waiting in list(self._line):
            if (start := self._seated(waiting, machines)) is not None:
                self._line.remove(waiting)
                return start
        while len(self._line) < (MOST_AHEAD if self._is_mixed else 1) and not self.is_over:
            if not self._is_mixed and self._dispatcher.place(self._usual, machines) is None:
                return None  # a search decides as late as it can
            trial = self._planner.next()
            if trial is None:
                return None
            if (start := self._seated(trial, machines)) is not None:
                return start
            self._wait(trial)
        return None

    def give_back(self, trial_id: str) -> None:
        """A trial that was sent off comes back unfinished: it is the first in line."""
        self._dispatcher.leave(trial_id)
        if self._treasury:
            self._treasury.taken_back(trial_id)
        state = self._planner.trials[trial_id]
        state.status = Status.PENDING
        self._line.appendleft(state.trial)

    def ended(self, record: TrialRecord) -> None:
        """A trial has left its seat for good."""
        self._dispatcher.leave(record.trial_id)
        if record.status.is_final:
            self._pace.learn(record)
        if self._treasury:
            self._treasury.ended(record)

    def _wait(self, trial: PlannedTrial) -> None:
        self._planner.trials[trial.trial_id].status = Status.PENDING
        self._line.append(trial)

    def _seated(self, trial: PlannedTrial, machines: list[Machine]) -> Start | None:
        found = self._find(trial)
        if not found:
            return Start(trial, NOWHERE)
        candidate = self._dispatcher.place(found, machines)
        if candidate is None:
            return None
        if self._treasury:
            need = self._need(trial, candidate)
            if reason := self._treasury.refusal(trial.trial_id, need):
                self.refused = reason
                return None
            self._treasury.started(trial.trial_id, need)
        self._dispatcher.take(trial.trial_id, candidate, machines, self._clock())
        self._planner.trials[trial.trial_id].status = Status.RUNNING
        return Start(trial, candidate)

    def _need(self, trial: PlannedTrial, candidate: Candidate) -> Need:
        device = candidate.gpu_types[0] if candidate.gpu_types else CPU
        cpus, step = candidate.bundle.resources["CPU"], self._planner.trials[trial.trial_id].step
        return self._pace.need(trial.config, device, gpus=candidate.bundle.gpus, cpus=cpus, step=step)
