"""Augmentations as numbers.

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
    """How many symmetries a Sudoku of this shape has."""
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
    """The Lehmer rank of a permutation of 0..n-1."""
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
    """Rows (or columns) permuted inside their bands, and bands permuted; returns the unused part of `code`."""
    order = np.empty(groups, np.int64)
    inner = np.empty(size, np.int64)
    unrank(code % _FACTORIALS[groups], groups, order)
    code //= _FACTORIALS[groups]
    for g in range(groups):
        unrank(code % _FACTORIALS[size], size, inner)
        code //= _FACTORIALS[size]
        for i in range(size):
            out[g * size + i] = order[g] * size + inner[i]
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


def _rank_lines(lines: Ints, size: int) -> int:
    groups = lines.size // size
    code = 0
    for g in range(groups - 1, -1, -1):
        code = code * factorial(size) + int(rank(lines[g * size : (g + 1) * size] % size))
    return code * factorial(groups) + int(rank(lines[::size] // size))


def sudoku_code(rows: Ints, cols: Ints, digits: Ints, transposed: bool, box_rows: int, box_cols: int) -> int:
    """The code of a symmetry given as source rows, source columns and new digits (`digits[0] == 0`)."""
    code = int(rank(digits[1:] - 1))
    for lines, size in ((cols, box_cols), (rows, box_rows)):
        groups = lines.size // size
        code = code * factorial(groups) * factorial(size) ** groups + _rank_lines(lines, size)
    return code * 2 + int(transposed) if box_rows == box_cols else code


@jit
def dihedral_source(number: int, height: int, width: int, row: int, col: int) -> tuple[int, int]:
    """The cell of a (height, width) grid that dihedral transform `number` moves to (row, col)."""
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
    """Whether dihedral transform `number` swaps height and width."""
    return bool(_TURNED[number] == 1)


@jit
def colour_map(code: int, out: Any) -> None:
    """Write the new colour of every colour 0-9 under ARC augmentation `code` to `out[:10]`."""
    out[0] = 0
    unrank(code // 8, 9, out[1:])
    for colour in range(1, 10):
        out[colour] += 1


def arc_code(dihedral: int, colours: Bytes) -> int:
    """The code of an ARC augmentation; `colours[c]` is the new colour of `c` and `colours[0] == 0`."""
    return dihedral + 8 * int(rank(colours[1:].astype(np.int64) - 1))


def arc_colours(code: int) -> Bytes:
    """The new colour of every colour under ARC augmentation `code`."""
    out = np.empty(10, np.uint8)
    colour_map(code, out)
    return out


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
