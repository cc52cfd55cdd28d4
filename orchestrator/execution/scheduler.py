"""What starts next, and where: the planner says what, the dispatcher where, the budget_tracker whether."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from orchestrator.execution.budget import BudgetTracker
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.resources.nodes import GPU_LABEL
from orchestrator.resources.placement import Bundle, Candidate, any_of, candidates, holds
from orchestrator.resources.runtime import CPU, RuntimeModel, TrialCost
from orchestrator.search.planner import Planner
from orchestrator.sweep.trials import PlannedTrial

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


class TrialScheduler:
    """The line of trials before the machines."""

    def __init__(
        self,
        planner: Planner,
        dispatcher: Allocator,
        machines: Callable[[], list[Machine]],
        find: Finder,
        pace: RuntimeModel,
        budget_tracker: BudgetTracker | None,
        clock: Callable[[], float],
    ) -> None:
        self.refused = ""
        """Why the budget lets nothing more start."""
        self._planner = planner
        self._allocator = dispatcher
        self._machines = machines
        self._find = find
        self._pace = pace
        self._budget_tracker = budget_tracker
        self._clock = clock
        self._line: deque[PlannedTrial] = deque()
        resources = planner.sweep.resources
        self._is_mixed = bool(planner.sweep.resource_rules) or resources.gpus > 0
        """Whether a later trial may find room where an earlier one does not."""
        self._usual = candidates(resources, ())

    @property
    def is_exhausted(self) -> bool:
        """Whether the budget lets nothing more start."""
        return bool(self.refused)

    def next(self) -> Start | None:
        """The first trial in line that finds room now and can be paid for. The seat is taken with it."""
        if self.is_exhausted:
            return None
        machines = self._machines()
        for waiting in list(self._line):
            if (start := self._seated(waiting, machines)) is not None:
                self._line.remove(waiting)
                return start
        while len(self._line) < (MOST_AHEAD if self._is_mixed else 1) and not self.is_exhausted:
            if not self._is_mixed and self._allocator.place(self._usual, machines) is None:
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
        self._allocator.release(trial_id)
        if self._budget_tracker:
            self._budget_tracker.release(trial_id)
        state = self._planner.trials[trial_id]
        state.status = Status.PENDING
        self._line.appendleft(state.trial)

    def ended(self, record: TrialRecord) -> None:
        """A trial has left its seat for good."""
        self._allocator.release(record.trial_id)
        if record.status.is_final:
            self._pace.learn(record)
        if self._budget_tracker:
            self._budget_tracker.ended(record)

    def _wait(self, trial: PlannedTrial) -> None:
        self._planner.trials[trial.trial_id].status = Status.PENDING
        self._line.append(trial)

    def _seated(self, trial: PlannedTrial, machines: list[Machine]) -> Start | None:
        found = self._find(trial)
        if not found:
            return Start(trial, NOWHERE)
        candidate = self._allocator.place(found, machines)
        if candidate is None:
            return None
        if self._budget_tracker:
            need = self._need(trial, candidate)
            if reason := self._budget_tracker.check(trial.trial_id, need):
                self.refused = reason
                return None
            self._budget_tracker.started(trial.trial_id, need)
        self._allocator.take(trial.trial_id, candidate, machines, self._clock())
        self._planner.trials[trial.trial_id].status = Status.RUNNING
        return Start(trial, candidate)

    def _need(self, trial: PlannedTrial, candidate: Candidate) -> TrialCost:
        device = candidate.gpu_types[0] if candidate.gpu_types else CPU
        cpus, step = candidate.bundle.resources["CPU"], self._planner.trials[trial.trial_id].step
        return self._pace.need(trial.config, device, gpus=candidate.bundle.gpus, cpus=cpus, step=step)


PATIENCE_S = 60.0
"""A trial whose seat was free when it got it, and to which Ray has not given it so much later, is placed anew: somebody
else sits there, or the machine went. One that has it and only imports is left alone (`orchestrator.execution.tune`)."""


BOOT_S = 900.0
"""The same where a machine has to be started first."""


MOST_WAITING = 8
"""Trials that may wait for machines to be started, at once."""


class Machine(NamedTuple):
    """A node, as far as placing goes."""

    node_id: str
    gpu_type: str | None
    resources: Mapping[str, float]

    @classmethod
    def of_ray(cls, nodes: Iterable[dict[str, Any]]) -> list[Machine]:
        """The living ones of `ray.nodes()`."""
        return [
            cls(node["NodeID"], node.get("Labels", {}).get(GPU_LABEL), node["Resources"])
            for node in nodes
            if node["Alive"]
        ]


@dataclass(slots=True)
class Allocation:
    """What one trial that was sent off takes. `node_id` and `gpu_type` are known once it has begun."""

    candidate: Candidate
    since_s: float
    is_waiting: bool
    """For a machine that has to be started."""
    node_id: str | None = None
    gpu_type: str | None = None


@dataclass(slots=True)
class Allocator:
    """The seats that are taken, and who may have the next."""

    scales: bool = False
    """Whether machines are started on demand."""
    max_gpus: float | None = None
    canary_steps: int = 0
    """Steps that the first trial on a GPU type makes alone; 0 for no canary."""
    allocations: dict[str, Allocation] = field(default_factory=dict)
    passed: set[str | None] = field(default_factory=set)
    """GPU types whose canary is through."""

    def place(self, found: Sequence[Candidate], machines: Sequence[Machine]) -> Candidate | None:
        """A seat for a trial with these candidates, or None: it has to wait."""
        allowed = [one for one in found if self._is_allowed(one)]
        if not allowed:
            return None
        free = self._room(machines)
        for one in allowed:
            if any(holds(resources, machine.gpu_type, one.bundle) for machine, resources in free):
                return one
        is_there = any(
            holds(machine.resources, machine.gpu_type, one.bundle) for machine in machines for one in allowed
        )
        if is_there and not self.scales:
            return None  # it is only busy
        if sum(seat.is_waiting for seat in self.allocations.values()) >= MOST_WAITING:
            return None
        return any_of(allowed) if allowed[0].gpu_types else allowed[0]

    def take(self, trial_id: str, candidate: Candidate, machines: Sequence[Machine], now_s: float) -> None:
        """A trial is sent to its seat."""
        is_free = any(holds(left, machine.gpu_type, candidate.bundle) for machine, left in self._room(machines))
        self.allocations[trial_id] = Allocation(candidate, now_s, is_waiting=not is_free)

    def report(self, trial_id: str, node_id: str | None, gpu_type: str | None, step: int, max_steps: int) -> None:
        """A trial tells where it sits and how far it is."""
        seat = self.allocations[trial_id]
        seat.node_id, seat.gpu_type, seat.is_waiting = node_id, gpu_type, False
        if step >= min(self.canary_steps, max_steps):
            self.passed.add(gpu_type)

    def release(self, trial_id: str) -> Allocation | None:
        """A trial has left its seat, if it had one."""
        return self.allocations.pop(trial_id, None)

    def is_canary(self, trial_id: str) -> bool:
        """Whether the GPU type of a trial has not proved itself yet."""
        seat = self.allocations.get(trial_id)
        return bool(seat and self.canary_steps and seat.candidate.bundle.gpus and seat.gpu_type not in self.passed)

    def overdue(self, trial_id: str, now_s: float) -> bool:
        """Whether a trial has waited for its seat in vain for so long that it should be placed anew."""
        seat = self.allocations.get(trial_id)
        if seat is None or seat.node_id is not None:
            return False
        return now_s - seat.since_s > (BOOT_S if seat.is_waiting else PATIENCE_S)

    def _is_allowed(self, candidate: Candidate) -> bool:
        gpus = candidate.bundle.gpus
        used = sum(seat.candidate.bundle.gpus for seat in self.allocations.values())
        if self.max_gpus is not None and gpus and used + gpus > self.max_gpus + 1e-6:
            return False
        if not self.canary_steps or not gpus:
            return True
        types: set[str | None] = set(candidate.gpu_types) or {None}
        return types <= self.passed or not any(self._overlaps(seat, types) for seat in self.allocations.values())

    def _overlaps(self, seat: Allocation, types: set[str | None]) -> bool:
        """Whether a canary may be running on one of these types."""
        there: set[str | None] = {seat.gpu_type} if seat.node_id else {*seat.candidate.gpu_types} or {None}
        return bool((there & types) - self.passed)

    def _room(self, machines: Sequence[Machine]) -> list[tuple[Machine, dict[str, float]]]:
        """What every machine has left. A trial that has not begun is taken to sit on the first one that holds it."""
        left = {machine.node_id: dict(machine.resources) for machine in machines}
        kinds = {machine.node_id: machine.gpu_type for machine in machines}
        for seat in sorted(self.allocations.values(), key=lambda seat: seat.node_id is None):
            bundle = seat.candidate.bundle
            node_id = seat.node_id or next((n for n in left if holds(left[n], kinds[n], bundle)), None)
            if node_id in left:
                _take(left[node_id], bundle)
        return [(machine, left[machine.node_id]) for machine in machines]


def _take(left: dict[str, float], bundle: Bundle) -> None:
    for name, amount in bundle.resources.items():
        left[name] = left.get(name, 0.0) - amount
