"""Store a checkpoint as one safetensors file: tensors in the body, everything else as JSON in the header.

One file is atomic in every storage: a rename on a disk, a single PUT on S3. Names sort by step, so the newest is the
last. A large table of puzzle embeddings is kept in a separate file, the base, that several checkpoints share
(`table_deltas.py`): it is written before the first one that needs it and deleted after the last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from trm_data.errors import UserError, first_line, is_out_of_memory
from trm_data.files import load_json, write_atomic
from trm_model.checkpoints.table_deltas import Base, join

logger = logging.getLogger(__name__)

_KEY = "trm"
_FORMAT = 1
_CHECKSUM = "crc32"
"""Key of the header with the CRC-32 of the tensors. Checkpoints of earlier versions have none."""
_ANOTHER = "Take another checkpoint, or restore the file from a copy"
MOST_TABLE_BYTES = 2**36
"""Size that a header may claim for a table of puzzle embeddings; that of 1,000 augmentations of ARC takes 1.8 GB."""
_STEP_NAME = re.compile(r"step-\d+\.safetensors")
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
_REQUIRED = ("step", "config", "id_map_hash", "vocab_size", "seq_len", "num_identifiers")
_FIELDS: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "config": (dict,),
    "id_map_hash": (str,),
    "vocab_size": (int,),
    "seq_len": (int,),
    "num_identifiers": (int,),
    "fingerprint": (str,),
    "ema_updates": (dict,),
    "progress": (dict,),
    "puzzles_presented": (int,),
    "train_flops": (float, int),
    "torch": (str,),
    "table": (dict,),
    "weights_only": (bool,),
    "imported_from": (str,),
    "imported_sha256": (str,),
    "knows_dataset": (bool,),
}
"""Types of the values in a header, which may come from elsewhere."""


class CheckpointError(UserError):
    """Raised for a checkpoint that cannot be read, or that belongs to another run."""


class DamagedCheckpointError(CheckpointError):
    """Raised for a checkpoint whose file, or the base of whose table, is damaged or missing."""


class MissingCheckpointError(CheckpointError):
    """Raised if there is no checkpoint of a name; it may just have been deleted."""


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
    layout: dict[str, Any] = {"__metadata__": {}}
    parts, end, checksum = [], 0, 0
    for name, value in ordered:
        begin, end = end, end + value.nbytes
        layout[name] = {"dtype": _DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
        parts.append(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        checksum = zlib.crc32(parts[-1], checksum)
    described = {"format": _FORMAT, **header, _CHECKSUM: checksum}
    layout["__metadata__"][_KEY] = json.dumps(described, sort_keys=True)
    head = json.dumps(layout).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


def read_header(data: bytes, where: str = "checkpoint") -> dict[str, Any]:
    """Return the JSON part of a checkpoint file.

    Raises:
        DamagedCheckpointError: it is not one of ours, or is damaged.
        CheckpointError: a newer version wrote it.
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
        raise DamagedCheckpointError(what, "Name another file") from error
    if header.get("format") != _FORMAT:
        raise CheckpointError(f"{where} has format {header.get('format')!r}, this version reads {_FORMAT}")
    for name, kinds in _FIELDS.items():
        value = header.get(name)
        is_known = type(value) in kinds if name in header else name not in _REQUIRED
        if not is_known or (type(value) is int and not 0 <= value < 2**63):
            raise DamagedCheckpointError(f"{where} is damaged: {name} is {repr(value)[:60]}", _ANOTHER)
    return header


def unpack(data: bytes, where: str = "checkpoint", store: CheckpointStore | None = None) -> Checkpoint:
    """Read a checkpoint file. `store` holds the base of its table, if it has one.

    Raises:
        CheckpointError: it is not one of ours, or it or its base is damaged or missing.
    """
    header = read_header(data, where)
    stored = header.get("table")
    tensors = _tensors(data, where)
    body = memoryview(data)[8 + int.from_bytes(data[:8], "little") :]
    if _CHECKSUM in header and header[_CHECKSUM] != zlib.crc32(body):
        raise DamagedCheckpointError(f"{where} is damaged: its tensors do not match their checksum", _ANOTHER)
    if stored is not None:
        try:
            tensors = join(tensors, _table(stored, where, store), int(header["step"]))
        except (ValueError, IndexError, RuntimeError) as error:  # torch's, for rows that the table does not have
            if is_out_of_memory(error):
                raise
            raise DamagedCheckpointError(f"{where} is damaged: {first_line(error)}", _ANOTHER) from None
    return Checkpoint(tensors, header)


