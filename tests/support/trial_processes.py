"""Run in a trial process instead of `orchestrator.worker.job.child_main`. A light module: each process imports it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from orchestrator.worker.job import Job, TrialReport


def ends_and_tidies_up(job: Job, pipe: Any) -> None:
    """Something is left to be done after the end was told."""
    pipe.send(TrialReport(7, {"exact_accuracy": 0.5}, "end", "finished"))
    time.sleep(0.5)
    Path(job.storage_url).write_text("tidy")


def never_ends(job: Job, pipe: Any) -> None:
    """A trial in the midst of its steps, which would write a last checkpoint if it were asked to stop."""
    pipe.send(TrialReport(3, {}, "progress"))
    pipe.poll(60)
    Path(job.storage_url).write_text("checkpoint")


def dies(job: Job, pipe: Any) -> None:
    """Killed by the machine."""
    os.kill(os.getpid(), 9)


def ends(pipe: Any) -> None:
    """Nothing to do."""


def tells_about_itself(pipe: Any) -> None:
    """What a process of a zygote must have, and what of its slot's."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    facts = {"pid": os.getpid(), "parent": os.getppid(), "gpu": gpu, "folder": str(Path.cwd())}
    pipe.send(facts | {"preloaded": "json.tool" in sys.modules})
    pipe.poll(0.5)  # stays for a while, unless it is let go


def fails(pipe: Any) -> None:
    """With an error of its own."""
    raise ValueError("no number")
