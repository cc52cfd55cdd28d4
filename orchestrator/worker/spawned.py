"""Run each trial in a process that `multiprocessing` spawns, on systems that lack what the fork server needs.

The fork server needs Linux (abstract socket addresses, descriptors of processes). Elsewhere, on macOS for example, each
trial imports torch itself, which takes seconds. The connection is a pair of sockets without an address, so nobody else
can connect.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from orchestrator.worker.fork_server import REAP_S, START_S, Message, error_of, run_child


class SpawnedProcess:
    """Hold a handle to a spawned process, which waits until it is given its work; see `ForkedProcess`."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), name="trial")
        self._process.start()
        theirs.close()  # this process would keep the connection open after the end of the other one
        self._failure: Message | None = None

    def run(self, entry_point: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Call `entry_point` in the process. Raises OSError if it has exited."""
        changed = {**os.environ, **(environment or {})}
        self._pipe.send((changed, sys.path, str(Path.cwd()), entry_point, arguments))

    def send(self, message: Any) -> None:
        """Send a message to the entry point. Raises OSError if the process has exited."""
        self._pipe.send(message)

    def poll(self, timeout_s: float) -> bool:
        """Return whether `receive` has a message, or the process has ended, within `timeout_s` seconds."""
        until_s = time.monotonic() + timeout_s
        while True:
            if self._failure or self._pipe.poll(0):
                return True
            if not self._process.is_alive():
                return True
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return False
            wait([self._pipe, self._process.sentinel], left_s)

    def receive(self) -> Any:
        """Return the next message of the entry point, waiting for it.

        Raises:
            ChildProcessError: the process has failed or ended; says how.
        """
        if self._failure is None:
            self.poll(START_S)
            try:
                message = self._pipe.recv() if self._pipe.poll(0) else None
            except (EOFError, OSError):
                message = None
            if message is not None and not isinstance(message, Message):
                return message
            self._failure = message or self._end()
        raise error_of(self._failure)

    def join(self, timeout_s: float) -> bool:
        """Return whether the process has ended, waiting at most `timeout_s` seconds."""
        self._process.join(timeout_s)
        return not self._process.is_alive()

    def kill(self) -> None:
        """Kill the process and wait until it has ended."""
        self._process.kill()
        self._process.join(REAP_S)

    def close(self) -> None:
        """Close the connection. A process that still waits for its work then ends."""
        self._pipe.close()
        with suppress(ValueError):  # it still runs, and ends by itself
            self._process.close()

    def _end(self) -> Message:
        self._process.join(REAP_S)
        code = self._process.exitcode
        return Message("failed", "it closed its connection") if code is None else Message("exited", str(code))


def _serve(pipe: Connection) -> None:
    run_child(pipe, is_forked=False)
