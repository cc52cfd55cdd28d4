"""Tell which names are keys of a storage. Other programs write others into shared folders and buckets."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.storage.base import Keys, StorageError


def is_key(text: str) -> bool:
    """Return whether a text is a key, or a part of one."""
    return text.isprintable() and all(part and not part.startswith(".") for part in text.split("/"))


def is_unusable(name: str) -> bool:
    """Return whether a name is neither that of a key nor hidden. A slash at its end marks a folder."""
    name = name.removesuffix("/")
    return not is_key(name) and not any(part.startswith(".") for part in name.split("/"))


def unusable_names(names: Iterable[str]) -> Keys:
    """Return a sentence about each name that `is_unusable`; empty names are left out."""
    return [
        f"it holds {name!r}, whose name {'has an empty part' if name.isprintable() else 'cannot be printed'}"
        for name in sorted(filter(None, names))
        if is_unusable(name)
    ]


def checked_key(key: str) -> str:
    """Return the key, checked that it stays below its root and is not a hidden file of a storage's own.

    Raises:
        StorageError: the key is not valid.
    """
    if not is_key(key):
        raise StorageError(f"{key!r} is not a key", "Use a relative path of printable parts that start with no dot")
    return key
