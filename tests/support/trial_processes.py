"""Entry points of forked processes, instead of `orchestrator.worker.attempt:child_main`. Imports no torch."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from orchestrator.worker.job import Job, TrialReport

HERE = "tests.support.trial_processes"


def ends_and_tidies_up(job: str, pipe: Any) -> None:
    """Report the end, and then do something that takes time."""
    pipe.send(TrialReport(7, {"exact_accuracy": 0.5}, "end", "finished"))
    time.sleep(0.5)
    Path(job_path(job)).write_text("tidy")


def never_ends(job: str, pipe: Any) -> None:
    """Train on, and write a checkpoint only if asked to stop."""
    pipe.send(TrialReport(3, {}, "progress"))
    pipe.poll(600)
    Path(job_path(job)).write_text("checkpoint")


def stops_slowly(job: str, pipe: Any) -> None:
    """Take longer than the shortest grace for the last checkpoint, as the report has announced."""
    pipe.send(TrialReport(3, {}, "progress", stop_s=30.0))
    assert pipe.recv() == "stop"
    time.sleep(1.0)
    pipe.send(TrialReport(4, {}, "end", "interrupted", "asked to stop at step 4, with a checkpoint"))
    Path(job_path(job)).write_text("checkpoint")


def ignores_a_stop(job: str, pipe: Any) -> None:
    """Never answer."""
    pipe.send(TrialReport(3, {}, "progress"))
    time.sleep(600)


def dies(job: str, pipe: Any) -> None:
    """Be killed by the machine."""
    os.kill(os.getpid(), 9)


def reports_its_gpus(job: str, pipe: Any) -> None:
    """Report how many devices the process may see, as the status."""
    pipe.send(TrialReport(0, {}, "end", os.environ.get("CUDA_VISIBLE_DEVICES", "all")))


def ends(pipe: Any) -> None:
    """Do nothing."""


def tells_about_itself(pipe: Any) -> None:
    """Send what a process has of its fork server, and what of the actor."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    facts = {"pid": os.getpid(), "parent": os.getppid(), "gpu": gpu, "folder": str(Path.cwd())}
    pipe.send(facts | {"preloaded": "json.tool" in sys.modules})
    pipe.poll(0.5)  # stays for a while, unless it is closed


def waits(pipe: Any) -> None:
    """Send the own PID and wait."""
    pipe.send(os.getpid())
    pipe.poll(600)


def fails(pipe: Any) -> None:
    """Fail with an error."""
    raise ValueError("no number")


def job_path(job: str) -> str:
    """Return the file that a test has put in the place of the storage."""
    return Job.from_json(job).storage_url
