"""Define the events of a training run, in order. The loop yields these and does not depend on a tracker."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Started:
    """Report that the model is built and, if `resumed`, that a checkpoint has been loaded: `step` is its step."""

    step: int
    num_parameters: int
    resumed: bool
    started_from: str = ""
    """Which weights of which checkpoint training begins with (`train.start_from`); empty if it resumes."""
    skipped: tuple[str, ...] = ()
    """Newer checkpoints that are damaged."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Report means over the steps since the last such event."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Report scores on held-out puzzles."""

    step: int
    split: str
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Saving:
    """Report that a checkpoint is about to be written, after which nothing reported so far is reported again.

    Whoever keeps the events has to store them before that. One who cannot answers False (see `handle`): then the
    checkpoint is put off.
    """

    step: int


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """Report that a checkpoint has been written completely."""

    step: int
    name: str
    num_bytes: int
    seconds: float = 0.0
    """Seconds that writing it took."""


@dataclass(frozen=True, slots=True)
class CheckpointFailed:
    """Report that a checkpoint could not be written. Training continues, and the next one is written when it is due."""

    step: int
    reason: str
    is_out_of_space: bool
    """Whether a disk or a quota is full, so that the next one cannot be written either."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Report that all steps are done and the final score is known. `result` is plain JSON-ready data."""

    step: int
    result: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    """Files that accompany the result, by name: `outcomes.arrow` (every item), `gallery.json` (a few to look at).
    """


@dataclass(frozen=True, slots=True)
class Diverged:
    """Report that the loss is not finite. The last checkpoint is from before."""

    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Report that `should_stop()` became true."""

    step: int
    is_saved: bool = True
    """Whether a checkpoint at `step` has been written; otherwise the run resumes from an earlier one."""


Event = Started | Trained | Evaluated | Saving | Checkpointed | CheckpointFailed | Finished | Diverged | Interrupted
Run = Generator[Event, bool | None, None]
"""A run in progress: what it is sent is the answer to its last event."""


def handle(run: Run, take: Callable[[Event], bool | None]) -> None:
    """Call `take` with every event of a run, which waits meanwhile. It answers False to put a checkpoint off."""
    answer: bool | None = None
    while True:
        try:
            event = run.send(answer)
        except StopIteration:
            return
        answer = take(event)
