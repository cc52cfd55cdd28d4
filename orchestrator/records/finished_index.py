"""Index the trials of a sweep that are not running: one file instead of four per trial.

Records always take precedence: an entry is used only if a listing shows exactly the file versions from which it was
made. The owner of the sweep rewrites the whole file; a damaged or missing index only costs time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from sys import intern
from typing import Any, NamedTuple
from zlib import crc32

from pydantic_core import from_json

from orchestrator.storage import Storage, StorageError
from trm_data.files import load_json

logger = logging.getLogger(__name__)

KEY = "finished.jsonl"
WORTH_READING = 20
"""Number of changed trials from which the index is used: for fewer, reading the records is as fast."""
MAX_ENTRY_BYTES = 16_384
"""A record that is larger (per-puzzle outcomes of a large test set, a long diff) is not copied into the index."""


class Entry(NamedTuple):
    """Hold a trial in the index."""

    versions: dict[str, str]
    """Of the files of its record, by name."""
    line: bytes

    def parsed(self) -> dict[str, Any]:
        """Return the JSON files of the trial, by name."""
        files: dict[str, Any] = from_json(self.line, cache_strings="keys")["files"]
        return files


Index = dict[str, Entry]


def record_files(folder: Storage, only: str | None = None) -> dict[str, dict[str, str]]:
    """Return the versions of the files of each trial's record, by trial id and by name, in one listing."""
    found: dict[str, dict[str, str]] = {}
    for key, version in folder.versions(f"trials/{only}" if only else "trials").items():
        _, trial_id, name = key.split("/", 2) if key.count("/") > 1 else ("", "", "")
        if name in ("trial.json", "result.json", "stopped.json") or name.startswith(("attempts/", "retries/")):
            found.setdefault(trial_id, {})[intern(name)] = version
    return {trial_id: names for trial_id, names in found.items() if "trial.json" in names}


def read(folder: Storage) -> Index:
    """Return the index of a sweep, by trial id; lines that cannot be read are left out."""
    try:
        data = folder.read(KEY)
    except KeyError:
        return {}
    found: Index = {}
    for line in data.splitlines():
        head, _, body = line.partition(b"\t")
        try:
            trial_id, versions, checksum = load_json(head)
            if crc32(body) == checksum:
                found[str(trial_id)] = Entry(dict(versions), body)
        except (ValueError, TypeError):
            continue
    return found


def update(folder: Storage) -> int:
    """Bring the index of a sweep up to date; return the number of its entries. Only for the owner of the sweep.

    Raises:
        StorageError: the storage cannot be read or written.
    """
    before = read(folder)
    listed = {trial_id: names for trial_id, names in record_files(folder).items() if _is_at_rest(names)}
    entries = {t: before[t] for t, versions in listed.items() if t in before and before[t].versions == versions}
    new = {trial_id: names for trial_id, names in listed.items() if trial_id not in entries}
    if new or len(entries) < len(before):
        keys = [f"trials/{trial_id}/{name}" for trial_id, names in new.items() for name in names if _is_json(name)]
        contents = folder.read_many(keys)
        for trial_id, versions in new.items():
            files = {name: contents.get(f"trials/{trial_id}/{name}") for name in versions if _is_json(name)}
            line = _encode(files)
            if line is not None:
                entries[trial_id] = Entry(versions, line)
        folder.write(KEY, b"\n".join(_line(trial_id, entry) for trial_id, entry in sorted(entries.items())))
    return len(entries)


@contextmanager
def indexed(folder: Storage) -> Iterator[None]:
    """Keep the index of a sweep up to date around a run; only for the owner of the sweep."""
    try:
        yield
    finally:
        try:
            update(folder)
        except StorageError as error:
            logger.warning("the index of %s is not up to date: %s", folder.url, error)


def _line(trial_id: str, entry: Entry) -> bytes:
    return json.dumps([trial_id, entry.versions, crc32(entry.line)]).encode() + b"\t" + entry.line


def _is_json(name: str) -> bool:
    return name.endswith(".json")


def _is_at_rest(names: dict[str, str]) -> bool:
    """Return whether every attempt that started has ended."""
    starts = [name for name in names if name.endswith("/start.json")]
    return bool(starts) and all(f"{name.removesuffix('start.json')}end.json" in names for name in starts)


def _encode(files: dict[str, bytes | None]) -> bytes | None:
    if (
        any(data is None for data in files.values())
        or sum(len(data or b"") for data in files.values()) > MAX_ENTRY_BYTES
    ):
        return None
    try:
        parsed = {name: load_json(data or b"") for name, data in files.items()}
    except ValueError:
        return None  # damaged: the reader names the file
    return json.dumps({"files": parsed}, separators=(",", ":")).encode()
