"""Index the trials of a sweep that are not running: one file instead of four per trial.

Records always take precedence: an entry is used only if the trial's folder shows exactly the files from which it was
made. The owner of the sweep rewrites the whole file; a damaged or missing index only costs time.

    checksum [value, value ...]                                 what many trials share, such as parts of configurations
    checksum [trial id, files, folders, contents, references]   a line per trial, with numbers of shared values
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from zlib import crc32

from pydantic_core import from_json

from orchestrator.records.sections import SharedValue
from orchestrator.storage import Storage, StorageError
from orchestrator.storage.base import Snapshot
from trm_data.files import load_json

logger = logging.getLogger(__name__)

KEY = "finished.jsonl"
FILES = ("trial.json", "result.json", "stopped.json", "attempts/", "retries/")
"""The files and folders of a record, in the folder of the trial."""
WORTH_READING = 20
"""Number of changed trials from which a reader reads the index again, and of outdated snapshots from which its owner
writes it again: for fewer, the records are as fast."""
MAX_ENTRY_BYTES = 16_384
"""A record that is larger (per-puzzle outcomes of a large test set, a long diff) is not copied into the index."""

References = dict[str, dict[str, int]]
"""Numbers of shared values by file (`trial.json`) or part of a file (`trial.json:config`), and by name in it."""


class Entry(NamedTuple):
    """Hold a trial in the index."""

    snapshot: Snapshot
    contents: dict[str, Any]
    """The JSON files of the trial, by name. Equal parts of several trials are the same object."""


Index = dict[str, Entry]


def snapshots(folder: Storage, known: Mapping[str, Snapshot]) -> dict[str, Snapshot]:
    """Return the snapshot of each trial's record in the folder of a sweep, in the order of their ids."""
    found = folder.snapshots("trials", FILES, known)
    return {trial_id: found[trial_id] for trial_id in sorted(found) if _is_record(found[trial_id])}


def snapshot(folder: Storage, trial_id: str) -> dict[str, Snapshot]:
    """Return the snapshot of one trial's record, by its id; nothing if there is none."""
    found = folder.snapshot(f"trials/{trial_id}", FILES)
    return {trial_id: found} if _is_record(found) else {}


def _is_record(found: Snapshot) -> bool:
    return "trial.json" in found.files and "trial.json" in found.names


def is_json(name: str) -> bool:
    """Return whether a file of a record is read as a whole; rows are read when they are used."""
    return name.endswith(".json")


def read(folder: Storage) -> Index:
    """Return the index of a sweep, by trial id; lines that cannot be read are left out."""
    return dict(_entries(folder))


def _entries(folder: Storage) -> Iterator[tuple[str, Entry]]:
    try:
        lines = folder.read(KEY).split(b"\n")
    except KeyError:
        return
    shared = _parsed(lines[0])
    if not isinstance(shared, list):
        return
    shared = [SharedValue(value) if isinstance(value, dict) else value for value in shared]
    for line in lines[1:]:
        try:
            trial_id, files, folders, contents, references = _parsed(line)
            _insert(contents, references, shared)
            if not all(isinstance(value, dict) for value in contents.values()):
                continue
        except (ValueError, TypeError, LookupError, AttributeError):
            continue
        yield str(trial_id), Entry(Snapshot(str(files), str(folders)), contents)


