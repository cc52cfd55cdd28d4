"""A trained model out of a checkpoint, for evaluation, solving and export; and weights-only checkpoints, imported or
exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trm_data.errors import nearest
from trm_model.checkpoints.store import Checkpoint, CheckpointError, pack
from trm_model.config import ModelConfig, TrialConfig
from trm_model.model.recursion import Model, build_model


@dataclass(frozen=True, slots=True)
class Trained:
    """A model with the weights that were asked for, and what is known of its training."""

    model: Model
    config: TrialConfig
    step: int
    id_map_hash: str

    def check_dataset(self, id_map_hash: str, vocab_size: int, seq_len: int) -> None:
        """Refuse a dataset whose puzzle ids, symbols or size mean something else than in training.

        Raises:
            CheckpointError: names what differs.
        """
        model = self.model
        for name, own, other in (
            ("vocabulary size", model.vocab_size, vocab_size),
            ("number of cells", model.num_cells, seq_len),
            ("puzzle-id map", self.id_map_hash, id_map_hash),
        ):
            if own != other:
                raise CheckpointError(
                    f"the dataset's {name} is {other}, the checkpoint was trained with {own}",
                    "Use the dataset that it was trained on, with the same number of augmentations",
                )

    def check_model(self, model: ModelConfig) -> None:
        """Refuse another configuration, above all another T or n, which would ruin the score without an error.

        Raises:
            CheckpointError: names the first setting that differs.
        """
        own, other = self.config.model.identity(), model.identity()
        for name, value in own.items():
            if other[name] != value:
                raise CheckpointError(
                    f"model.{name}={other[name]}, but the checkpoint was trained with {value}",
                    "Only D, votes, rollouts and noise can be changed at evaluation",
                )


def load_trained(checkpoint: Checkpoint, weights: str = "ema") -> Trained:
    """Rebuild the model of a checkpoint with its raw weights, its main average (`ema`), or a further average by its
    rate.

    A checkpoint that keeps no average (an imported one) has only one set of weights, which `ema` and `raw` both mean.

    Raises:
        CheckpointError: no such average.
    """
    header = checkpoint.header
    config = TrialConfig.parse(header["config"], "checkpoint")
    model = build_model(
        config.model,
        vocab_size=header["vocab_size"],
        seq_len=header["seq_len"],
        num_identifiers=header["num_identifiers"],
    )
    model.load_state_dict(checkpoint.section("model"))
    averages = {name.split("/")[1] for name in checkpoint.tensors if name.startswith("ema/")}
    rate = str(config.optimizer.ema_rate) if weights == "ema" else weights
    if rate in averages:
        with torch.no_grad():
            for name, value in checkpoint.section(f"ema/{rate}").items():
                model.get_parameter(name).copy_(value)
    elif weights not in ("ema", "raw"):
        raise CheckpointError(f"the checkpoint keeps no average {weights!r}", nearest(weights, averages | {"raw"}))
    return Trained(model.requires_grad_(False), config, checkpoint.step, header["id_map_hash"])


def pack_weights(model: Model, config: TrialConfig, *, step: int, id_map_hash: str, **notes: Any) -> bytes:
    """A checkpoint file that holds the weights alone: it can be evaluated, not resumed."""
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
