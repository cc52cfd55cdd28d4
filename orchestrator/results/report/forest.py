"""Decompose the variance of scores by functional ANOVA (Hutter, Hoos, Leyton-Brown 2014) over a random forest.

The method of Optuna's fANOVA evaluator, without scikit-learn, whose import takes longer than most commands. Settings
have few values, so that every marginal is computed exactly, with all values of a setting weighted equally.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]
"""[trials, settings]: each value by its position among the sorted values of its setting."""


class Setting(NamedTuple):
    """Describe a setting: how many values it has, and whether they have an order."""

    num_values: int
    is_ordered: bool


class _Leaf(NamedTuple):
    """Hold the values of each setting that lead to a leaf, and the score that it predicts."""

    allowed: tuple[NDArray[np.bool_], ...]
    score: float


def main_effects(
    codes: Codes, scores: NDArray[np.float64], settings: list[Setting], trees: int, seed: int
) -> list[float]:
    """Return the share of the forest's variance that each setting explains by itself, averaged over its trees.

    Shares do not sum to 1 where settings interact. All are zero if no tree finds any variance.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(trees):
        sample = rng.integers(0, len(scores), len(scores))
        everything = tuple(np.ones(setting.num_values, bool) for setting in settings)
        leaves: list[_Leaf] = []
        _grow(codes[sample], scores[sample], settings, everything, leaves)
        effects = _effects(leaves, settings)
        if effects is not None:
            found.append(effects)
    return np.mean(found, axis=0).tolist() if found else [0.0] * len(settings)


def _grow(
    codes: Codes,
    scores: NDArray[np.float64],
    settings: list[Setting],
    allowed: tuple[NDArray[np.bool_], ...],
    leaves: list[_Leaf],
) -> None:
    """Split trials by the rule that reduces the squared error most, until their scores or settings are equal."""
    split = _best_split(codes, scores - scores.mean(), settings) if scores.min() < scores.max() else None
    if split is None:
        leaves.append(_Leaf(allowed, float(scores.mean())))
        return
    index, goes_left = split
    for side in (goes_left, ~goes_left):
        mine = side[codes[:, index]]
        narrowed = (*allowed[:index], allowed[index] & side, *allowed[index + 1 :])
        _grow(codes[mine], scores[mine], settings, narrowed, leaves)


def _best_split(
    codes: Codes, centred: NDArray[np.float64], settings: list[Setting]
) -> tuple[int, NDArray[np.bool_]] | None:
    """Return the setting to split by and which of its values go left: those up to one, or a single one if they have no
    order."""
    best, found = 0.0, None
    for index, setting in enumerate(settings):
        column = codes[:, index]
        counts = np.bincount(column, minlength=setting.num_values)
        sums = np.bincount(column, centred, minlength=setting.num_values)
        if setting.is_ordered:
            counts, sums = np.cumsum(counts), np.cumsum(sums)
        rest = len(column) - counts
        is_split = (counts > 0) & (rest > 0)
        if not is_split.any():
            continue
        # The scores are centred, so both sides have opposite sums.
        gain = np.where(is_split, np.square(sums) * (1 / np.maximum(counts, 1) + 1 / np.maximum(rest, 1)), 0.0)
        at = int(gain.argmax())
        if gain[at] > best:
            values = np.arange(setting.num_values)
            best, found = float(gain[at]), (index, values <= at if setting.is_ordered else values == at)
    return found


def _effects(leaves: list[_Leaf], settings: list[Setting]) -> NDArray[np.float64] | None:
    """Return the variance of each setting's marginal as a share of the tree's variance; None for a constant tree."""
    scores = np.array([leaf.score for leaf in leaves])
    masks = [np.array([leaf.allowed[index] for leaf in leaves]) for index in range(len(settings))]  # [leaves, values]
    sizes = np.array([mask.mean(axis=1) for mask in masks])  # [settings, leaves]
    volumes = sizes.prod(axis=0)
    mean = float(volumes @ scores)
    total = float(volumes @ np.square(scores - mean))
    if total <= 0:
        return None
    found = []
    for mask, size in zip(masks, sizes, strict=True):
        marginal = ((scores - mean) * volumes / size) @ mask
        found.append(float(np.square(marginal).mean()) / total)
    return np.array(found)
