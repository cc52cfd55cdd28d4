"""Schedule trials: pick the next one, allocate its resources, check the budget.

A trial is *planned* when the planner names it, *waiting* while no resources are free or after it was requeued,
*running* once it has an allocation. Not thread-safe: the controller holds its lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from orchestrator.execution.allocator import Allocator, Machine
from orchestrator.execution.budget import BudgetTracker
from orchestrator.records.schema import TrialRecord
from orchestrator.resources.placement import Bundle, Candidate, gpu_types
from orchestrator.resources.runtime import CPU, RuntimeModel, TrialCost
from orchestrator.search.planner import Planner
from orchestrator.sweep.trials import PlannedTrial

MOST_AHEAD = 8
"""Maximum number of trials that wait for their GPU type while later ones start on another type."""


class Start(NamedTuple):
    """Pair a trial with its allocated resources."""

    trial: PlannedTrial
    candidate: Candidate


NOWHERE = Candidate((), Bundle({}, {}))
"""Candidate of a trial that fits on no GPU: it is recorded and not submitted."""


class Placement(Protocol):
    """Define where trials may run."""

    def machines(self) -> list[Machine]:
        """Return the nodes of the cluster."""

    def candidates(self, trial: PlannedTrial) -> list[Candidate]:
        """Return the bundles with which a trial may run, the preferred one first; empty if it fits on no GPU."""

    def smallest(self) -> list[Candidate]:
        """Return the bundles of the least demanding trial of the sweep."""


class TrialScheduler:
    """Decide which trial starts next, and with which resources."""

    def __init__(
        self,
        planner: Planner,
        allocator: Allocator,
        placement: Placement,
        costs: RuntimeModel,
        budget: BudgetTracker | None,
        clock: Callable[[], float],
    ) -> None:
        self.refused = ""
        """Why the budget allows no further start."""
        self._planner = planner
        self._allocator = allocator
        self._placement = placement
        self._costs = costs
        self._budget = budget
        self._clock = clock
        self._waiting: deque[PlannedTrial] = deque()

    @property
    def is_exhausted(self) -> bool:
        """Return whether the budget allows no further start."""
        return bool(self.refused)

    def next(self) -> Start | None:
        """Return the first trial for which resources and budget suffice, with its resources allocated.

        None means that nothing can start now, or that `wants_suggestion` is true.
        """
        if self.is_exhausted:
            return None
        machines = self._placement.machines()
        for trial in list(self._waiting):
            if (start := self._start(trial, machines)) is not None:
                self._waiting.remove(trial)
                return start
        while self._may_look_ahead(machines) and not self._planner.wants_suggestion:
            planned = self._planner.next()
            if planned is None:
                return None
            if (start := self._start(planned, machines)) is not None:
                return start
            self._planner.set_waiting(planned.trial_id)
            self._waiting.append(planned)
        return None

    def wants_suggestion(self) -> bool:
        """Return whether the next start depends on a configuration that the sampler has yet to choose."""
        return self._planner.wants_suggestion and self._may_look_ahead(self._placement.machines())

    def requeue(self, trial_id: str, record: TrialRecord | None = None) -> None:
        """Put a submitted trial that came back unfinished at the head of the queue.

        Args:
            record: the usage of its attempts so far counts as spent; None if it never started.
        """
        self._allocator.release(trial_id)
        if self._budget and record is not None:
            self._budget.ended(record)
        elif self._budget:
            self._budget.release(trial_id)
        self._planner.set_waiting(trial_id)
        self._waiting.appendleft(self._planner.trials[trial_id].trial)

    def ended(self, record: TrialRecord) -> None:
        """Release the resources of a trial that has ended or was interrupted."""
        self._allocator.release(record.trial_id)
        if record.status.is_final:
            self._costs.learn(record)
        if self._budget:
            self._budget.ended(record)

    def _may_look_ahead(self, machines: list[Machine]) -> bool:
        """Return whether one more trial may be taken from the planner."""
        if self.is_exhausted:
            return False
        is_mixed = self._is_mixed(machines)
        if len(self._waiting) >= (MOST_AHEAD if is_mixed else 1):
            return False
        # Where all trials wait for the same resources, looking ahead starts nothing sooner. It would make a search
        # choose configurations before it knows the results of those that run.
        return is_mixed or self._allocator.place(self._placement.smallest(), machines) is not None

    def _is_mixed(self, machines: list[Machine]) -> bool:
        """Return whether a later trial may fit where an earlier one does not."""
        sweep = self._planner.sweep
        if sweep.resource_rules:
            return True
        if not sweep.resources.gpus:
            return False
        if sweep.kind == "study":
            return True  # all its trials are known in advance, and shares of a GPU differ in size
        asked = gpu_types(sweep.resources.gpu_type)
        present = {machine.gpu_type for machine in machines if machine.gpu_type}
        if self._allocator.scales:
            return len(asked) != 1  # nodes of any of the types may come
        return len(present & set(asked) if asked else present) > 1

    def _start(self, trial: PlannedTrial, machines: list[Machine]) -> Start | None:
        found = self._placement.candidates(trial)
        if not found:
            return Start(trial, NOWHERE)
        candidate = self._allocator.place(found, machines)
        if candidate is None:
            return None
        if self._budget:
            cost = self._cost(trial, candidate)
            if reason := self._budget.check(trial.trial_id, cost):
                self.refused = reason
                return None
            self._budget.started(trial.trial_id, cost)
        self._allocator.allocate(trial.trial_id, candidate, machines, self._clock())
        self._planner.set_running(trial.trial_id)
        return Start(trial, candidate)

    def _cost(self, trial: PlannedTrial, candidate: Candidate) -> TrialCost:
        device = candidate.gpu_types[0] if candidate.gpu_types else CPU
        cpus, step = candidate.bundle.resources["CPU"], self._planner.trials[trial.trial_id].step
        return self._costs.need(trial.config, device, gpus=candidate.bundle.gpus, cpus=cpus, step=step)
