"""Solve, count solutions of and rate Sudoku of any box shape. Grids are flat, 0 = blank.

The solver keeps one bit mask of candidates per cell, propagates singles and locked candidates and branches on a cell
with the fewest candidates. The rating of a puzzle is the number of guesses until the *first* solution, like the
published one; `docs/data.md` compares both on known lists.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trm_data.jit import Bytes, Ints, jit

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Rows and columns of a box, by side."""
DIGITS = np.full(256, 255, np.uint8)
"""Byte of a text -> its digit, 0 for a blank; 255 for any other character."""
DIGITS[np.frombuffer(b"0123456789", np.uint8)] = np.arange(10)
DIGITS[np.frombuffer(b".*_", np.uint8)] = 0


class Shape(NamedTuple):
    """Hold the geometry that the kernels need."""

    side: int
    box_rows: int
    box_cols: int
    units: Ints
    """(3 * side, side): the cells of every row, column and box."""


def shape(side: int) -> Shape:
    """Return the geometry of a Sudoku with `side` digits (4, 6 or 9)."""
    box_rows, box_cols = BOXES[side]
    cells = np.arange(side * side).reshape(side, side)
    boxes = cells.reshape(side // box_rows, box_rows, side // box_cols, box_cols).swapaxes(1, 2).reshape(side, side)
    return Shape(side, box_rows, box_cols, np.concatenate([cells, cells.T, boxes]))


def repetition(grid: NDArray[Any], side: int) -> str:
    """Describe a digit that stands twice in a row, column or box of a grid (C) in which 0 is a blank; empty if none."""
    for number, unit in enumerate(shape(side).units):
        digits, counts = np.unique(grid[unit][grid[unit] > 0], return_counts=True)
        if (counts > 1).any():
            kind = ("row", "column", "box")[number // side]
            return f"{digits[counts > 1][0]} stands twice in {kind} {number % side + 1}"
    return ""


_COUNT = np.array([bin(mask).count("1") for mask in range(1 << 9)], np.int64)
"""Candidates in a mask."""


@jit
def _units_of(cell: int, side: int, box_cols: int) -> int:
    """Return the mask of the row, column and box of a cell."""
    row, col = cell // side, cell % side
    box_rows = side // box_cols
    box = row // box_rows * box_rows + col // box_cols  # a band has side / box_cols = box_rows boxes
    return (1 << row) | (1 << (side + col)) | (1 << (2 * side + box))


@jit
def _assign_singles(candidates: Ints, units: Ints, box_cols: int, dirty: int) -> bool:
    """Propagate naked and hidden singles, starting with the units in the mask `dirty`; return False on a
    contradiction."""
    side = units.shape[1]
    while dirty:
        below = (dirty & -dirty) - 1
        dirty &= dirty - 1
        u = _COUNT[below & 511] + _COUNT[below >> 9 & 511] + _COUNT[below >> 18]  # the lowest dirty unit
        solved, once, twice = 0, 0, 0
        for k in range(side):
            mask = candidates[units[u, k]]
            twice |= once & mask
            once |= mask
            if mask & (mask - 1) == 0:
                if mask & solved or mask == 0:
                    return False
                solved |= mask
        if once != (1 << side) - 1:
            return False
        hidden = once & ~twice & ~solved
        if solved & twice == 0 and hidden == 0:
            continue
        for k in range(side):
            cell = units[u, k]
            mask = candidates[cell]
            if mask & (mask - 1) == 0:
                continue
            reduced = mask & ~solved
            if reduced & hidden:
                reduced &= hidden
                if reduced & (reduced - 1):
                    return False  # two digits have this cell as their only place
            if reduced == 0:
                return False
            if reduced != mask:
                candidates[cell] = reduced
                dirty |= _units_of(cell, side, box_cols)
    return True


@jit
def _lock_lines(candidates: Ints, side: int, size: int, depth: int, along: int, across: int, box_cols: int) -> int:
    """Eliminate locked candidates between lines and boxes; rows with (along, across) = (1, side), columns vice
    versa.

    Args:
        size, depth: cells of a line in one box, lines of one box.

    Returns:
        Mask of the units in which a candidate was removed.
    """
    parts = side // size
    segment = np.zeros((side, parts), np.int64)
    for line in range(side):
        for i in range(side):
            segment[line, i // size] |= candidates[line * across + i * along]
    dirty = 0
    for line in range(side):
        first = line - line % depth
        for part in range(parts):
            in_line, in_box = 0, 0
            for other in range(parts):
                if other != part:
                    in_line |= segment[line, other]
            for other in range(first, first + depth):
                if other != line:
                    in_box |= segment[other, part]
            only_box, only_line = segment[line, part] & ~in_box & in_line, segment[line, part] & ~in_line & in_box
            if only_box:
                for i in range(side):
                    cell = line * across + i * along
                    if i // size != part and candidates[cell] & only_box:
                        candidates[cell] &= ~only_box
                        dirty |= _units_of(cell, side, box_cols)
            if only_line:
                for other in range(first, first + depth):
                    for i in range(part * size, part * size + size):
                        cell = other * across + i * along
                        if other != line and candidates[cell] & only_line:
                            candidates[cell] &= ~only_line
                            dirty |= _units_of(cell, side, box_cols)
    return dirty


@jit
def _propagate(candidates: Ints, units: Ints, box_cols: int, dirty: int) -> bool:
    """Propagate singles and locked candidates until nothing changes; return False on a contradiction."""
    side = units.shape[1]
    while dirty:
        if not _assign_singles(candidates, units, box_cols, dirty):
            return False
        dirty = _lock_lines(candidates, side, box_cols, side // box_cols, 1, side, box_cols)
        dirty |= _lock_lines(candidates, side, side // box_cols, box_cols, side, 1, box_cols)
    return True


@jit
def _branching_cell(candidates: Ints, units: Ints, box_cols: int) -> int:
    """Return the open cell with the fewest candidates, or -1 if every cell is determined.

    Among equals the one that shares candidates with the most open cells of its units: a guess there decides most.
    """
    side = units.shape[1]
    fewest = side + 1
    for cell in range(candidates.size):
        count = _COUNT[candidates[cell]]
        if 1 < count < fewest:
            fewest = count
    best, most = -1, -1
    for cell in range(candidates.size):
        if fewest > side or _COUNT[candidates[cell]] != fewest:
            continue
        touched = 0
        mask = _units_of(cell, side, box_cols)
        for u in range(3 * side):
            if mask >> u & 1:
                for k in range(side):
                    other = candidates[units[u, k]]
                    if other & (other - 1):
                        touched += _COUNT[other & candidates[cell]]
        if touched > most:
            best, most = cell, touched
    return best


@jit
def _search(puzzle: Bytes, limit: int, units: Ints, solutions: Bytes, barred: int) -> tuple[int, int]:
    """Count solutions up to `limit` and write the first ones to the rows of `solutions`; see `solve`.

    The clue of cell `barred` (-1: none) is what that cell must not be.
    """
    side = units.shape[1]
    size = side * side
    box_cols = 0
    for k in range(side):  # the first box lists box_cols cells of the first row
        box_cols += units[2 * side, k] < side
    stack = np.empty((size + 1, size), np.int64)
    untried = np.zeros(size + 1, np.int64)  # at each depth: the values still to try at the branching cell
    branch = np.zeros(size + 1, np.int64)
    for cell in range(size):
        stack[0, cell] = 1 << (puzzle[cell] - 1) if puzzle[cell] else (1 << side) - 1
    if barred >= 0:
        stack[0, barred] ^= (1 << side) - 1
    found, guesses, depth, entering = 0, 0, 0, True
    dirty = (1 << 3 * side) - 1
    while depth >= 0:
        if entering:
            entering = False
            untried[depth] = 0
            if _propagate(stack[depth], units, box_cols, dirty):
                branch[depth] = _branching_cell(stack[depth], units, box_cols)
                if branch[depth] >= 0:
                    untried[depth] = stack[depth, branch[depth]]
                else:
                    if found < len(solutions):
                        for cell in range(size):
                            solutions[found, cell] = _COUNT[stack[depth, cell] - 1] + 1
                    found += 1
                    if found == limit:
                        return found, guesses
        value = untried[depth] & -untried[depth]
        if value == 0:
            depth -= 1
            continue
        untried[depth] &= ~value
        if untried[depth]:
            guesses += 1
        for cell in range(size):
            stack[depth + 1, cell] = stack[depth, cell]
        stack[depth + 1, branch[depth]] = value
        dirty = _units_of(branch[depth], side, box_cols)
        depth += 1
        entering = True
    return found, guesses


@jit
def solve(puzzle: Bytes, limit: int, units: Ints, solution: Bytes) -> tuple[int, int]:
    """Count solutions up to `limit`; the first one is written to `solution`.

    Returns:
        (solutions found, at most `limit`; guesses until the search ended: values tried while others were left).
    """
    return _search(puzzle, limit, units, solution.reshape(1, solution.size), -1)


@jit
def solve_two(puzzle: Bytes, units: Ints, first: Bytes, second: Bytes) -> int:
    """Write up to two solutions and return how many there are, at most 2."""
    solutions = np.empty((2, puzzle.size), np.uint8)
    found, _ = _search(puzzle, 2, units, solutions, -1)
    for cell in range(puzzle.size):
        first[cell], second[cell] = solutions[0, cell], solutions[1, cell]
    return found


@jit
def needs_clue(puzzle: Bytes, cell: int, units: Ints) -> bool:
    """Return whether a puzzle with one solution would have more without the clue of `cell`."""
    return _search(puzzle, 1, units, np.empty((0, puzzle.size), np.uint8), cell)[0] > 0


@jit
def is_complete(grid: Bytes, units: Ints) -> bool:
    """Return whether every unit holds every digit once."""
    num_units, side = units.shape
    for u in range(num_units):
        seen = 0
        for k in range(side):
            seen |= 1 << grid[units[u, k]]
        if seen != (1 << (side + 1)) - 2:
            return False
    return True


@jit
def misfit(puzzles: Bytes, solutions: Bytes, units: Ints) -> int:
    """Return the first row whose solution is incomplete, invalid or contradicts a clue; -1 if there is none."""
    for i in range(len(puzzles)):
        fits = is_complete(solutions[i], units)
        for cell in range(puzzles.shape[1]):
            fits &= puzzles[i, cell] == 0 or puzzles[i, cell] == solutions[i, cell]
        if not fits:
            return i
    return -1


@jit
def ambiguous(puzzles: Bytes, units: Ints) -> int:
    """Return the first row that does not have exactly one solution; -1 if every row has."""
    scratch = np.empty(puzzles.shape[1], np.uint8)
    for i in range(len(puzzles)):
        if solve(puzzles[i], 2, units, scratch)[0] != 1:
            return i
    return -1


@jit
def solve_all(puzzles: Bytes, units: Ints) -> tuple[Bytes, Ints, Ints]:
    """Solve every row.

    Returns:
        Solutions (N, side * side), number of solutions (N, at most 2), guesses until the first solution (N).
    """
    solutions = np.zeros_like(puzzles)
    found = np.zeros(len(puzzles), np.int64)
    guesses = np.zeros(len(puzzles), np.int64)
    for i in range(len(puzzles)):
        guesses[i] = solve(puzzles[i], 1, units, solutions[i])[1]
        found[i] = solve(puzzles[i], 2, units, solutions[i])[0]
    return solutions, found, guesses
