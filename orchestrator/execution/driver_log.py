"""Write the log of a driver into the record of its sweep.

A local storage gets `sweeps/NAME/driver.log`, which grows. Object stores cannot append: they get numbered segments,
`sweeps/NAME/driver/0001.log` and so on.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.storage import LocalStorage, Storage
from trm_data.addresses import hide_credentials

FLUSH_S = {True: 2.0, False: 30.0}
"""Most seconds until a line is visible to others, by whether the storage is local. A segment costs a request."""
MOST_LINES = 10_000
"""Lines kept while the storage is unavailable; older ones are dropped."""
CLOSE_S = 10.0
"""Longest time that the end of a sweep waits for the log."""
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def driver_log(folder: Storage) -> Iterator[None]:
    """Write log records of the package, from INFO up, to the sweep's folder while the block runs. Never fails."""
    package = logging.getLogger(__name__.partition(".")[0])
    handler, level, shown = _StorageHandler(folder), package.level, package.getEffectiveLevel()
    handler.setFormatter(logging.Formatter(FORMAT))
    others = [*package.handlers, *logging.getLogger().handlers]
    package.addHandler(handler)

    def as_before(record: logging.LogRecord) -> bool:
        """Keep the terminal as quiet as it would be without this log."""
        return record.levelno >= shown or not record.name.startswith(package.name)

    if shown > logging.INFO:
        package.setLevel(logging.INFO)
        for other in others:
            other.addFilter(as_before)
    try:
        yield
    finally:
        for other in others:
            other.removeFilter(as_before)
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()


class _StorageHandler(logging.Handler):
    """Collect lines and write them from a separate thread, so that logging never waits for the storage."""

    def __init__(self, folder: Storage) -> None:
        super().__init__(logging.INFO)
        self._folder = folder
        self._lines: deque[str] = deque(maxlen=MOST_LINES)
        self._segment: int | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="driver-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Add a line to the next write."""
        try:
            self._lines.append(hide_credentials(self.format(record)) + "\n")
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Write the remaining lines, with a short time limit."""
        self._closing.set()
        self._thread.join(CLOSE_S)
        super().close()

    def _write_all(self) -> None:
        pause_s = FLUSH_S[isinstance(self._folder, LocalStorage)]
        while not self._closing.wait(pause_s):
            self._write()
        self._write()

    def _write(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if not lines:
            return
        try:
            self._append("".join(lines).encode())
        except Exception:  # a log never fails a sweep; the lines are tried again with the next ones
            self._lines.extendleft(reversed(lines[-MOST_LINES + len(self._lines) :]))

    def _append(self, data: bytes) -> None:
        if isinstance(self._folder, LocalStorage):
            # The folder holds the lease already, unless somebody deleted it: then nothing is to be written there.
            with (self._folder.root / "driver.log").open("ab") as file:
                file.write(data)
            return
        if self._segment is None:
            names = [key.rpartition("/")[2].partition(".")[0] for key in self._folder.list("driver")]
            self._segment = max((int(name) for name in names if name.isdecimal()), default=0)
        self._folder.write(f"driver/{self._segment + 1:04d}.log", data)
        self._segment += 1
