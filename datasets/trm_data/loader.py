"""Reading a dataset as batches.

Training batches come from one endless stream: epoch after epoch, each visiting every puzzle once in a seeded order,
each visit drawing one of its 1 + N copies uniformly and giving all its examples in a random order. Slot `s` of step `t`
is position `t * batch_size + s` of that stream, so a batch is a pure function of (seed, step, slots): a loader has no
state to save, slots that need no new row cost nothing, and the length of an epoch does not depend on N.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trm_data import sudoku
from trm_data.augment import arc_rows, dihedral_rows, sudoku_rows
from trm_data.dataset import Dataset
from trm_data.errors import ConfigError
from trm_data.jit import Bytes, Ints, Words, i64, jit, mix
from trm_data.symmetry import sudoku_order

Translation = Literal["fixed", "fresh", "none"]
_TRANSLATION = {"none": 0, "fixed": 1, "fresh": 2}
_COPY, _ORDER, _PLACE = np.uint64(1), np.uint64(2), np.uint64(3)  # what a random word is for


class Batch(NamedTuple):
    """B training rows of L cells."""

    inputs: Bytes
    """(B, L)"""
    labels: Bytes
    """(B, L), 0 = ignored."""
    puzzle_ids: NDArray[np.int32]
    """(B): rows of the puzzle-embedding table; 0 where puzzles share it."""


class EvalBatch(NamedTuple):
    """B rows of a split, in order and without augmentation; the last batch may be shorter."""

    inputs: Bytes
    labels: Bytes
    puzzle_ids: NDArray[np.int32]
    items: Ints
    """(B): number of the example within its split."""
    puzzles: Ints
    """(B): number of the puzzle within the dataset; an ARC task may have several items."""


@jit
def _draw(
    offsets: Ints,
    order: Ints,
    starts: Ints,
    first: Ints,
    keys: Words,
    copies: Ints,
    rows: Ints,
    seed: np.uint64,
    epoch: np.uint64,
    translation: int,
    chosen: Ints,
    owners: Ints,
    drawn: Ints,
    places: Words,
) -> None:
    """What the stream holds at `offsets` of one epoch: row, group, number of the copy, random word of its place."""
    for b in range(offsets.size):
        turn = np.searchsorted(starts, offsets[b], side="right") - 1
        group = order[turn]
        nth, size = offsets[b] - starts[turn], first[group + 1] - first[group]
        visit = mix(mix(seed, epoch), keys[group])
        copy = i64(mix(visit, _COPY) % np.uint64(copies[group] + 1))
        example = nth
        if size > 1:  # the nth of a keyed shuffle
            shuffled = np.arange(size)
            for i in range(size - 1, 0, -1):
                j = i64(mix(mix(visit, _ORDER), np.uint64(i)) % np.uint64(i + 1))
                shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
            example = shuffled[nth]
        chosen[b] = rows[first[group] + example]
        owners[b] = group
        drawn[b] = copy
        places[b] = np.uint64(0)
        if translation:
            word = mix(mix(visit if translation == 2 else keys[group], _PLACE), np.uint64(copy))
            if example != i64(word % np.uint64(size)):  # one example of each augmented puzzle stays in the corner
                places[b] = mix(word, np.uint64(example))


@jit
def _derive(keys: Words, owners: Ints, drawn: Ints, order: np.uint64, codes: Words) -> None:
    """Codes of copies that are not listed: copy 0 is the identity, the others are a hash of (puzzle, number)."""
    for b in range(owners.size):
        codes[b] = mix(keys[owners[b]], np.uint64(drawn[b])) % order if drawn[b] else np.uint64(0)


class TrainLoader:
    """Batches of training rows.

    Args:
        splits: the splits whose examples are trained on.
        batch_size: B of all ranks together.
        num_augmentations: N, copies per puzzle beside the original; a smaller N draws from a prefix of a larger one.
        seed: of the order and the draws.
        rank, world_size: this loader serves slots [rank * B / world_size, (rank + 1) * B / world_size).
        translation: ARC only, see `DataConfig.translation`.

    Raises:
        ConfigError: an unknown or empty split, too many augmentations, a batch that ranks cannot share evenly.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        splits: Sequence[str] = ("train",),
        batch_size: int,
        num_augmentations: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        translation: Translation = "fixed",
    ) -> None:
        if batch_size % world_size:
            raise ConfigError(f"batch_size={batch_size} cannot be shared evenly by {world_size} ranks")
        self.dataset = dataset
        self.batch_size = batch_size
        self.local_batch_size = batch_size // world_size
        self.seed = seed
        self._first_slot = rank * self.local_batch_size
        self._translation = _TRANSLATION[translation] if dataset.augmentation == "arc" else 0
        self._rows = np.sort(np.concatenate([dataset.rows(split) for split in splits]))
        groups, first = np.unique(dataset.puzzle[self._rows], return_index=True)
        self._groups = groups.astype(np.int64)
        self._first = np.append(first, self._rows.size).astype(np.int64)
        self._keys = np.ascontiguousarray(dataset.keys[groups])
        self._copies = dataset.num_copies(num_augmentations)[groups]
        self._epochs: dict[int, tuple[Ints, Ints]] = {}
        if dataset.has_identifiers:
            self._layers, ranks = dataset.identifier_maps(num_augmentations)
            self._ranks = ranks[groups]
        if dataset.augmentation == "arc":
            codes, bounds = dataset.codes
            self._listed, self._listed_from = codes, bounds[:-1][groups]
        self._shape = sudoku.BOXES.get(dataset.grid_shape[0], (1, 1))
        self._order = np.uint64(
            sudoku_order(dataset.grid_shape[0], *self._shape) if dataset.augmentation == "sudoku" else 8
        )

    @property
    def num_puzzles(self) -> int:
        """Puzzles that an epoch visits."""
        return len(self._groups)

    @property
    def rows_per_epoch(self) -> int:
        """Rows of the stream per epoch, whatever the number of augmentations."""
        return len(self._rows)

    def fetch(self, step: int, slots: NDArray[np.integer]) -> Batch:
        """The rows of `slots` (numbers within this rank's part of the batch) at `step`."""
        positions = step * self.batch_size + self._first_slot + np.asarray(slots, np.int64)
        chosen, owners, drawn, places = self._locate(positions)
        return self._view(chosen, owners, drawn, places)

    def _epoch(self, epoch: int) -> tuple[Ints, Ints]:
        """The order of the groups in an epoch and the offset at which each one starts."""
        if epoch not in self._epochs:
            if len(self._epochs) > 8:
                self._epochs.clear()
            key = np.array([self.seed, epoch], np.uint64)
            order = np.random.Generator(np.random.Philox(key=key)).permutation(len(self._groups))
            sizes = np.diff(self._first)[order]
            self._epochs[epoch] = order, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        return self._epochs[epoch]

    def _locate(self, positions: Ints) -> tuple[Ints, Ints, Ints, Words]:
        count = positions.size
        found = np.empty((3, count), np.int64)
        places = np.empty(count, np.uint64)
        epochs, offsets = np.divmod(positions, self.rows_per_epoch)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1) if count else ():
            part = slice(*np.searchsorted(epochs, [epoch, epoch + 1]))
            _draw(
                offsets[part],
                *self._epoch(epoch),
                self._first,
                self._keys,
                self._copies,
                self._rows,
                np.uint64(self.seed),
                np.uint64(epoch),
                self._translation,
                found[0, part],
                found[1, part],
                found[2, part],
                places[part],
            )
        return found[0], found[1], found[2], places

    def _codes(self, owners: Ints, drawn: Ints) -> Words:
        if self.dataset.augmentation == "arc":
            listed = self._listed_from[owners] + np.maximum(drawn - 1, 0)
            return np.where(drawn > 0, self._listed[np.minimum(listed, len(self._listed) - 1)], np.uint64(0))
        if self.dataset.augmentation == "dihedral":
            return drawn.astype(np.uint64)
        codes = np.empty(owners.size, np.uint64)
        _derive(self._keys, owners, drawn, self._order, codes)
        return codes

    def _view(self, chosen: Ints, owners: Ints, drawn: Ints, places: Words) -> Batch:
        data, codes = self.dataset, self._codes(owners, drawn)
        inputs, labels = np.empty((2, chosen.size, data.seq_len), np.uint8)
        side = data.grid_shape[0]
        if data.augmentation == "arc":
            arc_rows(data.inputs, data.labels, data.shapes, chosen, codes, places, inputs, labels)
        elif data.augmentation == "dihedral":
            dihedral_rows(data.inputs[chosen], codes, side, inputs)
            dihedral_rows(data.labels[chosen], codes, side, labels)
        else:
            sudoku_rows(data.inputs[chosen], codes, side, *self._shape, False, inputs)
            sudoku_rows(data.labels[chosen], codes, side, *self._shape, False, labels)
        if data.has_identifiers:
            ids = (self._layers[drawn] + self._ranks[owners]).astype(np.int32)
        else:
            ids = np.zeros(chosen.size, np.int32)
        return Batch(inputs, labels, ids)


