"""Replace `time.time` by a stand-in clock, and log the writes that a process tries: see `tests.chaos.clock`.

Imported by every Python that has this folder on its path.
"""

import http.client
import json
import mmap
import os
import struct
import time
from typing import Any

_true_time = time.time


def _use_stand_in(path: str) -> None:
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib would be imported by every process
        offset = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    unpack = struct.Struct("d").unpack_from

    def stand_in_time() -> float:
        return _true_time() + float(unpack(offset)[0])

    time.time = stand_in_time


def _log_tried_writes(path: str) -> None:
    """Log every write of an attempt before a connection is opened, so that those of an outage are known too."""
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
    putrequest = http.client.HTTPConnection.putrequest

    def logging_putrequest(self: Any, method: str, url: str, *args: Any, **options: Any) -> None:
        if method == "PUT" and "/attempts/" in url:
            entry = {"time_s": _true_time(), "kind": "tried", "path": url.partition("?")[0], "pid": os.getpid()}
            os.write(log, f"{json.dumps(entry)}\n".encode())  # one write at the end of a file is not torn
        putrequest(self, method, url, *args, **options)

    http.client.HTTPConnection.putrequest = logging_putrequest  # type: ignore[method-assign]


if _path := os.environ.get("TRM_CHAOS_CLOCK"):
    _use_stand_in(_path)
if _path := os.environ.get("TRM_CHAOS_REQUESTS"):
    _log_tried_writes(_path)
