"""Write files atomically, name temporaries after their owner, and provide the user's private temporary folder."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, NamedTuple

from trm_data.errors import OUT_OF_SPACE, ConfigError, UserError

logger = logging.getLogger(__name__)

ABANDONED_S = 24 * 3600.0
"""Age in seconds from which a temporary of another machine, whose owner cannot be checked, counts as abandoned."""


def load_json(data: bytes | str, as_object: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the value that a JSON text from outside holds.

    Args:
        as_object: makes an object of its keys and values; a dictionary, with the last value of every key, if left out.

    Raises:
        ValueError: it is no JSON, no text, or nested so deeply that the parser exceeds the recursion limit.
    """
    try:
        return json.loads(data, object_pairs_hook=as_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class ProcessIdentity(NamedTuple):
    """Identify a process, so that another one can determine later whether it still runs."""

    machine: str
    """Digest of the boot and the PID namespace: PIDs can be compared where it is equal."""
    pid: int
    start: int
    """Clock ticks from the boot to the start of the process, to distinguish it from a later one with its PID, or 0."""

    def is_alive(self) -> bool | None:
        """Return whether the process runs; None if it cannot be determined from this process."""
        if self.machine != machine_id():
            return None
        if self.pid <= 0:
            return False
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):  # no system has so large a PID
            return False
        except PermissionError:
            pass  # it belongs to another user
        return not has_ended(self.pid) and (not self.start or start_of(self.pid) in (self.start, 0))


@cache
def machine_id() -> str:
    """Return a digest of this boot and PID namespace; two containers on one host differ."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return sha256(" ".join(parts).encode()).hexdigest()[:12]


def usable_cores() -> int:
    """Return on how many cores this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS has no affinities


def start_of(pid: int) -> int:
    """Return when a process started, in clock ticks since the boot; 0 if the system does not report it.

    On systems without `/proc` it is in hundredths of a second since the epoch, which serves as well to tell processes
    with the same number apart.
    """
    if sys.platform != "linux":
        import psutil

        try:
            return int(100 * psutil.Process(pid).create_time())
        except psutil.Error:
            return 0
    try:
        return int(_status_of(pid)[19])
    except (ValueError, IndexError):
        return 0


def has_ended(pid: int) -> bool:
    """Return whether a process has ended and only its entry is left, which its parent has not collected.

    The first process of many containers collects none, so that a killed process keeps its PID until they end.
    """
    return _status_of(pid)[:1] in (["Z"], ["X"])


def _status_of(pid: int) -> list[str]:
    """Return the fields of `/proc/PID/stat` after the name of the program; empty if they cannot be read."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ValueError):  # ValueError: the name of a program may be any bytes
        return []
    return text.rpartition(")")[2].split()  # the name, in parentheses, may hold spaces


def this_process() -> ProcessIdentity:
    """Return the identity of the calling process."""
    return ProcessIdentity(machine_id(), os.getpid(), start_of(os.getpid()))


_TEMPORARY = re.compile(r"\.(?P<machine>[0-9a-f]{12})-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{8}\.tmp")
_ANONYMOUS = re.compile(r"\.([0-9a-f]{8}|[0-9a-f]{32}|.+\.(arrow|csv|gif|html|jsonl?|png|safetensors)\.\d+)\.tmp")
_ANONYMOUS_FOLDER = re.compile(r"\.building-.*|\..+\.[a-z0-9_]{8}")
"""Names that earlier versions gave to files, and to folders of builds and downloads: without an owner, so that only the
age counts. Other hidden files that end in `.tmp` belong to other programs."""


def temporary_name() -> str:
    """Return a new hidden file name that contains the identity of the writing process."""
    owner = this_process()
    return f".{owner.machine}-{owner.pid}-{owner.start}-{uuid.uuid4().hex[:8]}.tmp"


def is_abandoned(path: Path) -> bool:
    """Return whether a file is a temporary whose owner has died."""
    if not (found := _TEMPORARY.fullmatch(path.name)):
        return bool(_ANONYMOUS.fullmatch(path.name)) and _is_old(path)
    alive = ProcessIdentity(found["machine"], int(found["pid"]), int(found["start"])).is_alive()
    return _is_old(path) if alive is None else not alive


def abandoned_files(root: Path, *, recursive: bool = True) -> Iterator[Path]:
    """Yield the temporaries in a folder that dead processes left."""
    pending = [str(root)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:  # `os.walk` examines every folder twice
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if recursive:
                            pending.append(entry.path)
                    elif entry.name.endswith(".tmp") and is_abandoned(path := Path(entry.path)):
                        yield path
        except OSError:  # it has just been deleted, or may not be read
            continue


def age_s(path: Path) -> float | None:
    """Return the seconds since a file or folder was last changed; None if it is gone, or cannot be examined.

    To be used instead of `stat` for what another process may delete or rename at the same time.
    """
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return None


def _is_old(path: Path) -> bool:
    return (age_s(path) or 0.0) > ABANDONED_S


def remove_abandoned(folder: Path, *, recursive: bool = False) -> None:
    """Delete the temporaries in a folder that dead processes left."""
    for path in abandoned_files(folder, recursive=recursive):
        with suppress(OSError):  # another process deletes it as well, or it may not be deleted
            path.unlink()


def private_folder(name: str = "", base: Path | None = None) -> Path:
    """Return a folder of the temporary directory that only this user can enter; created if it does not exist.

    Args:
        name: a folder inside it.
        base: a folder to use instead of the temporary directory.

    Raises:
        UserError: the path exists and does not belong to this user.
    """
    top = Path(base or tempfile.gettempdir(), f"trm-{os.getuid()}")
    try:
        top.mkdir(mode=0o700, exist_ok=True)
        found = top.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise UserError(f"{top} belongs to another user", "Set TMPDIR to a folder of your own")
        if stat.S_IMODE(found.st_mode) != 0o700:
            top.chmod(0o700)
        inside = top / name
        inside.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use {top}: {error.strerror or error}", "Set TMPDIR to a folder of your own") from error
    return inside


def expand_home(text: str | Path) -> Path:
    """Return a path with `~` and `~user` replaced by the home folder.

    Raises:
        ConfigError: there is no such user, or the user has no home folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"{str(text)!r}: there is no such home folder", "Give the whole path") from None


