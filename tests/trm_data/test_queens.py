"""N-Queens: boards, labels, counts and verdicts, compared with a solver of this file that tries every placement."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from trm_data import DataRequest, Dataset, build, export_official, import_official, verify
from trm_data.dataset.schema import read_table
from trm_data.errors import DataError
from trm_data.puzzles.kinds import kind_of
from trm_data.puzzles.queens import count_completions

QUEENS = kind_of("n-queens")


@cache
def placements(side: int) -> list[tuple[int, ...]]:
    """The column of the queen in each row, by trying all permutations."""
    return [
        columns
        for columns in permutations(range(side))
        if len({row + column for row, column in enumerate(columns)}) == side
        and len({row - column for row, column in enumerate(columns)}) == side
    ]


def board(columns: tuple[int, ...], rows: set[int] | None = None) -> np.ndarray:
    cells = np.ones((len(columns), len(columns)), np.uint8)
    for row, column in enumerate(columns):
        if rows is None or row in rows:
            cells[row, column] = 2
    return cells.reshape(-1)


def completions(cells: np.ndarray, side: int) -> list[np.ndarray]:
    return [full for full in map(board, placements(side)) if (full[cells == 2] == 2).all()]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    request = DataRequest(benchmark="n-queens-8", num_train=60, num_validation=10, num_test=30)
    return build(request, tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(("side", "known"), [(4, 2), (5, 10), (6, 4), (7, 40), (8, 92), (9, 352), (10, 724)])
def test_empty_board_has_the_known_number_of_placements(side: int, known: int) -> None:
    assert count_completions(np.full(side, -1), side, 10**6) == known
    if side < 9:
        assert len(placements(side)) == known
    assert count_completions(np.full(side, -1), side, 2) == 2


def test_given_queens_have_the_completions_that_an_independent_solver_finds(dataset: Dataset) -> None:
    numbers = QUEENS.num_solutions(dataset.inputs, 8)
    assert numbers is not None
    for cells, label, number in zip(dataset.inputs, dataset.labels, numbers, strict=True):
        solutions = completions(cells, 8)
        assert len(solutions) == number >= 2 and any((label == one).all() for one in solutions)
        assert 1 <= (cells == 2).sum() <= 4
    stored = read_table(dataset.path / "puzzles.arrow").column("num_solutions")
    assert stored.to_pylist() == numbers.tolist()
    assert verify(dataset) == [] and len(set(QUEENS.keys(dataset.inputs, 8))) == 100


def test_any_placement_with_the_given_queens_is_valid_and_nothing_else(dataset: Dataset) -> None:
    for cells in dataset.inputs[:20]:
        answers = np.stack([board(columns) for columns in placements(8)])
        repeated = np.repeat(cells[None], len(answers), axis=0)
        valid = QUEENS.valid(repeated, answers, answers, 8)
        assert valid is not None and valid.tolist() == [bool((one[cells == 2] == 2).all()) for one in answers]
    rng = np.random.default_rng(0)
    empty = np.ones((500, 36), np.uint8)
    guesses = np.stack([board(tuple(rng.permutation(6))) for _ in range(500)])
    known = {board(columns).tobytes() for columns in placements(6)}
    found = QUEENS.valid(empty, guesses, guesses, 6)
    assert found is not None and found.tolist() == [guess.tobytes() in known for guess in guesses]
    padded = board(placements(6)[0])
    padded[np.flatnonzero(padded == 1)[0]] = 0
    assert not QUEENS.valid(empty[:1], padded[None], padded[None], 6).any(), "padding is no empty square"  # type: ignore[union-attr]


def test_answer_that_is_wrong_says_why() -> None:
    full = board(placements(6)[0])
    given = board(placements(6)[0], {0})
    assert "given queen in row 1, column 2 is missing" in QUEENS.problem(given, np.ones(36, np.uint8), 6)
    assert QUEENS.problem(np.ones(36, np.uint8), np.where(np.arange(36) < 6, 1, full), 6) == "5 queens instead of 6"
    row = np.ones(36, np.uint8)
    row[[0, 3]] = 2
    assert QUEENS.problem(np.ones(36, np.uint8), row, 6) == "two queens are in row 1"


def test_board_is_read_and_refused_if_nothing_completes_it() -> None:
    text = "Q.......\n" + "........\n" * 7
    (question,) = QUEENS.read(text, 8)
    assert QUEENS.write(question.cells, 8) == text.split()
    assert QUEENS.read(text.replace("\n", ""), 8)[0].cells.tolist() == question.cells.tolist()
    for wrong, words in (("QQ" + text[2:], "has no solution"), (text[9:], "not a n-queens puzzle of 8x8")):
        with pytest.raises(DataError, match=words):
            QUEENS.read(wrong, 8)


def test_symmetries_keep_validity_and_are_undone(dataset: Dataset) -> None:
    codes = np.arange(8, dtype=np.uint64)
    rows = np.zeros(8, np.int64)
    inputs, labels = QUEENS.view(dataset.inputs, dataset.labels, dataset.shapes, rows, codes, codes, 8)
    valid = QUEENS.valid(inputs, labels, labels, 8)
    assert valid is not None and valid.all()
    assert (QUEENS.undo(labels, codes, 8) == dataset.labels[0]).all()


def test_exported_boards_are_imported_with_their_symmetries(dataset: Dataset, tmp_path: Path) -> None:
    export_official(dataset, tmp_path / "official", 7)
    again = import_official(tmp_path / "official", tmp_path / "data")
    trained = np.concatenate([dataset.rows("train", "validation"), dataset.rows("test")])
    assert (again.inputs == dataset.inputs[trained]).all() and (again.labels == dataset.labels[trained]).all()
    assert again.counts == {"train": 70, "validation": 0, "test": 30} and again.kind.name == "n-queens"
    assert again.num_copies(7)[:70].tolist() == [7] * 70 and verify(again) == []
    cells = np.load(tmp_path / "official/train/all__labels.npy", allow_pickle=False)
    cells[1] = cells[8]
    np.save(tmp_path / "official/train/all__labels.npy", cells)
    with pytest.raises(DataError, match="row 1: no symmetry makes it from the first copy"):
        import_official(tmp_path / "official", tmp_path / "data")


def test_more_boards_than_there_are_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gives only 2\d\d different puzzles, and 400 are asked for"):
        build(DataRequest(benchmark="n-queens-8", num_train=300, num_validation=0, num_test=100), tmp_path)
    assert not list(tmp_path.iterdir())


def test_seed_decides_the_boards(tmp_path: Path, dataset: Dataset) -> None:
    request = dataset.manifest.request
    assert build(request, tmp_path).inputs.tobytes() == dataset.inputs.tobytes()
    other = build(request.model_copy(update={"build_seed": 1}), tmp_path)
    assert other.inputs.tobytes() != dataset.inputs.tobytes()
