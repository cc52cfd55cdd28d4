"""Apply augmentations to whole batches of rows. Every kernel writes into rows that the caller owns."""

from __future__ import annotations

import numpy as np

from trm_data.jit import Bytes, Ints, Words, i64, jit
from trm_data.puzzles.arc import SIDE
from trm_data.puzzles.symmetry import colour_map, dihedral_source, is_turned, sudoku_maps


@jit
def sudoku_rows(cells: Bytes, codes: Words, side: int, box_rows: int, box_cols: int, inverse: bool, out: Bytes) -> None:
    """Write to out[b] the cells[b] seen through Sudoku symmetry codes[b], or its inverse.

    Args:
        cells, out: (B, side * side), encoded: 1 = blank, 2.. = digits; 0 (padding) stays.
        codes: (B).
    """
    places = np.empty(side * side, np.int64)
    digits = np.empty(side + 1, np.int64)
    paint = np.zeros(side + 2, np.uint8)
    for b in range(len(cells)):
        sudoku_maps(i64(codes[b]), side, box_rows, box_cols, places, digits)
        for d in range(side + 1):
            if inverse:
                paint[digits[d] + 1] = d + 1
            else:
                paint[d + 1] = digits[d] + 1
        for cell in range(side * side):
            if inverse:
                out[b, places[cell]] = paint[cells[b, cell]]
            else:
                out[b, cell] = paint[cells[b, places[cell]]]


@jit
def sudoku_pairs(
    inputs: Bytes,
    labels: Bytes,
    rows: Ints,
    codes: Words,
    side: int,
    box_rows: int,
    box_cols: int,
    out: Bytes,
    out_labels: Bytes,
) -> None:
    """Write examples `rows` of (E, side * side) inputs and labels, seen through `codes`, to (B, side * side)."""
    places = np.empty(side * side, np.int64)
    digits = np.empty(side + 1, np.int64)
    for b in range(rows.size):
        sudoku_maps(i64(codes[b]), side, box_rows, box_cols, places, digits)
        for cell in range(side * side):
            out[b, cell] = digits[inputs[rows[b], places[cell]] - 1] + 1
            out_labels[b, cell] = digits[labels[rows[b], places[cell]] - 1] + 1


@jit
def dihedral_rows(cells: Bytes, codes: Words, side: int, out: Bytes) -> None:
    """Write to out[b] the square grid cells[b], transformed by dihedral transform codes[b]."""
    for b in range(len(cells)):
        for r in range(side):
            for c in range(side):
                row, col = dihedral_source(i64(codes[b]), side, side, r, c)
                out[b, r * side + c] = cells[b, row * side + col]


@jit
def _place(cells: Bytes, height: int, width: int, turn: int, paint: Bytes, top: int, left: int, out: Bytes) -> None:
    """Transform one framed grid and write it at (top, left), with its end markers."""
    rows, cols = (width, height) if is_turned(turn) else (height, width)
    out[:] = 0
    for r in range(rows):
        for c in range(cols):
            row, col = dihedral_source(turn, height, width, r, c)
            out[(top + r) * SIDE + left + c] = paint[cells[row * SIDE + col]]
    if top + rows < SIDE:
        out[(top + rows) * SIDE + left : (top + rows) * SIDE + left + cols] = 1
    if left + cols < SIDE:
        for r in range(rows):
            out[(top + r) * SIDE + left + cols] = 1


@jit
def arc_rows(
    inputs: Bytes, labels: Bytes, shapes: Bytes, rows: Ints, codes: Words, places: Words, out: Bytes, out_labels: Bytes
) -> None:
    """Write examples `rows` seen through `codes`, moved jointly by a random word each.

    Args:
        inputs, labels: (E, 900), framed at the corner; shapes: (E, 4).
        rows, codes, places: (B). A word of 0 leaves the example in the corner; otherwise its halves choose the offset,
            uniformly among those at which both grids fit.
        out, out_labels: (B, 900), written.
    """
    colours = np.empty(10, np.int64)
    paint = np.zeros(12, np.uint8)
    paint[1] = 1
    for b in range(rows.size):
        code = i64(codes[b])
        e, turn = rows[b], code % 8
        colour_map(code, colours)
        for colour in range(10):
            paint[colour + 2] = colours[colour] + 2
        height, width = i64(max(shapes[e, 0], shapes[e, 2])), i64(max(shapes[e, 1], shapes[e, 3]))
        if is_turned(turn):
            height, width = width, height
        top, left = 0, 0
        if places[b]:
            top = i64((places[b] >> np.uint64(32)) % np.uint64(SIDE - height + 1))
            left = i64((places[b] & np.uint64(0xFFFFFFFF)) % np.uint64(SIDE - width + 1))
        _place(inputs[e], i64(shapes[e, 0]), i64(shapes[e, 1]), turn, paint, top, left, out[b])
        _place(labels[e], i64(shapes[e, 2]), i64(shapes[e, 3]), turn, paint, top, left, out_labels[b])


@jit
def arc_extent(cells: Bytes) -> tuple[int, int]:
    """Return height and width of the largest rectangle of colours at the upper left of a (900) answer."""
    best, best_height, best_width, width = 0, 0, 0, SIDE
    for height in range(1, SIDE + 1):
        for col in range(width):
            cell = cells[(height - 1) * SIDE + col]
            if cell < 2 or cell > 11:
                width = col
                break
        if height * width > best:
            best, best_height, best_width = height * width, height, width
    return best_height, best_width


@jit
def undo_arc(cells: Bytes, codes: Words, out: Bytes) -> None:
    """Crop each answer, undo its colours and turn, and frame it at the corner; end markers are left out."""
    colours = np.empty(10, np.int64)
    paint = np.zeros(12, np.uint8)
    for b in range(len(cells)):
        colour_map(i64(codes[b]), colours)
        for colour in range(10):
            paint[colours[colour] + 2] = colour + 2
        height, width = arc_extent(cells[b])
        turn = i64(codes[b]) % 8
        if turn == 1 or turn == 3:
            turn = 4 - turn  # the quarter turns undo each other, the others undo themselves
        rows, cols = (width, height) if is_turned(turn) else (height, width)
        out[b] = 0
        for r in range(rows):
            for c in range(cols):
                row, col = dihedral_source(turn, height, width, r, c)
                out[b, r * SIDE + c] = paint[cells[b, row * SIDE + col]]
