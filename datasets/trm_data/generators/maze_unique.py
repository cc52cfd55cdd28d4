"""Generate mazes with exactly one path by the published procedure of Maze-Unique (locuslab/EqR, arXiv 2605.21488).

Rooms lie on the odd rows and columns of the grid; a random depth-first walk opens one passage into every room but the
first, so that any two free cells are joined by exactly one path. The length of the path is drawn uniformly; starts are
drawn, each with all goals at this distance, until there is one. With an even side, the last row and column are walls.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trm_data.generators.maze import GeneratedMazes, collect
from trm_data.jit import Bytes, Ints, Words, below, jit, stream
from trm_data.puzzles import maze

_GRIDS = 200
_STARTS = 200


@jit
def _carve(state: Words, side: int, cells: Bytes, walk: Ints) -> int:
    """Write walls and passages to `cells`; return the number of free cells, which `walk` lists."""
    cells[:] = maze.WALL
    rooms = (side - 1) // 2
    room = below(state, rooms * rooms)
    stack = np.empty(rooms * rooms, np.int64)
    open_rooms = np.empty(4, np.int64)
    cell = (2 * (room // rooms) + 1) * side + 2 * (room % rooms) + 1
    cells[cell] = maze.SPACE
    stack[0], depth = cell, 1
    walk[0], count = cell, 1
    while depth:
        here = stack[depth - 1]
        row, col = here // side, here % side
        choices = 0
        for direction in range(4):
            step = (-2 * side, 2 * side, -2, 2)[direction]
            inside = (row > 1, row < 2 * rooms - 1, col > 1, col < 2 * rooms - 1)[direction]
            if inside and cells[here + step] == maze.WALL:
                open_rooms[choices] = step
                choices += 1
        if not choices:
            depth -= 1
            continue
        step = open_rooms[below(state, choices)]
        for cell in (here + step // 2, here + step):
            cells[cell] = maze.SPACE
            walk[count] = cell
            count += 1
        stack[depth] = here + step
        depth += 1
    return count


@jit
def _unique(seed: int, index: int, side: int, shortest: int, longest: int, cells: Bytes) -> bool:
    """Write maze `index`; False if none with the drawn length was found."""
    state = stream(seed, index)
    length = shortest + below(state, longest - shortest + 1)
    free, away, queue = (
        np.empty(side * side, np.int64),
        np.empty(side * side, np.int64),
        np.empty(side * side, np.int64),
    )
    for _ in range(_GRIDS):
        count = _carve(state, side, cells, free)
        for _ in range(_STARTS):
            start = free[below(state, count)]
            reached = maze.distances(cells, side, start, away, queue)
            first = 0
            while first < reached and away[queue[first]] < length:
                first += 1
            last = first
            while last < reached and away[queue[last]] == length:
                last += 1
            if last > first:
                cells[start], cells[queue[first + below(state, last - first)]] = maze.START, maze.GOAL
                return True
    return False


@jit
def _mazes(
    seed: int, start: int, side: int, shortest: int, longest: int, cells: Bytes, good: NDArray[np.bool_]
) -> None:
    for i in range(len(cells)):
        good[i] = _unique(seed, start + i, side, shortest, longest, cells[i])


def generate_unique(
    side: int,
    count: int,
    shortest: int,
    longest: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> GeneratedMazes:
    """Generate `count` mazes with exactly one path, of `shortest` to `longest` edges, no two equal up to turning and
    mirroring.

    Raises:
        DataError: such mazes are too rare.
    """

    def fill(start: int, cells: Bytes, good: NDArray[np.bool_]) -> None:
        _mazes(seed, start, side, shortest, longest, cells, good)

    return collect(fill, side, count, f"{shortest} to {longest} edges", progress)
