"""View examples of a dataset through augmentations: the only place where stored rows become rows for a model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trm_data.dataset.integrity import order_of
from trm_data.dataset.reader import Dataset
from trm_data.jit import Bytes, Ints, Words, jit, mix

_PLACE = np.uint64(3)


@jit
def place_word(key: np.uint64, copy: int, example: int, size: int) -> np.uint64:
    """Return the random word of an example's place in the frame; 0 keeps it in the corner, as one of `size` examples
    is."""
    word = mix(mix(key, _PLACE), np.uint64(copy))
    if example == word % np.uint64(size):
        return np.uint64(0)
    return mix(word, np.uint64(example)) | np.uint64(1)


@jit
def _derive(keys: Words, copies: Ints, order: np.uint64, codes: Words) -> None:
    for b in range(copies.size):
        codes[b] = mix(keys[b], np.uint64(copies[b])) % order if copies[b] else np.uint64(0)


def place_words(places: NDArray[np.uint16]) -> Words:
    """Return listed places, 32 * top + left, as the words that `arc_rows` takes."""
    wide = places.astype(np.uint64)
    return (wide >> np.uint64(5)) << np.uint64(32) | wide & np.uint64(31)


@jit
def _hashed_places(keys: Words, copies: Ints, examples: Ints, sizes: Ints) -> Words:
    words = np.empty(copies.size, np.uint64)
    for b in range(copies.size):
        words[b] = place_word(keys[b], copies[b], examples[b], sizes[b])
    return words


def fixed_places(dataset: Dataset, puzzles: Ints, copies: Ints, examples: Ints, sizes: Ints) -> Words:
    """Return (B) where training examples lie that are translated as published, once per augmented example.

    Args:
        puzzles, copies, examples: (B), which example of which copy of which puzzle.
        sizes: (B), how many training examples the puzzle has.
    """
    if dataset.places is None:
        return _hashed_places(dataset.keys[puzzles], copies, examples, sizes)
    return place_words(dataset.places[dataset.place_starts[puzzles] + copies * sizes + examples])


def view_codes(dataset: Dataset, puzzles: Ints, copies: Ints) -> Words:
    """Return (B) the augmentation of view `copies[b]` of puzzle `puzzles[b]` in a vote; view 0 is the identity.

    The test puzzles of an imported Sudoku or maze dataset have no listed copies. Theirs are derived, as they are for
    any other Sudoku or maze.
    """
    return codes_of(dataset, puzzles, copies) if dataset.has_identifiers else _derived(dataset, puzzles, copies)


def codes_of(dataset: Dataset, puzzles: Ints, copies: Ints) -> Words:
    """Return (B) the augmentation of copy `copies[b]` of puzzle `puzzles[b]`; copy 0 is the identity.

    Listed codes are looked up; Sudoku codes are a hash of (puzzle, copy); a dihedral code is the copy's number.
    """
    if dataset.is_listed:
        listed, bounds = dataset.codes
        codes = np.zeros(puzzles.size, np.uint64)
        augmented = copies > 0
        codes[augmented] = listed[bounds[puzzles[augmented]] + copies[augmented] - 1]
        return codes
    return _derived(dataset, puzzles, copies)


def _derived(dataset: Dataset, puzzles: Ints, copies: Ints) -> Words:
    """Return (B) codes derived from the puzzle and the number of the copy."""
    if dataset.kind.is_enumerated:
        return copies.astype(np.uint64)
    codes = np.empty(puzzles.size, np.uint64)
    _derive(dataset.keys[puzzles], copies, np.uint64(order_of(dataset.manifest)), codes)
    return codes


def view(dataset: Dataset, rows: Ints, codes: Words, places: Words) -> tuple[Bytes, Bytes]:
    """Return (inputs, labels) of examples `rows` seen through `codes`, each (B, L); `places` applies to ARC only.

    Raises:
        IndexError: there is no such example or no such augmentation.
    """
    if not rows.shape == codes.shape == places.shape:
        raise IndexError(f"{rows.size} examples, {codes.size} codes and {places.size} places")
    if rows.size and not (rows.min() >= 0 and rows.max() < len(dataset.inputs)):
        raise IndexError(f"examples {rows.min()} to {rows.max()} of {len(dataset.inputs)}")
    if codes.max(initial=0) >= order_of(dataset.manifest):
        raise IndexError(f"augmentation {codes.max()} of {order_of(dataset.manifest)}")
    side = dataset.grid_shape[0]
    return dataset.kind.view(dataset.inputs, dataset.labels, dataset.shapes, rows, codes, places, side)
