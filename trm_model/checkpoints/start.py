"""Start a run from the weights of a checkpoint: read them, check that they fit, and copy them into a model.

The optimizer, the averages and the step begin as in any other run. Row R of an embedding table belongs to one puzzle
with one augmentation.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from trm_data.errors import ConfigError
from trm_data.files import load_json
from trm_data.sources.files import Address, open_binary, parse_address, read
from trm_model.checkpoints.store import CheckpointError, CheckpointStore, base_of, read_header, unpack
from trm_model.checkpoints.table_deltas import TABLE
from trm_model.checkpoints.trained import average
from trm_model.config import ModelConfig, TrialConfig
from trm_model.model.recursion import Model, build_model
from trm_model.start_file import NAME, read_head, read_remote, short_start, start_sha256

if TYPE_CHECKING:
    from trm_data import Dataset

_MUST_AGREE = (
    "variant",
    "recursion",
    "mixer",
    "positions",
    "hidden_size",
    "num_heads",
    "expansion",
    "inner_multiple",
    "num_layers",
    "num_latents",
    "shared_network",
    "puzzle_embedding_len",
    "puzzle_embedding_size",
    "rope_theta",
    "norm_epsilon",
)
"""Settings of a model that decide the shapes of its weights or what they compute. T, n and N_sup may differ."""
_ANOTHER = "Name another checkpoint"
_EMBEDDINGS = TABLE.removeprefix("model/")


class Start(NamedTuple):
    """Hold the weights that a run starts from."""

    tensors: dict[str, Tensor]
    """By the names of the model's state, averaged where the checkpoint has an average."""
    header: dict[str, Any]
    where: str
    """The address, for messages."""

    @property
    def kind(self) -> str:
        """Return which weights these are, of which step."""
        return start_kind(self.header)


class StartHead(NamedTuple):
    """Hold what the header of such a checkpoint says."""

    header: dict[str, Any]
    shapes: dict[str, list[int]]
    """By the names of the file's tensors; that of the whole table of puzzle embeddings, where it has a base."""
    where: str


