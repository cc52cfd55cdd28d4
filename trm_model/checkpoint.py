"""A checkpoint is one safetensors file: tensors in the body, everything else as JSON in the header.

One file is atomic wherever it lands: a rename on a disk, a single PUT on S3. Names sort by step, so the newest is the
last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from trm_data.errors import UserError
from trm_data.files import write_atomic

_KEY = "trm"
_FORMAT = 1


class CheckpointError(UserError):
    """A checkpoint that cannot be read, or that belongs to another run."""


class CheckpointStore(Protocol):
    """Where checkpoints live. `write` is atomic: a reader sees nothing or the whole."""

    def write(self, name: str, data: bytes) -> None: ...

    def read(self, name: str) -> bytes: ...

    def names(self) -> list[str]: ...

    def delete(self, name: str) -> None: ...


class LocalCheckpoints:
    """Checkpoints in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def write(self, name: str, data: bytes) -> None:
        write_atomic(self.path / name, data)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.glob("step-*.safetensors"))

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run at one step. Tensor names: `model/*`, `ema/<rate>/*`, `optimizer/*`, `carry/*`."""

    tensors: dict[str, Tensor]
    header: dict[str, Any]
    """step, config, id_map_hash, fingerprint, sizes, rng, data position, counters: plain JSON values."""

    @property
    def step(self) -> int:
        return int(self.header["step"])

    def section(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix/`, without it."""
        start = f"{prefix}/"
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}


def name_of(step: int) -> str:
    """File name of the checkpoint at a step."""
    return f"step-{step:08d}.safetensors"


def step_of(name: str) -> int:
    """The step in a checkpoint's file name."""
    return int(name.removeprefix("step-").removesuffix(".safetensors"))


def pack(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint file."""
    whole = {name: _own(value.detach().cpu().contiguous()) for name, value in tensors.items()}
    return safetensors.torch.save(whole, {_KEY: json.dumps({"format": _FORMAT, **header}, sort_keys=True)})


def _own(tensor: Tensor) -> Tensor:
    """Copied if it is a view of something larger, which the format cannot hold; a large table is not copied."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def read_header(data: bytes, where: str = "checkpoint") -> dict[str, Any]:
    """The JSON part of a checkpoint file.

    Raises:
        CheckpointError: it is not one of ours, or is damaged.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_KEY])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{where} is not a checkpoint of this program", "Delete it, or name another") from error
    if header.get("format") != _FORMAT:
        raise CheckpointError(f"{where} has format {header.get('format')}, this version reads {_FORMAT}")
    return dict(header)


def unpack(data: bytes, where: str = "checkpoint") -> Checkpoint:
    """Read a checkpoint file.

    Raises:
        CheckpointError: it is not one of ours, or is damaged.
    """
    header = read_header(data, where)
    try:
        return Checkpoint(safetensors.torch.load(data), header)
    except SafetensorError as error:
        raise CheckpointError(f"{where} is damaged: {error}", "Delete it; the one before it will be used") from error


def newest(store: CheckpointStore) -> Checkpoint | None:
    """The last checkpoint in a store, or None."""
    names = store.names()
    return unpack(store.read(names[-1]), names[-1]) if names else None


def prune(store: CheckpointStore, *, keep: int, best_step: int | None) -> None:
    """Delete all but `keep` checkpoints: the newest ones and, if `keep` is at least 2, the best."""
    names = store.names()
    kept = set(names[-keep:])
    best = name_of(best_step) if best_step is not None else None
    if best in names and best not in kept and keep > 1:
        kept = {best, *names[-(keep - 1) :]}
    for name in names:
        if name not in kept:
            store.delete(name)
