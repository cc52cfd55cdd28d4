"""Store a checkpoint as one safetensors file: tensors in the body, everything else as JSON in the header.

One file is atomic in every storage: a rename on a disk, a single PUT on S3. Names sort by step, so the newest is the
last. A large table of puzzle embeddings is kept in a separate file, the base, that several checkpoints share
(`table_deltas.py`): it is written before the first one that needs it and deleted after the last.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from trm_data.errors import UserError
from trm_data.files import load_json, write_atomic
from trm_model.checkpoints.table_deltas import Base, join, split

_KEY = "trm"
_FORMAT = 1
_ANOTHER = "Take another checkpoint, or restore the file from a copy"
_OLDER = "Use an earlier checkpoint, or another copy of this one"
_BASE_NAME = re.compile(r"base-\d+\.safetensors")
_ZIP = b"PK"  # how a file of `torch.save` begins
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class CheckpointError(UserError):
    """Raised for a checkpoint that cannot be read, or that belongs to another run."""


class CheckpointStore(Protocol):
    """Define where checkpoints are stored. `write` is atomic: a reader sees nothing or the whole file."""

    def write(self, name: str, data: bytes) -> None: ...

    def read(self, name: str) -> bytes:
        """Return the file. Raises KeyError if there is none."""
        ...

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        ...

    def delete(self, name: str) -> None: ...


class LocalCheckpoints:
    """Store checkpoints in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def write(self, name: str, data: bytes) -> None:
        write_atomic(self.path / name, data)

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            raise KeyError(name) from None

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.glob("[!.]*.safetensors"))

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Hold a run at one step. Tensor names: `model/*`, `ema/<rate>/*`, `optimizer/*`, `carry/*`."""

    tensors: dict[str, Tensor]
    header: dict[str, Any]
    """step, config, id_map_hash, fingerprint, sizes, rng, data position, counters: plain JSON values."""

    @property
    def step(self) -> int:
        return int(self.header["step"])

    def section(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below `prefix/`, without it."""
        start = f"{prefix}/"
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}


def name_of(step: int) -> str:
    """Return the file name of the checkpoint at a step."""
    return f"step-{step:08d}.safetensors"


def step_of(name: str) -> int:
    """Return the step in a checkpoint's file name."""
    return int(name.removeprefix("step-").removesuffix(".safetensors"))


