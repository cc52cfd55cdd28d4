"""Replace `time.time` by a stand-in clock: see `tests.chaos.clock`. Imported by every Python that has this folder."""

import mmap
import os
import struct
import time


def _use_stand_in(path: str) -> None:
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib would be imported by every process
        offset = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    true_time, unpack = time.time, struct.Struct("d").unpack_from

    def stand_in_time() -> float:
        return true_time() + float(unpack(offset)[0])

    time.time = stand_in_time


if _path := os.environ.get("TRM_CHAOS_CLOCK"):
    _use_stand_in(_path)
