"""What a driver, a slot and a trial's process say to each other: plain data, and the trial process's front door.

Imports neither torch nor Ray: the driver and its slots stay light, only trial processes carry the weight.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Job:
    """All that an attempt needs to know; crosses process and machine borders as plain data."""

    storage_url: str
    sweep: str
    trial_id: str
    config: dict[str, Any]
    dataset: str
    """Folder name of the dataset below `datasets/` of the storage."""
    placement: dict[str, Any] = field(default_factory=dict)
    """node_id, gpu_type, gpu_count: where it was put."""
    processes: int = 1
    """That share every batch: one per GPU."""
    continues: str | None = None
    """A shorter trial of the sweep whose first steps are this one's: its last checkpoint is where a first attempt
    begins."""
    recursion: str | None = None
    """Source of the file that `model.recursion` names, which the trial's machine need not have."""

    def to_json(self) -> str:
        """As one string, which Tune passes on as it is: a nested configuration it copies and searches a dozen times."""
        return json.dumps({item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def from_json(cls, text: str) -> Job:
        """What `to_json` was given."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class TrialReport:
    """What an attempt tells whoever started it."""

    step: int
    metrics: dict[str, float]
    kind: str
    """progress | rung | end"""
    status: str = ""
    reason: str = ""
    grace_s: float = 0.0
    """Longest time that the attempt has taken from one event to a written checkpoint: to stop takes as long."""


Listener = Callable[[TrialReport], None]
"""Called for every piece of news. A rung's listener may block until it is known whether the trial goes on."""


def child_main(job: Job, pipe: Any) -> None:
    """The body of a forked trial process: news out, `go` and `stop` in; dies when the other end does."""
    go, stop = threading.Event(), threading.Event()

    def hear() -> None:
        while True:
            try:
                word = pipe.recv()
            except (EOFError, OSError):
                os._exit(1)  # the slot is gone: the next attempt goes on from the last checkpoint
            (stop if word == "stop" else go).set()
            if word == "stop":
                go.set()

    threading.Thread(target=hear, name="slot-words", daemon=True).start()

    def listen(news: TrialReport) -> None:
        go.clear()
        pipe.send(news)
        if news.kind == "rung" and not stop.is_set():
            go.wait()

    from orchestrator.worker.attempt import run_attempt  # the zygote has it already

    run_attempt(job, listen, stop.is_set)
    pipe.close()
