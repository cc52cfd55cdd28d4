"""Import datasets that the official builders wrote.

    <folder>/{train,test}/all__{inputs,labels,puzzle_identifiers,puzzle_indices,group_indices}.npy and dataset.json
    <folder>/identifiers.json, and for ARC test_puzzles.json, which HRM's builder does not write

They hold every augmented copy. An import keeps the first copy of every group and finds the augmentation and
translation that produce each other copy from it, row by row. A folder with a row that cannot be reproduced is
refused.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trm_data.building.arc import overlaps, published_overlaps
from trm_data.building.official_names import may_be_of_hrm, parse_names
from trm_data.dataset.integrity import misframed, outside
from trm_data.dataset.schema import Puzzles
from trm_data.dataset.view import place_words
from trm_data.errors import DataError
from trm_data.files import load_json, sha256_of
from trm_data.jit import Bytes, Ints, Words
from trm_data.puzzles.arc import SIDE, frame
from trm_data.puzzles.augment import arc_rows
from trm_data.puzzles.kinds import PuzzleKind, kind_of, kind_that_reads

Progress = Callable[[str, int, int], None]
FIELDS = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")
_CHUNK = 16_384
_log = logging.getLogger(__name__)


class Split(NamedTuple):
    """Hold the arrays of one official split: groups of augmented puzzles of examples."""

    inputs: Bytes
    labels: Bytes
    puzzle_identifiers: NDArray[np.int32]
    puzzle_indices: NDArray[np.int32]
    group_indices: NDArray[np.int32]
    metadata: dict[str, Any]

    def first_examples(self) -> Ints:
        """Return the examples of the first puzzle of every group."""
        puzzles = self.group_indices[:-1]
        ranges = zip(self.puzzle_indices[puzzles], self.puzzle_indices[puzzles + 1], strict=True)
        return np.concatenate([np.arange(a, b) for a, b in ranges] or [np.zeros(0, np.int64)])

    def sizes(self) -> Ints:
        """Return the number of examples of the first puzzle of every group."""
        return np.diff(self.puzzle_indices)[self.group_indices[:-1]].astype(np.int64)


def _load(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, mmap_mode="r"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing", "Name a folder that an official builder wrote") from None
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is damaged or truncated ({error})", "Build it again") from None


def _read_json(path: Path) -> Any:
    try:
        return load_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing", "Name a folder that an official builder wrote") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON or is truncated ({error})", "Build it again") from None


def read_split(folder: Path, split: str) -> Split:
    """Map the arrays of a split.

    Raises:
        DataError: a file is missing or damaged, or the arrays do not fit together.
    """
    arrays = {field: _load(folder / split / f"all__{field}.npy") for field in FIELDS}
    for field, values in arrays.items():
        axes = 2 if field in ("inputs", "labels") else 1
        if values.dtype.kind not in "iu" or values.ndim != axes:
            what = f"{values.ndim} axes of {values.dtype}, not {axes} of whole numbers"
            raise DataError(f"{folder / split / f'all__{field}.npy'} has {what}", "Build it again")
    metadata = _read_json(folder / split / "dataset.json")
    if not isinstance(metadata, dict):
        raise DataError(f"{folder / split / 'dataset.json'} is not a JSON object", "Build it again")
    found = Split(**arrays, metadata=metadata)
    fits = (
        found.inputs.shape == found.labels.shape
        and _are_bounds(found.puzzle_indices, len(found.inputs))
        and _are_bounds(found.group_indices, len(found.puzzle_identifiers))
        and len(found.puzzle_identifiers) == len(found.puzzle_indices) - 1
        and bool((np.diff(found.group_indices.astype(np.int64)) > 0).all())
    )
    if not fits:
        raise DataError(f"the arrays of {folder / split} do not fit together", "Build it again")
    return found


def _are_bounds(values: NDArray[Any], count: int) -> bool:
    """Return whether the values partition `count` things: from 0 to `count`, never decreasing."""
    wide = values.astype(np.int64)
    return bool(len(wide) and wide[0] == 0 and wide[-1] == count and (np.diff(wide) >= 0).all())


def _check_cells(split: Split, kind: PuzzleKind, side: int, where: Path) -> None:
    """Raise an error for rows of another size and cells outside the vocabulary, for which the kernels have no
    checks."""
    if split.inputs.shape[1] != side * side:
        raise DataError(f"{where} has rows of {split.inputs.shape[1]} cells, not {side}x{side}", "Build it again")
    least, most = kind.least_cell, kind.vocab_size(side) - 1
    for name, cells in (("inputs", split.inputs), ("labels", split.labels)):
        wrong = outside(cells, least, most)
        if wrong.any():
            row = int(wrong.argmax())
            what = f"row {row} has a cell outside {least} to {most}"
            raise DataError(f"{where / f'all__{name}.npy'}: {what}", "Build it again")


def _kind(split: Split, where: Path) -> tuple[PuzzleKind, int]:
    if (own := split.metadata.get("kind")) is not None:
        raise DataError(f"{where} holds puzzles of {own!r}, a kind of one's own", "Build them with its class instead")
    vocabulary, side = split.metadata.get("vocab_size"), math.isqrt(split.inputs.shape[1])
    kind = kind_that_reads(vocabulary, side) if isinstance(vocabulary, int) else None
    if kind is None or side * side != split.inputs.shape[1]:
        raise DataError(
            f"{where} holds no Sudoku, maze, N-Queens or ARC puzzles: vocabulary {vocabulary}, {side}x{side} cells"
        )
    return kind, side


def load(folder: Path, progress: Progress) -> Puzzles:
    """Read an official folder as puzzles with listed augmentations (and translations).

    Raises:
        DataError: no official dataset, damaged, or rows that no augmentation makes.
    """
    train, test = read_split(folder, "train"), read_split(folder, "test")
    kind, side = _kind(train, folder)
    for split, name in ((train, "train"), (test, "test")):
        _check_cells(split, kind, side, folder / name)
        if not kind.has_tasks and (np.diff(split.puzzle_indices) != 1).any():
            raise DataError(f"{folder / name} has several examples of a puzzle, which only ARC has", "Build it again")
    content = {f"{s}/all__{f}.npy": sha256_of(folder / s / f"all__{f}.npy") for s in ("train", "test") for f in FIELDS}
    facts: dict[str, object] = {"files": content}
    if kind.has_tasks:
        identifiers = _read_json(folder / "identifiers.json")
        if not isinstance(identifiers, list) or not all(isinstance(name, str) for name in identifiers):
            raise DataError(f"{folder / 'identifiers.json'} is not a list of names", "Build it again")
        listed = folder / "test_puzzles.json"
        tasks = {} if may_be_of_hrm(identifiers) and not listed.exists() else _read_json(listed)
        if not isinstance(tasks, dict):
            raise DataError(f"{listed} is not a JSON object", "Build it again")
        return _load_arc(train, test, identifiers, tasks, facts, folder, progress)
    return _load_shared(train, test, kind, side, facts, folder, progress)


def _load_shared(
    train: Split, test: Split, kind: PuzzleKind, side: int, facts: dict[str, object], folder: Path, progress: Progress
) -> Puzzles:
    copies, firsts = np.diff(train.group_indices), train.group_indices[:-1]
    codes = np.empty(len(train.inputs), np.int64)
    step = max(1, _CHUNK // int(copies.max(initial=1)))
    for group in range(0, len(firsts), step):  # whole groups at a time: a copy is compared with the first of its group
        bounds = train.group_indices[group : group + step + 1].astype(np.int64)
        part = slice(bounds[0], bounds[-1])
        labels, inputs = (np.asarray(cells[part], np.uint8) for cells in (train.labels, train.inputs))
        base = np.repeat(bounds[:-1] - bounds[0], np.diff(bounds))
        codes[part] = kind.recover(labels, inputs, base, side)
        progress("finding augmentations", part.stop, len(codes))
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise DataError(f"{folder}/train, row {row}: no symmetry makes it from the first copy of its group")
    count = len(firsts) + len(test.inputs)
    augmented = np.ones(len(codes), bool)
    augmented[firsts] = False
    return Puzzles(
        family=kind.name,
        names=[f"p{i:06d}" for i in range(count)],
        sources=["train"] * len(firsts) + ["test"] * len(test.inputs),
        ratings=np.full(count, np.nan, np.float32),
        puzzle=np.arange(count, dtype=np.int32),
        split=np.repeat(np.array([0, 2], np.uint8), [len(firsts), len(test.inputs)]),
        inputs=np.concatenate([train.inputs[firsts], test.inputs]).astype(np.uint8),
        labels=np.concatenate([train.labels[firsts], test.labels]).astype(np.uint8),
        shapes=np.full((count, 4), side, np.uint8),
        codes=codes[augmented].astype(np.uint64),
        num_codes=np.concatenate([copies - 1, np.zeros(len(test.inputs))]).astype(np.int32),
        facts=facts,
    )


def _corners(cells: Bytes) -> NDArray[np.uint16]:
    """Return 32 * top + left of framed grids, whose first cell that is not padding is their corner."""
    corners = np.empty(len(cells), np.uint16)
    for start in range(0, len(cells), _CHUNK):
        place = (np.asarray(cells[start : start + _CHUNK]) > 0).argmax(1)
        corners[start : start + _CHUNK] = place // SIDE * 32 + place % SIDE
    return corners


def _uncorner(cells: Bytes, corners: NDArray[np.uint16]) -> tuple[Bytes, Bytes]:
    """Return rows moved back to the corner, and their (height, width)."""
    moved = np.zeros_like(cells)
    shapes = np.empty((len(cells), 2), np.uint8)
    for i, corner in enumerate(corners.tolist()):
        top, left = divmod(corner, 32)
        grid = cells[i].reshape(SIDE, SIDE)[top:, left:]
        colours = np.pad(grid > 1, ((0, 1), (0, 1)))
        height, width = shapes[i] = colours[:, 0].argmin(), colours[0].argmin()
        moved[i] = frame(grid[:height, :width] - np.uint8(2))  # no end markers at the edge of the frame
    return moved, shapes


class Base(NamedTuple):
    """Hold examples moved back to the corner of the frame."""

    inputs: Bytes
    labels: Bytes
    shapes: Bytes
    broken: NDArray[np.bool_]
    """(E): what is not a grid in a frame, so that moving it back has lost or changed something."""


def _base_examples(split: Split) -> Base:
    chosen = split.first_examples()
    inputs, labels = (np.asarray(cells[chosen], np.uint8) for cells in (split.inputs, split.labels))
    corners = _corners(inputs)
    moved, sizes = zip(*(_uncorner(cells, corners) for cells in (inputs, labels)), strict=True)
    shapes = np.concatenate(sizes, axis=1)
    broken = kind_of("arc").wrong_shapes(shapes, SIDE)
    for before, after, size in ((inputs, moved[0], sizes[0]), (labels, moved[1], sizes[1])):
        broken |= ((before >= 2).sum(1) != (after >= 2).sum(1)) | misframed(after, size)
    return Base(moved[0], moved[1], shapes, broken)


def _without_placeholders(tests: Base, facts: dict[str, object]) -> Base:
    """Mark the answers as unknown where every one is a single black cell.

    The official builder writes that grid for each test input when it has no file of solutions.
    """
    is_placeholder = (tests.shapes[:, 2:] == 1).all(1) & (tests.labels[:, 0] == 2)
    if not len(tests.labels) or not is_placeholder.all():
        return tests
    facts["placeholder_answers"] = len(tests.labels)
    _log.warning("all %d test answers are the official builder's placeholder: they are unknown", len(tests.labels))
    shapes = tests.shapes.copy()
    shapes[:, 2:] = 0
    return tests._replace(labels=np.zeros_like(tests.labels), shapes=shapes)


def _load_arc(
    train: Split,
    test: Split,
    identifiers: list[str],
    tasks: dict[str, Any],
    facts: dict[str, object],
    folder: Path,
    progress: Progress,
) -> Puzzles:
    parsed = _parse_identifiers(identifiers, train, folder)
    names = [parsed[i][0] for i in train.group_indices[:-1]]
    place = {name: index for index, name in enumerate(names)}
    tested = []
    numbers = test.puzzle_identifiers
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(identifiers)):
        raise DataError(f"{folder}/test: an identifier is none of the {len(identifiers)} that are listed")
    for group in test.group_indices[:-1]:
        identifier = identifiers[test.puzzle_identifiers[group]]
        if identifier not in place:
            raise DataError(f"{folder}/test: {identifier} has no group in train", "Build it again")
        tested.append(place[identifier])
    parts = [_base_examples(train), _without_placeholders(_base_examples(test), facts)]
    for part, split_name in zip(parts, ("train", "test"), strict=True):
        if part.broken.any():
            what = f"original example {int(part.broken.argmax())} is not a framed grid"
            raise DataError(f"{folder}/{split_name}: {what}", "Build it again")
    owner = np.concatenate([np.repeat(np.arange(len(names)), train.sizes()), np.repeat(tested, test.sizes())])
    split = np.repeat(np.array([0, 2], np.uint8), [len(part.inputs) for part in parts])
    tests_first = {name for name, task in tasks.items() if list(task)[:1] == ["test"]}
    turned = np.isin(np.array(names)[owner], list(tests_first))
    order = np.lexsort((np.where(turned, -split.astype(np.int64), split), owner))
    copies = np.diff(train.group_indices)
    codes = np.array([code for _, code in parsed], np.uint64)
    augmented = np.ones(len(codes), bool)
    augmented[train.group_indices[:-1]] = False
    puzzles = Puzzles(
        family="arc",
        ids="upstream",
        names=names,
        sources=["evaluation" if i in set(tested) else "training" for i in range(len(names))],
        ratings=np.full(len(names), np.nan, np.float32),
        puzzle=owner[order].astype(np.int32),
        split=split[order],
        inputs=np.concatenate([part.inputs for part in parts])[order],
        labels=np.concatenate([part.labels for part in parts])[order],
        shapes=np.concatenate([part.shapes for part in parts])[order],
        codes=codes[augmented],
        num_codes=(copies - 1).astype(np.int32),
        places=_corners(train.inputs),
        facts=facts,
    )
    _check_rows(puzzles, train, codes, folder, progress)
    _note_overlaps(puzzles, folder)
    return puzzles


def _note_overlaps(puzzles: Puzzles, folder: Path) -> None:
    """Record in the facts which training tasks contain test pairs. `verify` reports those that are not published so."""
    shared = overlaps(puzzles)
    published = published_overlaps(puzzles, shared)
    puzzles.facts["published_overlaps"] = published
    own = sorted(shared.keys() - published.keys())
    if own:
        puzzles.facts["overlaps"] = own
        _log.warning("%s: %d training tasks hold test pairs: %s", folder, len(own), ", ".join(own[:6]))


def _parse_identifiers(identifiers: list[str], train: Split, folder: Path) -> list[tuple[str, int]]:
    """Return (task, code) of every puzzle of train, which must be numbered in order from 1."""
    count = len(train.puzzle_identifiers)
    if len(identifiers) != count + 1 or (train.puzzle_identifiers != np.arange(1, count + 1)).any():
        raise DataError(f"{folder}/identifiers.json does not number the puzzles of train in order from 1")
    try:
        return parse_names(identifiers[1:])
    except ValueError as error:
        raise DataError(f"{folder}/identifiers.json: {error} is not an identifier of an ARC task") from None


def _check_rows(puzzles: Puzzles, train: Split, codes: Words, folder: Path, progress: Progress) -> None:
    """Reproduce every augmented training row and compare."""
    trained = np.flatnonzero(puzzles.split == 0)
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(train.sizes())])
    sizes = np.diff(train.puzzle_indices)
    groups = np.repeat(np.arange(len(first) - 1), np.diff(train.group_indices))
    owners = np.repeat(np.arange(len(sizes)), sizes)
    nth = np.arange(len(owners)) - np.repeat(train.puzzle_indices[:-1], sizes)
    assert puzzles.places is not None
    if (sizes != train.sizes()[groups]).any():
        raise DataError(f"{folder}/train: augmented copies of a task have different numbers of examples")
    for start in range(0, len(owners), _CHUNK):
        part = slice(start, min(start + _CHUNK, len(owners)))
        rows = trained[first[groups[owners[part]]] + nth[part]]
        made = np.empty((2, len(rows), SIDE * SIDE), np.uint8)
        places = place_words(puzzles.places[part])
        arc_rows(puzzles.inputs, puzzles.labels, puzzles.shapes, rows, codes[owners[part]], places, made[0], made[1])
        wrong = (made[0] != train.inputs[part]).any(1) | (made[1] != train.labels[part]).any(1)
        if wrong.any():
            row = start + int(np.flatnonzero(wrong)[0])
            raise DataError(f"{folder}/train, row {row}: its identifier's augmentation does not make it")
        progress("checking rows", part.stop, len(owners))