def _parsed(line: bytes) -> Any:
    """Return the value of a line; None if it is damaged."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%d" % crc32(text):
        return None
    try:
        return from_json(text, cache_strings="keys")
    except ValueError:
        return None


def update(folder: Storage) -> int:
    """Bring the index of a sweep up to date; return the number of its entries. Only for the owner of the sweep.

    Raises:
        StorageError: the storage cannot be read or written.
    """
    # Without their contents, which take most of the memory and are needed only where something has changed.
    before = {trial_id: entry.snapshot for trial_id, entry in _entries(folder)}
    found = snapshots(folder, before)
    listed = {trial_id: each for trial_id, each in found.items() if _is_at_rest(each.names)}
    kept = {
        trial_id for trial_id, each in listed.items() if trial_id in before and before[trial_id].files == each.files
    }
    outdated = sum(listed[trial_id] != before[trial_id] for trial_id in kept)
    if len(kept) < max(len(listed), len(before)) or outdated > WORTH_READING:
        entries = {
            trial_id: Entry(listed[trial_id], entry.contents)
            for trial_id, entry in _entries(folder)
            if trial_id in kept
        }
        new = {trial_id: each for trial_id, each in listed.items() if trial_id not in entries}
        files = {trial_id: list(filter(is_json, each.names)) for trial_id, each in new.items()}
        data = folder.read_many([f"trials/{trial_id}/{name}" for trial_id, names in files.items() for name in names])
        for trial_id, names in files.items():
            contents = _contents({name: data.get(f"trials/{trial_id}/{name}") for name in names})
            if contents is not None:
                entries[trial_id] = Entry(new[trial_id], contents)
        folder.write(KEY, b"\n".join(_lines(entries)))
        return len(entries)
    return len(kept)


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


def _is_at_rest(names: Iterable[str]) -> bool:
    """Return whether every attempt that started has ended."""
    known = set(names)
    starts = [name for name in known if name.endswith("/start.json")]
    return bool(starts) and all(f"{name.removesuffix('start.json')}end.json" in known for name in starts)


def _contents(files: Mapping[str, bytes | None]) -> dict[str, Any] | None:
    """Return the parsed files of a trial; None if one is damaged, so that the reader names it, or they are large."""
    if any(data is None for data in files.values()) or sum(map(len, filter(None, files.values()))) > MAX_ENTRY_BYTES:
        return None
    try:
        contents = {name: load_json(data or b"") for name, data in files.items()}
    except ValueError:
        return None
    return contents if all(isinstance(value, dict) for value in contents.values()) else None


def _lines(entries: Index) -> Iterator[bytes]:
    shared = _Shared()
    lines = [_line([trial_id, *entry.snapshot, *shared.extract(entry.contents)]) for trial_id, entry in entries.items()]
    yield _line(shared.values)
    yield from sorted(lines)


def _line(value: object) -> bytes:
    text = json.dumps(value, separators=(",", ":")).encode()
    return b"%d %s" % (crc32(text), text)


class _Shared:
    """Give numbers to the values that trials share."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[str, int] = {}
        self._known: dict[int, int] = {}
        """Numbers of values of the former index by identity: its entries keep them alive."""

    def extract(self, contents: Mapping[str, Any]) -> tuple[dict[str, Any], References]:
        """Return the contents of a trial without what trials share, and references to that."""
        own, references = dict(contents), References()
        for name, value in contents.items():
            if isinstance(value, dict) and (name == "trial.json" or name.endswith("/start.json")):
                own[name] = self._without(name, value, references)
                config = own[name].get("config")
                if name == "trial.json" and isinstance(config, dict):
                    own[name]["config"] = self._without(f"{name}:config", config, references)
        return own, references

    def _without(self, place: str, values: dict[str, Any], references: References) -> dict[str, Any]:
        parts = {key: value for key, value in values.items() if isinstance(value, dict) and (place, key) != CONFIG}
        if parts:
            references[place] = {key: self._number(value) for key, value in parts.items()}
        return {key: value for key, value in values.items() if key not in parts}

    def _number(self, value: dict[str, Any]) -> int:
        known = self._known.get(id(value)) if isinstance(value, SharedValue) else None
        if known is not None:
            return known
        number = self._numbers.setdefault(json.dumps(value, sort_keys=True), len(self.values))
        if number == len(self.values):
            self.values.append(value)
        if isinstance(value, SharedValue):
            self._known[id(value)] = number
        return number


CONFIG = ("trial.json", "config")
"""A configuration is never shared as a whole, since its seed differs."""


def _insert(contents: dict[str, Any], references: References, shared: list[Any]) -> None:
    """Put the shared values back into the contents of a trial.

    Raises:
        LookupError, TypeError, AttributeError: the references are not those of these contents.
    """
    for place, numbers in references.items():
        name, _, part = place.partition(":")
        target = contents[name][part] if part else contents[name]
        for key, number in numbers.items():
            target[key] = shared[number]
