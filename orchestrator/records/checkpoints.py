"""Find checkpoints by name: a local or S3 file, or a trial of a storage, of which the last or the best is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.records.index import (
    BEST,
    LAST,
    SINGLE_RUNS,
    last_or_best,
    load_definition,
    locate_trial,
    trial_folder,
)
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import TrialHead, TrialRecord
from orchestrator.records.stored import read_part
from orchestrator.storage import LocalStorage, Storage, open_storage
from trm_data.errors import nearest
from trm_model.checkpoints.store import (
    Checkpoint,
    CheckpointError,
    CheckpointStore,
    DamagedCheckpointError,
    LocalCheckpoints,
    checkpoint_names,
    name_of,
    read,
    read_header,
    step_of,
)


class StoredCheckpoints:
    """Store checkpoints below a folder of a storage."""

    def __init__(self, folder: Storage) -> None:
        self._folder = folder

    def write(self, name: str, data: bytes) -> None:
        self._folder.write(name, data)

    def read(self, name: str) -> bytes:
        return self._folder.read(name)

    def names(self) -> list[str]:
        return self._folder.list()

    def delete(self, name: str) -> None:
        self._folder.delete(name)

    def address_of(self, name: str) -> str:
        """Return the path or the URL of a file."""
        if isinstance(self._folder, LocalStorage):
            return str(self._folder.root / name)
        location, mark, options = self._folder.url.partition("?")
        return f"{location}/{name}{mark}{options}"


@dataclass(frozen=True, slots=True)
class FoundCheckpoint:
    """Refer to one checkpoint that has not been read yet."""

    store: CheckpointStore
    name: str
    where: str
    """Description for messages."""
    dataset: str | None
    """Folder name of the dataset in the storage that the trial was trained on; None for a file."""

    @property
    def address(self) -> str:
        """Return the path or the URL of the file."""
        if isinstance(self.store, StoredCheckpoints):
            return self.store.address_of(self.name)
        return str(self.store.path / self.name) if isinstance(self.store, LocalCheckpoints) else self.where

    def load(self) -> Checkpoint:
        """Read the whole checkpoint."""
        return read(self.store, self.name)


def find_checkpoint(address: str, storage: Storage, at: str = "last") -> FoundCheckpoint:
    """Find the checkpoint that a user names.

    Args:
        address: a file, `s3://bucket/key[?endpoint_override=...]`, or `SWEEP/TRIAL` of the storage, where the start of
            a trial's id is enough, or `SWEEP/last`, `SWEEP/best`.
        at: of a trial: `last`, `best` (by validation score) or a step.

    Raises:
        CheckpointError: there is none.
        SweepError: there is no such trial; names the nearest.
    """
    if address.startswith("s3://"):
        location, mark, options = address.partition("?")
        folder, _, name = location.rpartition("/")
        place = open_storage(folder + mark + options)
        if not place.exists(name):
            raise CheckpointError(f"no checkpoint at {location}")
        return FoundCheckpoint(StoredCheckpoints(place), name, location, None)
    path = Path(address)
    if path.is_file():
        return FoundCheckpoint(LocalCheckpoints(path.parent), path.name, address, None)
    if "/" not in address or address.startswith(("/", ".")) or address.endswith(".safetensors"):
        raise CheckpointError(f"no checkpoint file {address!r}", "Name a file, or SWEEP/TRIAL of the storage")
    sweep, trial = locate_trial(storage, address)
    folder_of = trial_folder(storage, sweep, trial)
    head = read_part(folder_of, "trial.json", TrialHead)
    store = StoredCheckpoints(folder_of.sub("checkpoints"))
    if not checkpoint_names(store) and folder_of.exists("result.json"):
        remedy = "`trm sweep prune` deletes checkpoints. Name another trial"
        if (origin := head.origin) and origin.kind == "reused" and origin.sweep:
            remedy = f"The trial was reused from another sweep, which has them: {origin.sweep}/{origin.trial_id}"
        raise CheckpointError(f"{sweep}/{trial} is finished and has no checkpoints", remedy)
    name = _choose(store, at, f"{sweep}/{trial}")
    return FoundCheckpoint(store, name, f"{sweep}/{trial} at step {step_of(name)}", head.dataset.name)


def find_start(address: str, storage: Storage, is_own: Callable[[TrialRecord], bool]) -> FoundCheckpoint:
    """Find the checkpoint whose weights a run starts from, so that the same command finds the same one again.

    Args:
        address: see `find_checkpoint`. `SWEEP/last` and `SWEEP/best` pass over the runs of `is_own`, and `last` over
            runs without a checkpoint.
        is_own: whether the command itself has begun a run.

    Raises:
        CheckpointError: there is none.
        SweepError: there is no such trial; names the nearest.
    """
    sweep, _, word = address.rpartition("/")
    if word not in (LAST, BEST) or sweep not in storage.folders("sweeps"):
        return find_checkpoint(address, storage)
    definition = None if sweep == SINGLE_RUNS else load_definition(storage, sweep)
    records = read_trials(storage, sweep)
    keys = [key.split("/") for key in storage.list(f"sweeps/{sweep}/trials")]
    kept = {parts[3] for parts in keys if parts[4:5] == ["checkpoints"]}
    others = [record for record in records if not is_own(record) and (record.trial_id in kept or word == BEST)]
    if not others and any(record.attempts for record in records):
        what = f"{address}: this command began every run of {sweep!r} that has a checkpoint"
        raise CheckpointError(what, "Name SWEEP/TRIAL, or a file")
    return find_checkpoint(f"{sweep}/{last_or_best(others, word, sweep, definition).trial_id}", storage)


def _choose(store: CheckpointStore, at: str, where: str) -> str:
    names = checkpoint_names(store)
    if not names:
        raise CheckpointError(f"{where} has no checkpoint yet", "Wait for its first one, or name another trial")
    if at == "last":
        return names[-1]
    if at == "best":
        step = _best_step(store, names)
        if step is None:
            raise CheckpointError(f"{where} has no best checkpoint: it was never scored on validation", "Take the last")
    elif at.isdecimal():
        step = int(at)
    else:
        raise CheckpointError(f"--at {at!r} is neither last, best nor a step", nearest(at, ("last", "best")))
    if name_of(step) not in names:
        kept = ", ".join(str(step_of(name)) for name in names)
        raise CheckpointError(f"{where} keeps no checkpoint of step {step}", f"Kept steps: {kept}")
    return name_of(step)


def _best_step(store: CheckpointStore, names: list[str]) -> int | None:
    """Return the best step according to the newest checkpoint whose header is readable; a damaged one is skipped.

    Raises:
        CheckpointError: no header is readable.
    """
    damaged: DamagedCheckpointError | None = None
    for name in reversed(names):
        try:
            step: int | None = read_header(store.read(name), name)["progress"]["best_step"]
        except DamagedCheckpointError as error:
            damaged = damaged or error
        else:
            return step
    assert damaged is not None, "there are names"
    raise damaged
