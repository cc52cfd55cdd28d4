"""Solve mazes: shortest paths, their number, and the one that is the label. Cells are encoded as upstream.

    # wall 1,  space 2,  S start 3,  G goal 4,  o path 5   (0 is padding)

Of equally short paths the label takes, from the start on, the first of up, down, left, right that comes closer to
the goal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trm_data.jit import Bytes, Ints, jit

CHARACTERS = "# SGo"
WALL, SPACE, START, GOAL, PATH = 1, 2, 3, 4, 5
_UNREACHED = -1


@jit
def neighbour(cell: int, direction: int, side: int) -> int:
    """Return the cell above, below, left or right (0-3) of `cell`, or -1 outside the grid."""
    if direction == 0:
        return cell - side if cell >= side else -1
    if direction == 1:
        return cell + side if cell < side * (side - 1) else -1
    if direction == 2:
        return cell - 1 if cell % side else -1
    return cell + 1 if cell % side < side - 1 else -1


@jit
def distances(cells: Bytes, side: int, source: int, out: Ints, queue: Ints) -> int:
    """Compute breadth-first distances from `source` over all cells except walls; -1 for unreachable cells.

    Returns:
        How many cells it reaches: so many entries of `queue` hold them, nearest first.
    """
    out[:] = _UNREACHED
    out[source] = 0
    queue[0] = source
    head, tail = 0, 1
    while head < tail:
        cell = queue[head]
        head += 1
        for direction in range(4):
            to = neighbour(cell, direction, side)
            if to >= 0 and cells[to] != WALL and out[to] == _UNREACHED:
                out[to] = out[cell] + 1
                queue[tail] = to
                tail += 1
    return tail


@jit
def _find(cells: Bytes, value: int) -> int:
    found = -1
    for cell in range(cells.size):
        if cells[cell] == value:
            if found >= 0:
                return -2
            found = cell
    return found


@jit
def solve(cells: Bytes, side: int, label: Bytes) -> tuple[int, float]:
    """Write the labelled maze to `label`.

    Args:
        cells: (side * side), without a path.

    Returns:
        (edges of the shortest path, number of shortest paths); (-1, 0) without one start, one goal and a path.
    """
    start, goal = _find(cells, START), _find(cells, GOAL)
    label[:] = cells
    if start < 0 or goal < 0:
        return -1, 0.0
    away = np.empty(cells.size, np.int64)
    queue = np.empty(cells.size, np.int64)
    reached = distances(cells, side, goal, away, queue)
    if away[start] < 0:
        return -1, 0.0
    ways = np.zeros(cells.size)
    ways[goal] = 1.0
    for cell in queue[1:reached]:  # nearest first, so the ways of nearer cells are known
        for direction in range(4):
            to = neighbour(cell, direction, side)
            if to >= 0 and away[to] == away[cell] - 1:
                ways[cell] += ways[to]
    here = start
    while away[here] > 1:
        for direction in range(4):
            to = neighbour(here, direction, side)
            if to >= 0 and away[to] == away[here] - 1:
                here = to
                break
        label[here] = PATH
    return int(away[start]), float(ways[start])


@jit
def path_length(label: Bytes, side: int) -> int:
    """Return the number of edges of a labelled maze's path, or -1 if its marks do not form one path from start to
    goal.

    Marks outside the path make it invalid, and so does a path through a wall.
    """
    start, goal = _find(label, START), _find(label, GOAL)
    if start < 0 or goal < 0:
        return -1
    marked = 0
    for cell in range(label.size):
        marked += label[cell] == PATH
    only = np.full(label.size, WALL, np.uint8)
    for cell in range(label.size):
        if label[cell] == PATH or cell in (start, goal):
            only[cell] = SPACE
    away = np.empty(label.size, np.int64)
    queue = np.empty(label.size, np.int64)
    distances(only, side, start, away, queue)
    return marked + 1 if away[goal] == marked + 1 else -1


@jit
def solve_all(mazes: Bytes, side: int) -> tuple[Bytes, Ints, NDArray[np.float64]]:
    """Solve every row: labels (N, side * side), edges (N), number of shortest paths (N, float64)."""
    labels = np.empty_like(mazes)
    edges = np.empty(len(mazes), np.int64)
    ways = np.empty(len(mazes), np.float64)
    for i in range(len(mazes)):
        edges[i], ways[i] = solve(mazes[i], side, labels[i])
    return labels, edges, ways


def canonical(maze: Bytes) -> bytes:
    """Return the least of the eight dihedral views of a maze (side, side)."""
    turns = [np.rot90(grid, k) for grid in (maze, maze.T) for k in range(4)]
    return min(np.ascontiguousarray(turn).tobytes() for turn in turns)
