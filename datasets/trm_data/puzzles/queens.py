"""Place queens: count the completions of a board, and draw boards with some queens given.

A board of side n has a column per row: `columns[r]` is that of the queen in row r, -1 where none is given. Sets of
columns are bits of one word.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trm_data.jit import Bytes, Ints, below, jit, shuffle, stream

EMPTY, QUEEN = 1, 2
"""Values of a cell; 0 is padding."""
MOST_SIDE = 16
"""Columns fit into a word, and a board of this side is completed at once."""


@jit
def count_completions(columns: Ints, side: int, most: int) -> int:
    """Return in how many ways `side` queens, none of which attacks another, contain the given ones; at most `most`."""
    full = (1 << side) - 1
    taken, left = np.zeros(side + 1, np.int64), np.zeros(side + 1, np.int64)
    right, rest = np.zeros(side + 1, np.int64), np.zeros(side + 1, np.int64)
    allowed = np.full(side, full)
    for row in range(side):
        if columns[row] >= 0:
            allowed[row] = 1 << columns[row]
    rest[0] = allowed[0]
    row, count = 0, 0
    while row >= 0 and count < most:
        if rest[row] == 0:
            row -= 1
            continue
        queen = rest[row] & -rest[row]
        rest[row] ^= queen
        if row + 1 == side:
            count += 1
            continue
        taken[row + 1] = taken[row] | queen
        left[row + 1] = ((left[row] | queen) << 1) & full
        right[row + 1] = (right[row] | queen) >> 1
        row += 1
        rest[row] = allowed[row] & ~(taken[row] | left[row] | right[row])
    return count


@jit
def _fits(columns: Ints, row: int, column: int) -> bool:
    for other in range(row):
        away = columns[other] - column
        if away == 0 or away == row - other or away == other - row:
            return False
    return True


@jit
def _draw(seed: int, index: int, side: int, columns: Ints) -> None:
    """Write a random placement: row after row the first column of a random order that fits, with steps back."""
    state = stream(seed, index)
    orders = np.empty((side, side), np.int64)
    tried = np.zeros(side, np.int64)
    for row in range(side):
        orders[row] = np.arange(side)
        shuffle(state, orders[row])
    row = 0
    while row < side:
        while tried[row] < side and not _fits(columns, row, orders[row, tried[row]]):
            tried[row] += 1
        if tried[row] == side:
            tried[row] = 0
            row -= 1
            tried[row] += 1
            continue
        columns[row] = orders[row, tried[row]]
        row += 1


@jit
def draw_boards(seed: int, count: int, side: int, inputs: Bytes, labels: Bytes) -> int:
    """Write boards (count, L) of which 1 to side / 2 queens are given and that have several completions.

    The given queens are a random part of a random placement, which is the label.

    Returns:
        How many of the `count` draws had several completions: so many rows are written.
    """
    made = 0
    columns, order, given = np.empty(side, np.int64), np.arange(side), np.empty(side, np.int64)
    for index in range(count):
        _draw(seed, index, side, columns)
        state = stream(seed + 1, index)
        shuffle(state, order)
        given[:] = -1
        for i in range(1 + below(state, side // 2)):
            given[order[i]] = columns[order[i]]
        if count_completions(given, side, 2) < 2:
            continue
        inputs[made], labels[made] = EMPTY, EMPTY
        for row in range(side):
            labels[made, row * side + columns[row]] = QUEEN
            if given[row] >= 0:
                inputs[made, row * side + given[row]] = QUEEN
        made += 1
    return made


def columns_of(boards: Bytes, side: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Return (B, side) the column of the queen in each row, -1 without one; and (B) whether a row has several."""
    queens = boards.reshape(-1, side, side) == QUEEN
    columns = np.where(queens.any(2), queens.argmax(2), -1).astype(np.int64)
    return columns, np.asarray((queens.sum(2) > 1).any(1))


def numbers_of_completions(boards: Bytes, side: int) -> NDArray[np.float64]:
    """Return (B) how many completions each board (B, L) has."""
    columns, crowded = columns_of(boards, side)
    found = [0 if bad else count_completions(row, side, 2**62) for row, bad in zip(columns, crowded, strict=True)]
    return np.array(found, np.float64)


def lines(side: int) -> list[tuple[str, Ints]]:
    """Return every row, column and diagonal with its name: the cells of which at most one may hold a queen."""
    cells = np.arange(side * side, dtype=np.int64)
    row, column = cells // side, cells % side
    found = [(f"row {i + 1}", cells[row == i]) for i in range(side)]
    found += [(f"column {i + 1}", cells[column == i]) for i in range(side)]
    for diagonal in (row + column, row - column):
        found += [("one diagonal", cells[diagonal == i]) for i in np.unique(diagonal)]
    return found
