"""Read and list the files of a folder as a storage does: regular ones alone.

What lies in a storage may come from others: from an archive, or a folder that a group shares. A link would make us
read, show and upload a file of the user's own as if it were theirs, and opening a named pipe would wait forever: both
count as absent.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from orchestrator.storage.base import SEPARATOR, Keys, Snapshot, StorageError
from orchestrator.storage.keys import is_key, is_unusable, unusable_names
from trm_data.files import is_abandoned, temporary_name

logger = logging.getLogger(__name__)


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        FileNotFoundError: there is none, or something else.
    """
    try:  # without waiting for somebody who writes into a named pipe
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):  # a link; a socket
            raise FileNotFoundError(error.errno, "no regular file", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.EINVAL, "no regular file", str(path))
    with open(descriptor, "rb") as file:  # noqa: PTH123 (it is open already)
        return file.read()


def kind_of(path: Path) -> str:
    """Return what is there instead of a regular file; an empty string if one or nothing is there."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if stat.S_ISREG(mode):
        return ""
    return "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"


def remove_irregular(path: Path) -> None:
    """Remove a link, a pipe or an empty folder.

    Raises:
        StorageError: it cannot be removed: a folder holds files.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StorageError(f"cannot remove {path}: {reason}", "Move it away") from error


LOCK_FILE = ".lock"
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a file system answers that cannot link these files."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock that the system releases when the process ends."""
    with open(_open_lock(path), "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _open_lock(path: Path) -> int:
    """Open a lock file for writing. Whoever may write to its folder may use it, whoever was the first to do so."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    mode = path.parent.stat().st_mode & 0o666
    if mode & ~os.fstat(descriptor).st_mode:
        with suppress(OSError):  # it is another user's
            os.fchmod(descriptor, mode)
    return descriptor


def now_of_folder(folder: Path) -> float:
    """Return the time by the clock of a folder's file system, which may be that of a file server; this machine's clock
    where nothing can be written."""
    try:
        descriptor = _open_lock(folder / LOCK_FILE)
        try:
            os.utime(descriptor)  # without a time: the file system fills in its own
            return os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
    except OSError:
        return time.time()


def link_or_copy(source: Path, target: Path) -> None:
    """Let a second name stand for a file, whose time of change stays; copy it in blocks where links are not possible.

    Raises:
        FileNotFoundError: there is no such file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(temporary_name())
    try:
        try:
            aside.hardlink_to(source)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copy2(source, aside, follow_symlinks=False)
            with aside.open("rb") as file:
                os.fsync(file.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)  # a file that replaces another name of itself keeps both


def remove_leftovers(top: Path) -> None:
    """Remove links, pipes, what has a name that cannot be printed, what dead processes were writing, empty folders and
    unused lock files below a folder, and the folder itself if it is empty."""
    try:
        entries = list(top.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in entries:
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode) and is_unusable(path.name):
            shutil.rmtree(path)
        elif stat.S_ISDIR(mode):
            remove_leftovers(path)
        elif not stat.S_ISREG(mode) or is_unusable(path.name) or is_abandoned(path):
            path.unlink(missing_ok=True)
    lock = top / LOCK_FILE
    if [path.name for path in top.iterdir()] == [LOCK_FILE]:
        with locked(lock):
            if [path.name for path in top.iterdir()] == [LOCK_FILE]:
                lock.unlink()
    with suppress(OSError):  # not empty, a link to a folder elsewhere, or used again
        top.rmdir()


def folders_in(top: Path, may_be_linked: bool) -> Keys:
    """Return the names of the visible folders in a folder, sorted; links to folders count if they may be linked. What
    is no folder has none."""
    try:
        with os.scandir(top) as entries:
            visible = [entry for entry in entries if is_key(entry.name)]
            linked = [entry.name for entry in visible if may_be_linked and entry.is_symlink() and Path(entry).is_dir()]
            return sorted(linked + [entry.name for entry in visible if entry.is_dir(follow_symlinks=False)])
    except (FileNotFoundError, NotADirectoryError):
        return []


def unusable_in(top: Path, may_be_linked: bool, *, is_deep: bool) -> Keys:
    """Say what stands in place of a folder, or which names in it cannot be those of a key."""
    kind = kind_of(top) or ("a file" if os.path.lexists(top) else "")
    if kind == "a link" and may_be_linked and top.is_dir():
        kind = "a folder"
    if kind != "a folder":
        return [f"it is {kind}, and no folder"] if kind else []
    names, pending = [], [""]
    while pending:
        prefix = pending.pop()
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(top / prefix) as entries:
            for entry in entries:
                names.append(f"{prefix}{entry.name}")
                if is_deep and is_key(entry.name) and entry.is_dir(follow_symlinks=False):
                    pending.append(f"{prefix}{entry.name}/")
    return unusable_names(names)


def status_of(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of a file; None if it has just been deleted."""
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


@cache
def _warn_of(path: str) -> None:
    """Say once what is not used, and why."""
    logger.warning("%s is left out: it is a link, a pipe or a device, and only regular files are read", path)


def files_below(top: str, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield visible files below `top` as (key, entry); folders that are deleted meanwhile count as empty."""
    pending = [(top, prefix)]
    while pending:
        folder, prefix = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not is_key(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        pending.append((entry.path, f"{prefix}{entry.name}/"))
                    elif entry.is_file(follow_symlinks=False):
                        yield f"{prefix}{entry.name}", entry
                    else:
                        _warn_of(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue


SETTLED_S = 2.0
"""Age from which the time of a folder shows every later change: file systems count in steps of up to two seconds."""


def version_of(status: os.stat_result) -> str:
    """Return a text that another content of the file makes another one."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def is_current(top: str, snapshot: Snapshot) -> bool:
    """Return whether a snapshot shows a folder as it is now. Files are compared too: editors change them in place."""
    if not snapshot.folders:
        return False
    folders, files = snapshot.folders.split(SEPARATOR), snapshot.files.split(SEPARATOR)
    try:
        for name, changed_ns in zip(folders[::2], folders[1::2], strict=True):
            if str(os.stat(top + name).st_mtime_ns) != changed_ns:  # noqa: PTH116 (a Path costs more than the call)
                return False
        for name, version in zip(files[::2], files[1::2], strict=True):
            if version_of(os.stat(top + name)) != version:  # noqa: PTH116
                return False
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: none of our snapshots
        return False
    return True


def snapshot_of(top: str, names: Sequence[str]) -> Snapshot:
    """List the files and folders `names` in `top`, which ends with `/`."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    settled_ns = time.time_ns() - int(SETTLED_S * 1e9)
    is_settled = True
    pending = [""]
    while pending:
        folder = pending.pop()
        prefix = f"{folder}/" if folder else ""
        try:
            changed_ns = os.stat(top + folder).st_mtime_ns  # noqa: PTH116 (before the listing: what follows is newer)
            with os.scandir(top + folder) as entries:
                for entry in entries:
                    is_folder = entry.is_dir(follow_symlinks=False)
                    name = prefix + entry.name
                    if not prefix and (f"{name}/" if is_folder else name) not in names:
                        continue
                    if not is_key(entry.name):
                        continue
                    if is_folder:
                        pending.append(name)
                        continue
                    if not entry.is_file(follow_symlinks=False):
                        _warn_of(entry.path)
                    elif (status := status_of(entry)) is not None:
                        files[name] = version_of(status)
        except (FileNotFoundError, NotADirectoryError):
            continue
        folders[folder] = str(changed_ns)
        is_settled = is_settled and changed_ns < settled_ns
    return Snapshot.of(files, folders if is_settled else None)
