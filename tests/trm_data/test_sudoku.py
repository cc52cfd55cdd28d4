"""Sudoku: solver, rating, generator, canonical forms, symmetries."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm_data.benchmarks import MOST_BLANKS
from trm_data.errors import DataError
from trm_data.generators.sudoku import Distinct, GeneratedSudoku, generate, random_grid
from trm_data.generators.sudoku_hard import generate_hard
from trm_data.jit import stream
from trm_data.puzzles import sudoku, sudoku_forms, symmetry
from trm_data.puzzles.augment import sudoku_rows

SIDES = (4, 6, 9)
MADE = {side: generate(side, 12, blanks, 0) for side, blanks in ((4, 8), (6, 18), (9, 45))}


def _through(side: int, cells: np.ndarray, code: int, inverse: bool = False) -> np.ndarray:
    out = np.empty((1, side * side), np.uint8)
    sudoku_rows(cells[None] + np.uint8(1), np.array([code], np.uint64), side, *sudoku.BOXES[side], inverse, out)
    return out[0] - np.uint8(1)


def _is_valid(side: int, grid: np.ndarray) -> bool:
    return all(sorted(grid[unit]) == list(range(1, side + 1)) for unit in sudoku.shape(side).units)


puzzles = st.sampled_from(SIDES).flatmap(
    lambda side: st.tuples(
        st.just(side),
        st.integers(0, 11),
        st.integers(0, symmetry.sudoku_order(side, *sudoku.BOXES[side]) - 1),
    )
)


@given(puzzles)
@settings(max_examples=150, deadline=None)
def test_sudoku_augmentation_inverts_to_the_identity(case: tuple[int, int, int]) -> None:
    side, index, code = case
    puzzle = MADE[side].puzzles[index]
    assert (_through(side, _through(side, puzzle, code), code, inverse=True) == puzzle).all()


@given(puzzles)
@settings(max_examples=100, deadline=None)
def test_sudoku_augmentation_keeps_a_valid_puzzle_with_one_solution(case: tuple[int, int, int]) -> None:
    side, index, code = case
    puzzle, solution = (_through(side, grid[index], code) for grid in MADE[side][:2])
    found = np.zeros_like(puzzle)
    assert _is_valid(side, solution)
    assert sudoku.solve(puzzle, 2, sudoku.shape(side).units, found)[0] == 1
    assert (found == solution).all()


@given(puzzles)
@settings(max_examples=30, deadline=None)
def test_sudoku_canonical_form_is_the_same_for_equivalent_puzzles(case: tuple[int, int, int]) -> None:
    side, index, code = case
    shape = sudoku.shape(side)[:3]
    puzzle, solution = MADE[side].puzzles[index], MADE[side].solutions[index]
    moved = _through(side, puzzle, code), _through(side, solution, code)
    assert (sudoku_forms.canonical(puzzle, solution, *shape) == sudoku_forms.canonical(*moved, *shape)).all()
    assert sudoku_forms.invariant(puzzle, *shape) == sudoku_forms.invariant(moved[0], *shape)


@pytest.mark.parametrize("side", SIDES)
def test_sudoku_code_zero_is_the_identity(side: int) -> None:
    puzzle = MADE[side].puzzles[0]
    assert (_through(side, puzzle, 0) == puzzle).all()


@pytest.mark.parametrize("side", SIDES)
def test_sudoku_code_survives_decoding(side: int) -> None:
    box_rows, box_cols = sudoku.BOXES[side]
    order = symmetry.sudoku_order(side, box_rows, box_cols)
    rng = np.random.default_rng(1)
    for code in rng.integers(0, order, 50).tolist():
        cells, digits = np.empty(side * side, np.int64), np.empty(side + 1, np.int64)
        symmetry.sudoku_maps(code, side, box_rows, box_cols, cells, digits)
        grid = cells.reshape(side, side)
        turned = box_rows == box_cols and code % 2 == 1
        rows, cols = (grid[0] % side, grid[:, 0] // side) if turned else (grid[:, 0] // side, grid[0] % side)
        if turned:
            rows, cols = grid[:, 0] % side, grid[0] // side
        assert symmetry.sudoku_code(rows, cols, digits, turned, box_rows, box_cols) == code


@pytest.mark.parametrize(("side", "blanks"), [(4, 8), (6, 18), (9, 45)])
def test_generated_sudoku_has_exact_blanks_one_solution_and_no_two_alike(side: int, blanks: int) -> None:
    made = MADE[side]
    shape = sudoku.shape(side)
    assert ((made.puzzles == 0).sum(1) == blanks).all()
    forms = set()
    for puzzle, solution in zip(made.puzzles, made.solutions, strict=True):
        found = np.zeros_like(puzzle)
        assert sudoku.solve(puzzle, 2, shape.units, found)[0] == 1
        assert (found == solution).all() and _is_valid(side, solution)
        assert ((puzzle == 0) | (puzzle == solution)).all()
        forms.add(sudoku_forms.canonical(puzzle, solution, *shape[:3]).tobytes())
    assert len(forms) == len(made.puzzles)


def test_generated_sudoku_has_as_many_blanks_as_are_possible_where_the_last_cell_decides() -> None:
    made = generate(6, 10, MOST_BLANKS[6], 0)
    assert ((made.puzzles == 0).sum(1) == MOST_BLANKS[6]).all()


@pytest.mark.parametrize(
    ("side", "digest"), [(4, "9244fdf27239c046"), (6, "a2fbc03b51184633"), (9, "e5ebd028d7333f25")]
)
def test_random_grids_are_complete_and_those_of_their_seed_in_every_version(side: int, digest: str) -> None:
    """Their first clues are drawn at random, and may contradict each other."""
    grids, units = np.zeros((1000, side * side), np.uint8), sudoku.shape(side).units
    for index, grid in enumerate(grids):
        random_grid(stream(5, index), units, grid)
        assert sudoku.is_complete(grid, units), index
    assert hashlib.sha256(grids.tobytes()).hexdigest()[:16] == digest


def test_generated_sudoku_is_the_same_for_the_same_seed_and_a_prefix_of_a_longer_run() -> None:
    again, other = generate(6, 5, 18, 0), generate(6, 5, 18, 1)
    assert (again.puzzles == MADE[6].puzzles[:5]).all()
    assert (other.puzzles != again.puzzles).any()


@pytest.mark.parametrize("blanks", [0, 17])
def test_generated_sudoku_with_impossible_blanks_says_so(blanks: int) -> None:
    with pytest.raises(DataError, match=r"blanks=.* Take 1 to 11 blanks"):
        generate(4, 1, blanks, 0)


def test_generated_sudoku_ends_when_there_are_not_enough_puzzles() -> None:
    with pytest.raises(DataError, match=r"found only .* of 1000 inequivalent"):
        generate(4, 1000, 1, 0)


def test_solver_counts_no_one_and_many_solutions() -> None:
    shape = sudoku.shape(4)
    grid = np.zeros(16, np.uint8)
    assert sudoku.solve(np.zeros(16, np.uint8), 1000, shape.units, grid)[0] == 288
    assert sudoku.solve(MADE[4].puzzles[0], 2, shape.units, grid)[0] == 1
    clash = MADE[4].puzzles[0].copy()
    clash[:2] = 3
    assert sudoku.solve(clash, 2, shape.units, grid)[0] == 0


def _check_hard(sizes: list[int], rating: int) -> list[GeneratedSudoku]:
    parts = generate_hard(sizes, rating, 0)
    shape = sudoku.shape(9)
    assert [len(part.puzzles) for part in parts] == sizes
    puzzles = np.concatenate([part.puzzles for part in parts])
    solutions = np.concatenate([part.solutions for part in parts])
    assert sudoku.misfit(puzzles, solutions, shape.units) == -1
    assert sudoku.ambiguous(puzzles, shape.units) == -1
    assert min(part.ratings.min() for part in parts) >= rating
    distinct = Distinct(shape)
    names = sudoku_forms.invariants(puzzles, *shape[:3]).tolist()
    assert all(distinct.is_new(*case) for case in zip(puzzles, solutions, names, strict=True))
    return parts


def test_hard_sudoku_is_minimal_unique_hard_and_not_related_across_splits() -> None:
    parts = _check_hard([6, 3, 3], 4)
    units = sudoku.shape(9).units
    for part in parts:
        for puzzle in part.puzzles:
            assert all(sudoku.needs_clue(puzzle, int(cell), units) for cell in np.flatnonzero(puzzle))
    assert (generate_hard([6, 0, 0], 4, 0)[0].puzzles == parts[0].puzzles).all()


@pytest.mark.parametrize(("seed", "digest"), [(0, "a2682edeee6fc216"), (1, "36cdab8f22dce4c4")])
def test_hard_sudoku_are_those_that_their_fingerprint_names(seed: int, digest: str) -> None:
    """Datasets made earlier are found by their request, so the same request must always give the same puzzles."""
    [made, *_] = generate_hard([3, 0, 0], 8, seed)
    assert hashlib.sha256(made.puzzles.tobytes()).hexdigest()[:16] == digest


def test_as_many_hard_sudoku_as_one_search_makes_are_those_of_earlier_versions() -> None:
    """Above 1,250 of a split, several searches share the work, and which ones decides what they find."""
    [made, *_] = generate_hard([1250, 0, 0], 1, 0)
    assert hashlib.sha256(made.puzzles.tobytes()).hexdigest()[:16] == "abe4c2a837a26b96"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_thousand_hard_sudoku_have_a_mean_rating_above_20() -> None:
    parts = _check_hard([1000, 1000, 18_000], 20)
    assert all(part.ratings.mean() > 20 for part in parts)