def _tensors(data: bytes, where: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError) as error:  # a dtype that torch lacks
        raise DamagedCheckpointError(f"{where} is damaged: {first_line(error)}", _ANOTHER) from error


def base_of(stored: Mapping[str, Any], where: str) -> Base:
    """Return the base that a header names.

    Raises:
        DamagedCheckpointError: there is none, or its table has an impossible shape.
        CheckpointError: its name points outside the checkpoint's folder.
    """
    try:
        base = Base(**stored["base"])
        is_safe = base.name == "" or _BASE_NAME.fullmatch(base.name) is not None
        if not all(type(number) is int for number in (base.step, base.delta_bytes, *stored["shape"])):
            raise TypeError("a value is not a number")
        rows, width = stored["shape"]
        if not (rows >= 0 and width >= 0 and 4 * max(rows, 1) * max(width, 1) <= MOST_TABLE_BYTES):
            raise ValueError("no table has this shape")
        if not all(isinstance(name, str) for name in dict(stored["needed"]).values()):
            raise TypeError("a name is not text")
    except (KeyError, TypeError, ValueError):
        raise DamagedCheckpointError(f"{where} is damaged: it does not name the base of its table") from None
    if not is_safe:
        raise CheckpointError(f"{where} names {base.name!r} as its base, which is not a base's name", "Do not use it")
    return base


def _table(stored: Mapping[str, Any], where: str, store: CheckpointStore | None) -> Tensor:
    """Read the table of a checkpoint, as it was in its base."""
    base = base_of(stored, where)
    if not base.name:
        return torch.zeros(stored["shape"])
    try:
        if store is None:
            raise KeyError(base.name)
        data = store.read(base.name)
    except KeyError:
        what = f"{where} needs {base.name}, which is not in the same folder"
        raise DamagedCheckpointError(what, "Copy both, or take another checkpoint") from None
    if hashlib.sha256(data).hexdigest() != base.sha256:
        what = f"{base.name} is damaged, and {where} needs it"
        raise DamagedCheckpointError(what, "Restore it from a copy, or take an older checkpoint")
    table = _tensors(data, base.name).get("table")
    if table is None or list(table.shape) != list(stored["shape"]):
        found = "no table" if table is None else f"a table of shape {tuple(table.shape)}"
        raise DamagedCheckpointError(f"{where} is damaged: {base.name}, which it needs, holds {found}", _ANOTHER)
    return table


def read(store: CheckpointStore, name: str) -> Checkpoint:
    """Return a checkpoint with everything that belongs to it.

    Raises:
        CheckpointError: there is none of that name, or it or its base is damaged or missing.
    """
    try:
        data = store.read(name)
    except KeyError:
        raise MissingCheckpointError(f"there is no checkpoint {name}") from None
    return unpack(data, name, store)


def copy(source: CheckpointStore, name: str, target: CheckpointStore) -> None:
    """Copy a checkpoint, its base first."""
    data = source.read(name)
    stored = read_header(data, name).get("table")
    if stored is not None and (base := base_of(stored, name)).name:
        target.write(base.name, source.read(base.name))
    target.write(name, data)


def checkpoint_names(store: CheckpointStore) -> list[str]:
    """Return the checkpoints in a store, the newest last."""
    return [name for name in store.names() if _STEP_NAME.fullmatch(name)]


def newest_checkpoint(
    store: CheckpointStore, load: Callable[[Checkpoint], None] = lambda _: None, *, max_step: int | None = None
) -> Checkpoint | None:
    """Return the newest usable checkpoint in a store; None if there is none. Damaged ones are skipped with a warning.

    Args:
        load: takes the checkpoint over; it may raise DamagedCheckpointError as well.
        max_step: pass over checkpoints of later steps.

    Raises:
        CheckpointError: all are damaged, or one belongs to another run.
    """
    damaged: DamagedCheckpointError | None = None
    for name in reversed(checkpoint_names(store)):
        if max_step is not None and step_of(name) > max_step:
            continue
        try:
            found = read(store, name)
            load(found)
        except MissingCheckpointError:  # the attempt before this one, which is just ending, has deleted it
            continue
        except DamagedCheckpointError as error:
            logger.warning("%s is not usable, so that an older checkpoint is tried: %s", name, error.what)
            damaged = damaged or error
        else:
            return found
    if damaged is not None:
        raise damaged
    return None
