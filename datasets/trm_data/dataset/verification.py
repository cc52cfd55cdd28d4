"""Checking a built dataset again, from its bytes: files, counts, splits, and whether every puzzle is what it says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from trm_data.dataset.reader import Dataset
from trm_data.dataset.schema import SPLITS
from trm_data.puzzles import maze, sudoku, sudoku_forms
from trm_data.puzzles.arc import frame, pair_keys

Progress = Callable[[str, int, int], None]


def verify(dataset: Dataset, progress: Progress = lambda *_: None) -> list[str]:
    """What is wrong with a dataset, one line each; an empty list if nothing is.

    Checks the hash of every file, the counts of the manifest, the cells, the puzzles of the family (Sudoku: valid and
    with one solution; mazes: labels shortest; ARC: frames) and that no puzzle is in two splits, up to symmetry.
    """
    checks = (_files, _counts, _cells, _PUZZLES[dataset.manifest.family], _LEAKS[dataset.manifest.family])
    problems: list[str] = []
    for done, check in enumerate(checks):
        progress(f"checking {check.__name__.strip('_').replace('_', ' ')}", done, len(checks))
        problems += check(dataset)
    return problems


def _files(dataset: Dataset) -> Iterator[str]:
    for name, wanted in dataset.manifest.files.items():
        with (dataset.path / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
                yield f"{name}: its content has changed since it was built"


def _counts(dataset: Dataset) -> Iterator[str]:
    for index, split in enumerate(SPLITS):
        rows = dataset.split == index
        found = {"examples": int(rows.sum()), "counts": len(np.unique(dataset.puzzle[rows]))}
        for field, number in found.items():
            if getattr(dataset.manifest, field)[split] != number:
                said = getattr(dataset.manifest, field)[split]
                yield f"manifest: {field} of {split} is {said}, the files have {number}"


def _cells(dataset: Dataset) -> Iterator[str]:
    for name, cells in (("input", dataset.inputs), ("label", dataset.labels)):
        for row in np.flatnonzero((cells >= dataset.vocab_size).any(1))[:1]:
            yield f"example {row}: {name} has a cell outside the vocabulary of {dataset.vocab_size}"
    if (np.diff(dataset.puzzle) < 0).any():
        yield "examples are not sorted by puzzle"


def _sudoku_puzzles(dataset: Dataset) -> Iterator[str]:
    shape = sudoku.shape(dataset.grid_shape[0])
    puzzles, solutions = dataset.inputs - np.uint8(1), dataset.labels - np.uint8(1)
    wrong = int(sudoku.misfit(puzzles, solutions, shape.units))
    if wrong >= 0:
        yield f"example {wrong}: the label does not solve the puzzle"
    several = int(sudoku.ambiguous(puzzles, shape.units))
    if several >= 0:
        yield f"example {several}: the puzzle has not exactly one solution"


def _maze_puzzles(dataset: Dataset) -> Iterator[str]:
    side = dataset.grid_shape[0]
    _, edges, _ = maze.solve_all(dataset.inputs, side)
    for row in range(len(edges)):
        if edges[row] < 0 or maze.path_length(dataset.labels[row], side) != edges[row]:
            yield f"example {row}: the label is no shortest path"
        plain = np.where(dataset.labels[row] == maze.PATH, maze.SPACE, dataset.labels[row])
        if (plain != dataset.inputs[row]).any():
            yield f"example {row}: the label is of another maze"


def _arc_puzzles(dataset: Dataset) -> Iterator[str]:
    for name, cells, first in (("input", dataset.inputs, 0), ("label", dataset.labels, 2)):
        for row in range(len(cells)):
            height, width = (int(size) for size in dataset.shapes[row, first : first + 2])
            grid = cells[row].reshape(dataset.grid_shape)[:height, :width]
            if (grid < 2).any() or (frame(grid - np.uint8(2)) != cells[row]).any():
                yield f"example {row}: {name} is no framed grid of {height}x{width}"


def _across_splits(dataset: Dataset, names: list[bytes]) -> Iterator[str]:
    """Examples of different splits with equal names."""
    seen: dict[bytes, int] = {}
    for row, name in enumerate(names):
        other = seen.setdefault(name, row)
        if dataset.split[other] != dataset.split[row]:
            yield (
                f"leak: example {row} ({dataset.split_of(row)}) equals example {other} ({dataset.split_of(other)}) "
                "up to symmetry"
            )


def _sudoku_leaks(dataset: Dataset) -> Iterator[str]:
    """Only puzzles with equal invariants can be equivalent; of these the canonical forms decide."""
    shape = sudoku.shape(dataset.grid_shape[0])[:3]
    puzzles, solutions = dataset.inputs - np.uint8(1), dataset.labels - np.uint8(1)
    invariants = sudoku_forms.invariants(puzzles, *shape)
    _, group, sizes = np.unique(invariants, return_inverse=True, return_counts=True)
    names: list[bytes] = [value.tobytes() for value in invariants]
    for row in np.flatnonzero(sizes[group] > 1):
        names[row] = sudoku_forms.canonical(puzzles[row], solutions[row], *shape).tobytes()
    return _across_splits(dataset, names)


def _maze_leaks(dataset: Dataset) -> Iterator[str]:
    return _across_splits(dataset, [maze.canonical(row.reshape(dataset.grid_shape)) for row in dataset.inputs])


def _arc_leaks(dataset: Dataset) -> Iterator[str]:
    """Training pairs that equal a test pair, but for those the manifest names (as published, or allowed)."""
    facts = dataset.manifest.facts
    known = {*facts.get("published_overlaps", {}), *facts.get("allowed_overlaps", [])}
    keys = pair_keys(dataset.inputs, dataset.labels, dataset.shapes)
    tested = set(keys[dataset.split == SPLITS.index("test")].tolist())
    for row in np.flatnonzero(dataset.split == SPLITS.index("train")):
        name = dataset.names[dataset.puzzle[row]]
        if int(keys[row]) in tested and name not in known:
            yield f"leak: training task {name} holds a test pair"


_PUZZLES = {"sudoku": _sudoku_puzzles, "maze": _maze_puzzles, "arc": _arc_puzzles}
_LEAKS = {"sudoku": _sudoku_leaks, "maze": _maze_leaks, "arc": _arc_leaks}
