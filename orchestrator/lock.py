"""One driver per sweep: an exclusive claim that a heartbeat renews, and the request to stop."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from typing import Any

from orchestrator.errors import SweepError
from orchestrator.record import dump
from orchestrator.storage import Storage

HEARTBEAT_S = 5.0
LEASE_S = 30.0
"""Survives five missed beats on slow storage; after it the next driver takes the sweep over."""


class DriverLock:
    """`with DriverLock(storage, sweep):` owns the sweep.

    Raises:
        SweepError: another driver that is alive owns it.
    """

    def __init__(self, folder: Storage, name: str) -> None:
        self._folder = folder
        self._name = name
        self._owner = {"host": socket.gethostname(), "pid": os.getpid(), "started_s": time.time()}
        self.took_over = False
        """Whether the driver before this one died without giving the sweep back."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="sweep-lock", daemon=True)

    def __enter__(self) -> DriverLock:
        if not self._folder.create("lock.json", self._claim()):
            holder = _read(self._folder, "lock.json")
            if holder and _is_alive(holder):
                raise SweepError(
                    f"sweep {self._name!r} is being run by process {holder['pid']} on {holder['host']}",
                    f"Watch it with `trm sweep status {self._name}`, or end it with `trm sweep stop {self._name}`",
                )
            self.took_over = True
            self._folder.delete("lock.json")
            if not self._folder.create("lock.json", self._claim()):
                raise SweepError(f"another driver has just taken sweep {self._name!r}", "Try again in a moment")
        self._folder.delete("stop.json")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(HEARTBEAT_S)
        self._folder.delete("lock.json")

    def _claim(self) -> bytes:
        return dump({**self._owner, "beat_s": time.time()})

    def _beat(self) -> None:
        while not self._end.wait(HEARTBEAT_S):
            self._folder.write("lock.json", self._claim())


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


def request_stop(folder: Storage) -> None:
    """Ask the driver, wherever it is, to stop cleanly."""
    folder.write("stop.json", dump({"requested_s": time.time()}))


def stop_requested(folder: Storage) -> bool:
    """Whether somebody asked."""
    return folder.exists("stop.json")
