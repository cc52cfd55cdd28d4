"""How a driver is told to run, and how it may end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.records.schema import TrialRecord
from orchestrator.resources.placement import Preference
from orchestrator.resources.usage import Budget
from orchestrator.search.planner import Planner


class SweepStatus(StrEnum):
    """How a driver ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    OUT_OF_BUDGET = "out of budget"
    ABANDONED = "abandoned"
    """Stopped, but Ray did not answer any more: the process must end without waiting for it."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Where and how to run: nothing here changes a result."""

    address: str | None = None
    max_concurrent: int | None = None
    max_gpus: float | None = None
    budget: Budget = field(default_factory=Budget)
    prefer: Preference = "cost"
    share_gpus: bool = False
    """A trial that asks for one GPU gets the share of it that its predicted memory needs."""
    canary: bool | None = None
    """Whether the first trial on a GPU type goes ahead alone; None: on clusters with GPUs."""
    reuse: bool = False
    """Take over what other sweeps of the storage have finished."""
    is_stored: bool = False
    """The definition comes from the storage: no puzzle source that it names is opened."""


class Callback:
    """Hears how a sweep gets on. This one says nothing."""

    def building(self, stage: str, done: int, total: int) -> None:
        """A dataset is being built."""

    def started(self, planner: Planner, slots: int) -> None:
        """Trials are about to start."""

    def refresh(self, planner: Planner) -> None:
        """Called a few times a second from the main thread."""

    def trial_ended(self, planner: Planner, record: TrialRecord) -> None:
        """A trial has ended. Called from the driver's own thread."""

    def remark(self, text: str) -> None:
        """Something that the user should know, in one line. Called from any thread."""
