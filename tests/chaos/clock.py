"""A stand-in for the wall clock of the processes of a run: they see `time.time()` plus an offset that can be stepped.

`startup/sitecustomize.py` replaces `time.time` in every Python process that has the folder `startup` on its path. The
true clock, and `time.monotonic`, stay as they are in the process that breaks things and in the servers. The same file
logs the writes that processes try, with the true time.
"""

from __future__ import annotations

import struct
from pathlib import Path

STARTUP = Path(__file__).with_name("startup")
VARIABLE = "TRM_CHAOS_CLOCK"
"""Environment variable with the file that holds the offset in seconds, as a double."""
REQUESTS = "TRM_CHAOS_REQUESTS"
"""Environment variable with the file to which processes append the writes of attempts that they try."""


class StandInClock:
    """The offset of the wall clock of all processes that have `environment`."""

    def __init__(self, file: Path, requests: Path) -> None:
        self._file, self._requests = file, requests
        self.step(0.0)

    def environment(self, path: str) -> dict[str, str]:
        """The variables that a process needs. `path`: its PYTHONPATH without this."""
        return {VARIABLE: str(self._file), REQUESTS: str(self._requests), "PYTHONPATH": f"{STARTUP}:{path}"}

    def step(self, offset_s: float) -> None:
        """Let all processes see the true time plus `offset_s` from now on."""
        with self._file.open("r+b" if self._file.exists() else "w+b") as file:
            file.write(struct.pack("d", offset_s))
