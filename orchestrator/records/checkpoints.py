"""Find checkpoints by name: a local or S3 file, or a trial of a storage, of which the last or the best is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.records.schema import TrialHead
from orchestrator.records.stored import read_part
from orchestrator.storage import Storage, open_storage
from trm_data.errors import nearest
from trm_model.checkpoints.store import (
    Checkpoint,
    CheckpointError,
    CheckpointStore,
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


@dataclass(frozen=True, slots=True)
class FoundCheckpoint:
    """Refer to one checkpoint that has not been read yet."""

    store: CheckpointStore
    name: str
    where: str
    """Description for messages."""
    dataset: str | None
    """Folder name of the dataset in the storage that the trial was trained on; None for a file."""

    def load(self) -> Checkpoint:
        """Read the whole checkpoint."""
        return read(self.store, self.name)


def find_checkpoint(address: str, storage: Storage, at: str = "last") -> FoundCheckpoint:
    """Find the checkpoint that a user names.

    Args:
        address: a file, `s3://bucket/key[?endpoint_override=...]`, or `SWEEP/TRIAL` of the storage, where the start of
            a trial's id is enough.
        at: of a trial: `last`, `best` (by validation score) or a step.

    Raises:
        CheckpointError: there is none; names the nearest.
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
    sweep, slash, start = address.partition("/")
    if not slash or address.startswith(("/", ".")) or address.endswith(".safetensors"):
        raise CheckpointError(f"no checkpoint file {address!r}", "Name a file, or SWEEP/TRIAL of the storage")
    trial = _trial(storage, sweep, start)
    folder_of = storage.sub(f"sweeps/{sweep}/trials/{trial}")
    head = read_part(folder_of, "trial.json", TrialHead)
    store = StoredCheckpoints(folder_of.sub("checkpoints"))
    name = _choose(store, at, f"{sweep}/{trial}")
    return FoundCheckpoint(store, name, f"{sweep}/{trial} at step {step_of(name)}", head.dataset.name)


def _trial(storage: Storage, sweep: str, start: str) -> str:
    """Return the id of the only trial whose id starts with `start`."""
    if start and storage.exists(f"sweeps/{sweep}/trials/{start}/trial.json"):
        return start
    keys = (key.split("/") for key in storage.list(f"sweeps/{sweep}/trials"))
    trials = sorted({parts[3] for parts in keys if parts[-1] == "trial.json"})
    if not trials:
        sweeps = {key.split("/")[1] for key in storage.list("sweeps")}
        raise CheckpointError(f"no sweep {sweep!r} in {storage.url}", nearest(sweep, sweeps) or "Nothing was run there")
    matching = [trial for trial in trials if trial.startswith(start)]
    if len(matching) != 1:
        what = "no trial" if not matching else f"{len(matching)} trials"
        raise CheckpointError(f"sweep {sweep!r} has {what} {start!r}", nearest(start, matching or trials))
    return matching[0]


def _choose(store: CheckpointStore, at: str, where: str) -> str:
    names = checkpoint_names(store)
    if not names:
        raise CheckpointError(f"{where} has no checkpoint yet", "Wait for its first one, or name another trial")
    if at == "last":
        return names[-1]
    if at == "best":
        step = read_header(store.read(names[-1]), where)["progress"]["best_step"]
        if step is None:
            raise CheckpointError(f"{where} has no best checkpoint: it was never scored on validation", "Take the last")
    elif at.isdecimal():
        step = int(at)
    else:
        raise CheckpointError(f"--at {at!r} is neither last, best nor a step")
    if name_of(step) not in names:
        kept = ", ".join(str(step_of(name)) for name in names)
        raise CheckpointError(f"{where} keeps no checkpoint of step {step}", f"Kept steps: {kept}")
    return name_of(step)
