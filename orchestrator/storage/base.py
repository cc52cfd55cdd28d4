"""The interface of a storage, and what its implementations share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from trm_data.errors import UserError

Keys: TypeAlias = list[str]
"""Inside a class with a method `list` that name is not the type any more."""


class StorageError(UserError):
    """A storage that cannot be reached, read or written."""


class Tagged(NamedTuple):
    """A value and the mark of its version, for `Storage.replace_if`."""

    data: bytes
    etag: str


class Storage(Protocol):
    """Whole values under keys.

    A key is a relative path with `/`: printable, no part empty or with a leading dot. Methods may raise StorageError.
    """

    @property
    def url(self) -> str:
        """What `open_storage` takes to open the same storage on another machine."""

    def read(self, key: str) -> bytes:
        """The value. Raises KeyError if there is none."""

    def read_tagged(self, key: str) -> Tagged:
        """The value and its version. Raises KeyError if there is none."""

    def write(self, key: str, data: bytes) -> None:
        """Set the value, whole."""

    def create(self, key: str, data: bytes) -> bool:
        """Set the value if the key does not exist; of several creators exactly one gets True."""

    def replace_if(self, key: str, data: bytes, etag: str) -> str | None:
        """Set the value if its version is still `etag`: the new version, or None if it changed or went away."""

    def exists(self, key: str) -> bool:
        """Whether the key has a value."""

    def list(self, folder: str = "") -> list[str]:
        """All keys below `folder`, recursively, sorted, each as `read` takes it."""

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Bytes of every key below `folder`, in one listing."""

    def versions(self, folder: str = "") -> dict[str, str]:
        """Return a mark of the version of every key below `folder`, in one listing; it changes with the value."""

    def folders(self, folder: str = "") -> Keys:
        """Return the names of the folders directly in `folder`, sorted, without listing what they hold."""

    def read_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of those keys that exist; on S3 they are read in parallel."""

    def delete(self, key: str) -> None:
        """Remove the key; no error if it does not exist."""

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove keys; no error for those that do not exist. On S3 they are removed in parallel."""

    def delete_if(self, key: str, etag: str) -> bool:
        """Remove the key if its version is still `etag`; return whether it was."""

    def modified_s(self, key: str) -> float:
        """Seconds since the epoch, by the storage's own clock (S3: whole seconds). Raises KeyError."""

    def age_s(self, key: str) -> float:
        """Return the seconds since the key was written, both times by the clock of the storage where it tells its time.

        Raises:
            KeyError: there is no such key.
        """

    def patient(self, patience_s: float) -> Storage:
        """Return the same storage that repeats a request for at most `patience_s` after faults that may pass."""

    def sub(self, folder: str) -> Storage:
        """The part below `folder`."""


def checked_key(key: str) -> str:
    """The key, if it stays below its root and cannot be mistaken for a hidden file of a storage's own.

    Raises:
        StorageError: it does not.
    """
    if not key.isprintable() or any(not part or part.startswith(".") for part in key.split("/")):
        raise StorageError(f"{key!r} is not a key", "Use a relative path of printable parts that start with no dot")
    return key


def to_json_bytes(value: dict[str, Any]) -> bytes:
    """A small JSON file, readable by people."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
