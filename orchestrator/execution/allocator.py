"""Allocate the resources of nodes to trials. Nodes are plain data, so nothing in this module depends on Ray."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from orchestrator.resources.nodes import GPU_LABEL
from orchestrator.resources.placement import Bundle, Candidate, any_of, holds

PATIENCE_S = 60.0
"""A trial that has not received its resources after this long is requeued: they were taken, or the node left. A trial
that has them and only imports is left alone (`orchestrator.execution.tune`)."""
BOOT_S = 900.0
"""The same where a node has to be started first."""
MOST_WAITING = 8
"""Maximum number of trials that wait for nodes to be started."""
BLOCKED_S = 2.0
"""A round of the scheduler that takes longer was blocked, e.g. by an outage of the storage: no trial is at fault."""


class SchedulingClock:
    """Measure the seconds in which the scheduler was active; time in which it was blocked does not count."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._last_s = time.monotonic()

    def __call__(self) -> float:
        return self._now_s

    def tick(self) -> None:
        """Count the time since the last call."""
        now_s = time.monotonic()
        self._now_s += min(now_s - self._last_s, BLOCKED_S)
        self._last_s = now_s


class Machine(NamedTuple):
    """Describe a node of the cluster that is alive."""

    node_id: str
    gpu_type: str | None
    resources: Mapping[str, float]

    @classmethod
    def of_ray(cls, nodes: Iterable[dict[str, Any]]) -> list[Machine]:
        """Return the nodes that are alive among those of `ray.nodes()`."""
        return [
            cls(node["NodeID"], node.get("Labels", {}).get(GPU_LABEL), node["Resources"])
            for node in nodes
            if node["Alive"]
        ]


class Expired(NamedTuple):
    """Say why a trial should be requeued."""

    reason: str
    ends_running: bool
    """Whether that holds for a trial whose actor has started, too."""


@dataclass(slots=True)
class Allocation:
    """Hold the resources of a submitted trial. `node_id` and `gpu_type` are known once the trial reports."""

    candidate: Candidate
    since_s: float
    is_waiting: bool
    """Whether a node has to be started for it."""
    node_id: str | None = None
    gpu_type: str | None = None
    heard_s: float = 0.0
    """When it reported last, by the same clock as `since_s`."""
    silence_s: float = 0.0
    """Additional seconds without a report in which it may write a last checkpoint."""


