"""Define data that a driver, a trial actor and a trial's process exchange.

This module imports neither torch nor Ray: drivers and trial actors stay small, and only trial processes load torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

ASKED_TO_STOP = "asked to stop"
"""Start of the reason of an attempt that ended because its node leaves or the sweep stops; the rest says at which step
it stopped, and whether it has written a last checkpoint."""
STORAGE_FAILURE = "storage failure"
"""Start of the reason of an attempt that the storage interrupted, in its record and in its report."""
UNUSABLE_DATASET = "the storage has lost or damaged the dataset"
"""Part of the reason of an attempt whose dataset the storage no longer holds as it was built."""


@dataclass(frozen=True, slots=True)
class Job:
    """Hold everything that an attempt needs; sent between processes and machines as JSON."""

    storage_url: str
    sweep: str
    trial_id: str
    config: dict[str, Any]
    dataset: str
    """Folder name of the dataset below `datasets/` of the storage."""
    placement: dict[str, Any] = field(default_factory=dict)
    """Where the trial was placed: node_id, gpu_type, gpu_count, gpu_ids."""
    processes: int = 1
    """Number of processes that share every batch: one per GPU."""
    continues: str | None = None
    """Trial id of a shorter trial of the sweep whose first steps are this one's: its last checkpoint is where a first
    attempt begins."""
    code: dict[str, str] = field(default_factory=dict)
    """Sources of the files whose classes the configuration names, by address: the trial's machine need not have them.
    """

    def to_json(self) -> str:
        """Return the job as one string. Tune copies nested configurations a dozen times, but not strings."""
        return json.dumps({item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Parse a job from its JSON text."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class TrialReport:
    """Hold a report of an attempt to the process that started it."""

    step: int
    metrics: dict[str, float]
    kind: Literal["progress", "rung", "end"]
    status: str = ""
    reason: str = ""
    stop_s: float = 0.0
    """Seconds, as measured so far, until a stop is noticed and a last checkpoint is written; 0 if not known yet."""


Listener = Callable[[TrialReport], None]
"""Called for every report. May block at a rung until it is known whether the trial continues."""
