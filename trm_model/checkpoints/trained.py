"""Load a trained model from a checkpoint, for evaluation, solving and export, and pack weights without a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trm_data.config import DataConfig
from trm_data.errors import first_line, nearest
from trm_model.checkpoints.store import Checkpoint, CheckpointError, pack
from trm_model.config import TrialConfig
from trm_model.cost import num_parameters
from trm_model.model.recursion import Model, build_model

MOST_CELLS = 2**16
"""Cells of a puzzle that a checkpoint may claim; ARC's frame has 900."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Hold a model with the requested weights, and what is known of its training."""

    model: Model
    config: TrialConfig
    step: int
    id_map_hash: str

    def check_dataset(self, id_map_hash: str, vocab_size: int, seq_len: int) -> None:
        """Raise an error for a dataset whose puzzle ids, symbols or size differ in meaning from those of training.

        Raises:
            CheckpointError: names what differs.
        """
        model = self.model
        sides = [math.isqrt(cells) for cells in (model.num_cells, seq_len)]
        if sides[0] != sides[1]:
            trained, found = (f"{side}x{side}" for side in sides)
            raise CheckpointError(
                f"the model was trained on {trained} puzzles, and the dataset has {found} ones",
                f"Name a dataset of {trained} puzzles",
            )
        for name, own, other in (
            ("vocabulary size", model.vocab_size, vocab_size),
            ("puzzle-id map", self.id_map_hash, id_map_hash),
        ):
            if own != other:
                raise CheckpointError(
                    f"the dataset's {name} is {other}, the checkpoint was trained with {own}",
                    "Use the dataset that it was trained on, with the same number of augmentations",
                )


def load_trained(checkpoint: Checkpoint, weights: str = "ema") -> Trained:
    """Rebuild the model of a checkpoint with the weights of a name.

    Args:
        weights: `raw`, `ema` (the main average), or the rate of a further average. A checkpoint that keeps no average,
            such as an imported one, has only one set of weights, which `ema` and `raw` both mean.

    Raises:
        CheckpointError: no such average, or tensors that do not fit the configuration.
    """
    header = checkpoint.header
    sizes: dict[str, int] = {}
    for name in ("vocab_size", "seq_len", "num_identifiers", "step"):
        value = header.get(name)
        if type(value) is not int or value < 0:
            raise CheckpointError(f"the checkpoint is damaged: {name} is {value!r}", "Take another checkpoint")
        sizes[name] = value
    del sizes["step"]
    config = TrialConfig.parse(header.get("config", {}), "checkpoint")
    try:
        tensors = checkpoint.section("model")
        _check_sizes(tensors, config, sizes)
        model = build_model(config.model, **sizes)
        model.load_state_dict(tensors)
    except (RuntimeError, TypeError, OverflowError) as error:  # torch raises all of them for impossible sizes
        raise CheckpointError(f"the checkpoint is damaged: {first_line(error)}", "Take another checkpoint") from None
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in average(checkpoint, config, weights, parameters).items():
            parameters[name].copy_(value)
    return Trained(model.requires_grad_(False), config, checkpoint.step, str(header.get("id_map_hash")))


def average(
    checkpoint: Checkpoint, config: TrialConfig, weights: str, model: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the averaged weights of a name; none where the name means the raw ones.

    Args:
        model: the raw weights.

    Raises:
        CheckpointError: no such average, or it is one of other weights.
    """
    averages = {name.split("/")[1] for name in checkpoint.tensors if name.startswith("ema/")}
    rate = str(config.optimizer.ema_rate) if weights == "ema" else weights
    if rate in averages:
        found = checkpoint.section(f"ema/{rate}")
        for name, value in found.items():
            if name not in model or value.shape != model[name].shape:
                what = f"its average {rate} has {name!r} of shape {tuple(value.shape)}, which the model has not"
                raise CheckpointError(f"the checkpoint is damaged: {what}", "Take another checkpoint")
        return found
    if weights not in ("ema", "raw"):
        raise CheckpointError(
            f"the checkpoint keeps no average {weights!r}", nearest(weights, averages | {"ema", "raw"})
        )
    return {}


def pack_scored_weights(checkpoint: Checkpoint, config: TrialConfig, weights: str) -> bytes:
    """Return a checkpoint file with nothing but the weights of a name, without building the model.

    Args:
        config: the configuration that the file's header gets.
        weights: as in `load_trained`.

    Raises:
        CheckpointError: no such average, or it is one of other weights.
    """
    tensors = checkpoint.section("model")
    averaged = average(checkpoint, config, weights, tensors)
    tensors |= {name: value.to(tensors[name].dtype) for name, value in averaged.items()}
    kept = ("step", "id_map_hash", "vocab_size", "seq_len", "num_identifiers", "fingerprint")
    header = {name: checkpoint.header[name] for name in kept if name in checkpoint.header}
    header |= {"config": config.plain(), "weights_only": True}
    return pack({f"model/{name}": value for name, value in tensors.items()}, header)


def _check_sizes(tensors: Mapping[str, torch.Tensor], config: TrialConfig, sizes: Mapping[str, int]) -> None:
    """Raise an error if a model of a header's sizes is not that of the tensors, before it takes any memory.

    Raises:
        CheckpointError: it has more or fewer weights, or more cells than any puzzle.
    """
    if sizes["seq_len"] > MOST_CELLS:
        raise CheckpointError(f"the checkpoint is damaged: seq_len is {sizes['seq_len']}", "Take another checkpoint")
    if config.model.recursion is not None:
        return  # its own code decides which weights it has
    rest = ("puzzle_embedding.", "start_")
    found = sum(value.numel() for name, value in tensors.items() if not name.startswith(rest))
    count = num_parameters(config.model, seq_len=sizes["seq_len"], vocab_size=sizes["vocab_size"])
    table = tensors.get("puzzle_embedding.weight")
    rows, known_rows = sizes["num_identifiers"], 0 if table is None else table.shape[0] if table.ndim else -1
    if count != found or (config.model.puzzle_embedding_width and rows != known_rows):
        what = f"its model has {count} weights and {rows} puzzle embeddings, its tensors {found} and {known_rows}"
        raise CheckpointError(f"the checkpoint is damaged: {what}", "Take another checkpoint")


def check_dataset_is_known(header: Mapping[str, Any], where: str) -> None:
    """Raise an error if a dataset would be chosen by a checkpoint's configuration that holds only defaults.

    Args:
        header: of the checkpoint.
        where: the checkpoint's name, for the message.

    Raises:
        CheckpointError: it was imported without a recipe and without a dataset.
    """
    known = header.get("knows_dataset")
    if known is None:  # imported by an earlier version, or not imported at all
        config = TrialConfig.parse(header["config"], where)
        known = "imported_from" not in header or bool(config.recipe) or config.data != DataConfig()
    if not known:
        raise CheckpointError(f"{where} does not name the dataset that it was trained on", "Name it: --dataset NAME")


def pack_weights(model: Model, config: TrialConfig, *, step: int, id_map_hash: str, **notes: Any) -> bytes:
    """Return a checkpoint file that holds the weights alone: it can be evaluated, not resumed."""
    header = {
        "step": step,
        "config": config.plain(),
        "id_map_hash": id_map_hash,
        "vocab_size": model.vocab_size,
        "seq_len": model.num_cells,
        "num_identifiers": 0 if model.puzzle_embedding is None else len(model.puzzle_embedding.weight),
        "weights_only": True,
        **notes,
    }
    return pack({f"model/{name}": value for name, value in model.state_dict().items()}, header)
