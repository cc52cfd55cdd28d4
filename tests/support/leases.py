"""Drivers on another machine, as their leases show them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.records.index import stop_requested
from orchestrator.storage import Storage
from orchestrator.storage.base import to_json_bytes


def claim(**changes: Any) -> bytes:
    """A claim of a holder on another machine."""
    holder = {"host": "another-machine", "pid": 1, "machine": "0" * 12, "process_start": 1, "started_s": 0.0}
    return to_json_bytes({**holder, "beat_s": time.time(), **changes})


@contextmanager
def beating(storage: Storage, *, obeys: bool = False, **changes: Any) -> Iterator[None]:
    """A holder elsewhere that renews its claim. `obeys`: it releases it once it is asked to stop."""
    end, begun = threading.Event(), threading.Event()

    def beat() -> None:
        count = 0
        while not (end.wait(0.1) or (obeys and stop_requested(storage))):
            storage.write("lock.json", claim(count=(count := count + 1), **changes))
            begun.set()
        if obeys:
            storage.delete("lock.json")

    thread = threading.Thread(target=beat)
    thread.start()
    begun.wait(120)
    try:
        yield
    finally:
        end.set()
        thread.join()
