"""One writer per sweep and tracker: two that look for a trial's run at once would both make one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from orchestrator.errors import SweepError
from orchestrator.lock import DriverLock, driver_of
from orchestrator.projections.reach import TrackingError
from orchestrator.storage import Storage

POLL_S = 0.5


@contextmanager
def only_writer(storage: Storage, sweep_name: str, uri: str, *, wait_s: float) -> Iterator[None]:
    """Hold `sweeps/<sweep>/tracking/<address>/lock.json`; one that a dead process left is taken over.

    Raises:
        TrackingError: another living process writes there, and goes on for `wait_s`.
    """
    folder = storage.sub(f"sweeps/{sweep_name}/tracking/{hashlib.sha256(uri.encode()).hexdigest()[:12]}")
    deadline = time.monotonic() + wait_s
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(DriverLock(folder, sweep_name))
                break
            except SweepError as error:
                if time.monotonic() > deadline:
                    raise _busy(folder, sweep_name) from error
            time.sleep(POLL_S)
        yield


def _busy(folder: Storage, sweep_name: str) -> TrackingError:
    holder = driver_of(folder)
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return TrackingError(f"{who} is writing sweep {sweep_name!r} to this tracker", "It sends the same: let it end")
