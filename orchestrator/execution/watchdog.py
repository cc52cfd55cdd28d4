"""Stop a sweep that has exceeded its budget from another process, even if its driver hangs or is dead.

    trm sweep watchdog demo --storage s3://bucket/trm --max-usd 50 --terminate trm-sweeps

A watchdog only reads records, so it can run anywhere with access to the storage. At the limit it first requests a clean
stop (checkpoints are written). A driver on this machine that does not react is ended by signals. The cluster's worker
nodes are terminated only if that was not enough and the cluster is named. A stopped sweep can be resumed.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from orchestrator.errors import SweepError
from orchestrator.records.index import load_definition, request_stop, sweep_folder
from orchestrator.records.progress import sweep_progress
from orchestrator.records.reader import SweepReader
from orchestrator.records.schema import TrialRecord
from orchestrator.records.stored import Damaged
from orchestrator.resources.aws.instances import terminate_workers
from orchestrator.resources.usage import exceeded, spending
from orchestrator.storage import Storage, StorageError, open_storage
from orchestrator.storage.lease import DriverHours, driver_of, runs_python, start_of_driver
from orchestrator.sweep.budget import Budget
from orchestrator.sweep.definition import Sweep
from trm_data.files import start_of

logger = logging.getLogger(__name__)

POLL_S = 60.0
"""A limit is exceeded by at most this, the time to write checkpoints, and the idle time of nodes."""
GRACE_S = 120.0
"""A clean stop takes as long as the slowest checkpoint; signals are sent after this."""


@dataclass(frozen=True, slots=True)
class Watchdog:
    """Watch one sweep. `folder` is its folder in the storage; `clock` and `sleep` use seconds."""

    folder: Storage
    sweep: Sweep
    budget: Budget
    read: Callable[[], Sequence[TrialRecord]]
    end_machines: Callable[[], Sequence[str]] | None = None
    grace_s: float = GRACE_S
    poll_s: float = POLL_S
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    hours: DriverHours = field(default_factory=DriverHours)

    def run(self) -> str:
        """Watch until the sweep is complete or was stopped. Return a description of how it ended.

        Raises:
            UserError: nodes could not be terminated.
        """
        while True:
            try:
                # The lease first: records are complete once their driver has ended.
                driver = driver_of(self.folder)
                is_driven = driver is not None
                hours = self.hours.of(driver)
                records = self.read()
                now_s, since_s = (self.clock(), start_of_driver(driver)) if driver else (None, None)
                if reason := exceeded(spending(records, now_s, since_s, hours), self.budget):
                    logger.info("sweep %s: %s", self.sweep.name, reason)
                    return f"{reason}: {self.stop(reason)}"
                progress = sweep_progress(self.sweep, records)
                if not is_driven and progress.is_complete:
                    return f"the sweep is complete: {progress}"
            except StorageError as error:  # an outage says nothing about the sweep itself
                logger.warning("storage is unavailable: %s", error)
            self.sleep(self.poll_s)

    def stop(self, reason: str = "") -> str:
        """Request a clean stop, then signal the driver, then terminate nodes. Return which step was sufficient."""
        driver = driver_of(self.folder, if_silent="watch")
        if driver is None:
            return self._terminate("the driver has exited")
        request_stop(self.folder, reason)
        if self._is_gone_within(self.grace_s):
            return "the driver stopped cleanly"
        if driver["host"] != socket.gethostname():
            return self._terminate(f"the driver on {driver['host']} does not react")
        with open_driver(driver) as send:
            if send is None:
                return self._terminate(f"process {driver['pid']} is not the driver and was not signalled")
            send(signal.SIGTERM)
            if self._is_gone_within(self.grace_s / 4):
                return "the driver ended after SIGTERM"
            send(signal.SIGKILL)
        return self._terminate("the driver was killed")

    def _is_gone_within(self, limit_s: float) -> bool:
        waited_s = 0.0  # not by the clock, which may step
        while True:
            began_s = time.monotonic()
            if driver_of(self.folder, if_silent="watch") is None:
                return True
            waited_s += time.monotonic() - began_s
            if waited_s > limit_s:
                return False
            self.sleep(pause_s := min(1.0, limit_s / 10))
            waited_s += pause_s

    def _terminate(self, found: str) -> str:
        """Terminate nodes. Without a driver, Ray ends trials and the autoscaler ends nodes, unless something hangs."""
        if self.end_machines is None:
            return f"{found}; no node was terminated (--terminate CLUSTER does)"
        return f"{found}; {len(self.end_machines())} worker nodes terminated"


@contextmanager
def open_driver(holder: Mapping[str, Any]) -> Iterator[Callable[[signal.Signals], None] | None]:
    """Yield a function that signals the process that a lease names; None unless it is a driver of this user.

    A lease is a file that others may have written, and its process may be gone and its PID in use by another one. So
    the start time and the command line are compared, and signals go through a file descriptor of that very process.
    """
    pid = holder.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 1 or pid == os.getpid():
        yield None
        return
    if sys.platform != "linux":
        yield _by_number(pid, holder)
        return
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield (lambda number: _signal(descriptor, number)) if _is_driver(pid, holder) else None
    finally:
        os.close(descriptor)


def _by_number(pid: int, holder: Mapping[str, Any]) -> Callable[[signal.Signals], None] | None:
    """Return a function that signals a driver by its PID, where processes have no descriptors.

    psutil compares the start time again before each signal.
    """
    try:
        process = psutil.Process(pid)
    except psutil.Error:
        return None

    def send(number: signal.Signals) -> None:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)

    return send if _is_driver(pid, holder) else None


def _signal(descriptor: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, number)


def _is_driver(pid: int, holder: Mapping[str, Any]) -> bool:
    """Return whether a process holds the lease: it is the one that the lease names, and runs a sweep.

    A lease without the start of its process, as earlier versions wrote it, may name any process of today.
    """
    try:
        process = psutil.Process(pid)
        is_own = process.uids().real == os.getuid() and process.create_time() <= float(holder["started_s"]) + 1.0
        start = holder.get("process_start")
        is_same = isinstance(start, int) and start > 0 and start_of(pid) == start
        return is_own and is_same and runs_python(pid) and _drives(process.cmdline(), Path(process.cwd()))
    except (psutil.Error, OSError, KeyError, TypeError, ValueError):
        return False


def _drives(words: Sequence[str], folder: Path) -> bool:
    """Return whether a command line of Python is that of a driver: `trm sweep ...`, or code that imports this package.

    Args:
        folder: where the relative path of a script begins.
    """
    if words and Path(words[0]).name == "trm":
        return "sweep" in words
    rest = list(words[1:])
    while rest and rest[0].startswith("-") and rest[0] not in ("-m", "-c"):  # options of the interpreter
        takes_value = rest[0] in ("-W", "-X", "--check-hash-based-pycs")
        rest = rest[2:] if takes_value else rest[1:]
    kind, *more = rest or [""]
    if kind == "-m":
        return more[:1] == ["orchestrator.cli"] and "sweep" in more
    if Path(kind).name == "trm":
        return "sweep" in more
    code = " ".join(more[:1]) if kind == "-c" else (folder / kind).read_text(errors="replace") if kind else ""
    return re.search(r"(^|;)\s*(from|import)\s+orchestrator\b", code, re.MULTILINE) is not None


def guard(url: str, sweep: str, budget: Budget, cluster: str | None = None, region: str | None = None) -> str:
    """Watch a sweep of a storage until it is complete or was stopped. Return a description of how it ended.

    Raises:
        UserError: no limit, no such sweep, or nodes of `cluster` could not be terminated.
    """
    if budget == Budget():
        raise SweepError("a watchdog needs a limit", "Give --max-trials, --max-gpu-hours, --max-usd or --max-hours")
    storage = open_storage(url)
    reader = SweepReader(storage, sweep)
    damaged: set[Damaged] = set()

    def read() -> Sequence[TrialRecord]:
        found = reader.read()
        for each in found.damaged:
            if each not in damaged:
                damaged.add(each)
                logger.warning("skipped %s; what that trial used may not be counted", each)
        return found.trials

    watchdog = Watchdog(
        sweep_folder(storage, sweep),
        load_definition(storage, sweep),
        budget,
        read=read,
        end_machines=(lambda: terminate_workers(cluster, region)) if cluster else None,
    )
    ended = watchdog.run()
    files = f"{len(damaged)} damaged file" + "s" * (len(damaged) > 1)
    return f"{ended}; {files} skipped, so usage may be higher than counted" if damaged else ended
