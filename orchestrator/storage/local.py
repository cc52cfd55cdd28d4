"""Use a local folder as a storage.

Only regular files are values (`orchestrator.storage.local_files`).
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from orchestrator.storage.base import UNREACHABLE, Keys, Snapshot, StorageError, Tagged
from orchestrator.storage.keys import checked_key
from orchestrator.storage.local_files import (
    LOCK_FILE,
    files_below,
    folders_in,
    is_current,
    link_or_copy,
    locked,
    now_of_folder,
    read_regular,
    remove_leftovers,
    snapshot_of,
    status_of,
    unusable_in,
    version_of,
)
from orchestrator.storage.patience import PATIENCE_S, TransientError, retry_transient
from trm_data.files import remove_abandoned, written_aside

T = TypeVar("T")
LINKED_PARTS = 2
"""Parts of a key from the left whose folders may be links: `sweeps/NAME` and `datasets/NAME` may be on other disks."""


@dataclass(frozen=True, slots=True)
class LocalStorage:
    """Store values in a folder, also on NFS: it relies on renames, links and advisory locks."""

    root: Path
    patience_s: float = field(default=PATIENCE_S, compare=False)
    linked_parts: int = field(default=LINKED_PARTS, compare=False)

    @property
    def url(self) -> str:
        return str(self.root)

    def read(self, key: str) -> bytes:
        path = self._path(key)

        def read() -> bytes:
            try:
                return read_regular(path)
            except (FileNotFoundError, NotADirectoryError):
                raise KeyError(key) from None

        return self._retried("read", path, read)

    def read_tagged(self, key: str) -> Tagged:
        data = self.read(key)
        return Tagged(data, _tag(data))

    def write(self, key: str, data: bytes) -> None:
        path = self._path(key)

        def write() -> None:
            with _aside(path, data) as aside:
                aside.replace(path)

        self._retried("write", path, write)

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)

        def create(is_repeated: bool) -> bool:
            with _aside(path, data) as aside:
                while True:
                    try:
                        path.hardlink_to(aside)  # unlike O_EXCL this shows the key only when its value is complete
                    except FileExistsError:
                        # NFS repeats a call whose answer is lost: it may have created it, and so may an earlier attempt
                        if aside.stat().st_nlink > 1 or not is_repeated:
                            return aside.stat().st_nlink > 1
                        with suppress(FileNotFoundError):  # deleted by another process since: the key is free again
                            return read_regular(path) == data
                    else:
                        return True

        return self._retried_knowingly("write", path, create)

    def replace_if(self, key: str, data: bytes, etag: str) -> str | None:
        path = self._path(key)

        def replace_if(is_repeated: bool) -> str | None:
            if not path.parent.is_dir():
                return None
            with locked(path.parent / LOCK_FILE):
                try:
                    found = _tag(read_regular(path))
                except FileNotFoundError:
                    return None
                if is_repeated and found == _tag(data):  # by an attempt that was reported as failed
                    return found
                if found != etag:
                    return None
                with _aside(path, data) as aside:
                    aside.replace(path)
            return _tag(data)

        return self._retried_knowingly("write", path, replace_if)

    def exists(self, key: str) -> bool:
        path = self._path(key)

        def exists() -> bool:
            try:
                return stat.S_ISREG(path.lstat().st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return False

        return self._retried("read", path, exists)

    def list(self, folder: str = "") -> list[str]:
        return self._retried("list", self._folder(folder), lambda: sorted(key for key, _ in self._files(folder)))

    def sizes(self, folder: str = "") -> dict[str, int]:
        return {key: status.st_size for key, status in self._statuses(folder).items()}

    def versions(self, folder: str = "") -> dict[str, str]:
        return {key: version_of(status) for key, status in self._statuses(folder).items()}

    def snapshot(self, folder: str, names: Sequence[str]) -> Snapshot:
        path = self._path(folder)
        return self._retried("list", path, lambda: snapshot_of(f"{path}/", names))

    def snapshots(self, folder: str, names: Sequence[str], known: Mapping[str, Snapshot]) -> dict[str, Snapshot]:
        top = self._path(folder)

        def snapshots() -> dict[str, Snapshot]:
            found = {}
            for name in self._folders(folder):
                snapshot = known.get(name)
                if snapshot is None or not is_current(f"{top}/{name}/", snapshot):
                    snapshot = snapshot_of(f"{top}/{name}/", names)
                found[name] = snapshot
            return found

        return self._retried("list", top, snapshots)

    def folders(self, folder: str = "") -> Keys:
        return self._retried("list", self._folder(folder), lambda: self._folders(folder))

    def unusable(self, folder: str = "", *, is_deep: bool = False) -> Keys:
        top, may_be_linked = self._folder(folder), _depth(folder) <= self.linked_parts
        return self._retried("list", top, lambda: unusable_in(top, may_be_linked, is_deep=is_deep))

    def read_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        found = {}
        for key in keys:
            with suppress(KeyError):
                found[key] = self.read(key)
        return found

    def copy_many(self, keys: Mapping[str, str]) -> None:
        for key, to in keys.items():
            if not self.exists(key):
                raise KeyError(key)
            self._retried("write", self._path(to), partial(link_or_copy, self._path(key), self._path(to)))

    def is_blocked(self, key: str) -> bool:
        path = self._path(key)
        return self._retried("read", path, lambda: os.path.lexists(path)) and not self.exists(key)

    def remove_leftovers(self, folder: str) -> None:
        top = self._path(folder)
        self._retried("delete", top, lambda: remove_leftovers(top))

    def delete(self, key: str) -> None:
        path = self._path(key)
        self._retried("delete", path, lambda: path.unlink(missing_ok=True))

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def delete_if(self, key: str, etag: str) -> bool:
        path = self._path(key)

        def delete_if(is_repeated: bool) -> bool:
            if not path.parent.is_dir():
                return False
            with locked(path.parent / LOCK_FILE):
                try:
                    if _tag(read_regular(path)) != etag:
                        return False
                except FileNotFoundError:
                    return is_repeated  # an attempt that was reported as failed has deleted it
                path.unlink()
            return True

        return self._retried_knowingly("delete", path, delete_if)

    def modified_s(self, key: str) -> float:
        path = self._path(key)

        def modified_s() -> float:
            try:
                status = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                raise KeyError(key) from None
            if not stat.S_ISREG(status.st_mode):
                raise KeyError(key)
            return status.st_mtime

        return self._retried("read", path, modified_s)

    def age_s(self, key: str) -> float:
        modified_s = self.modified_s(key)
        return now_of_folder(self._path(key).parent) - modified_s

    def remove_abandoned(self) -> None:
        remove_abandoned(self.root, recursive=True)

    def sub(self, folder: str) -> LocalStorage:
        linked_parts = max(0, self.linked_parts - folder.count("/") - 1)
        return replace(self, root=self._path(folder), linked_parts=linked_parts)

    def patient(self, patience_s: float) -> LocalStorage:
        return replace(self, patience_s=patience_s)

    def brief(self) -> LocalStorage:
        return self.patient(0.0)

    def _statuses(self, folder: str) -> dict[str, os.stat_result]:
        def statuses() -> dict[str, os.stat_result]:
            found = {}
            for key, entry in self._files(folder):
                if (status := status_of(entry)) is not None:
                    found[key] = status
            return found

        return self._retried("list", self._folder(folder), statuses)

    def _retried(self, verb: str, path: Path, call: Callable[[], T]) -> T:
        """Return the result of `call`, repeated while a network file system does not answer.

        Raises:
            StorageError: its last error, or the first one that lasts, such as a full disk.
        """

        def attempt() -> T:
            with _local_errors(verb, path):
                return call()

        return retry_transient(attempt, self.patience_s)

    def _retried_knowingly(self, verb: str, path: Path, call: Callable[[bool], T]) -> T:
        """Do the same with a `call` that is told whether it is repeated: one that failed may have succeeded."""
        attempts = itertools.count()
        return self._retried(verb, path, lambda: call(next(attempts) > 0))

    def _folder(self, folder: str) -> Path:
        return self._path(folder) if folder else self.root

    def _files(self, folder: str) -> Iterable[tuple[str, os.DirEntry[str]]]:
        """Return the files below a folder; none below a link that may not be one, whose files could not be read."""
        top = self._folder(folder)
        if _depth(folder) > self.linked_parts and top.is_symlink():
            return ()
        return files_below(str(top), f"{folder}/" if folder else "")

    def _folders(self, folder: str) -> Keys:
        """Return the folders in a folder, as `_files` does."""
        top = self._folder(folder)
        if _depth(folder) > self.linked_parts and top.is_symlink():
            return []
        return folders_in(top, _depth(folder) < self.linked_parts)

    def _path(self, key: str) -> Path:
        """Return the path of a key. Raises StorageError if one of its folders is a link and may not be one."""
        parts = checked_key(key).split("/")
        path = self.root / key
        for folder in list(path.parents)[: max(0, len(parts) - 1 - self.linked_parts)]:
            if folder.is_symlink():
                raise StorageError(
                    f"{folder} is a link, which is not followed", "Put the folder itself there, or link the whole sweep"
                )
        return path


def _depth(folder: str) -> int:
    """Return the number of parts of a folder's name."""
    return folder.count("/") + 1 if folder else 0


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


