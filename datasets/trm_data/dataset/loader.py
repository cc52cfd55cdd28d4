"""Read a dataset as batches.

Training batches come from one endless stream: epoch after epoch, each visiting every puzzle once in a seeded order,
each visit drawing one of its 1 + N copies uniformly and giving all its examples in a random order. Slot `s` of step `t`
is position `t * batch_size + s` of that stream, so a batch is a pure function of (seed, step, slots): a loader has no
state to save, slots that need no new row cost nothing, and the length of an epoch does not depend on N.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trm_data.dataset.reader import Dataset
from trm_data.dataset.view import codes_of, fixed_places, place_word, view, view_codes
from trm_data.errors import ConfigError, DataError
from trm_data.jit import Bytes, Ints, Words, i64, jit, mix, u64

Translation = Literal["fixed", "fresh", "none"]
_TRANSLATION = {"none": 0, "fixed": 1, "fresh": 2}
_LISTED = 3  # fixed, but looked up in the dataset
_COPY, _ORDER = np.uint64(1), np.uint64(2)  # purposes of the random words of a visit


class Batch(NamedTuple):
    """Hold B training rows of L cells."""

    inputs: Bytes
    """(B, L)"""
    labels: Bytes
    """(B, L), 0 = ignored."""
    puzzle_ids: NDArray[np.int32]
    """(B): rows of the puzzle-embedding table; 0 where puzzles share it."""


class EvalBatch(NamedTuple):
    """Hold B rows of a split, in order; the last batch may be shorter."""

    inputs: Bytes
    labels: Bytes
    puzzle_ids: NDArray[np.int32]
    items: Ints
    """(B): number of the example within its split."""
    puzzles: Ints
    """(B): number of the puzzle within the dataset; an ARC task may have several items."""
    codes: Words
    """(B): the augmentation through which the row is seen; 0 is the identity."""
    copies: Ints
    """(B): number of the view; 0 is the original."""
    is_answered: NDArray[np.bool_]
    """(B): whether the label is known. Where it is not, the row of labels is padding and must not be compared."""

    def select(self, chosen: NDArray[np.bool_]) -> EvalBatch:
        """Return the rows that the mask (B) chooses."""
        columns: tuple[Any, ...] = tuple(column[chosen] for column in self)
        return EvalBatch(*columns)


@jit
def _draw(
    offsets: Ints,
    order: Ints,
    starts: Ints,
    first: Ints,
    keys: Words,
    copies: Ints,
    seed: int,
    epoch: int,
    translation: int,
    drawn: Ints,
    places: Words,
) -> None:
    """Write what the stream holds at `offsets` of one epoch.

    Args:
        order (G), starts (G + 1): the groups of the epoch in order, and the offset at which each one starts.
        first (G + 1), keys (G), copies (G): examples, key and number of copies of every group.
        drawn (3, B), written: group, number of the example in it, number of the copy.
        places (B), written: the random word of the place in the frame.
    """
    for b in range(offsets.size):
        turn = np.searchsorted(starts, offsets[b], side="right") - 1
        group = order[turn]
        example, size = offsets[b] - starts[turn], first[group + 1] - first[group]
        visit = mix(mix(u64(seed), u64(epoch)), keys[group])
        copy = i64(mix(visit, _COPY) % u64(copies[group] + 1))
        if size > 1:  # the examples come in the order of a keyed shuffle
            shuffled = np.arange(size)
            for i in range(size - 1, 0, -1):
                j = i64(mix(mix(visit, _ORDER), u64(i)) % u64(i + 1))
                shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
            example = shuffled[example]
        drawn[0, b], drawn[1, b], drawn[2, b] = group, example, copy
        places[b] = u64(0)
        if translation == 1 or translation == 2:
            places[b] = place_word(visit if translation == 2 else keys[group], copy, example, size)


class TrainLoader:
    """Load batches of training rows.

    Args:
        splits: the splits whose examples are trained on; an empty one among several is passed over.
        batch_size: B of all ranks together.
        num_augmentations: N, copies per puzzle besides the original; a smaller N draws from a prefix of a larger one.
        seed: of the order and the draws.
        rank: this loader serves slots [rank * B / world_size, (rank + 1) * B / world_size).
        world_size: number of processes that share a batch.
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
        self._rows = _trainable(dataset, splits)
        groups, first = np.unique(dataset.puzzle[self._rows], return_index=True)
        self._groups = groups.astype(np.int64)
        self._first = np.append(first, self._rows.size).astype(np.int64)
        self._keys = dataset.keys[groups]
        self._copies = dataset.num_copies(num_augmentations)[groups]
        self._epochs: dict[int, tuple[Ints, Ints]] = {}
        if dataset.has_identifiers:
            self._layers, self._ranks = dataset.identifier_maps(num_augmentations)
        self._translation = _TRANSLATION[translation] if dataset.kind.is_framed else 0
        if self._translation == 1 and dataset.places is not None:
            self._translation = _LISTED

    @property
    def rows_per_epoch(self) -> int:
        """Return the number of rows of the stream per epoch, whatever the number of augmentations."""
        return len(self._rows)

    def fetch(self, step: int, slots: NDArray[np.integer]) -> Batch:
        """Return the rows of `slots` (indices within this rank's part of the batch) at `step`."""
        positions = step * self.batch_size + self._first_slot + np.asarray(slots, np.int64)
        (owners, examples, copies), places = self._locate(positions)
        puzzles = self._groups[owners]
        if self._translation == _LISTED:
            sizes = self._first[owners + 1] - self._first[owners]
            places = fixed_places(self.dataset, puzzles, copies, examples, sizes)
        rows = self._rows[self._first[owners] + examples]
        inputs, labels = view(self.dataset, rows, codes_of(self.dataset, puzzles, copies), places)
        if self.dataset.has_identifiers:
            ids = (self._layers[copies] + self._ranks[puzzles]).astype(np.int32)
        else:
            ids = np.zeros(rows.size, np.int32)
        return Batch(inputs, labels, ids)

    def _epoch(self, epoch: int) -> tuple[Ints, Ints]:
        """Return the order of the groups in an epoch and the offset at which each one starts."""
        if epoch not in self._epochs:
            if len(self._epochs) > 8:
                self._epochs.clear()
            key = np.array([self.seed, epoch], np.uint64)
            order = np.random.Generator(np.random.Philox(key=key)).permutation(len(self._groups))
            starts = np.zeros(len(order) + 1, np.int64)
            np.cumsum(np.diff(self._first)[order], out=starts[1:])
            self._epochs[epoch] = order, starts
        return self._epochs[epoch]

    def _locate(self, positions: Ints) -> tuple[Ints, Words]:
        """Return (3, B) group, example, copy, and (B) place words; see `_draw`."""
        drawn = np.empty((3, positions.size), np.int64)
        places = np.empty(positions.size, np.uint64)
        epochs, offsets = np.divmod(positions, self.rows_per_epoch)
        for epoch in np.unique(epochs).tolist():
            part = np.flatnonzero(epochs == epoch)
            inside = slice(part[0], part[-1] + 1)
            _draw(
                offsets[inside],
                *self._epoch(epoch),
                self._first,
                self._keys,
                self._copies,
                self.seed,
                epoch,
                self._translation,
                drawn[:, inside],
                places[inside],
            )
        return drawn, places


