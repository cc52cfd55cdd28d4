"""The interface of a storage, and what its implementations share."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Protocol

from trm_data.errors import UserError


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

    def delete(self, key: str) -> None:
        """Remove the key; no error if it does not exist."""

    def modified_s(self, key: str) -> float:
        """Seconds since the epoch, by the storage's own clock (S3: whole seconds). Raises KeyError."""

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
