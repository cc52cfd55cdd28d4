"""Manage the temporary folder of this process, for example for Ray's session: `<private folder>/processes/PID-START/`.

The name identifies the process, so that the files of a killed process can be removed by the next one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from trm_data.files import ProcessIdentity, machine_id, private_folder, this_process

MAX_PATH = 107 - len("/ray") - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Most characters of the folder of a process: below it, the paths of Ray's sockets stay within Linux's 107."""


def scratch_folder() -> Path:
    """Return this process's own folder, creating it if necessary. Remove the folders of processes that have exited.

    Raises:
        UserError: the private folder belongs to another user.
    """
    root = _root()
    for folder in root.iterdir():
        if _is_left(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
    own = root / _own_name()
    own.mkdir(mode=0o700, exist_ok=True)
    return own


def remove_scratch_folder() -> None:
    """Remove this process's folder, if it has one."""
    shutil.rmtree(_root() / _own_name(), ignore_errors=True)


def _root() -> Path:
    root = private_folder("processes")
    if len(str(root / _own_name())) <= MAX_PATH:
        return root
    return private_folder("p", Path("/tmp"))  # a deep TMPDIR leaves no room for the names of sockets


def _own_name() -> str:
    return f"{os.getpid()}-{this_process().start}"


def _is_left(name: str) -> bool:
    """Return whether a folder belongs to a process that no longer runs."""
    pid, _, start = name.partition("-")
    if not (pid.isdecimal() and start.isdecimal()):
        return False
    return ProcessIdentity(machine_id(), int(pid), int(start)).is_alive() is False
