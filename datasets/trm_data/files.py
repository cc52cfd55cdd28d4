"""Writing files so that nothing is ever half-written: write aside, fsync, rename."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from trm_data.errors import UserError


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the whole new one.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):  # where nothing could be written there is nothing to remove
            aside.unlink()
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", "Free some space or name another folder"
        ) from error
