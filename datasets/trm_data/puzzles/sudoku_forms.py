"""Identify Sudoku up to symmetry: the least of all equivalent puzzles, and a hash that is quick and nearly as good."""

from __future__ import annotations

import numpy as np

from trm_data.jit import Bytes, Ints, Words, jit, mix
from trm_data.puzzles.symmetry import unrank


@jit
def _line_of(sequence: int, groups: int, size: int, out: Ints) -> None:
    order = np.empty(groups, np.int64)
    inner = np.empty(size, np.int64)
    inner_orders = 1
    for i in range(2, size + 1):
        inner_orders *= i
    for g in range(groups):
        unrank(sequence % inner_orders, size, inner)
        sequence //= inner_orders
        for i in range(size):
            out[g * size + i] = inner[i]
    unrank(sequence, groups, order)
    for g in range(groups):
        for i in range(size):
            out[g * size + i] += order[g] * size


@jit
def _compare_band(grid: Bytes, best: Bytes, rows: Ints, cols: Ints, side: int, rename: Ints) -> int:
    """Relabel `rows` so that the first reads 1..side and compare with `best`: -1 smaller, 0 equal, 1 larger."""
    for c in range(side):
        rename[grid[rows[0] * side + cols[c]]] = c + 1
    for r in range(1, rows.size):
        for c in range(side):
            value, other = rename[grid[rows[r] * side + cols[c]]], best[r * side + c]
            if value != other:
                return -1 if value < other else 1
    return 0


@jit
def _complete(grid: Bytes, puzzle: Bytes, rows: Ints, cols: Ints, rename: Ints, box_rows: int, out: Bytes) -> None:
    """Order the remaining rows and bands for a fixed first band, columns and digits; write grid, then puzzle."""
    side = cols.size
    size = side * side
    order = np.empty(side, np.int64)
    first = np.empty(side, np.int64)
    for r in range(side):
        first[r] = rename[grid[r * side + cols[0]]]
    used = np.zeros(side, np.bool_)
    for r in range(box_rows):
        order[r] = rows[r]
        used[rows[r]] = True
    for place in range(box_rows, side):
        in_band = place % box_rows  # the first row of a band is free; the others stay in its band
        best = -1
        for r in range(side):
            if used[r] or (in_band and r // box_rows != order[place - 1] // box_rows):
                continue
            if best < 0 or first[r] < first[best]:
                best = r
        order[place] = best
        used[best] = True
    for r in range(side):
        for c in range(side):
            cell = order[r] * side + cols[c]
            out[r * side + c] = rename[grid[cell]]
            out[size + r * side + c] = rename[puzzle[cell]]


@jit
def _is_less(a: Bytes, b: Bytes) -> bool:
    for i in range(a.size):
        if a[i] != b[i]:
            return bool(a[i] < b[i])
    return False


@jit
def canonical(puzzle: Bytes, solution: Bytes, side: int, box_rows: int, box_cols: int) -> Bytes:
    """Return the least (solution, puzzle) over all symmetries: equal for two puzzles if and only if they are
    equivalent.

    Args:
        puzzle, solution: (side * side), flat; 0 = blank.

    Returns:
        (2 * side * side): the canonical solution, then the canonical puzzle.
    """
    size = side * side
    grids = np.empty((2, 2, size), np.uint8)  # as it is and transposed; solution and puzzle
    for r in range(side):
        for c in range(side):
            here, there = r * side + c, c * side + r
            grids[0, 0, here], grids[0, 1, here] = solution[here], puzzle[here]
            grids[1, 0, there], grids[1, 1, there] = solution[here], puzzle[here]
    band_orders, columns = 1, 1
    for i in range(2, box_rows + 1):
        band_orders *= i
    for i in range(2, side // box_cols + 1):
        columns *= i
    for _ in range(side // box_cols):
        for i in range(2, box_cols + 1):
            columns *= i
    best = np.full(2 * size, 255, np.uint8)
    trial = np.empty(2 * size, np.uint8)
    rename = np.zeros(side + 1, np.int64)
    rows = np.empty(box_rows, np.int64)
    cols = np.empty(side, np.int64)
    for turn in range(2 if box_rows == box_cols else 1):
        for arrangement in range(columns):
            _line_of(arrangement, side // box_cols, box_cols, cols)
            for band in range(side // box_rows):
                for band_order in range(band_orders):
                    unrank(band_order, box_rows, rows)
                    for r in range(box_rows):
                        rows[r] += band * box_rows
                    if _compare_band(grids[turn, 0], best, rows, cols, side, rename) > 0:
                        continue
                    _complete(grids[turn, 0], grids[turn, 1], rows, cols, rename, box_rows, trial)
                    if _is_less(trial, best):
                        for i in range(2 * size):
                            best[i] = trial[i]
    return best


@jit
def invariant(puzzle: Bytes, side: int, box_rows: int, box_cols: int) -> np.uint64:
    """Return a hash of the clues that no symmetry changes. Equivalent puzzles have equal hashes; the converse nearly
    holds.

    Colour refinement: three times, a clue's colour is folded with the sums of those in its row, column, box and digit.
    """
    size = side * side
    square = box_rows == box_cols
    colour = np.zeros(size, np.uint64)
    for cell in range(size):
        if puzzle[cell]:
            colour[cell] = np.uint64(1)
    sums = np.empty((4, side + 1), np.uint64)
    total = np.uint64(0)
    for _ in range(3):
        sums[:] = np.uint64(0)
        for cell in range(size):
            if puzzle[cell]:
                r, c = cell // side, cell % side
                box = r // box_rows * (side // box_cols) + c // box_cols
                sums[0, r] += colour[cell]
                sums[1, c] += colour[cell]
                sums[2, box] += colour[cell]
                sums[3, puzzle[cell]] += colour[cell]
        total = np.uint64(0)
        for cell in range(size):
            if puzzle[cell]:
                r, c = cell // side, cell % side
                box = r // box_rows * (side // box_cols) + c // box_cols
                row, col = mix(sums[0, r], np.uint64(1)), mix(sums[1, c], np.uint64(1))
                lines = row + col if square else mix(row, col)
                colour[cell] = mix(mix(mix(colour[cell], lines), sums[2, box]), sums[3, puzzle[cell]])
                total += colour[cell]
    return total


@jit
def invariants(puzzles: Bytes, side: int, box_rows: int, box_cols: int) -> Words:
    """Return `invariant` of every row."""
    out = np.empty(len(puzzles), np.uint64)
    for i in range(len(puzzles)):
        out[i] = invariant(puzzles[i], side, box_rows, box_cols)
    return out