def pack(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """Serialize a checkpoint.

    Written out because the library's own function copies all tensors twice, seconds and gigabytes for a large table.
    """
    # Wide types first, as the format requires: every tensor then begins at a multiple of its item size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    layout: dict[str, Any] = {"__metadata__": {_KEY: json.dumps({"format": _FORMAT, **header}, sort_keys=True)}}
    parts, end = [], 0
    for name, value in ordered:
        begin, end = end, end + value.nbytes
        layout[name] = {"dtype": _DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
        parts.append(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    head = json.dumps(layout).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


def read_header(data: bytes, where: str = "checkpoint") -> dict[str, Any]:
    """Return the JSON part of a checkpoint file.

    Raises:
        CheckpointError: it is not one of ours, or is damaged.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header = load_json(load_json(data[8 : 8 + length])["__metadata__"][_KEY])
        if not isinstance(header, dict):
            raise TypeError("the header is no JSON object")
    except (ValueError, KeyError, TypeError) as error:
        what = f"{where} is not a checkpoint of this program"
        if data[:2] == _ZIP:
            raise CheckpointError(what, "If it is an official one, import it: `trm checkpoint import`") from None
        raise CheckpointError(what, "Name another file") from error
    if header.get("format") != _FORMAT:
        raise CheckpointError(f"{where} has format {header.get('format')}, this version reads {_FORMAT}")
    return header


def unpack(data: bytes, where: str = "checkpoint", store: CheckpointStore | None = None) -> Checkpoint:
    """Read a checkpoint file. `store` holds the base of its table, if it has one.

    Raises:
        CheckpointError: it is not one of ours, or it or its base is damaged or missing.
    """
    header = read_header(data, where)
    stored = header.get("table")
    tensors = _tensors(data, where)
    if stored is not None:
        try:
            tensors = join(tensors, _table(stored, where, store), int(header["step"]))
        except ValueError as error:
            raise CheckpointError(f"{where} is damaged: {error}", _ANOTHER) from None
    return Checkpoint(tensors, header)


def _tensors(data: bytes, where: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{where} is damaged: {error}", _ANOTHER) from error


def _base(stored: Mapping[str, Any], where: str) -> Base:
    """Return the base that a header names. Raises CheckpointError if its name points outside the checkpoint's
    folder."""
    try:
        base = Base(**stored["base"])
        is_safe = base.name == "" or _BASE_NAME.fullmatch(base.name) is not None
    except (KeyError, TypeError):
        raise CheckpointError(f"{where} is damaged: it does not name the base of its table") from None
    if not is_safe:
        raise CheckpointError(f"{where} names {base.name!r} as its base, which is not a base's name", "Do not use it")
    return base


def _table(stored: Mapping[str, Any], where: str, store: CheckpointStore | None) -> Tensor:
    """Read the table of a checkpoint, as it was in its base."""
    base = _base(stored, where)
    if not base.name:
        return torch.zeros(stored["shape"])
    try:
        if store is None:
            raise KeyError(base.name)
        data = store.read(base.name)
    except KeyError:
        what = f"{where} needs {base.name}, which is not in the same folder"
        raise CheckpointError(what, "Copy both, or take another checkpoint") from None
    if hashlib.sha256(data).hexdigest() != base.sha256:
        what = f"{base.name} is damaged, and {where} needs it"
        raise CheckpointError(what, "Restore it from a copy, or take an older checkpoint")
    return _tensors(data, base.name)["table"]


def read(store: CheckpointStore, name: str) -> Checkpoint:
    """Return a checkpoint with everything that belongs to it.

    Raises:
        CheckpointError: there is none of that name, or it or its base is damaged or missing.
    """
    try:
        data = store.read(name)
    except KeyError:
        raise CheckpointError(f"there is no checkpoint {name}") from None
    return unpack(data, name, store)


def copy(source: CheckpointStore, name: str, target: CheckpointStore) -> None:
    """Copy a checkpoint, its base first."""
    data = source.read(name)
    stored = read_header(data, name).get("table")
    if stored is not None and (base := _base(stored, name)).name:
        target.write(base.name, source.read(base.name))
    target.write(name, data)


def checkpoint_names(store: CheckpointStore) -> list[str]:
    """Return the checkpoints in a store, the newest last."""
    return [name for name in store.names() if name.startswith("step-")]


def newest_checkpoint(store: CheckpointStore) -> Checkpoint | None:
    """Return the last checkpoint in a store, or None."""
    names = checkpoint_names(store)
    return read(store, names[-1]) if names else None


class Written(NamedTuple):
    """Describe a checkpoint that has been written."""

    name: str
    num_bytes: int
    """A base that was written with it included."""


class RunCheckpoints:
    """Manage the checkpoints of one run: find, write, and delete all but the newest and the best."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._base = Base()
        self._bases: dict[str, str] = {}
        """The base that each checkpoint needs."""

    def newest(self) -> Checkpoint | None:
        """Read the last checkpoint, to resume from.

        Raises:
            CheckpointError: it is damaged. The run owns it, so that the user may delete it.
        """
        try:
            found = newest_checkpoint(self._store)
        except CheckpointError as error:
            raise CheckpointError(error.what, _OLDER) from error
        if found is not None and (stored := found.header.get("table")) is not None:
            self._base, self._bases = _base(stored, name_of(found.step)), dict(stored["needed"])
        return found

    def write(self, checkpoint: Checkpoint) -> Written:
        """Write a checkpoint, and before it the base of its table where a new one is due."""
        name, header, tensors, base_bytes = name_of(checkpoint.step), checkpoint.header, checkpoint.tensors, 0
        parts = split(tensors, self._base, checkpoint.step)
        if parts is not None:
            base, tensors = parts.base, parts.tensors
            if parts.whole is not None:
                data = pack({"table": parts.whole}, {"step": checkpoint.step})
                base = replace(base, name=f"base-{base.step:08d}.safetensors", sha256=hashlib.sha256(data).hexdigest())
                self._store.write(base.name, data)
                base_bytes = len(data)
            self._base = base
            self._bases[name] = base.name
            header = header | {"table": {"base": asdict(base), "shape": parts.shape, "needed": self._bases}}
        data = pack(tensors, header)
        self._store.write(name, data)
        return Written(name, base_bytes + len(data))

    def describe_last(self) -> str:
        """Describe, for people, from which checkpoint a run that ends now can be resumed."""
        names = checkpoint_names(self._store)
        return f"the last good checkpoint is {names[-1]}" if names else "there is no checkpoint before it"

    def prune(self, *, keep: int, best_step: int | None) -> None:
        """Delete all but `keep` checkpoints, the newest and, if `keep` is at least 2, the best; and unused bases."""
        names = checkpoint_names(self._store)
        kept = set(names[-keep:])
        best = name_of(best_step) if best_step is not None else None
        if best in names and best not in kept and keep > 1:
            kept = {best, *names[-(keep - 1) :]}
        self._bases = {name: base for name, base in self._bases.items() if name in kept}
        for name in names:
            if name not in kept:
                self._store.delete(name)
        for name in self._store.names():
            if name.startswith("base-") and name not in self._bases.values():
                self._store.delete(name)
