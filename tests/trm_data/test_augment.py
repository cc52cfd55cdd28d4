"""Symmetries of Sudoku by hand: expected grids are written out, not computed by the code under test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trm_data import DataRequest, Dataset, build, eval_batches, export_official, import_official
from trm_data.errors import ConfigError
from trm_data.puzzles.augment import dihedral_rows, sudoku_rows
from trm_data.puzzles.kinds import kind_of
from trm_data.puzzles.symmetry import sudoku_code

#  Digits as in the data: 1 is a blank, 2 to 5 stand for the digits 1 to 4.
GRID = np.array([[2, 3, 4, 5], [4, 5, 2, 3], [3, 2, 5, 4], [5, 4, 3, 1]], np.uint8)
IDENTITY, DIGITS = np.arange(4), np.arange(5)

Case = tuple[np.ndarray, np.ndarray, np.ndarray, bool, list[list[int]]]
CASES: dict[str, Case] = {
    "row 1 comes from row 3, a cycle of bands with rows turned": (
        np.array([2, 3, 1, 0]),
        IDENTITY,
        DIGITS,
        False,
        [[3, 2, 5, 4], [5, 4, 3, 1], [4, 5, 2, 3], [2, 3, 4, 5]],
    ),
    "columns": (
        IDENTITY,
        np.array([3, 2, 0, 1]),
        DIGITS,
        False,
        [[5, 4, 2, 3], [3, 2, 4, 5], [4, 5, 3, 2], [1, 3, 5, 4]],
    ),
    "digits 1 to 2 to 3 to 1": (
        IDENTITY,
        IDENTITY,
        np.array([0, 2, 3, 1, 4]),
        False,
        [[3, 4, 2, 5], [2, 5, 3, 4], [4, 3, 5, 2], [5, 2, 4, 1]],
    ),
    "transposed": (IDENTITY, IDENTITY, DIGITS, True, [[2, 4, 3, 5], [3, 5, 2, 4], [4, 2, 5, 3], [5, 3, 4, 1]]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_sudoku_symmetry_in_both_directions(case: Case) -> None:
    rows, cols, digits, transposed, expected = case
    code = np.array([sudoku_code(rows, cols, digits, transposed, 2, 2)], np.uint64)
    out = np.empty((1, 16), np.uint8)
    sudoku_rows(GRID.reshape(1, 16), code, 4, 2, 2, False, out)
    assert out.reshape(4, 4).tolist() == expected
    back = np.empty((1, 16), np.uint8)
    sudoku_rows(np.array(expected, np.uint8).reshape(1, 16), code, 4, 2, 2, True, back)
    assert back.reshape(4, 4).tolist() == GRID.tolist()


def test_answer_to_an_augmented_sudoku_is_undone_to_the_original() -> None:
    """The puzzle was seen through the cycle; the answer to what was seen is the answer to the original."""
    rows, cols, digits, transposed, expected = CASES["row 1 comes from row 3, a cycle of bands with rows turned"]
    code = np.array([sudoku_code(rows, cols, digits, transposed, 2, 2)], np.uint64)
    undone = kind_of("sudoku").undo(np.array(expected, np.uint8).reshape(1, 16), code, 4)
    assert undone.reshape(4, 4).tolist() == GRID.tolist()


TURNS: list[Callable[[list[list[int]]], list[list[int]]]] = [
    lambda g: g,
    lambda g: [[row[c] for row in g] for c in (2, 1, 0)],  # counterclockwise: the last column becomes the first row
    lambda g: [row[::-1] for row in g[::-1]],
    lambda g: [[row[c] for row in g[::-1]] for c in (0, 1, 2)],
    lambda g: [row[::-1] for row in g],
    lambda g: g[::-1],
    lambda g: [[row[c] for row in g] for c in (0, 1, 2)],
    lambda g: [[row[c] for row in g[::-1]] for c in (2, 1, 0)],
]


@pytest.mark.parametrize("number", range(8))
def test_dihedral_transform_and_its_undoing(number: int) -> None:
    grid = [[1, 2, 3], [4, 5, 1], [2, 3, 4]]
    out = np.empty((1, 9), np.uint8)
    code = np.array([number], np.uint64)
    dihedral_rows(np.array(grid, np.uint8).reshape(1, 9), code, 3, out)
    assert out.reshape(3, 3).tolist() == TURNS[number](grid)
    assert kind_of("maze").undo(out, code, 3).reshape(3, 3).tolist() == grid


def imported(benchmark: str, folder: Path, augmentations: int) -> tuple[Dataset, Dataset]:
    """A generated dataset, and what comes back from its official form."""
    request = DataRequest(benchmark=benchmark, num_train=6, num_validation=0, num_test=5)
    source = build(request, folder / "source")
    export_official(source, folder / "official", augmentations)
    return source, import_official(folder / "official", folder / "data")


@pytest.mark.parametrize("benchmark", ["sudoku-4x4", "maze-8x8"])
def test_test_puzzles_of_an_imported_dataset_have_all_views(benchmark: str, tmp_path: Path) -> None:
    """They have no copies in the official form, which only augments for training."""
    _, dataset = imported(benchmark, tmp_path, 2)
    batch = next(eval_batches(dataset, "test", 100, num_augmentations=6))
    assert np.bincount(batch.items).tolist() == [7] * 5
    originals = batch.inputs[batch.copies == 0]
    assert (originals == dataset.inputs[dataset.rows("test")]).all()
    undone = dataset.kind.undo(batch.inputs, batch.codes, dataset.grid_shape[0])
    assert (undone == originals[batch.items]).all()
    distinct = {row.tobytes() for row in batch.inputs}
    assert len(distinct) > 5 * 5, "nearly all views differ"


def test_views_of_an_imported_dataset_equal_those_of_its_source(tmp_path: Path) -> None:
    source, dataset = imported("sudoku-6x6", tmp_path, 2)
    one, two = (next(eval_batches(each, "test", 100, num_augmentations=4)) for each in (source, dataset))
    assert (one.codes == two.codes).all() and (one.inputs == two.inputs).all()


def test_more_views_than_a_maze_has_symmetries_are_refused(tmp_path: Path) -> None:
    for dataset in imported("maze-8x8", tmp_path, 3):
        assert len(list(eval_batches(dataset, "test", 100, num_augmentations=7))) == 1
        with pytest.raises(ConfigError, match=r"no 8 augmented views of a puzzle\. Take 0 to 7"):
            eval_batches(dataset, "test", 100, num_augmentations=8)
