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
from contextlib import contextmanager, suppress
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
AT_ONCE = 1_000
"""Number of trials whose records are read at once for the index."""
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
    return {trial_id: entry for trial_id, entry, _ in _Stored(folder)}


class _Stored:
    """Iterate over the index as it is stored: trial id, entry and line of each trial whose line can be read."""

    def __init__(self, folder: Storage) -> None:
        self._lines: list[bytes] = []
        self.shared: list[Any] = []
        """What many trials share."""
        try:
            first, *lines = folder.read(KEY).split(b"\n")
        except KeyError:
            return
        shared = _parsed(first)
        if isinstance(shared, list):
            self._lines = lines
            self.shared = [SharedValue(value) if isinstance(value, dict) else value for value in shared]

    def __iter__(self) -> Iterator[tuple[str, Entry, bytes]]:
        for line in self._lines:
            try:
                trial_id, files, folders, contents, references = _parsed(line)
                _insert(contents, references, self.shared)
                if not all(isinstance(value, dict) for value in contents.values()):
                    continue
            except (ValueError, TypeError, LookupError, AttributeError):
                continue
            yield str(trial_id), Entry(Snapshot(str(files), str(folders)), contents), line


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
    # Lines rather than contents, which take many times the memory and are needed only where something has changed.
    stored, before, lines = _Stored(folder), dict[str, Snapshot](), dict[str, bytes]()
    for trial_id, entry, line in stored:
        before[trial_id], lines[trial_id] = entry.snapshot, line
    found = snapshots(folder, before)
    listed = {trial_id: each for trial_id, each in found.items() if _is_at_rest(each.names)}
    kept = {
        trial_id for trial_id, each in listed.items() if trial_id in before and before[trial_id].files == each.files
    }
    outdated = {trial_id for trial_id in kept if listed[trial_id] != before[trial_id]}
    if len(kept) == max(len(listed), len(before)) and len(outdated) <= WORTH_READING:
        return len(kept)
    shared = _Shared(stored.shared)
    written = {trial_id: lines[trial_id] for trial_id in kept - outdated}
    for trial_id in outdated:
        _, _, _, *rest = _parsed(lines[trial_id])
        written[trial_id] = _line([trial_id, *listed[trial_id], *rest])
    new = [trial_id for trial_id in listed if trial_id not in kept]
    for start in range(0, len(new), AT_ONCE):
        written |= _new_lines(folder, {trial_id: listed[trial_id] for trial_id in new[start : start + AT_ONCE]}, shared)
    folder.write(KEY, b"\n".join([_line(shared.values), *sorted(written.values())]))
    return len(written)


def _new_lines(folder: Storage, trials: Mapping[str, Snapshot], shared: _Shared) -> dict[str, bytes]:
    """Return the lines of trials that are not in the index; none for what `_contents` leaves out."""
    files = {trial_id: list(filter(is_json, each.names)) for trial_id, each in trials.items()}
    data = folder.read_many([f"trials/{trial_id}/{name}" for trial_id, names in files.items() for name in names])
    lines = {}
    for trial_id, names in files.items():
        contents = _contents({name: data.get(f"trials/{trial_id}/{name}") for name in names})
        if contents is not None:
            lines[trial_id] = _line([trial_id, *trials[trial_id], *shared.extract(contents)])
    return lines


@contextmanager
def indexed(folder: Storage) -> Iterator[None]:
    """Keep the index of a sweep up to date around a run; only for the owner of the sweep.

    It exists from the beginning, so that a full disk has a file whose deletion loses nothing.
    """
    with suppress(StorageError):
        if not folder.exists(KEY):
            folder.write(KEY, _line([]))
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


def _line(value: object) -> bytes:
    text = json.dumps(value, separators=(",", ":")).encode()
    return b"%d %s" % (crc32(text), text)


class _Shared:
    """Give numbers to the values that trials share."""

    def __init__(self, values: Iterable[Any] = ()) -> None:
        self.values = list(values)
        """What is shared so far. None is ever left out, since stored lines refer to values by their number."""
        self._numbers = {json.dumps(value, sort_keys=True): number for number, value in enumerate(self.values)}

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
        number = self._numbers.setdefault(json.dumps(value, sort_keys=True), len(self.values))
        if number == len(self.values):
            self.values.append(value)
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
