"""A folder as a storage."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.storage.base import StorageError, Tagged, checked_key


@dataclass(frozen=True, slots=True)
class LocalStorage:
    """A folder. Also on NFS: renames, links and advisory locks are what it relies on."""

    root: Path

    @property
    def url(self) -> str:
        return str(self.root)

    def read(self, key: str) -> bytes:
        path = self._path(key)
        with _local_errors("read", path):
            try:
                return path.read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise KeyError(key) from None

    def read_tagged(self, key: str) -> Tagged:
        data = self.read(key)
        return Tagged(data, _tag(data))

    def write(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with _local_errors("write", path), _aside(path, data) as aside:
            aside.replace(path)

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with _local_errors("write", path), _aside(path, data) as aside:
            try:
                path.hardlink_to(aside)  # unlike O_EXCL this shows the key only when its value is complete
            except FileExistsError:
                return False
        return True

    def replace_if(self, key: str, data: bytes, etag: str) -> str | None:
        path = self._path(key)
        with _local_errors("write", path):
            if not path.parent.is_dir():
                return None
            with _locked(path.parent / ".lock"):
                try:
                    if _tag(path.read_bytes()) != etag:
                        return None
                except FileNotFoundError:
                    return None
                with _aside(path, data) as aside:
                    aside.replace(path)
        return _tag(data)

    def exists(self, key: str) -> bool:
        path = self._path(key)
        with _local_errors("read", path):
            return path.is_file()

    def list(self, folder: str = "") -> list[str]:
        top = self._path(folder) if folder else self.root
        with _local_errors("list", top):
            return sorted(path.relative_to(self.root).as_posix() for path in _files(top))

    def sizes(self, folder: str = "") -> dict[str, int]:
        found = {}
        for key in self.list(folder):
            with suppress(FileNotFoundError):  # it has just been deleted
                found[key] = self._path(key).stat().st_size
        return found

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _local_errors("delete", path):
            path.unlink(missing_ok=True)

    def modified_s(self, key: str) -> float:
        path = self._path(key)
        with _local_errors("read", path):
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                raise KeyError(key) from None
        if not stat.S_ISREG(status.st_mode):
            raise KeyError(key)
        return status.st_mtime

    def sub(self, folder: str) -> LocalStorage:
        return LocalStorage(self._path(folder))

    def _path(self, key: str) -> Path:
        return self.root / checked_key(key)


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _files(top: Path) -> Iterator[Path]:
    """Visible files below `top`; folders that vanish meanwhile count as empty."""

    def stop(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for folder, names, files in os.walk(top, onerror=stop):
        names[:] = [name for name in names if not name.startswith(".")]
        yield from (Path(folder, name) for name in files if not name.startswith("."))


@contextmanager
def _aside(path: Path, data: bytes) -> Iterator[Path]:
    """A complete hidden copy beside `path`, for the caller to rename or link; whatever happens, it does not stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock that the system releases with the process."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
    errno.ESTALE: "The network file system went away: mount it again",
}


@contextmanager
def _local_errors(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StorageError(f"cannot {verb} {path}: {reason}", _LOCAL_REMEDIES.get(error.errno or 0, "")) from error
