"""One driver per sweep: an exclusive claim that a heartbeat renews, and the request to stop."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from typing import Any

from orchestrator.errors import SweepError
from orchestrator.storage import Storage
from orchestrator.storage.base import StorageError, to_json_bytes

HEARTBEAT_S = 5.0
LEASE_S = 30.0
"""Survives five missed beats on slow storage; after it the next driver takes the sweep over."""


class Lease:
    """`with Lease(storage, sweep):` owns the sweep.

    Raises:
        SweepError: another driver that is alive owns it.
    """

    def __init__(self, folder: Storage, name: str) -> None:
        self.took_over = False
        """Whether the driver before this one died without giving the sweep back."""
        self.lost = threading.Event()
        """Set when another driver took the sweep over, as it may when this one was suspended for too long."""
        self._folder = folder
        self._name = name
        self._owner = {"host": socket.gethostname(), "pid": os.getpid(), "started_s": time.time()}
        self._version = ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="sweep-lock", daemon=True)

    def __enter__(self) -> Lease:
        if self._folder.create("lock.json", self._claim()):
            self._version = self._folder.read_tagged("lock.json").etag
        else:
            self._version = self._take_over()
        self._folder.delete("stop.json")
        self._thread.start()
        return self

    def _take_over(self) -> str:
        """Replace a dead driver's claim: of several that try, the version lets one through."""
        try:
            data, version = self._folder.read_tagged("lock.json")
            holder = json.loads(data)
        except KeyError:
            raise SweepError(f"the driver of sweep {self._name!r} is just ending", "Try again in a moment") from None
        if _is_alive(holder):
            raise SweepError(
                f"sweep {self._name!r} is being run by process {holder['pid']} on {holder['host']}",
                f"Watch it with `trm sweep status {self._name}`, or end it with `trm sweep stop {self._name}`",
            )
        taken = self._folder.replace_if("lock.json", self._claim(), version)
        if taken is None:
            raise SweepError(f"another driver has just taken sweep {self._name!r}", "Try again in a moment")
        self.took_over = True
        return taken

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(HEARTBEAT_S)
        if not self.lost.is_set():
            self._folder.delete("lock.json")

    def _claim(self) -> bytes:
        return to_json_bytes({**self._owner, "beat_s": time.time()})

    def _beat(self) -> None:
        while not self._end.wait(HEARTBEAT_S):
            try:
                version = self._folder.replace_if("lock.json", self._claim(), self._version)
            except StorageError:
                continue  # the lease outlives a short outage; a long one ends the sweep where it writes
            if version is None:
                self.lost.set()
                return
            self._version = version


def _read(folder: Storage, key: str) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(folder.read(key))
        return value
    except (KeyError, ValueError):
        return None


def _is_alive(holder: dict[str, Any]) -> bool:
    if time.time() - holder["beat_s"] > LEASE_S:
        return False
    if holder["host"] != socket.gethostname():
        return True
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def driver_of(folder: Storage) -> dict[str, Any] | None:
    """host, pid, started_s of the living driver, if there is one."""
    holder = _read(folder, "lock.json")
    return holder if holder and _is_alive(holder) else None
