"""Mazes: shortest paths, generator, augmentation, published files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm_data import DataRequest, TrainLoader, build, resolve_benchmark, verify
from trm_data.errors import ConfigError, DataError
from trm_data.generators.maze import generate
from trm_data.generators.maze_unique import generate_unique
from trm_data.puzzles import maze
from trm_data.puzzles.augment import dihedral_rows
from trm_data.puzzles.kinds import Examples, kind_of
from trm_data.puzzles.symmetry import DIHEDRAL_INVERSE
from trm_data.sources.files import parse_address
from trm_data.sources.maze import published

MADE = generate(8, 20, 10, 0)


def _cells(*lines: str) -> np.ndarray:
    return np.array([maze.CHARACTERS.index(c) + 1 for c in "".join(lines)], np.uint8)


def _text(cells: np.ndarray) -> str:
    return "".join(maze.CHARACTERS[value - 1] for value in cells)


def _turned(cells: np.ndarray, number: int) -> np.ndarray:
    out = np.empty((1, cells.size), np.uint8)
    dihedral_rows(cells[None], np.array([number], np.uint64), 8, out)
    return out[0]


def _write_pair(folder: Path, train: list[str], test: list[str], header: str = "source,question,answer,rating") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("test", test)):
        (folder / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def _row(index: int, answer: str | None = None) -> str:
    return f"gen,{_text(MADE.mazes[index])},{answer or _text(MADE.labels[index])},{MADE.lengths[index]}"


def test_solved_maze_takes_the_stated_one_of_equally_short_paths() -> None:
    label = np.empty(9, np.uint8)
    edges, ways = maze.solve(_cells("S  ", "   ", "  G"), 3, label)
    assert (edges, ways) == (4, 6.0)
    assert _text(label) == "S  " + "o  " + "ooG"  # down before right


def test_solved_maze_goes_left_where_left_and_right_are_as_short() -> None:
    label = np.empty(25, np.uint8)
    assert maze.solve(_cells("#####", "# S #", "# # #", "# G #", "#####"), 5, label) == (4, 2.0)
    assert _text(label) == "#####" + "#oS #" + "#o# #" + "#oG #" + "#####"


@pytest.mark.parametrize("lines", [("S#G", "###", "   "), ("S  ", "   ", "   "), ("S  ", " S ", "  G")])
def test_maze_without_a_way_from_one_start_to_one_goal_is_unsolvable(lines: tuple[str, ...]) -> None:
    assert maze.solve(_cells(*lines), 3, np.empty(9, np.uint8)) == (-1, 0.0)


def test_path_with_a_detour_or_a_stray_mark_is_not_the_shortest() -> None:
    assert maze.path_length(_cells("S#G", "ooo", "   "), 3) == 4
    assert maze.path_length(_cells("S#G", "o#o", "ooo"), 3) == 6
    assert maze.path_length(_cells("S#G", "ooo", "o  "), 3) == -1
    assert maze.path_length(_cells("S#G", "o o", "   "), 3) == -1


def test_generated_mazes_are_solved_long_enough_and_all_different() -> None:
    assert (MADE.lengths >= 10).all() and (MADE.ways >= 1).all()
    for cells, label, length in zip(MADE.mazes, MADE.labels, MADE.lengths, strict=True):
        assert maze.path_length(label, 8) == length
        assert 64 * 3 // 10 <= (cells == maze.WALL).sum() <= 32
        assert (np.where(label == maze.PATH, maze.SPACE, label) == cells).all()
    assert len({maze.canonical(cells.reshape(8, 8)) for cells in MADE.mazes}) == 20
    assert (generate(8, 5, 10, 0).mazes == MADE.mazes[:5]).all()


def test_generated_mazes_are_those_that_their_fingerprint_names() -> None:
    """Datasets made earlier are found by their request, so the same request must always give the same mazes.

    The second sweep of the sixth of these layouts ends ten edges short of its longest path.
    """
    made = generate(20, 8, 23, 2)
    assert made.lengths.tolist() == [28, 23, 42, 35, 34, 40, 26, 24]
    assert hashlib.sha256(made.mazes.tobytes()).hexdigest()[:16] == "a9aae39e5104b498"


def _paths(cells: np.ndarray, side: int) -> tuple[int, int, list[tuple[int, int]]]:
    """Find length and number of the shortest paths from S to G, and the cells of one, by a plain breadth-first search.

    It shares nothing with the solver of the package.
    """
    grid = cells.reshape(side, side).tolist()
    (start,), (goal,) = ([(r, c) for r in range(side) for c in range(side) if grid[r][c] == mark] for mark in (3, 4))
    away, ways = {start: 0}, {start: 1}
    came: dict[tuple[int, int], tuple[int, int]] = {}
    layer = [start]
    while layer:
        found: list[tuple[int, int]] = []
        for row, col in layer:
            for to in ((row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1)):
                if min(to) < 0 or max(to) >= side or grid[to[0]][to[1]] == 1:
                    continue
                if to not in away:
                    away[to], ways[to], came[to] = away[row, col] + 1, 0, (row, col)
                    found.append(to)
                if away[to] == away[row, col] + 1:
                    ways[to] += ways[row, col]
        layer = found
    between, here = [], came[goal]
    while here != start:
        between.append(here)
        here = came[here]
    return away[goal], ways[goal], between


@pytest.mark.parametrize(
    ("name", "least", "most"), [("maze-unique", 100, 140), ("maze-unique-9x9", 8, 11), ("maze-unique-12x12", 13, 18)]
)
def test_mazes_of_maze_unique_have_exactly_one_shortest_path_of_the_promised_length(
    name: str, least: int, most: int, tmp_path: Path
) -> None:
    counts = {"num_train": 150, "num_validation": 20, "num_test": 150}
    dataset = build(DataRequest(benchmark=name, **counts), tmp_path)
    assert dataset.benchmark == f"{name}-generated" and verify(dataset) == []
    side, lengths = dataset.grid_shape[0], []
    for cells, label in zip(dataset.inputs, dataset.labels, strict=True):
        length, ways, between = _paths(cells, side)
        assert ways == 1 and least <= length <= most
        marked = label.reshape(side, side) == 5
        assert sorted(map(tuple, np.argwhere(marked).tolist())) == sorted(between)
        assert (np.where(label == 5, 2, label) == cells).all()
        lengths.append(length)
    assert min(lengths) < least + (most - least) / 4 and max(lengths) > most - (most - least) / 4
    turns = [
        {np.ascontiguousarray(np.rot90(grid, k)).tobytes() for grid in (square, square.T) for k in range(4)}
        for square in dataset.inputs.reshape(-1, side, side)
    ]
    firsts = [row.tobytes() for row in dataset.inputs]
    assert len({min(views) for views in turns}) == len(firsts) == 320  # no two equal, within splits and between


def test_mazes_of_maze_unique_follow_from_their_seed_and_are_trees() -> None:
    made = generate_unique(30, 6, 100, 140, 7)
    again = generate_unique(30, 3, 100, 140, 7)
    assert (made.mazes[:3] == again.mazes).all()
    assert not (generate_unique(30, 3, 100, 140, 8).mazes == again.mazes).all(1).any()
    for cells in made.mazes.reshape(-1, 30, 30):
        free = cells != maze.WALL
        assert not free[:, [0, 28, 29]].any() and not free[[0, 28, 29]].any()
        assert free[1:28:2, 1:28:2].all() and not free[2:28:2, 2:28:2].any()
        assert free.sum() == 2 * 14 * 14 - 1  # every room, and a passage fewer than rooms: no cycle
    assert hashlib.sha256(made.mazes.tobytes()).hexdigest()[:16] == "e1030639dd8bd09f"


def test_mazes_with_several_paths_or_of_another_length_are_found_by_verify(tmp_path: Path) -> None:
    dataset = build(DataRequest(benchmark="maze-unique-9x9", num_train=3, num_validation=0, num_test=2), tmp_path)
    assert dataset.manifest.facts["only_path"] == [8, 11] and verify(dataset) == []
    for bounds, found in (([8, 11], []), ([12, 12], ["example 0: 1 shortest paths of"]), (["x"], []), (3, [])):
        facts = json.loads((dataset.path / "manifest.json").read_text())
        facts["facts"]["only_path"] = bounds
        (dataset.path / "manifest.json").write_text(json.dumps(facts))
        assert [line[: len("example 0: 1 shortest paths of")] for line in verify(dataset.path)][: len(found)] == found
    square = np.array([[3, 2], [2, 4]], np.uint8).reshape(1, 4)
    label = np.array([[3, 2], [5, 4]], np.uint8).reshape(1, 4)
    ones, zeros = np.ones((1, 4), np.uint8), np.zeros(1, np.int64)
    examples = Examples(
        2, {"only_path": [1, 5]}, ["m"], zeros, zeros, zeros.astype(np.uint8), ("train",), square, label, ones
    )
    assert list(kind_of("maze").faults(examples)) == ["example 0: 2 shortest paths of 2 edges, not one of 1 to 5"]


def test_mazes_of_others_have_one_path_of_the_right_length_in_maze_unique(tmp_path: Path) -> None:
    """A maze 9x9 of others may have several shortest paths, or one of another length than 8 to 11 edges."""
    unique = generate_unique(9, 4, 8, 11, 0)
    rows = [f"gen,{_text(cells)},{_text(label)},1" for cells, label in zip(unique.mazes, unique.labels, strict=True)]
    plain = generate(9, 60, 8, 0)
    several, long = int(np.argmax(plain.ways > 1)), int(np.argmax((plain.ways == 1) & (plain.lengths > 11)))
    request = DataRequest(benchmark="maze-unique-9x9", source=str(tmp_path / "in"), num_train=2)
    for number, message in (
        (several, rf"test.csv, row 3: {plain.ways[several]:.0f} shortest paths of \d+ edges, not one of 8 to 11"),
        (long, rf"test.csv, row 3: 1 shortest path of {plain.lengths[long]} edges, not one of 8 to 11"),
    ):
        bad = f"gen,{_text(plain.mazes[number])},{_text(plain.labels[number])},1"
        _write_pair(tmp_path / "in", rows[:2], [rows[2], bad])
        with pytest.raises(DataError, match=message):
            build(request, tmp_path / "data")
        build(request.model_copy(update={"benchmark": "maze-9x9"}), tmp_path / "data")
    _write_pair(tmp_path / "in", rows[:2], rows[2:])
    dataset = build(request, tmp_path / "data")
    assert dataset.manifest.facts["only_path"] == [8, 11] and verify(dataset) == []


def test_least_length_of_maze_unique_can_be_raised_to_the_longest(tmp_path: Path) -> None:
    request = DataRequest(benchmark="maze-unique-12x12", shortest_path=18, num_train=4, num_validation=0, num_test=2)
    assert {_paths(cells, 12)[0] for cells in build(request, tmp_path).inputs} == {18}
    with pytest.raises(ConfigError, match=r"shortest_path=19 does not exist in maze-unique-12x12: at most 18"):
        build(request.model_copy(update={"shortest_path": 19}), tmp_path)
    for name in ("maze-unique-12x13", "maze-unique-8x8"):
        with pytest.raises(ConfigError, match=f"{name}: mazes are square, of 9 to 60 cells"):
            build(DataRequest(benchmark=name), tmp_path)


def test_generator_gives_up_on_impossible_paths() -> None:
    with pytest.raises(DataError, match="found only 0 of 1 mazes 5x5 with a shortest path of 24 edges"):
        generate(5, 1, 24, 0)


@given(st.integers(0, 19), st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_maze_augmentation_inverts_and_keeps_the_path_shortest(index: int, number: int) -> None:
    cells, label = _turned(MADE.mazes[index], number), _turned(MADE.labels[index], number)
    assert maze.path_length(label, 8) == MADE.lengths[index] == maze.solve(cells, 8, np.empty(64, np.uint8))[0]
    assert (_turned(cells, DIHEDRAL_INVERSE[number]) == MADE.mazes[index]).all()


def test_maze_dataset_serves_all_eight_views_and_no_more(tmp_path: Path) -> None:
    dataset = build(DataRequest(benchmark="maze-8x8", num_train=3, num_validation=0, num_test=2), tmp_path)
    assert (dataset.benchmark, dataset.vocab_size, dataset.num_identifiers(7)) == ("maze-8x8-generated", 6, 1)
    loader = TrainLoader(dataset, batch_size=600, num_augmentations=7, seed=0)
    views = {row.tobytes() for row in loader.fetch(0, np.arange(600)).inputs}
    turned = {_turned(cells, n).tobytes() for cells in dataset.inputs[:3] for n in range(8)}
    assert views == turned
    with pytest.raises(ConfigError, match=r"num_augmentations=8 is not possible .* Take 0 to 7"):
        TrainLoader(dataset, batch_size=1, num_augmentations=8, seed=0)


def test_published_mazes_are_checked_row_by_row(tmp_path: Path) -> None:
    def read(train: list[str], test: list[str]) -> Any:
        folder = _write_pair(tmp_path / "in", train, test)
        return published(parse_address(str(folder)), DataRequest(num_validation=1), resolve_benchmark("maze-8x8"))

    good = read([_row(0), _row(1), _row(2)], [_row(3)])
    assert sorted(good.split.tolist()) == [0, 0, 1, 2]
    assert set(good.num_solutions) == set(MADE.ways[:4])
    cut = _text(MADE.mazes[1])
    bad = {
        "row 3: the answer is not a shortest path": [_row(0), _row(1, cut), _row(2)],
        "row 2: the answer is of another maze": [_row(0, _text(MADE.labels[1])), _row(1), _row(2)],
        "row 4: question has 63 characters instead of 64": [_row(0), _row(1), f"gen,{cut[1:]},{cut},1"],
        "row 4: character 'x' at place 1": [_row(0), _row(1), f"gen,x{cut[1:]},{cut},1"],
    }
    for message, train in bad.items():
        with pytest.raises(DataError, match=message):
            read(train, [_row(3)])
    with pytest.raises(DataError, match="leaks"):
        turned = f"gen,{_text(_turned(MADE.mazes[0], 3))},{_text(_turned(MADE.labels[0], 3))},1"
        read([_row(0), _row(1)], [turned])
