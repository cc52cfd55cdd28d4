"""Choose which checkpoints to delete when space is short. Results and records are always kept.

The order is by use: failed trials, older copies, stopped trials, worse explored ones, and confirmed ones last. A trial
that has not ended keeps its newest checkpoint, from which it resumes.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

from orchestrator.errors import SweepError
from orchestrator.records.index import sweep_folder
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.records.unfinished import held
from orchestrator.storage import Storage, StorageError
from orchestrator.storage.lease import driver_of
from orchestrator.storage.s3 import in_parallel
from trm_model.start_file import NAME

logger = logging.getLogger(__name__)

DELETING = "deleting-"
"""Beginning of the name of a file that says that the copy beside it is about to be deleted, if no record names it."""
_CHECKPOINT = re.compile(r"(?P<kind>step|base)-\d+\.safetensors")
_START = re.compile(rb"#sha256=([0-9a-f]{64})")
_UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_LAST_OF_FINISHED = 3.0
"""First number of the sort key of the last checkpoint of a finished trial; see `_use`."""


class Stored(NamedTuple):
    """Describe a checkpoint of a trial: its key in the storage and its size in bytes.

    The newest one also represents what all of a trial's checkpoints share (the bases of a large table): within a
    trial it is deleted last, when nothing needs them any more.
    """

    key: str
    num_bytes: int
    shared: tuple[str, ...] = ()


class Pruning(NamedTuple):
    """Hold which checkpoints are deleted, the size of what is kept, and how many finished trials keep no weights."""

    deleted: list[Stored]
    kept_bytes: int
    without_weights: int = 0


def parse_bytes(text: str) -> int:
    """Parse a size such as `2GB`, `500 MiB` or `1000` to bytes. Raises SweepError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    units = {unit.lower(): factor for unit, factor in _UNITS.items()}
    if not found or found[2].lower() not in units:
        raise SweepError(f"{text!r} is not an amount of bytes", "Write for example 2GB, 500MB or 1.5GiB")
    return int(float(found[1]) * units[found[2].lower()])


def prune_sweeps(storage: Storage, names: Sequence[str], keep: int, *, dry_run: bool = False) -> Pruning:
    """Delete the least useful checkpoints of all these sweeps together; those of a running sweep are counted but kept.

    Weights that nothing in the storage starts from any more are deleted, however few bytes there are.

    Raises:
        SweepError: the only sweep named is running.
    """
    with ExitStack() as leases:
        is_free = partial(_is_free, leases, storage, dry_run=dry_run, alone=len(names) == 1)
        free = [name for name, found in zip(names, in_parallel(is_free, names), strict=True) if found]
        sizes = {name: _checkpoints(storage, name) for name in names}  # only now does no driver add any
        records = [record for name in free for record in read_trials(storage, name)]
        others = sum(one.num_bytes for name in names if name not in free for s in sizes[name].values() for one in s)
        mine = {(name, trial): stored for name in free for trial, stored in sizes[name].items()}
        done = least_useful(records, mine, keep - others)
        if not dry_run:
            storage.delete_many([key for one in done.deleted for key in (one.key, *one.shared)])
        weights = unused_weights(storage) if dry_run else delete_unused_weights(storage)
    return done._replace(deleted=[*weights, *done.deleted], kept_bytes=done.kept_bytes + others)


def unused_weights(storage: Storage, without: str | None = None) -> list[Stored]:
    """Return the checkpoints under `weights/` that no definition and no record names as the start of a run.

    Args:
        without: a sweep that is about to be deleted.
    """
    found: dict[str, dict[str, int]] = {}
    for key, num_bytes in storage.sizes("weights").items():
        found.setdefault(key.split("/")[1], {})[key] = num_bytes
    for _ in range(2):  # a renaming may have moved a record before the first look came to it
        if found:
            named = _named_weights(storage, without)
            found = {sha256: files for sha256, files in found.items() if sha256 not in named}
    return [Stored(next(iter(files)), sum(files.values()), tuple(files)[1:]) for _, files in sorted(found.items())]


def _named_weights(storage: Storage, without: str | None) -> set[str]:
    keys = [key for key in storage.list("sweeps") if key.endswith(("/sweep.json", "/trial.json"))]
    contents = storage.read_many([key for key in keys if key.split("/")[1] != without])
    return {sha256.decode() for content in contents.values() for sha256 in _START.findall(content)}


