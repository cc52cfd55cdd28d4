"""Check what this machine has and lacks, with remedies. Every check has its own thread; all take three seconds at most.

for check in examine("s3://bucket/trm", "http://mlflow:5000", "10.0.0.5:6379"):
    print(check.status, check.name, check.found, check.remedy)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from orchestrator.cli.doctor.check import Check
from orchestrator.cli.doctor.machine import MACHINE_CHECKS, disk, temporaries
from orchestrator.cli.doctor.services import cluster, hub, ray_leftovers, storage, tracker

__all__ = ["Check", "examine"]

SERVICES = ("storage", "tracker", "cluster", "hub")
LIMIT_S = 2.7
"""A service that has not answered by then is reported as such."""


def examine(
    storage_url: str, tracking_uri: str | None = None, address: str | None = None, limit_s: float = LIMIT_S
) -> list[Check]:
    """Check this machine and the named services; None omits one. Never raises for what it finds."""
    jobs: list[tuple[str, Callable[[], Sequence[Check]]]] = [*MACHINE_CHECKS]
    jobs.append(("disk", lambda: disk(storage_url)))
    jobs.append(("temporary files", lambda: temporaries(storage_url)))
    jobs.append(("storage", lambda: storage(storage_url)))
    if tracking_uri is not None:
        jobs.append(("tracker", lambda: tracker(tracking_uri)))
    if address is not None:
        jobs.append(("cluster", lambda: cluster(address)))
    jobs.append(("Ray processes", ray_leftovers))
    jobs.append(("hub", hub))
    return _run(jobs, limit_s)


def _run(jobs: Sequence[tuple[str, Callable[[], Sequence[Check]]]], limit_s: float) -> list[Check]:
    """Run all jobs concurrently; return their checks in the order of the jobs."""
    answers: dict[str, Sequence[Check]] = {}

    def answer(name: str, job: Callable[[], Sequence[Check]]) -> None:
        try:
            answers[name] = job()
        except Exception as error:  # a check that raises is reported as failed, and the others continue
            answers[name] = [Check(name, "fail", f"{type(error).__name__}: {error}")]

    threads = [threading.Thread(target=answer, args=job, daemon=True) for job in jobs]  # not joined at exit
    deadline = time.monotonic() + limit_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [check for name, _ in jobs for check in answers.get(name, [_late(name, limit_s)])]


def _late(name: str, limit_s: float) -> Check:
    """Return the check of a job that took too long: of a service that fails, of this machine it is only slow."""
    if name in SERVICES:
        return Check(name, "fail", f"no answer within {limit_s:g} s", "Check the network and the address")
    late = f"not checked: this check took longer than {limit_s:g} s"
    return Check(name, "warn", late, "The machine or its disk is busy: run `trm doctor` again when it is less so")
