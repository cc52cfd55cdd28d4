"""Frame ARC grids as the models read them, and list the distinct augmentations of a task.

Frame: 30 x 30 cells; padding 0, end marker 1 in the row below and the column right of the grid (where they fit),
colours 2-11.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from trm_data.errors import DataError
from trm_data.jit import Bytes, Ints, Words, i64, jit, mix
from trm_data.puzzles.symmetry import (
    ARC_ORDER,
    DIHEDRAL_INVERSE,
    arc_colours,
    colour_map,
    dihedral,
    dihedral_source,
    is_turned,
)

SIDE = 30
MOST_AUGMENTATIONS = 1000
"""Listed per task, the published number; any prefix can be used."""
_RETRIES = 5  # as published: draws per wanted augmentation before no more are drawn for a task with few colours


def frame(grid: Bytes, row: int = 0, col: int = 0) -> Bytes:
    """Place a (height, width) grid of colours 0-9 in a frame of (900) cells, its upper left corner at (row, col)."""
    height, width = grid.shape
    cells = np.zeros((SIDE, SIDE), np.uint8)
    cells[row : row + height, col : col + width] = grid + 2
    if row + height < SIDE:
        cells[row + height, col : col + width] = 1
    if col + width < SIDE:
        cells[row : row + height, col + width] = 1
    return cells.reshape(-1)


def crop(cells: Bytes) -> Bytes:
    """Crop (900) predicted cells to the largest rectangle of colours at the upper left, as colours 0-9.

    As upstream: of all rectangles from the corner without padding or end marker, the first of greatest area.
    """
    grid = cells.reshape(SIDE, SIDE)
    best, size, width = 0, (0, 0), SIDE
    for height in range(1, SIDE + 1):
        outside = np.flatnonzero((grid[height - 1, :width] < 2) | (grid[height - 1, :width] > 11))
        if outside.size:
            width = int(outside[0])
        if height * width > best:
            best, size = height * width, (height, width)
    return grid[: size[0], : size[1]] - np.uint8(2)


def grid_hash(grid: Bytes) -> str:
    """Return sha256 of height, width (a byte each) and the colours, as upstream."""
    return hashlib.sha256(bytes(grid.shape) + np.ascontiguousarray(grid, np.uint8).tobytes()).hexdigest()


def _zobrist() -> Words:
    generator = np.random.Generator(np.random.Philox(0xA2C))
    return generator.integers(0, 2**64, (2, SIDE + 1, SIDE + 1, 11), np.uint64, endpoint=False)


@jit
def _colour_sums(cells: Bytes, height: int, width: int, zobrist: Words, sums: Words) -> None:
    """Add to sums[t, old, new] the words of all cells of colour `old` moved by t and painted `new`, and of the
    shape."""
    for t in range(8):
        rows, cols = (width, height) if is_turned(t) else (height, width)
        sums[t, 0, :] += zobrist[rows, cols, 10]  # colour 0 always maps to 0, so this is added exactly once
        for r in range(rows):
            for c in range(cols):
                row, col = dihedral_source(t, height, width, r, c)
                old = cells[row * SIDE + col] - 2
                for new in range(10):
                    sums[t, old, new] += zobrist[r, c, new]


@jit
def insert(table: Words, value: np.uint64) -> bool:
    """Add to an open-addressing set of nonzero words; return False if the word was present."""
    slot = i64(value % np.uint64(table.size))
    while table[slot] != 0:
        if table[slot] == value:
            return False
        slot = (slot + 1) % table.size
    table[slot] = value
    return True


@jit
def view_hash(sums: Words, code: int, colours: Ints) -> np.uint64:
    """Return the hash of the multiset of (input, label) pairs of a task seen through augmentation `code`; never 0."""
    colour_map(code, colours)
    total = np.uint64(1)
    for example in range(len(sums)):
        pair = np.uint64(0)
        for old in range(10):
            pair += sums[example, code % 8, old, colours[old]]
        total += mix(np.uint64(1), pair)
    return total | np.uint64(1)


@jit
def _sums(inputs: Bytes, labels: Bytes, shapes: Bytes, zobrist: Words) -> Words:
    sums = np.zeros((len(inputs), 8, 10, 10), np.uint64)
    for e in range(len(inputs)):
        _colour_sums(inputs[e], i64(shapes[e, 0]), i64(shapes[e, 1]), zobrist[0], sums[e])
        _colour_sums(labels[e], i64(shapes[e, 2]), i64(shapes[e, 3]), zobrist[1], sums[e])
    return sums


@jit
def _distinct_codes(sums: Words, key: np.uint64, count: int, out: Words) -> int:
    table = np.zeros(4 * count + 7, np.uint64)
    colours = np.empty(10, np.int64)
    insert(table, view_hash(sums, 0, colours))
    found = 0
    for trial in range(_RETRIES * count):
        code = i64(mix(key, np.uint64(trial)) % np.uint64(ARC_ORDER))
        if insert(table, view_hash(sums, code, colours)):
            out[found] = code
            found += 1
            if found == count:
                break
    return found


_ZOBRIST = _zobrist()


@jit
def pair_keys(inputs: Bytes, labels: Bytes, shapes: Bytes) -> Words:
    """Return (E) a hash of every example that no dihedral transform and no permutation of the colours 1-9 changes."""
    out = np.empty(len(inputs), np.uint64)
    names = np.empty(10, np.int64)
    for e in range(len(inputs)):
        for turn in range(8):
            names[:] = 0
            known = 0
            key = np.uint64(0)
            for part in range(2):
                cells = labels[e] if part else inputs[e]
                height, width = i64(shapes[e, 2 * part]), i64(shapes[e, 2 * part + 1])
                rows, cols = (width, height) if is_turned(turn) else (height, width)
                key = mix(key, np.uint64(rows * SIDE + cols))
                for r in range(rows):
                    for c in range(cols):
                        row, col = dihedral_source(turn, height, width, r, c)
                        colour = cells[row * SIDE + col] - 2
                        if colour > 0 and names[colour] == 0:
                            known += 1
                            names[colour] = known
                        key = mix(key, np.uint64(names[colour]))
            out[e] = key if turn == 0 else min(out[e], key)
    return out


def task_sums(inputs: Bytes, labels: Bytes, shapes: Bytes) -> Words:
    """Return the table from which `view_hash` reads the hash of a task under any augmentation, see `distinct_codes`."""
    return _sums(inputs, labels, shapes, _ZOBRIST)


def distinct_codes(inputs: Bytes, labels: Bytes, shapes: Bytes, key: int, count: int = MOST_AUGMENTATIONS) -> Words:
    """Return up to `count` augmentations of one task, no two alike and none like the original.

    Two are alike if they give the same multiset of (input, label) pairs, judged by 64-bit Zobrist hashes: one table
    per task turns the hash of an augmented example into ten additions. A shorter call gives a prefix of a longer
    one, unless the task has so few colours that draws run out.

    Args:
        inputs, labels: (E, 900) framed at the corner.
        shapes: (E, 4).
        key: seeds the draws.
    """
    out = np.empty(count, np.uint64)
    found = _distinct_codes(task_sums(inputs, labels, shapes), np.uint64(key), count, out)
    return out[:found]


def restore(cells: Bytes, code: int) -> Bytes:
    """Map (900) cells predicted for a task seen through augmentation `code` to the grid of the original task."""
    turned = dihedral(crop(cells), DIHEDRAL_INVERSE[code % 8])
    return np.argsort(arc_colours(code)).astype(np.uint8)[turned]


def as_grid(value: Any, where: str) -> Bytes:
    """Return a checked grid.

    Raises:
        DataError: ragged, empty, above 30x30, or colours outside 0-9.
    """
    try:
        grid = np.array(value)
    except ValueError:
        raise DataError(f"{where}: the grid is ragged", "Every row needs as many cells as the first") from None
    if grid.ndim != 2 or grid.size == 0 or grid.dtype.kind not in "iu":
        raise DataError(f"{where}: the grid is ragged, empty or holds something else than whole numbers")
    if max(grid.shape) > SIDE:
        raise DataError(f"{where}: the grid is {grid.shape[0]}x{grid.shape[1]}, the largest is {SIDE}x{SIDE}")
    if grid.min() < 0 or grid.max() > 9:
        raise DataError(f"{where}: colour {grid.min() if grid.min() < 0 else grid.max()} is outside 0-9")
    return grid.astype(np.uint8)
