"""Verify a built dataset from its bytes: files, counts, splits, and every puzzle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trm_data.benchmarks import CATALOGUE
from trm_data.dataset.integrity import changed_files, count_faults, index_faults, read_content, row_faults
from trm_data.dataset.manifest import Manifest
from trm_data.dataset.reader import Dataset
from trm_data.dataset.schema import SPLITS
from trm_data.errors import DataError
from trm_data.jit import Bytes, Ints
from trm_data.puzzles import maze, sudoku, sudoku_forms
from trm_data.puzzles.arc import frame, pair_keys

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class _Examples:
    """Hold examples whose cells, shapes and indices are in range; only these are passed to compiled code."""

    manifest: Manifest
    names: list[str]
    """Names of all puzzles."""
    numbers: Ints
    """(E): the number of each example within the dataset."""
    puzzle: Ints
    split: Bytes
    inputs: Bytes
    labels: Bytes
    shapes: Bytes

    @property
    def side(self) -> int:
        return self.manifest.grid_shape[0]

    def split_of(self, row: int) -> str:
        return SPLITS[self.split[row]]


def verify(dataset: Dataset | Path | str, progress: Progress = lambda *_: None) -> list[str]:
    """Return the errors of a dataset or the folder of one, one line each; an empty list if there are none.

    Checks the hash of every file, the counts of the manifest, the ranges of all values, then, of the examples that are
    in range, the puzzles of the family (Sudoku: valid and with one solution; mazes: labels shortest; ARC: frames) and
    that no puzzle is in two splits, up to symmetry. A folder may be too damaged to be opened.

    Raises:
        DataError: the folder has no manifest, or a damaged one.
    """
    folder = dataset.path if isinstance(dataset, Dataset) else Path(dataset)
    manifest = Manifest.read(folder)
    checks = (_PUZZLES[manifest.family], _LEAKS[manifest.family])
    progress("checking files", 0, 2 + len(checks))
    problems = [str(fault) for fault in changed_files(folder, manifest)]
    progress("checking ranges", 1, 2 + len(checks))
    try:
        content = read_content(folder, manifest)
    except DataError as error:
        return [*problems, str(error)]
    indices = [str(fault) for fault in index_faults(content, manifest)]
    if indices:
        return problems + indices
    sound, faults = row_faults(content, manifest)
    problems += [str(fault) for fault in (*count_faults(content, manifest), *faults)]
    examples = _Examples(
        manifest,
        content.puzzles.column("name").to_pylist(),
        sound,
        content.puzzle[sound].astype(np.int64),
        *(values[sound] for values in (content.split, content.inputs, content.labels, content.shapes)),
    )
    problems += _counts(manifest, content.puzzle, content.split)
    for done, check in enumerate(checks, 2):
        progress(f"checking {check.__name__.strip('_').replace('_', ' ')}", done, 2 + len(checks))
        problems += check(examples)
    return problems


def _counts(manifest: Manifest, puzzle: np.ndarray, split: Bytes) -> Iterator[str]:
    for index, name in enumerate(SPLITS):
        found = len(np.unique(puzzle[split == index]))
        if manifest.counts[name] != found:
            yield f"manifest: counts of {name} is {manifest.counts[name]}, the files have {found}"


def _sudoku_puzzles(examples: _Examples) -> Iterator[str]:
    shape = sudoku.shape(examples.side)
    puzzles, solutions = examples.inputs - np.uint8(1), examples.labels - np.uint8(1)
    wrong = int(sudoku.misfit(puzzles, solutions, shape.units))
    if wrong >= 0:
        yield f"example {examples.numbers[wrong]}: the label does not solve the puzzle"
    several = int(sudoku.ambiguous(puzzles, shape.units))
    if several >= 0:
        yield f"example {examples.numbers[several]}: the puzzle has not exactly one solution"


def _maze_puzzles(examples: _Examples) -> Iterator[str]:
    side = examples.side
    _, edges, _ = maze.solve_all(examples.inputs, side)
    for row in range(len(edges)):
        if edges[row] < 0 or maze.path_length(examples.labels[row], side) != edges[row]:
            yield f"example {examples.numbers[row]}: the label is not a shortest path"
        plain = np.where(examples.labels[row] == maze.PATH, maze.SPACE, examples.labels[row])
        if (plain != examples.inputs[row]).any():
            yield f"example {examples.numbers[row]}: the label is of another maze"


def _arc_puzzles(examples: _Examples) -> Iterator[str]:
    for name, cells, first in (("input", examples.inputs, 0), ("label", examples.labels, 2)):
        for row in range(len(cells)):
            height, width = (int(size) for size in examples.shapes[row, first : first + 2])
            grid = cells[row].reshape(examples.manifest.grid_shape)[:height, :width]
            if (grid < 2).any() or (frame(grid - np.uint8(2)) != cells[row]).any():
                yield f"example {examples.numbers[row]}: {name} is not a framed grid of {height}x{width}"


def _across_splits(examples: _Examples, names: list[bytes]) -> Iterator[str]:
    """Yield examples of different splits with equal names."""
    seen: dict[bytes, int] = {}
    for row, name in enumerate(names):
        other = seen.setdefault(name, row)
        if examples.split[other] != examples.split[row]:
            here, there = (f"{examples.numbers[i]} ({examples.split_of(i)})" for i in (row, other))
            yield f"leak: example {here} equals example {there} up to symmetry"


def _sudoku_leaks(examples: _Examples) -> Iterator[str]:
    """Yield equivalent puzzles of different splits. Canonical forms are compared only if the invariants are equal."""
    shape = sudoku.shape(examples.side)[:3]
    puzzles, solutions = examples.inputs - np.uint8(1), examples.labels - np.uint8(1)
    invariants = sudoku_forms.invariants(puzzles, *shape)
    _, group, sizes = np.unique(invariants, return_inverse=True, return_counts=True)
    names: list[bytes] = [value.tobytes() for value in invariants]
    for row in np.flatnonzero(sizes[group] > 1):
        names[row] = sudoku_forms.canonical(puzzles[row], solutions[row], *shape).tobytes()
    return _across_splits(examples, names)


def _maze_leaks(examples: _Examples) -> Iterator[str]:
    return _across_splits(
        examples, [maze.canonical(row.reshape(examples.manifest.grid_shape)) for row in examples.inputs]
    )


def _arc_leaks(examples: _Examples) -> Iterator[str]:
    """Yield training pairs that equal a test pair, except those of a published benchmark and those that were
    allowed."""
    facts = examples.manifest.facts
    published = frozenset().union(*(benchmark.published_overlaps for benchmark in CATALOGUE.values()))
    known = (published & set(facts.get("published_overlaps", {}))) | set(facts.get("allowed_overlaps", []))
    keys = pair_keys(examples.inputs, examples.labels, examples.shapes)
    tested = set(keys[examples.split == SPLITS.index("test")].tolist())
    for row in np.flatnonzero(examples.split == SPLITS.index("train")):
        name = examples.names[examples.puzzle[row]]
        if int(keys[row]) in tested and name not in known:
            yield f"leak: training task {name} holds a test pair"


_PUZZLES = {"sudoku": _sudoku_puzzles, "maze": _maze_puzzles, "arc": _arc_puzzles}
_LEAKS = {"sudoku": _sudoku_leaks, "maze": _maze_leaks, "arc": _arc_leaks}
