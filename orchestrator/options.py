"""How a driver is told to run, and how it may end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.cluster.spending import Budget
from orchestrator.placement import Preference


class Ending(StrEnum):
    """How a driver ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    OUT_OF_BUDGET = "out of budget"
    ABANDONED = "abandoned"
    """Stopped, but Ray did not answer any more: the process must end without waiting for it."""


@dataclass(frozen=True, slots=True)
class Options:
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