@dataclass(slots=True)
class Allocator:
    """Track which resources each trial holds, and decide which trial gets the next ones."""

    scales: bool = False
    """Whether nodes are started on demand."""
    max_gpus: float | None = None
    canary_steps: int = 0
    """Steps that the first trial on a GPU type makes alone; 0 for no canary."""
    allocations: dict[str, Allocation] = field(default_factory=dict)
    passed: set[str | None] = field(default_factory=set)
    """GPU types whose canary has passed."""

    def place(self, found: Sequence[Candidate], machines: Sequence[Machine]) -> Candidate | None:
        """Return the first candidate that fits on a machine, or None if the trial has to wait."""
        allowed = [one for one in found if self._is_allowed(one)]
        if not allowed:
            return None
        free = self._room(machines)
        for one in allowed:
            if any(holds(resources, machine.gpu_type, one.bundle) for machine, resources in free):
                return one
        exists = any(holds(machine.resources, machine.gpu_type, one.bundle) for machine in machines for one in allowed)
        if exists and not self.scales:
            return None  # the node exists but is occupied
        if sum(allocation.is_waiting for allocation in self.allocations.values()) >= MOST_WAITING:
            return None
        return any_of(allowed) if allowed[0].gpu_types else allowed[0]

    def allocate(self, trial_id: str, candidate: Candidate, machines: Sequence[Machine], now_s: float) -> None:
        """Assign the resources that `place` returned to a trial."""
        is_free = any(holds(left, machine.gpu_type, candidate.bundle) for machine, left in self._room(machines))
        self.allocations[trial_id] = Allocation(candidate, now_s, is_waiting=not is_free)

    def report(
        self,
        trial_id: str,
        node_id: str | None,
        gpu_type: str | None,
        step: int,
        max_steps: int,
        now_s: float = 0.0,
        silence_s: float = 0.0,
    ) -> None:
        """Record where a trial runs and which step it has reached."""
        allocation = self.allocations[trial_id]
        allocation.node_id, allocation.gpu_type, allocation.is_waiting = node_id, gpu_type, False
        allocation.heard_s, allocation.silence_s = now_s, silence_s
        if step >= min(self.canary_steps, max_steps):
            self.passed.add(gpu_type)

    def release(self, trial_id: str) -> Allocation | None:
        """Release the resources of a trial and return them; None if it has none."""
        return self.allocations.pop(trial_id, None)

    def is_canary(self, trial_id: str) -> bool:
        """Return whether no trial has succeeded yet on the GPU type of this trial."""
        allocation = self.allocations.get(trial_id)
        if allocation is None or not self.canary_steps or not allocation.candidate.bundle.gpus:
            return False
        return allocation.gpu_type not in self.passed

    def expired(self, trial_id: str, silence_limit_s: float, now_s: float) -> Expired | None:
        """Return why a trial should be requeued, or None."""
        if self.silent(trial_id, silence_limit_s, now_s):
            return Expired(f"it sent no report for {silence_limit_s:.0f} s", ends_running=True)
        if not self.overdue(trial_id, now_s):
            return None
        # A trial that is not waiting any more imports its modules, which takes minutes on a busy node.
        is_stuck = now_s - self.allocations[trial_id].since_s > BOOT_S + silence_limit_s
        return Expired("its resources were not granted in time", ends_running=is_stuck)

    def overdue(self, trial_id: str, now_s: float) -> bool:
        """Return whether a trial has waited so long for its resources that it should be requeued."""
        allocation = self.allocations.get(trial_id)
        if allocation is None or allocation.node_id is not None:
            return False
        return now_s - allocation.since_s > (BOOT_S if allocation.is_waiting else PATIENCE_S)

    def silent(self, trial_id: str, limit_s: float, now_s: float) -> bool:
        """Return whether a running trial has not reported for longer than the limit, in seconds."""
        allocation = self.allocations.get(trial_id)
        if allocation is None or allocation.node_id is None:
            return False
        return now_s - allocation.heard_s > limit_s + allocation.silence_s

    def _is_allowed(self, candidate: Candidate) -> bool:
        gpus = candidate.bundle.gpus
        used = sum(allocation.candidate.bundle.gpus for allocation in self.allocations.values())
        if self.max_gpus is not None and gpus and used + gpus > self.max_gpus + 1e-6:
            return False
        if not self.canary_steps or not gpus:
            return True
        types: set[str | None] = set(candidate.gpu_types) or {None}
        return types <= self.passed or not any(self._overlaps(one, types) for one in self.allocations.values())

    def _overlaps(self, allocation: Allocation, types: set[str | None]) -> bool:
        """Return whether an allocation may be the canary of one of these types."""
        possible: set[str | None] = {*allocation.candidate.gpu_types} or {None}
        actual: set[str | None] = {allocation.gpu_type} if allocation.node_id else possible
        return bool((actual & types) - self.passed)

    def _room(self, machines: Sequence[Machine]) -> list[tuple[Machine, dict[str, float]]]:
        """Return the free resources of every node. A trial that has not reported is counted on the first node that
        holds it."""
        left = {machine.node_id: dict(machine.resources) for machine in machines}
        types = {machine.node_id: machine.gpu_type for machine in machines}
        for allocation in sorted(self.allocations.values(), key=lambda one: one.node_id is None):
            bundle = allocation.candidate.bundle
            node_id = allocation.node_id or next((n for n in left if holds(left[n], types[n], bundle)), None)
            if node_id in left:
                _subtract(left[node_id], bundle)
        return [(machine, left[machine.node_id]) for machine in machines]


def _subtract(left: dict[str, float], bundle: Bundle) -> None:
    for name, amount in bundle.resources.items():
        left[name] = left.get(name, 0.0) - amount