def eval_batches(
    dataset: Dataset, split: str, batch_size: int, *, max_puzzles: int | None = None, num_augmentations: int = 0
) -> Iterator[EvalBatch]:
    """Yield the examples of a split in order; ARC rows carry their trained identifier and are never translated.

    Args:
        max_puzzles: use only the examples of the first `max_puzzles` puzzles.
        num_augmentations: every example comes 1 + this many times, as the original and as augmented copies, for voting.

    Raises:
        ConfigError: an unknown or empty split, too many augmentations.
    """
    rows = first_rows(dataset, split, max_puzzles)
    turns = 1 + dataset.num_views(num_augmentations)[dataset.puzzle[rows]]
    items = np.repeat(np.arange(len(rows)), turns)
    copies = np.arange(len(items)) - np.repeat(np.cumsum(turns) - turns, turns)
    return _eval_batches(dataset, rows, items, copies, batch_size, num_augmentations)


def num_views(dataset: Dataset, split: str, *, max_puzzles: int | None = None, num_augmentations: int = 0) -> int:
    """Return the total number of rows that `eval_batches` yields."""
    rows = first_rows(dataset, split, max_puzzles)
    return int((1 + dataset.num_views(num_augmentations)[dataset.puzzle[rows]]).sum())


def eval_items(dataset: Dataset, split: str, items: Ints) -> EvalBatch:
    """Return some items of a split, without augmentation, as one batch.

    Raises:
        ValueError: no items are named.
    """
    if not len(items):
        raise ValueError("no items")
    originals = np.zeros(len(items), np.int64)
    return next(_eval_batches(dataset, dataset.rows(split), items, originals, len(items), 0))


def _trainable(dataset: Dataset, splits: Sequence[str]) -> Ints:
    """Return the examples of some splits that have an answer to learn from. The builder leaves out the others,
    except in datasets of its earlier versions.

    Raises:
        ConfigError: an unknown split, or no example.
        DataError: translations are listed per example, so that none can be left out.
    """
    rows = dataset.rows(*splits)
    answered = dataset.is_answered[rows]
    if answered.all():
        return rows
    if dataset.places is not None:
        raise DataError(
            f"{dataset.path} has training examples without an answer", "Rename the folder, and build the dataset again"
        )
    if not answered.any():
        raise ConfigError(f"no example of {' or '.join(splits)} of {dataset.benchmark} has an answer to learn from")
    return rows[answered]


def first_rows(dataset: Dataset, split: str, max_puzzles: int | None) -> Ints:
    """Select the examples of the first `max_puzzles` puzzles of a split, or of all if None."""
    rows = dataset.rows(split)
    if max_puzzles is None:
        return rows
    puzzles = dataset.puzzle[rows]  # in order
    return rows[: np.searchsorted(puzzles, np.unique(puzzles)[:max_puzzles][-1], side="right")]


def _eval_batches(
    dataset: Dataset, rows: Ints, items: Ints, copies: Ints, batch_size: int, num_augmentations: int
) -> Iterator[EvalBatch]:
    layers, ranks = dataset.identifier_maps(num_augmentations) if dataset.has_identifiers else (None, None)
    for start in range(0, len(items), batch_size):
        part = slice(start, start + batch_size)
        puzzles = dataset.puzzle[rows[items[part]]].astype(np.int64)
        codes = view_codes(dataset, puzzles, copies[part])
        inputs, labels = view(dataset, rows[items[part]], codes, np.zeros(len(puzzles), np.uint64))
        ids = np.zeros(len(puzzles), np.int32)
        if layers is not None and ranks is not None:
            ids = (layers[copies[part]] + ranks[puzzles]).astype(np.int32)
        answered = dataset.is_answered[rows[items[part]]]
        yield EvalBatch(inputs, labels, ids, items[part], puzzles, codes, copies[part], answered)
