"""Generate mazes by the published procedure: random walls, random pairs of start and goal, kept if the path is long.

The number of walls is uniform between 30 and 50 % of the cells and their places are uniform; up to 100 pairs of free
cells are tried per layout, and a layout gives at most one maze. Long paths are rare (one layout in a thousand for 110
edges in 30x30), so a layout is abandoned after two searches if the diameter of a random component is far too short.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trm_data.errors import DataError
from trm_data.jit import Bytes, Ints, below, jit, stream
from trm_data.puzzles import maze

_PAIRS = 100
_CHUNK = 2048
_SLACK = 10  # the second of two sweeps ends a few edges short of the diameter at worst


class GeneratedMazes(NamedTuple):
    """Hold generated mazes, one per row, encoded."""

    mazes: Bytes
    labels: Bytes
    lengths: Ints
    """Edges of the shortest path."""
    ways: NDArray[np.float64]
    """Number of shortest paths."""


@jit
def _layout(seed: int, index: int, side: int, shortest: int, cells: Bytes) -> bool:
    """Write the maze of layout `index`; False if it has none with a path of at least `shortest` edges."""
    state = stream(seed, index)
    size = side * side
    order = np.arange(size)
    walls = size * 3 // 10 + below(state, size // 2 - size * 3 // 10 + 1)
    cells[:] = maze.SPACE
    for i in range(walls):  # the first steps of a Fisher-Yates shuffle choose the walls
        j = i + below(state, size - i)
        order[i], order[j] = order[j], order[i]
        cells[order[i]] = maze.WALL
    free = order[walls:]
    away = np.empty(size, np.int64)
    queue = np.empty(size, np.int64)
    far = queue[maze.distances(cells, side, free[below(state, free.size)], away, queue) - 1]
    if away[far] * 2 < shortest:
        return False  # a diameter is at most twice any eccentricity
    last = queue[maze.distances(cells, side, far, away, queue) - 1]
    if away[last] < shortest - _SLACK:
        return False
    for _ in range(_PAIRS):
        start, goal = free[below(state, free.size)], free[below(state, free.size)]
        maze.distances(cells, side, start, away, queue)
        if away[goal] >= shortest:
            cells[start], cells[goal] = maze.START, maze.GOAL
            return True
    return False


@jit
def _layouts(seed: int, start: int, side: int, shortest: int, cells: Bytes, good: NDArray[np.bool_]) -> None:
    for i in range(len(cells)):
        good[i] = _layout(seed, start + i, side, shortest, cells[i])


def generate(
    side: int, count: int, shortest: int, seed: int, progress: Callable[[int], None] = lambda done: None
) -> GeneratedMazes:
    """Generate `count` mazes whose shortest path has at least `shortest` edges, no two equal up to turning and
    mirroring.

    Raises:
        DataError: such mazes are too rare.
    """

    def fill(start: int, cells: Bytes, good: NDArray[np.bool_]) -> None:
        _layouts(seed, start, side, shortest, cells, good)

    return collect(fill, side, count, f"{shortest} edges", progress)


def collect(
    fill: Callable[[int, Bytes, NDArray[np.bool_]], None],
    side: int,
    count: int,
    path: str,
    progress: Callable[[int], None],
) -> GeneratedMazes:
    """Return `count` mazes of a generator, solved, no two equal up to turning and mirroring.

    Args:
        fill: writes the mazes from a number on into rows of cells, and whether each is one.
        path: the length of a path, for an error.

    Raises:
        DataError: such mazes are too rare.
    """
    kept: dict[bytes, Bytes] = {}
    start, tried_since = 0, 0
    while len(kept) < count:
        cells = np.empty((_CHUNK, side * side), np.uint8)
        good = np.empty(_CHUNK, bool)
        fill(start, cells, good)
        start += _CHUNK
        before = len(kept)
        for row in cells[good]:
            kept.setdefault(maze.canonical(row.reshape(side, side)), row)
        progress(min(len(kept), count))
        tried_since = tried_since + _CHUNK if len(kept) == before else 0
        if tried_since > 400 * _CHUNK:
            raise DataError(
                f"found only {len(kept)} of {count} mazes {side}x{side} with a shortest path of {path}",
                "Ask for fewer mazes or a shorter path",
            )
    mazes = np.stack(list(kept.values())[:count])
    return GeneratedMazes(mazes, *maze.solve_all(mazes, side))
