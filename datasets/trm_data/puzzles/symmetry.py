"""Represent augmentations as numbers.

Every augmentation of a puzzle is one code, an integer below the order of its symmetry group; code 0 is the identity:

    sudoku    transposition (square boxes only) x bands x rows x stacks x columns x digits   (1.2e12 for 9x9)
    dihedral  one of 8                                                                        (mazes)
    arc       dihedral + 8 * rank of a permutation of the colours 1-9, black fixed            (2.9e6)

Dihedral numbers are the official ones: 0 identity, 1-3 rotations by 90, 180, 270 degrees counterclockwise, 4
left-right, 5 up-down, 6 transposition, 7 anti-transposition.
"""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np

from trm_data.jit import Bytes, Ints, jit

DIHEDRAL_INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)
ARC_ORDER = 8 * factorial(9)
_FACTORIALS = np.array([factorial(n) for n in range(13)], np.int64)
_TURNED = np.array([0, 1, 0, 1, 0, 0, 1, 1], np.int64)  # dihedral numbers that swap height and width


def sudoku_order(side: int, box_rows: int, box_cols: int) -> int:
    """Return the number of symmetries of a Sudoku of this shape."""
    bands, stacks = side // box_rows, side // box_cols
    rows = factorial(bands) * factorial(box_rows) ** bands
    cols = factorial(stacks) * factorial(box_cols) ** stacks
    return (2 if box_rows == box_cols else 1) * int(rows) * int(cols) * factorial(side)


@jit
def unrank(code: int, n: int, out: Any) -> None:
    """Write the permutation of 0..n-1 with Lehmer rank `code` to `out[:n]`; rank 0 is the identity."""
    for i in range(n):
        out[i] = code // _FACTORIALS[n - 1 - i]
        code %= _FACTORIALS[n - 1 - i]
    for i in range(n - 2, -1, -1):
        for j in range(i + 1, n):
            if out[j] >= out[i]:
                out[j] += 1


@jit
def rank(permutation: Any) -> int:
    """Return the Lehmer rank of a permutation of 0..n-1."""
    n, code = permutation.size, 0
    for i in range(n):
        smaller = 0
        for j in range(i + 1, n):
            if permutation[j] < permutation[i]:
                smaller += 1
        code += smaller * _FACTORIALS[n - 1 - i]
    return code


@jit
def _unrank_lines(code: int, groups: int, size: int, out: Ints) -> int:
    """Write rows (or columns) permuted inside their bands, and bands permuted; return the unused part of `code`."""
    order = np.empty(groups, np.int64)
    unrank(code % _FACTORIALS[groups], groups, order)
    code //= _FACTORIALS[groups]
    for g in range(groups):
        unrank(code % _FACTORIALS[size], size, out[g * size :])
        code //= _FACTORIALS[size]
        for i in range(size):
            out[g * size + i] += order[g] * size
    return code