_opened: set[Path] = set()
"""Folders whose abandoned temporaries this process has removed."""


@contextmanager
def _aside(path: Path, data: bytes) -> Iterator[Path]:
    """Yield a complete hidden copy of `data` in the folder of `path`; the first call per folder removes leftovers of
    dead processes."""
    with written_aside(path, data) as aside:
        if path.parent not in _opened:
            _opened.add(path.parent)
            remove_abandoned(path.parent)
        yield aside


_TRANSIENT = UNREACHABLE | {errno.EAGAIN, errno.ECONNREFUSED, errno.ECONNRESET}
"""What a network file system answers while its server restarts."""
_LOCAL_REMEDIES = {
    errno.ENOSPC: "Free some space or name another storage",
    errno.EDQUOT: "Free some space or name another storage",
    errno.EACCES: "Name a folder that this user may use",
    errno.EPERM: "Name a folder that this user may use",
    errno.EROFS: "Name a folder that can be written",
    errno.EEXIST: "A file stands where a folder is needed: move it or name another folder",
    errno.ENOTDIR: "A file stands where a folder is needed: move it or name another folder",
    errno.EISDIR: "A folder stands where a file is needed: move it or name another folder",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ENOTSUP: "Use a file system with hard links and locks, or S3",
    errno.ENOLCK: "The network file system gives no locks: mount it with locks, or use S3",
    errno.ESTALE: "The network file system went away: mount it again",
}


@contextmanager
def _local_errors(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        kind = TransientError if error.errno in _TRANSIENT else StorageError
        raise kind(f"cannot {verb} {path}: {reason}", _LOCAL_REMEDIES.get(error.errno or 0, "")) from error
