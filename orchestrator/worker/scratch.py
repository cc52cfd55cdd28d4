"""Private temporary folders: `/tmp/trm-UID/` of the user, and `/tmp/trm-UID/PID-START/` of a process.

`/tmp` is shared: other users can read names in it and take them first. The folder of the user has mode 0700, and its
owner is checked on every use. The name of a process's folder says to which process it belongs, so that the next process
removes what a killed one left.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

from trm_data.errors import UserError


def user_folder() -> Path:
    """Return the user's own folder, made if need be.

    Raises:
        UserError: it belongs to another user, is open to others, or cannot be made.
    """
    root = _root()
    try:
        root.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        what = f"cannot make the folder {root}: {error.strerror or error}"
        raise UserError(what, "Set TMPDIR to a folder that this user may write") from error
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UserError(f"{root} is not a private folder of this user", "Remove it, or set TMPDIR to another folder")
    return root


def scratch_folder() -> Path:
    """Return this process's own folder, made if need be. Removes the folders of processes that are gone.

    Raises:
        UserError: see `user_folder`.
    """
    root = user_folder()
    for folder in root.iterdir():
        if is_stale(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
    folder = root / _name_of(psutil.Process())
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def remove_scratch_folder() -> None:
    """Remove this process's folder, if it has one."""
    shutil.rmtree(_root() / _name_of(psutil.Process()), ignore_errors=True)


def is_stale(name: str) -> bool:
    """Return whether `name` is that of a process's folder whose process is gone."""
    pid, dash, start = name.partition("-")
    if not (dash and pid.isdecimal() and start.isdecimal()):
        return False
    with suppress(psutil.NoSuchProcess):
        return _name_of(psutil.Process(int(pid))) != name
    return True


def _root() -> Path:
    return Path(tempfile.gettempdir()) / f"trm-{os.getuid()}"


def _name_of(process: psutil.Process) -> str:
    return f"{process.pid}-{int(process.create_time())}"