@jit
def sudoku_maps(code: int, side: int, box_rows: int, box_cols: int, cells: Ints, digits: Ints) -> None:
    """Decode a Sudoku symmetry.

    Args:
        cells: (side * side), written: the source cell of every target cell.
        digits: (side + 1), written: the new digit of every digit; blank 0 stays.
    """
    transposed = False
    if box_rows == box_cols:
        transposed = code % 2 == 1
        code //= 2
    rows = np.empty(side, np.int64)
    cols = np.empty(side, np.int64)
    code = _unrank_lines(code, side // box_rows, box_rows, rows)
    code = _unrank_lines(code, side // box_cols, box_cols, cols)
    digits[0] = 0
    unrank(code, side, digits[1:])
    for d in range(1, side + 1):
        digits[d] += 1
    for r in range(side):
        for c in range(side):
            cells[r * side + c] = cols[c] * side + rows[r] if transposed else rows[r] * side + cols[c]


@jit
def _rank_lines(code: int, lines: Ints, size: int) -> int:
    groups = lines.size // size
    for g in range(groups - 1, -1, -1):
        code = code * _FACTORIALS[size] + rank(lines[g * size : (g + 1) * size] % size)
    return int(code * _FACTORIALS[groups] + rank(lines[::size] // size))


@jit
def sudoku_code(rows: Ints, cols: Ints, digits: Ints, transposed: bool, box_rows: int, box_cols: int) -> int:
    """Return the code of a symmetry given as source rows, source columns and new digits (`digits[0] == 0`)."""
    code = _rank_lines(_rank_lines(rank(digits[1:] - 1), cols, box_cols), rows, box_rows)
    return code * 2 + (1 if transposed else 0) if box_rows == box_cols else code


@jit
def dihedral_source(number: int, height: int, width: int, row: int, col: int) -> tuple[int, int]:
    """Return the cell of a (height, width) grid that dihedral transform `number` moves to (row, col)."""
    if number == 0:
        return row, col
    if number == 1:
        return col, width - 1 - row
    if number == 2:
        return height - 1 - row, width - 1 - col
    if number == 3:
        return height - 1 - col, row
    if number == 4:
        return row, width - 1 - col
    if number == 5:
        return height - 1 - row, col
    if number == 6:
        return col, row
    return height - 1 - col, width - 1 - row


@jit
def is_turned(number: int) -> bool:
    """Return whether dihedral transform `number` swaps height and width."""
    return bool(_TURNED[number] == 1)


@jit
def colour_map(code: int, out: Any) -> None:
    """Write the new colour of every colour 0-9 under ARC augmentation `code` to `out[:10]`."""
    out[0] = 0
    unrank(code // 8, 9, out[1:])
    for colour in range(1, 10):
        out[colour] += 1


def arc_code(dihedral: int, colours: Bytes) -> int:
    """Return the code of an ARC augmentation; `colours[c]` is the new colour of `c` and `colours[0] == 0`.

    Raises:
        ValueError: not a permutation of the ten colours that keeps 0.
    """
    if len(colours) != 10 or colours[0] != 0 or sorted(colours.tolist()) != list(range(10)):
        raise ValueError(f"{colours.tolist()} is not a permutation of the colours that keeps black")
    return dihedral + 8 * int(rank(colours[1:].astype(np.int64) - 1))


def arc_colours(code: int) -> Bytes:
    """Return the new colour of every colour under ARC augmentation `code`.

    Raises:
        ValueError: there is no such augmentation.
    """
    if not 0 <= code < ARC_ORDER:
        raise ValueError(f"{code} is not an ARC augmentation: codes end at {ARC_ORDER - 1}")
    out = np.empty(10, np.uint8)
    colour_map(code, out)
    return out


def augmentation_name(puzzle: str, code: int) -> str:
    """Return the official identifier of an augmented ARC task: `name|||t<dihedral>|||<new colours of 0-9>`."""
    if code == 0:
        return puzzle
    return f"{puzzle}|||t{code % 8}|||{''.join(map(str, arc_colours(code)))}"


def parse_augmentation(name: str) -> tuple[str, int]:
    """Return the task and the code of an official identifier. Raises ValueError for any other text."""
    puzzle, *parts = name.split("|||")
    if not parts:
        return puzzle, 0
    turn, colours = parts
    painted = np.array([int(colour) for colour in colours], np.uint8)
    if turn not in {f"t{i}" for i in range(8)} or painted[:1] != 0 or sorted(painted) != list(range(10)):
        raise ValueError(name)
    return puzzle, arc_code(int(turn[1:]), painted)


def dihedral(grid: Bytes, number: int) -> Bytes:
    """Transform a grid."""
    turned = (
        grid,
        np.rot90(grid, 1),
        np.rot90(grid, 2),
        np.rot90(grid, 3),
        np.fliplr(grid),
        np.flipud(grid),
        grid.T,
        np.fliplr(np.rot90(grid, 1)),
    )
    return np.ascontiguousarray(turned[number])


@jit
def _fit(grid: Bytes, moved: Bytes, rows: Ints, cols: Ints, digits: Ints, box_rows: int, box_cols: int) -> bool:
    """Complete a symmetry given by the sources of the upper left box; return False if it does not map grid to moved."""
    side = rows.size
    old, new = 0, 0  # masks of digits: the box of a grid that is not a Sudoku may hold a digit twice
    for r in range(box_rows):
        for c in range(box_cols):
            digit = grid[rows[r] * side + cols[c]]
            digits[digit] = moved[r * side + c]
            old |= 1 << digit
            new |= 1 << moved[r * side + c]
    if old != new or old != (1 << (side + 1)) - 2:
        return False
    for c in range(box_cols, side):
        cols[c] = -1
        for source in range(side):
            if digits[grid[rows[0] * side + source]] == moved[c]:
                cols[c] = source
        if cols[c] < 0:
            return False
        for r in range(1, box_rows):
            if digits[grid[rows[r] * side + cols[c]]] != moved[r * side + c]:
                return False
    for r in range(box_rows, side):
        rows[r] = -1
        for source in range(side):
            if digits[grid[source * side + cols[0]]] == moved[r * side]:
                rows[r] = source
        if rows[r] < 0:  # only where a column of `grid` does not hold every digit
            return False
        for c in range(side):
            if digits[grid[rows[r] * side + cols[c]]] != moved[r * side + c]:
                return False
    return True


@jit
def _respects_boxes(lines: Ints, size: int) -> bool:
    kept = True
    for i in range(lines.size):
        kept &= lines[i] // size == lines[i - i % size] // size
    return kept


@jit
def recover_sudoku(grid: Bytes, puzzle: Bytes, moved: Bytes, moved_puzzle: Bytes, box_rows: int, box_cols: int) -> int:
    """Return the code that maps a solution and its puzzle (flat, 0 = blank) to another pair, or -1.

    A box holds every digit, so choosing the sources of the upper left box fixes all digits and then all other lines.
    """
    side = box_rows * box_cols
    rows, cols = np.empty(side, np.int64), np.empty(side, np.int64)
    digits = np.zeros(side + 1, np.int64)
    source, clues = grid.copy(), puzzle.copy()
    for turn in range(2 if box_rows == box_cols else 1):
        if turn:
            for r in range(side):
                for c in range(side):
                    source[r * side + c] = grid[c * side + r]
                    clues[r * side + c] = puzzle[c * side + r]
        for band in range(side // box_rows):
            for row_order in range(_FACTORIALS[box_rows]):
                for stack in range(side // box_cols):
                    for col_order in range(_FACTORIALS[box_cols]):
                        unrank(row_order, box_rows, rows)
                        unrank(col_order, box_cols, cols)
                        rows[:box_rows] += band * box_rows
                        cols[:box_cols] += stack * box_cols
                        if not _fit(source, moved, rows, cols, digits, box_rows, box_cols):
                            continue
                        if not (_respects_boxes(rows, box_rows) and _respects_boxes(cols, box_cols)):
                            continue
                        same = True
                        for r in range(side):
                            for c in range(side):
                                same &= digits[clues[rows[r] * side + cols[c]]] == moved_puzzle[r * side + c]
                        if same:
                            return sudoku_code(rows, cols, digits, turn == 1, box_rows, box_cols)
    return -1


@jit
def recover_sudokus(labels: Bytes, inputs: Bytes, base: Ints, box_rows: int, box_cols: int) -> Ints:
    """Return (B) the code that makes each encoded row (B, L) from the row `base` (B), -1 where none does."""
    codes = np.empty(len(base), np.int64)
    one = np.uint8(1)
    for i in range(len(base)):
        b = base[i]
        codes[i] = recover_sudoku(
            labels[b] - one, inputs[b] - one, labels[i] - one, inputs[i] - one, box_rows, box_cols
        )
    return codes
