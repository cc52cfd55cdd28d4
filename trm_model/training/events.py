"""Events of a training run, in order. The loop yields these and knows no tracker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Started:
    """The model is built and, if `resumed`, a checkpoint has been loaded: `step` is its step."""

    step: int
    num_parameters: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class Trained:
    """Means over the steps since the last such event."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Scores on held-out puzzles."""

    step: int
    split: str
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """A checkpoint has been written whole."""

    step: int
    name: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Finished:
    """All steps done and the final score taken. `result` is plain JSON-ready data."""

    step: int
    result: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    """What belongs beside the result, by file name: `outcomes.arrow` (every item), `gallery.json` (a few to look at).
    """


@dataclass(frozen=True, slots=True)
class Diverged:
    """The loss is not finite. The last checkpoint is from before."""

    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """`should_stop()` became true; a checkpoint at `step` has been written."""

    step: int


Event = Started | Trained | Evaluated | Checkpointed | Finished | Diverged | Interrupted
