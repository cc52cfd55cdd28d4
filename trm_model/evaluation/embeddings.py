"""Score a model with puzzle embeddings that are not its puzzles' own, to see what it has learned from them.

Row R of the table belongs to one puzzle with one augmentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from trm_data.errors import ConfigError, nearest
from trm_model.model.recursion import Model

if TYPE_CHECKING:
    from trm_data import Dataset

Embedding = Literal["trained", "blank", "random", "swapped"]
"""trained: each puzzle's own. blank: zero, as before training. random: for every row one of the table, drawn with a
seed. swapped: those of another puzzle, by a permutation without a fixed point."""


def check_embedding(kind: str) -> Embedding:
    """Return the name of a kind. Raises ConfigError, with the nearest, for any other."""
    for known in get_args(Embedding):
        if kind == known:
            return known  # type: ignore[no-any-return]
    raise ConfigError(f"unknown embedding {kind!r}", nearest(kind, get_args(Embedding)))


def replace_embeddings(model: Model, dataset: Dataset, num_augmentations: int, kind: Embedding, seed: int) -> None:
    """Replace the rows of a model's table, in place.

    Raises:
        ConfigError: the model has no puzzle embeddings, or too few for the kind.
    """
    if kind == "trained":
        return
    if model.puzzle_embedding is None:
        raise ConfigError(f"embedding={kind}: the model has no puzzle embeddings", "Leave it out")
    table = model.puzzle_embedding.weight
    if kind == "blank":
        table.zero_()
        return
    if not dataset.has_identifiers or len(dataset.names) < 2:
        what = "has one puzzle" if dataset.has_identifiers else "gives all puzzles one embedding"
        raise ConfigError(f"embedding={kind}: {dataset.benchmark} {what}", "Only blank has a meaning for it")
    rng = np.random.default_rng(seed)
    if kind == "random":
        rows = rng.integers(1, len(table), len(table))  # row 0 belongs to no puzzle
    else:
        rows = _swapped(dataset, num_augmentations, len(table), rng)
    table.copy_(table[torch.from_numpy(rows).to(table.device)])


def _swapped(dataset: Dataset, num_augmentations: int, num_rows: int, rng: np.random.Generator) -> np.ndarray:
    """Return for every row one of another puzzle, that of the same augmentation as far as it has so many."""
    rows = np.arange(num_rows)
    layers, ranks = dataset.identifier_maps(num_augmentations)
    copies = dataset.num_copies(num_augmentations)
    order = rng.permutation(len(ranks))
    for puzzle, other in zip(order, np.roll(order, 1), strict=True):
        ks = np.arange(copies[puzzle] + 1)
        rows[layers[ks] + ranks[puzzle]] = layers[ks % (copies[other] + 1)] + ranks[other]
    return rows
