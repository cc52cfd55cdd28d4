"""Start processes on the head that outlive the connection, remember them, and end them. Runs on the head."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.execution.watchdog import Watchdog
from orchestrator.records.index import find_definition, sweep_folder
from orchestrator.storage import Storage
from orchestrator.storage.lease import driver_of
from orchestrator.sweep.budget import Budget
from trm_data.files import ProcessIdentity, load_json, machine_id, start_of, write_atomic
from trm_data.settings import canonical_json

logger = logging.getLogger(__name__)

DRIVER, TIMER, RAY = "driver", "timer", "ray"
"""Names of the processes of a deployment: of their files and logs in its folder. A driver on one machine starts Ray
itself; of several machines each has a process that runs it."""
_STARTED: list[subprocess.Popen[bytes]] = []
"""Kept, since Python warns of a child that runs on without its object."""
GRACE_S = 120.0
"""Seconds that a driver has to write the last checkpoints of its trials."""
RAY_GRACE_S = 25.0
"""Seconds that the process which runs Ray has to end it."""
END_COMMAND_S = 900.0


def start(folder: Path, name: str, words: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Start a process in a session of its own and write who it is. Return its PID."""
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(  # never waited for: it outlives this process
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    _STARTED.append(process)
    identity = {"machine": machine_id(), "pid": process.pid, "start": start_of(process.pid)}
    write_atomic(folder / f"{name}.json", canonical_json(identity).encode())
    return process.pid


def find(folder: Path, name: str) -> ProcessIdentity | None:
    """Return a process that was started, whether or not it is alive; None if none was."""
    try:
        found = load_json((folder / f"{name}.json").read_bytes())
        return ProcessIdentity(str(found["machine"]), int(found["pid"]), int(found["start"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_alive(folder: Path, name: str) -> bool:
    """Return whether a process that was started runs."""
    for process in _STARTED:
        process.poll()  # collects those of this process that have ended
    found = find(folder, name)
    return found is not None and found.is_alive() is True


def end(folder: Path, name: str, grace_s: float, sleep: Callable[[float], None] = time.sleep) -> bool:
    """End a process: SIGTERM, and SIGKILL to its whole group after a while. Return whether it was running."""
    found = find(folder, name)
    if found is None or not is_alive(folder, name):
        return False
    for send, number in ((os.kill, signal.SIGTERM), (os.killpg, signal.SIGKILL)):
        with suppress(ProcessLookupError):
            send(found.pid, number)
        for _ in range(max(1, int(grace_s / 0.2))):
            if not is_alive(folder, name):
                return True
            sleep(0.2)
    return True


def end_driver(storage: Storage, sweep: str, folder: Path, reason: str, grace_s: float = GRACE_S) -> str:
    """End the driver of a sweep: a clean stop, then signals. Return which step was sufficient."""
    text = "no driver was running"
    definition = find_definition(storage, sweep)
    if definition is not None and is_alive(folder, DRIVER):
        watchdog = Watchdog(sweep_folder(storage, sweep), definition, Budget(), read=tuple, grace_s=grace_s)
        text = watchdog.stop(reason).partition(";")[0]
    elif driver_of(sweep_folder(storage, sweep)) is not None:
        text = "the driver is a job of the cluster and ends with it"
    if end(folder, DRIVER, grace_s / 4) and "driver" not in text.removeprefix("no driver"):
        text = "the driver ended after a signal"
    return text


def python_words(module: str, *arguments: str) -> list[str]:
    """Return the words that run a module of this program with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def run_command(command: str, folder: Path) -> bool:
    """Run a command of the user in a shell, and log how it ended. Return whether it has worked."""
    try:
        done = subprocess.run(
            ["sh", "-c", command], stdin=subprocess.DEVNULL, timeout=END_COMMAND_S, cwd=folder, check=False
        )
    except subprocess.TimeoutExpired:
        logger.warning("the command that ends the machine has not ended after %.0f s", END_COMMAND_S)
        return False
    logger.info("the command that ends the machine ended with %d", done.returncode)
    return done.returncode == 0
