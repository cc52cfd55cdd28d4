"""Generate Sudoku: a random complete grid, then cells emptied in random order as long as the solution stays unique.

Attempt `i` of a seed is a pure function of (seed, i), so any number of processes makes the same puzzles. No two puzzles
that a call returns are equivalent under a Sudoku symmetry, which keeps every split of them free of leaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from trm_data.benchmarks import MOST_BLANKS
from trm_data.errors import DataError
from trm_data.jit import Bytes, Ints, Words, jit, shuffle, stream
from trm_data.puzzles import sudoku, sudoku_forms

_CHUNK = 256


class GeneratedSudoku(NamedTuple):
    """Hold generated puzzles, one per row."""

    puzzles: Bytes
    solutions: Bytes
    ratings: Ints


@jit
def random_grid(state: Words, units: Ints, grid: Bytes) -> None:
    """Draw a random complete grid: a few random cells, then solved."""
    side = units.shape[1]
    empty = np.zeros(side * side, np.uint8)
    order = np.arange(side * side)
    digits = np.arange(1, side + 1)
    while True:
        for cell in range(empty.size):
            empty[cell] = 0
        shuffle(state, order)
        for place in range(side):  # `side` random clues spread the grids; the solver's own order fills the rest
            shuffle(state, digits)
            empty[order[place]] = digits[0]
        if sudoku.solve(empty, 1, units, grid)[0]:
            return


@jit
def _attempt(seed: int, index: int, blanks: int, units: Ints, puzzle: Bytes, solution: Bytes) -> int:
    """Make one attempt. Return the rating, or -1 if this grid cannot be emptied to `blanks` cells in the drawn
    order."""
    state = stream(seed, index)
    random_grid(state, units, solution)
    for cell in range(puzzle.size):
        puzzle[cell] = solution[cell]
    order = np.arange(puzzle.size)
    shuffle(state, order)
    scratch = np.empty_like(puzzle)
    emptied = 0
    for place in range(order.size):
        if emptied == blanks:
            return sudoku.solve(puzzle, 1, units, scratch)[1]
        if order.size - place < blanks - emptied:
            return -1
        cell = order[place]
        puzzle[cell] = 0
        if sudoku.solve(puzzle, 2, units, scratch)[0] == 1:
            emptied += 1
        else:
            puzzle[cell] = solution[cell]
    return sudoku.solve(puzzle, 1, units, scratch)[1] if emptied == blanks else -1


@jit
def _attempts(seed: int, start: int, blanks: int, units: Ints, puzzles: Bytes, solutions: Bytes, ratings: Ints) -> None:
    for i in range(len(puzzles)):
        ratings[i] = _attempt(seed, start + i, blanks, units, puzzles[i], solutions[i])


def _candidates(shape: sudoku.Shape, blanks: int, seed: int) -> Iterator[GeneratedSudoku]:
    start = 0
    while True:
        made = GeneratedSudoku(
            np.empty((_CHUNK, shape.side**2), np.uint8),
            np.empty((_CHUNK, shape.side**2), np.uint8),
            np.empty(_CHUNK, np.int64),
        )
        _attempts(seed, start, blanks, shape.units, *made)
        start += _CHUNK
        good = made.ratings >= 0
        yield GeneratedSudoku(made.puzzles[good], made.solutions[good], made.ratings[good])


class Distinct:
    """Remember puzzles and check whether a new one is equivalent to any of them.

    The cheap invariant decides almost always; the canonical form (3 ms for 9x9) only where invariants agree.
    """

    def __init__(self, shape: sudoku.Shape) -> None:
        self._shape = shape
        self._seen: dict[int, list[tuple[Bytes, Bytes, bytes | None]]] = {}

    def _canonical(self, puzzle: Bytes, solution: Bytes) -> bytes:
        return sudoku_forms.canonical(puzzle, solution, *self._shape[:3]).tobytes()

    def is_new(self, puzzle: Bytes, solution: Bytes, invariant: int) -> bool:
        """Return whether no equivalent puzzle came before; if so, remember this one."""
        alike = self._seen.setdefault(invariant, [])
        form = self._canonical(puzzle, solution) if alike else None
        for i, (other, other_solution, known) in enumerate(alike):
            known = known or self._canonical(other, other_solution)
            alike[i] = (other, other_solution, known)
            if known == form:
                return False
        alike.append((puzzle, solution, form))
        return True


def generate(
    side: int, count: int, blanks: int, seed: int, progress: Callable[[int], None] = lambda done: None
) -> GeneratedSudoku:
    """Generate `count` puzzles with exactly `blanks` empty cells and one solution, no two equivalent.

    Raises:
        DataError: there are not that many such puzzles, as far as the search could see.
    """
    shape = sudoku.shape(side)
    if not 1 <= blanks <= MOST_BLANKS[side]:
        raise DataError(
            f"blanks={blanks} cannot be made for Sudoku {side}x{side}", f"Take 1 to {MOST_BLANKS[side]} blanks"
        )
    distinct = Distinct(shape)
    kept: list[tuple[Bytes, Bytes, int]] = []
    barren = 0
    for chunk in _candidates(shape, blanks, seed):
        before = len(kept)
        names = sudoku_forms.invariants(chunk.puzzles, *shape[:3]).tolist()
        for puzzle, solution, rating, name in zip(*chunk, names, strict=True):
            if len(kept) < count and distinct.is_new(puzzle, solution, name):
                kept.append((puzzle, solution, int(rating)))
        progress(len(kept))
        if len(kept) == count:
            break
        barren = barren + 1 if len(kept) - before < _CHUNK // 100 else 0
        if barren == 40:
            raise DataError(
                f"found only {len(kept)} of {count} inequivalent Sudoku {side}x{side} with {blanks} blanks",
                "Ask for fewer puzzles or another number of blanks",
            )
    return GeneratedSudoku(
        np.stack([puzzle for puzzle, _, _ in kept]),
        np.stack([solution for _, solution, _ in kept]),
        np.array([rating for _, _, rating in kept], np.int64),
    )
