"""A private folder for temporary files of this process: `/tmp/trm-UID/PID-START/`.

`/tmp` is shared: names in it may be taken or watched by other users. The folder of the user has mode 0700 and is
checked for its owner. Below it, the name of every folder tells which process it belongs to, so that what a killed
process left is removed by the next one.
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


def scratch_folder() -> Path:
    """Return this process's own folder, made if need be. Removes the folders of processes that are gone.

    Raises:
        UserError: the folder of the user belongs to somebody else, or is open to others.
    """
    folder = _user_folder() / _name_of(psutil.Process())
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def remove_scratch_folder() -> None:
    """Remove this process's folder, if it has one."""
    shutil.rmtree(_root() / _name_of(psutil.Process()), ignore_errors=True)


def _root() -> Path:
    return Path(tempfile.gettempdir()) / f"trm-{os.getuid()}"


def _user_folder() -> Path:
    root = _root()
    root.mkdir(mode=0o700, exist_ok=True)
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UserError(f"{root} is not a private folder of this user", "Remove it, or set TMPDIR to another folder")
    for left in root.iterdir():
        if not _is_owned(left.name):
            shutil.rmtree(left, ignore_errors=True)
    return root


def _name_of(process: psutil.Process) -> str:
    return f"{process.pid}-{int(process.create_time())}"


def _is_owned(name: str) -> bool:
    """Return whether the process that a folder is named for is alive."""
    pid, _, _ = name.partition("-")
    with suppress(psutil.Error, ValueError):
        return _name_of(psutil.Process(int(pid))) == name
    return False
