"""Ends a sweep that has used up its budget, from outside: also when its driver hangs, or is dead.

    trm sweep watchdog demo --storage s3://bucket/trm --max-usd 50 --terminate trm-sweeps

It only reads records, so it may run anywhere that sees the storage. At the limit it asks for a clean stop first
(checkpoints are written); a driver that does not listen is ended by signals if it is on this machine; and only if that
was not enough, and only if named, the cluster's worker machines are ended. A sweep that was stopped can be resumed.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from orchestrator.errors import SweepError
from orchestrator.records.index import load_definition, request_stop, sweep_folder
from orchestrator.records.reader import SweepReader
from orchestrator.records.schema import TrialRecord
from orchestrator.resources.aws import terminate_workers
from orchestrator.resources.usage import Budget, exceeded, spending
from orchestrator.storage import Storage, StorageError, open_storage
from orchestrator.storage.lease import driver_of

POLL_S = 60.0
"""A limit is overrun by at most this, the time to write checkpoints, and the idle time of machines."""
GRACE_S = 120.0
"""A clean stop takes as long as the slowest checkpoint; signals follow after it."""


@dataclass(frozen=True, slots=True)
class Watchdog:
    """Watches one sweep. `folder` is its folder in the storage; `clock` and `sleep` are in seconds."""

    folder: Storage
    budget: Budget
    read: Callable[[], Sequence[TrialRecord]]
    end_machines: Callable[[], Sequence[str]] | None = None
    grace_s: float = GRACE_S
    poll_s: float = POLL_S
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def run(self) -> str:
        """Watch until the sweep is over or was ended; says how.

        Raises:
            UserError: machines could not be ended.
        """
        while True:
            with suppress(StorageError):  # an outage of the storage: the next look will tell
                records = self.read()
                reason = exceeded(spending(records, self.clock()), self.budget)
                if reason:
                    return f"{reason}: {self.stop(reason)}"
                if records and all(record.status.is_final for record in records) and driver_of(self.folder) is None:
                    return "the sweep is complete"
            self.sleep(self.poll_s)

    def stop(self, reason: str = "") -> str:
        """Ask, then insist, then cut the power; says what it took."""
        driver = driver_of(self.folder)
        if driver is None:
            return self._cut("the driver is gone")
        request_stop(self.folder, reason)
        if self._gone_within(self.grace_s):
            return "the driver stopped cleanly"
        if driver["host"] != socket.gethostname():
            return self._cut(f"the driver on {driver['host']} does not listen")
        self._signal(driver["pid"], signal.SIGTERM)
        if self._gone_within(self.grace_s / 4):
            return "the driver ended after SIGTERM"
        self._signal(driver["pid"], signal.SIGKILL)
        return self._cut("the driver was killed")

    def _signal(self, pid: int, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def _gone_within(self, limit_s: float) -> bool:
        deadline = self.clock() + limit_s
        while driver_of(self.folder) is not None:
            if self.clock() > deadline:
                return False
            self.sleep(min(1.0, limit_s / 10))
        return True

    def _cut(self, found: str) -> str:
        """Without a driver Ray ends its trials and the autoscaler its machines, in minutes, unless something hangs."""
        if self.end_machines is None:
            return f"{found}; no machine was ended (--terminate CLUSTER does)"
        return f"{found}; {len(self.end_machines())} worker machines ended"


def guard(url: str, sweep: str, budget: Budget, cluster: str | None = None, region: str | None = None) -> str:
    """Watch a sweep of a storage until it is over or was ended; says how.

    Raises:
        UserError: no limit, no such sweep, or machines of `cluster` could not be ended.
    """
    if budget == Budget():
        raise SweepError("a watchdog needs a limit", "Give --max-trials, --max-gpu-hours, --max-usd or --max-hours")
    storage = open_storage(url)
    load_definition(storage, sweep)
    reader = SweepReader(storage, sweep)
    watchdog = Watchdog(
        sweep_folder(storage, sweep),
        budget,
        read=lambda: reader.read().trials,
        end_machines=(lambda: terminate_workers(cluster, region)) if cluster else None,
    )
    return watchdog.run()
