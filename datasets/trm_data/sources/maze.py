"""Read mazes from the generator, or from `train.csv` and `test.csv` with `source,question,answer,rating`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trm_data.benchmarks import Benchmark
from trm_data.config import DataRequest
from trm_data.dataset.schema import Puzzles
from trm_data.errors import DataError
from trm_data.generators.maze import generate
from trm_data.generators.maze_unique import generate_unique
from trm_data.jit import Bytes
from trm_data.puzzles import maze
from trm_data.sources.files import Address
from trm_data.sources.published import draw_pair
from trm_data.sources.tables import Table

Progress = Callable[[str, int, int], None]
_CODES = np.full(256, 0, np.uint8)
_CODES[np.frombuffer(maze.CHARACTERS.encode(), np.uint8)] = np.arange(1, 6)
_CODES[ord(".")] = maze.SPACE


def as_puzzles(
    mazes: Bytes,
    labels: Bytes,
    ratings: NDArray[np.float32],
    ways: NDArray[np.float64],
    sources: list[str],
    splits: Bytes,
    facts: dict[str, object],
) -> Puzzles:
    """Convert encoded mazes to puzzles."""
    count, cells = mazes.shape
    return Puzzles(
        family="maze",
        names=[f"m{i:06d}" for i in range(count)],
        sources=sources,
        ratings=ratings,
        num_solutions=ways,
        puzzle=np.arange(count, dtype=np.int32),
        split=splits,
        inputs=mazes,
        labels=labels,
        shapes=np.full((count, 4), math.isqrt(cells), np.uint8),
        facts=facts,
    )


def generated(request: DataRequest, benchmark: Benchmark, progress: Progress) -> Puzzles:
    """Generate the mazes of a complete request, in the order train, validation, test."""
    assert request.num_train is not None and request.shortest_path is not None
    sizes = [request.num_train, request.num_validation or 0, request.num_test or 0]
    side, total, shortest, longest = benchmark.side, sum(sizes), request.shortest_path, benchmark.longest_path

    def report(done: int) -> None:
        progress("generating mazes", done, total)

    facts: dict[str, object] = {}
    if longest is None:
        made = generate(side, total, shortest, request.build_seed, report)
    else:
        made = generate_unique(side, total, shortest, longest, request.build_seed, report)
        facts["only_path"] = [shortest, longest]
    splits = np.repeat(np.arange(3, dtype=np.uint8), sizes)
    lengths = made.lengths.astype(np.float32)
    return as_puzzles(made.mazes, made.labels, lengths, made.ways, ["generator"] * total, splits, facts)


def _encode(cells: Bytes, table: Table, where: Address) -> Bytes:
    encoded = _CODES[cells]
    bad = np.argwhere(encoded == 0)
    if len(bad):
        at, place = bad[0].tolist()
        raise DataError(
            f"{where}, row {table.line(at)}: character {chr(cells[at, place])!r} at place {place + 1}",
            f"Mazes are written with {maze.CHARACTERS!r}",
        )
    return encoded


def check(
    table: Table, where: Address, only_path: tuple[int, int] | None = None
) -> tuple[Bytes, Bytes, NDArray[np.float64]]:
    """Return encoded mazes, labels as the file has them, and the number of shortest paths.

    Args:
        only_path: least and most edges, where every maze has to have a single shortest path.

    Raises:
        DataError: a maze without start, goal or way; a label that contradicts its maze or is not a shortest path.
    """
    mazes, labels = (_encode(cells, table, where) for cells in (table.questions, table.answers))
    side = math.isqrt(mazes.shape[1])
    _, edges, ways = maze.solve_all(mazes, side)
    changed = np.where(labels == maze.PATH, np.uint8(maze.SPACE), labels)
    for i in range(len(mazes)):
        if edges[i] < 0:
            raise DataError(f"{where}, row {table.line(i)}: the maze has no way from one S to one G", "Remove the row")
        if (changed[i] != mazes[i]).any():
            raise DataError(f"{where}, row {table.line(i)}: the answer is of another maze", "Correct the row")
        if maze.path_length(labels[i], side) != edges[i]:
            raise DataError(f"{where}, row {table.line(i)}: the answer is not a shortest path", "Correct the row")
        if only_path and (ways[i] != 1 or not only_path[0] <= edges[i] <= only_path[1]):
            found = f"{ways[i]:.0f} shortest path{'s' if ways[i] > 1 else ''} of {edges[i]} edges"
            wanted = "not one of {} to {}".format(*only_path)
            raise DataError(
                f"{where}, row {table.line(i)}: {found}, {wanted}", f"Remove the row, or take maze-{side}x{side}"
            )
    return mazes, labels, ways


def published(folder: Address, request: DataRequest, benchmark: Benchmark) -> Puzzles:
    """Return the puzzles of `train.csv` and `test.csv` in a folder; train and validation are drawn from the first.

    Raises:
        DataError: naming file, row and reason; or a maze that is in train and in test.
    """
    side, bounds = benchmark.side, None
    pair, splits, facts = draw_pair(folder, request, side * side)
    if benchmark.shortest_path is not None and benchmark.longest_path is not None:
        bounds = benchmark.shortest_path, benchmark.longest_path
        facts["only_path"] = list(bounds)
    parts = [check(table, folder.join(name), bounds) for name, table in pair.items()]
    mazes, labels, ways = (np.concatenate(column) for column in zip(*parts, strict=True))
    seen: dict[bytes, int] = {}
    for i, row in enumerate(mazes):
        other = seen.setdefault(maze.canonical(row.reshape(side, side)), i)
        if splits[other] != splits[i]:
            raise DataError(f"{folder} leaks: puzzle {other} of one split equals puzzle {i} of another, perhaps turned")
    ratings = np.concatenate([table.ratings for table in pair.values()])
    sources = [name for table in pair.values() for name in table.sources]
    return as_puzzles(mazes, labels, ratings, ways, sources, splits, facts)