@contextmanager
def written_aside(path: Path, data: bytes, mode: int = 0o666) -> Iterator[Path]:
    """Yield a complete hidden copy of `data` in the folder of `path`, for the caller to rename or link; deleted
    afterwards. `mode`: permissions that the file has from the beginning, less those of the umask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(temporary_name())
    try:
        with open(aside, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        with suppress(OSError):  # where nothing could be written there is nothing to remove
            aside.unlink()


@contextmanager
def temporary_folder(root: Path, *, is_own: bool = True) -> Iterator[Path]:
    """Yield a new hidden folder in `root`, for the caller to fill and rename; deleted afterwards.

    Those that killed processes left in `root` are deleted first. Unless `is_own`, `root` also holds folders of the
    user: only those that name a dead owner are deleted then.
    """
    root.mkdir(parents=True, exist_ok=True)
    for path in root.glob(".*"):
        is_left = is_abandoned(path) or (_ANONYMOUS_FOLDER.fullmatch(path.name) and _is_old(path))
        if is_left and path.is_dir() and (is_own or _TEMPORARY.fullmatch(path.name)):
            shutil.rmtree(path, ignore_errors=True)
    aside = root / temporary_name()
    try:
        aside.mkdir()
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_atomic(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write `data` to `path` so that a reader sees the old file or the whole new one.

    A link is replaced, not followed; see `write_output` for a path that a user names. `mode`: see `written_aside`.

    Raises:
        UserError: the disk is full, the folder cannot be written, or a device or another special file is there.
    """
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            _require_replaceable(path, path.lstat().st_mode)
        with written_aside(path, data, mode) as aside:
            aside.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}", writing_remedy(error)) from error


def make_folder(folder: Path) -> None:
    """Make the folder of a file that the user named, and say so where it is new: its name may be misspelled.

    Raises:
        UserError: it cannot be made.
    """
    try:
        is_new = not folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}", writing_remedy(error)) from error
    if is_new:
        logger.warning("made the new folder %s", folder)


def write_output(path: Path, data: bytes) -> None:
    """Write `data` to a path that the user named: to the file that a link leads to, and straight into a device or pipe.

    Raises:
        UserError: as `write_atomic`.
    """
    try:
        with suppress(FileNotFoundError):
            mode = path.stat().st_mode
            if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or path.parts[:2] in (("/", "dev"), ("/", "proc")):
                with path.open("wb") as file:
                    file.write(data)
                return
        target = path.resolve()
        make_folder(target.parent)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead to each other
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise UserError(f"cannot write {path}: {reason}", "Name another file") from error
    write_atomic(target, data)


def _require_replaceable(path: Path, mode: int) -> None:
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"cannot write {path}: it is no regular file", "Name another file")


def writing_remedy(error: OSError) -> str:
    """Return what a user can do about a file that cannot be written."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Name a folder that this user can write to"
    return "Free some space or name another folder" if error.errno in OUT_OF_SPACE else "Name another folder"


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content as hexadecimal digits."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