def delete_unused_weights(storage: Storage) -> list[Stored]:
    """Delete the weights that nothing names, and return them. Those that cannot be deleted, of another user for
    example, are named in a warning.

    Between the last look at the records and the deletion a run may begin that names them. So they are marked before
    that look: a run writes its record and then looks for marks (`orchestrator.records.start_weights`), and one of the
    two sees the other.
    """
    marks, deleted = {}, []
    unused = {_folder_of(one): one for one in unused_weights(storage)}
    try:
        for folder in unused:
            with _skipped(folder):
                mark = f"{folder}/{DELETING}{uuid.uuid4().hex}.json"
                storage.write(mark, b"{}\n")
                marks[folder] = mark
        for folder in map(_folder_of, unused_weights(storage) if marks else []):
            if folder in marks:
                with _skipped(folder):
                    storage.delete(f"{folder}/{NAME}")  # first: where it is, the other files are
                    storage.delete_many([unused[folder].key, *unused[folder].shared])
                    deleted.append(unused[folder])
    finally:
        with _skipped("weights"):
            storage.delete_many(list(marks.values()))
    return deleted


def _folder_of(weights: Stored) -> str:
    return weights.key.rpartition("/")[0]


@contextmanager
def _skipped(folder: str) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        logger.warning("%s is kept: %s", folder, error)


def _is_free(leases: ExitStack, storage: Storage, name: str, *, dry_run: bool, alone: bool) -> bool:
    """Return whether no driver runs the sweep. Unless `dry_run`, keep drivers away until `leases` is closed."""
    if dry_run:
        return driver_of(sweep_folder(storage, name), if_silent="watch") is None
    try:
        leases.enter_context(held(storage, name))
    except SweepError:
        if alone:
            raise
        return False
    return True


def _checkpoints(storage: Storage, name: str) -> dict[str, list[Stored]]:
    """Return the checkpoints by trial, the oldest first."""
    found: dict[str, list[Stored]] = {}
    shared: dict[str, list[Stored]] = {}
    kinds = {"step": found, "base": shared}
    for key, num_bytes in sorted(storage.sizes(f"sweeps/{name}/trials").items()):
        parts = key.split("/")
        if len(parts) == 6 and parts[4] == "checkpoints" and (found_name := _CHECKPOINT.fullmatch(parts[5])):
            kinds[found_name["kind"]].setdefault(parts[3], []).append(Stored(key, num_bytes))
    for trial, stored in found.items():
        bases = shared.get(trial, [])
        num_bytes = stored[-1].num_bytes + sum(base.num_bytes for base in bases)
        stored[-1] = Stored(stored[-1].key, num_bytes, tuple(base.key for base in bases))
    return found


def least_useful(
    records: Iterable[TrialRecord], checkpoints: Mapping[tuple[str, str], list[Stored]], keep: int
) -> Pruning:
    """Select the least useful checkpoints that may be deleted, until at most `keep` bytes stay.

    Args:
        checkpoints: of every (sweep, trial id), the oldest first.
    """
    ranked: list[tuple[tuple[float, ...], Stored]] = []
    total = sum(one.num_bytes for stored in checkpoints.values() for one in stored)  # of damaged trials, too
    for record in records:
        stored = checkpoints.get((record.sweep, record.trial_id), [])
        for index, one in enumerate(stored):
            rank = _use(record, is_newest=index == len(stored) - 1)
            if rank is not None:
                ranked.append((rank, one))
    deleted: list[Stored] = []
    without_weights = 0
    for rank, one in sorted(ranked, key=lambda pair: (pair[0], pair[1].key)):
        if total <= keep:
            break
        deleted.append(one)
        total -= one.num_bytes
        without_weights += rank[0] >= _LAST_OF_FINISHED
    return Pruning(deleted, total, without_weights)


def _use(record: TrialRecord, is_newest: bool) -> tuple[float, ...] | None:
    """Return a sort key, small for useless checkpoints; None for those that must be kept."""
    if record.status.is_failure:
        return (0.0,)
    if not is_newest:
        return (1.0, _score(record))
    if record.status is Status.STOPPED:
        return (2.0, _score(record))
    if record.status is not Status.FINISHED:
        return None
    return (_LAST_OF_FINISHED + (record.stage != "explore"), _score(record))


def _score(record: TrialRecord) -> float:
    curve = record.curve("exact_accuracy")
    if record.result is not None:
        return float(record.result.metrics.get("exact_accuracy", 0.0))
    return curve[-1][1] if curve else 0.0
