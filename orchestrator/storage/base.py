"""Define the interface of a storage, and what its implementations share."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from trm_data.errors import UserError

Keys: TypeAlias = list[str]
"""Alias, since `list` refers to the method inside the class."""


class StorageError(UserError):
    """Raised if a storage cannot be reached, read or written."""


UNREACHABLE = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.EBUSY,
    errno.ENOLCK,  # a lock server that restarts
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    getattr(errno, "EREMOTEIO", errno.EIO),  # of Linux alone
}
"""What a disk or a file server answers that does not work at the moment, whoever reads or writes."""


class Tagged(NamedTuple):
    """Pair a value with the tag of its version, for `Storage.replace_if`."""

    data: bytes
    etag: str


SEPARATOR = "//"
"""Between the fields of a snapshot: no key contains it."""


class Snapshot(NamedTuple):
    """Describe the files of a folder at one moment. Two snapshots with equal `files` show the same files."""

    files: str
    """Names and version tags in turn, sorted by name."""
    folders: str = ""
    """Of a local storage: the folders that were listed and when each last changed, in turn; empty if this cannot tell
    whether the listing is still complete."""

    @classmethod
    def of(cls, versions: Mapping[str, str], folders: Mapping[str, str] | None = None) -> Snapshot:
        """Return the snapshot of files and folders by name."""
        return cls(_joined(sorted(versions.items())), _joined((folders or {}).items()))

    @property
    def names(self) -> Keys:
        """Return the names of the files, sorted."""
        return self.files.split(SEPARATOR)[::2] if self.files else []


def _joined(pairs: Iterable[tuple[str, str]]) -> str:
    return SEPARATOR.join(text for pair in pairs for text in pair)


BRIEF_S = 4.0
"""Seconds for which a heartbeat or a look for a request waits for S3: less than a heartbeat."""


class Storage(Protocol):
    """Store whole values under keys.

    A key is a relative path with `/`: printable, no part empty or with a leading dot. Listings leave out names that are
    no keys, which other programs write into shared folders and buckets. Methods may raise StorageError.
    """

    @property
    def url(self) -> str:
        """Return the address with which `open_storage` opens the same storage on another machine."""

    def read(self, key: str) -> bytes:
        """Return the value. Raises KeyError if there is none."""

    def read_tagged(self, key: str) -> Tagged:
        """Return the value and the tag of its version. Raises KeyError if there is none."""

    def write(self, key: str, data: bytes) -> None:
        """Set the whole value."""

    def create(self, key: str, data: bytes) -> bool:
        """Set the value if the key does not exist. Return whether it was set: of several creators exactly one gets
        True."""

    def replace_if(self, key: str, data: bytes, etag: str) -> str | None:
        """Set the value if its version is still `etag`. Return the new version, or None if it changed."""

    def exists(self, key: str) -> bool:
        """Return whether the key has a value."""

    def list(self, folder: str = "") -> list[str]:
        """Return all keys below `folder`, recursively, sorted, in the form that `read` takes."""

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return the size in bytes of every key below `folder`, in one listing."""

    def versions(self, folder: str = "") -> dict[str, str]:
        """Return a version tag of every key below `folder`, in one listing; it changes with the value."""

    def snapshot(self, folder: str, names: Sequence[str]) -> Snapshot:
        """Return a snapshot of a folder, limited to the files and (with a trailing `/`) folders `names` in it."""

    def snapshots(self, folder: str, names: Sequence[str], known: Mapping[str, Snapshot]) -> dict[str, Snapshot]:
        """Return a snapshot of every folder directly in `folder`, by its name.

        Args:
            names: as for `snapshot`.
            known: earlier snapshots. One that is still current is returned itself: a local storage then lists none of
                its folders again, but compares the times of its folders and files.
        """

    def folders(self, folder: str = "") -> Keys:
        """Return the names of the folders directly in `folder`, sorted, without listing what they hold."""

    def unusable(self, folder: str = "", *, is_deep: bool = False) -> Keys:
        """Say what stands in place of a folder, or which names directly in it cannot be those of a key, and are not
        hidden; with `is_deep` also those in its folders."""

    def read_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of those keys that exist; on S3 they are read in parallel."""

    def copy_many(self, keys: Mapping[str, str]) -> None:
        """Set keys to the values of others, `{from: to}`, without reading them into the memory: a local file is linked,
        or copied in blocks where links are not possible, and S3 copies by itself.

        Raises:
            KeyError: one of them has no value.
        """

    def is_blocked(self, key: str) -> bool:
        """Return whether something else than a value is there: a folder, a link, a pipe. S3 has nothing of the kind."""

    def remove_leftovers(self, folder: str) -> None:
        """Remove what is no value below a folder: links, pipes, what has a name that cannot be printed, temporary files
        of dead processes, lock files of a local storage, and empty folders, which may be all of it. Values stay, and so
        do the lock files next to them."""

    def delete(self, key: str) -> None:
        """Remove the key; no error if it does not exist."""

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove keys; no error for those that do not exist. On S3 they are removed in parallel."""

    def delete_if(self, key: str, etag: str) -> bool:
        """Remove the key if its version is still `etag`; return whether it was."""

    def modified_s(self, key: str) -> float:
        """Return when the key was written, in seconds since the epoch by the storage's clock (S3: whole seconds)."""

    def age_s(self, key: str) -> float:
        """Return the seconds since the key was written, both times by the clock of the storage if it states its time.

        Raises:
            KeyError: there is no such key.
        """

    def remove_abandoned(self) -> None:
        """Remove what processes that died have left of values that they were writing; S3 keeps nothing of the kind."""

    def patient(self, patience_s: float) -> Storage:
        """Return the same storage, which retries a request for at most `patience_s` seconds after transient faults."""

    def brief(self) -> Storage:
        """Return the same storage for a few bytes that others wait for: one try, which on S3 ends after `BRIEF_S`."""

    def sub(self, folder: str) -> Storage:
        """Return the part of the storage below `folder`."""


def to_json_bytes(value: dict[str, Any]) -> bytes:
    """Serialize a value as a small JSON file that people can read."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