class MemoryCheckpoints:
    """Store checkpoints in memory."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}

    def write(self, name: str, data: bytes) -> None:
        self._files[name] = data

    def read(self, name: str) -> bytes:
        return self._files[name]

    def names(self) -> list[str]:
        return sorted(self._files)

    def delete(self, name: str) -> None:
        self._files.pop(name, None)


def copy_start(address: str, target: CheckpointStore) -> None:
    """Copy the checkpoint that a pinned address names into a store, the base of its table first.

    Raises:
        UserError: it cannot be read, or has another content than the address says.
    """
    place = parse_address(address)
    start_sha256(address)
    data = _content(place)
    stored = read_header(data, str(place)).get("table")
    if stored is not None and (base := base_of(stored, str(place))).name:
        folder, slash, _ = place.base.rpartition("/")
        target.write(base.name, _content(place._replace(base=folder + slash + base.name, sha256=base.sha256)))
    target.write(NAME, data)


def _content(place: Address) -> bytes:
    return read_remote(place) if place.is_remote else read(place)


def read_start_head(address: str) -> StartHead:
    """Return what the header of the checkpoint that a pinned address names says. Of a local file nothing else is read.

    Raises:
        UserError: it cannot be read, or is not a checkpoint.
    """
    place = parse_address(address)
    if place.is_remote:
        return head_of(read_remote(place), short_start(address))
    with open_binary(place._replace(sha256=None)) as content:
        return head_of(read_head(content), short_start(address))


def head_of(data: bytes, where: str) -> StartHead:
    """Return what the header of a checkpoint says.

    Args:
        data: its file, or the beginning of it up to the end of the header.

    Raises:
        CheckpointError: it is not one of ours, or it is damaged.
    """
    header = read_header(data, where)
    layout = load_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
    shapes = {name: tensor["shape"] for name, tensor in layout.items() if name != "__metadata__"}
    if (stored := header.get("table")) is not None:
        base_of(stored, where)
        shapes[TABLE] = stored["shape"]
    return StartHead(header, shapes, where)


def read_start(address: str, store: CheckpointStore | None = None) -> Start:
    """Return the weights that a pinned address names: the average, if the checkpoint has one, else its only weights.

    Args:
        store: what `copy_start` has filled; None reads the file at the address.

    Raises:
        UserError: it cannot be read, is damaged, or has another content than the address says.
    """
    where = short_start(address)
    if store is None:
        copy_start(address, store := MemoryCheckpoints())
    try:
        data = store.read(NAME)
    except KeyError:
        raise CheckpointError(
            f"the storage has no copy of {where}", "Start the sweep again where the file is"
        ) from None
    if hashlib.sha256(data).hexdigest() != start_sha256(address):
        raise CheckpointError(f"the storage's copy of {where} has another content", "Delete the copy and start again")
    checkpoint = unpack(data, where, store)
    config = TrialConfig.parse(checkpoint.header["config"], where)
    tensors = checkpoint.section("model")
    return Start(tensors | average(checkpoint, config, "ema", tensors), checkpoint.header, where)


def start_kind(header: Mapping[str, Any]) -> str:
    """Return which weights of a checkpoint a run starts from, and of which step."""
    config = TrialConfig.parse(header["config"], "checkpoint")
    has_average = str(config.optimizer.ema_rate) in header.get("ema_updates", {})
    return f"{'EMA weights' if has_average else 'weights'} of step {header['step']}"


def check_start(config: ModelConfig, header: Mapping[str, Any], where: str, *, seq_len: int, vocab_size: int) -> None:
    """Raise an error unless a checkpoint's weights are those of a model with these settings and sizes.

    Raises:
        CheckpointError: names everything that differs.
    """
    theirs = TrialConfig.parse(header["config"], where).model.resolved().identity()
    ours = config.resolved().identity()
    settings = {name: theirs[name] for name in _MUST_AGREE if theirs[name] != ours[name]}
    if settings:
        differences = ", ".join(f"model.{name}={value} and not {ours[name]}" for name, value in settings.items())
        given = " ".join(f"--set model.{name}={value}" for name, value in settings.items())
        raise CheckpointError(f"{where} has {differences}", f"Set what it has ({given}), or name another checkpoint")
    differing = [
        f"{theirs} {what} and not {ours}"
        for what, theirs, ours in (
            ("grids", _grid(header["seq_len"]), _grid(seq_len)),
            ("symbols", header["vocab_size"], vocab_size),
        )
        if theirs != ours
    ]
    if differing:
        raise CheckpointError(
            f"{where} was trained on {', '.join(differing)}", "Name a dataset of such puzzles, or another checkpoint"
        )


def check_head(config: ModelConfig, head: StartHead, *, seq_len: int, vocab_size: int) -> None:
    """Raise an error unless a checkpoint has the weights of a model with these settings and sizes, by its header.

    Raises:
        CheckpointError: names everything that differs, or the first tensor that is missing or of another shape.
    """
    check_start(config, head.header, head.where, seq_len=seq_len, vocab_size=vocab_size)
    if config.recursion is not None:
        return  # its own code decides which weights it has
    rate = TrialConfig.parse(head.header["config"], head.where).optimizer.ema_rate
    with torch.device("meta"):
        model = build_model(config, vocab_size=vocab_size, seq_len=seq_len, num_identifiers=1)
    own, averaged = (
        {name.removeprefix(section): shape for name, shape in head.shapes.items() if name.startswith(section)}
        for section in ("model/", f"ema/{rate}/")
    )
    for found in (own, own | averaged):
        _check_tensors(model, found, head.where)
    if unknown := averaged.keys() - own.keys():
        raise CheckpointError(f"{head.where} has an average of {min(unknown)}, and no such tensor", _ANOTHER)


def _check_tensors(model: Model, found: Mapping[str, Sequence[int]], where: str) -> None:
    """Raise CheckpointError unless the shapes are those of a model; its table of embeddings may have other rows."""
    for name, own in model.state_dict().items():
        shape, wanted = tuple(found.get(name, ())), tuple(own.shape)
        fits = shape == wanted
        if name == _EMBEDDINGS:
            fits = len(shape) == 2 and shape[0] > 0 and shape[1] == wanted[1]
        if not fits:
            what = f"a tensor of shape {shape} as" if name in found else "no tensor"
            raise CheckpointError(f"{where} has {what} {name}", _ANOTHER)


def _grid(cells: int) -> str:
    side = math.isqrt(cells)
    return f"{side}x{side}" if side * side == cells else f"{cells}-cell"


def load_start(model: Model, start: Start, dataset: Dataset, num_augmentations: int, new_embeddings: str) -> str:
    """Copy weights into a model, and return one line on what it starts from.

    Puzzle embeddings are those of the same puzzles where the checkpoint was trained on the same dataset. Others begin
    as the mean of its table (`new_embeddings` is `mean`), or at zero.

    Raises:
        CheckpointError: they are those of another model.
    """
    sizes = {"seq_len": model.num_cells, "vocab_size": model.vocab_size}
    check_start(model.config, start.header, start.where, **sizes)
    _check_tensors(model, {name: value.shape for name, value in start.tensors.items()}, start.where)
    with torch.no_grad():
        for name, own in model.state_dict().items():
            if name != _EMBEDDINGS:
                own.copy_(start.tensors[name])
        if model.puzzle_embedding is None:
            return f"{start.kind} of {start.where}"
        known = _num_known(start, dataset, num_augmentations, len(model.puzzle_embedding.weight))
        rows = _load_table(model.puzzle_embedding.weight, start.tensors[_EMBEDDINGS], known, new_embeddings)
        if known or new_embeddings == "mean":
            # What no step has changed differs from the table of zeros over which checkpoints store changes.
            model.puzzle_embedding.changed_at.fill_(1)
    return f"{start.kind} of {start.where}; puzzle embeddings: {rows}"


def _num_known(start: Start, dataset: Dataset, num_augmentations: int, num_rows: int) -> int:
    """Return how many first rows of the table stand for the same puzzles, equally augmented, as in the checkpoint."""
    header = start.header
    if header.get("fingerprint", dataset.fingerprint) != dataset.fingerprint:
        return 0
    if header["id_map_hash"] == dataset.id_map_hash(num_augmentations):
        return num_rows if "fingerprint" in header or dataset.has_identifiers else 0
    if dataset.is_listed and dataset.manifest.ids != "native":
        return 0
    theirs = TrialConfig.parse(header["config"], start.where).data.num_augmentations
    try:  # rows for few augmentations are the first ones of those for many
        is_same = header["id_map_hash"] == dataset.id_map_hash(theirs)
    except ConfigError:
        return 0
    return min(num_rows, int(header["num_identifiers"])) if is_same else 0


def _load_table(own: Tensor, found: Tensor, known: int, new_embeddings: str) -> str:
    """Fill a table: the first `known` rows are the checkpoint's. Return one line on what the rows are."""
    own[:known] = found[:known].to(own)
    new = len(own) - known
    if new and new_embeddings == "mean":
        trained = found[1:] if len(found) > 1 else found  # row 0 is blank where puzzles have rows of their own
        own[known:] = trained.mean(0, dtype=torch.float64).to(own)
    as_new = "the mean" if new_embeddings == "mean" else "zero"
    return ", ".join([f"{known:,} of the same puzzles"] * bool(known) + [f"{new:,} at {as_new}"] * bool(new))
