"""Find the processes of a private Ray, and end them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil

from orchestrator.execution.scratch import remove_scratch_folder
from orchestrator.records.failures import ExitCode


class RayProcesses:
    """Hold the processes without which a private Ray of this process hangs.

    Children that exist before its start are none of them: they belong to another Ray of this process, or to one that
    has died.
    """

    def __init__(self) -> None:
        self._others = [process for _, process in _servers()]
        self._found: dict[str, psutil.Process] = {}

    def find(self) -> None:
        """Add those that have been started since. One that has died is remembered."""
        for name, process in _servers():
            if process not in self._others:
                self._found.setdefault(name, process)

    def dead(self) -> str:
        """Return the name of one that has died; an empty string if there is none."""
        return next((name for name, process in self._found.items() if not is_alive(process)), "")


def _servers() -> list[tuple[str, psutil.Process]]:
    """Return children of this process that are servers of a Ray, with their names."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if (name := child.name()) in ("raylet", "gcs_server"):
                found.append((name, child))
    return found


def end_at_once() -> NoReturn:
    """End this process and its Ray while its main thread waits for what will not come."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if _is_of_ray(child):  # other children are those of a program that uses this package
                for process in (*child.children(recursive=True), child):
                    with suppress(psutil.Error):
                        process.kill()
    remove_scratch_folder()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(ExitCode.STOPPED)


def _is_of_ray(process: psutil.Process) -> bool:
    import ray

    package = f"{Path(ray.__file__).parent}{os.sep}"
    return any(part.startswith(package) for part in process.cmdline())


def end_autoscaler() -> None:
    """Kill the autoscaler of a private Ray: it has nothing to scale, and `ray.shutdown` would wait a second for it."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any("ray/autoscaler/" in part and part.endswith("monitor.py") for part in child.cmdline()):
                child.kill()


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