def eval_batches(
    dataset: Dataset, split: str, batch_size: int, *, max_puzzles: int | None = None
) -> Iterator[EvalBatch]:
    """The examples of a split in order, un-augmented; ARC rows carry the trained identifier of the original task.

    Args:
        max_puzzles: only the examples of the first so many puzzles.

    Raises:
        ConfigError: an unknown or empty split.
    """
    rows = dataset.rows(split)
    if max_puzzles is not None:
        puzzles = np.unique(dataset.puzzle[rows])[:max_puzzles]
        rows = rows[dataset.puzzle[rows] <= puzzles[-1]]
    if dataset.has_identifiers:
        layers, ranks = dataset.identifier_maps(0)
        identifiers = (layers[0] + ranks).astype(np.int32)
    else:
        identifiers = np.zeros(len(dataset.names), np.int32)
    return _eval_batches(dataset, rows, identifiers, batch_size)


def _eval_batches(dataset: Dataset, rows: Ints, identifiers: NDArray[np.int32], batch_size: int) -> Iterator[EvalBatch]:
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        puzzles = dataset.puzzle[part].astype(np.int64)
        yield EvalBatch(
            dataset.inputs[part],
            dataset.labels[part],
            identifiers[puzzles],
            np.arange(start, start + part.size),
            puzzles,
        )
