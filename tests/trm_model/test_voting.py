"""Votes over views: undoing augmentations, ranking answers, and the official ARC evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.golden import arrays as official_arrays
from tests.support.golden import numbers as official_numbers
from trm_data.errors import DataError
from trm_data.puzzles.arc import crop, frame, grid_hash
from trm_data.puzzles.augment import dihedral_rows
from trm_data.puzzles.kinds import kind_of
from trm_data.puzzles.symmetry import ARC_ORDER, arc_code, arc_colours, dihedral, parse_augmentation
from trm_model.evaluation.voting import Votes, places, submission


@pytest.fixture(scope="module")
def arc():  # type: ignore[no-untyped-def]
    """(facts, arrays, votes, labels, puzzles, tasks) of the official evaluation."""
    golden = official_numbers()
    facts, names = golden["arc_eval"], golden["arc_builder"][0]["identifiers"]
    arrays = official_arrays("arc_eval")
    trained = arrays["puzzle_identifiers"] > 0
    parsed = [parse_augmentation(names[row]) for row in arrays["puzzle_identifiers"][trained]]
    codes = np.array([code for _, code in parsed], np.uint64)
    inputs = kind_of("arc").undo(arrays["inputs"][trained], codes, 30)
    answers = kind_of("arc").undo(arrays["preds"][trained], codes, 30)
    items: dict[bytes, int] = {}
    tasks: dict[str, list[int]] = {}
    labels: dict[int, bytes] = {}
    puzzles: dict[int, int] = {}
    for number, (name, task) in enumerate(facts["test_puzzles"].items()):
        for pair in task["test"]:
            key = only_grid(pair["input"])
            item = items.setdefault(key, len(items))
            labels[item], puzzles[item] = only_grid(pair["output"]), number
            tasks.setdefault(name, []).append(item)
    votes = Votes()
    numbers = np.array([items[cells.tobytes()] for cells in inputs])
    votes.add(numbers, answers, arrays["q_halt_logits"][trained])
    return facts, votes, labels, puzzles, tasks


def only_grid(grid: list[list[int]]) -> bytes:
    framed = frame(np.array(grid, np.uint8))
    return np.where(framed >= 2, framed, 0).astype(np.uint8).tobytes()


def test_votes_are_ranked_as_the_official_evaluator_ranks_them(arc) -> None:  # type: ignore[no-untyped-def]
    facts, votes, labels, _, tasks = arc
    for key, expected in facts["votes"].items():
        name, label_hash = key.split(":")
        seen = [
            [(grid_hash(crop(np.frombuffer(one.answer, np.uint8)))[:12], one.count) for one in votes.ranking(item)]
            for item in tasks[name]
        ]
        means = [[one.mean_score for one in votes.ranking(item)] for item in tasks[name]]
        wanted = [(name, count) for name, count, _ in expected]
        place = next(
            number
            for number, item in enumerate(tasks[name])
            if label_hash in (grid_hash(crop(np.frombuffer(labels[item], np.uint8)))[:12],) or seen[number] == wanted
        )
        assert seen[place] == wanted
        np.testing.assert_allclose(means[place], [mean for _, _, mean in expected], atol=1e-6)


def test_pass_at_k_is_the_official_one(arc) -> None:  # type: ignore[no-untyped-def]
    facts, votes, labels, puzzles, _ = arc
    items = np.array(sorted(labels))
    place = places(votes, items, np.stack([np.frombuffer(labels[item], np.uint8) for item in items.tolist()]))
    tasks = np.array([puzzles[item] for item in items.tolist()])
    for k in facts["pass_Ks"]:
        shares = [(place[tasks == task] < k).mean() for task in np.unique(tasks)]
        assert np.mean(shares) == pytest.approx(facts["result"][f"ARC/pass@{k}"])


def test_submission_is_the_official_one(arc) -> None:  # type: ignore[no-untyped-def]
    facts, votes, _, _, tasks = arc
    assert submission(votes, tasks, facts["submission_K"]) == facts["submission"]


grids = st.integers(1, 9).flatmap(
    lambda height: st.integers(1, 9).flatmap(
        lambda width: st.lists(st.integers(0, 9), min_size=height * width, max_size=height * width).map(
            lambda cells: np.array(cells, np.uint8).reshape(height, width)
        )
    )
)


@settings(max_examples=60, deadline=None)
@given(grid=grids, turn=st.integers(0, 7), order=st.permutations(range(1, 10)))
def test_undo_inverts_every_arc_augmentation(grid: np.ndarray, turn: int, order: list[int]) -> None:
    code = arc_code(turn, np.array([0, *order], np.uint8))
    seen = frame(arc_colours(code)[dihedral(grid, turn)])
    undone = kind_of("arc").undo(seen[None], np.array([code], np.uint64), 30)[0]
    np.testing.assert_array_equal(crop(undone), grid)


@settings(max_examples=30, deadline=None)
@given(turn=st.integers(0, 7), cells=st.lists(st.integers(1, 5), min_size=64, max_size=64))
def test_undo_inverts_every_turn_of_a_maze(turn: int, cells: list[int]) -> None:
    original, codes = np.array([cells], np.uint8), np.array([turn], np.uint64)
    seen = np.empty_like(original)
    dihedral_rows(original, codes, 8, seen)
    np.testing.assert_array_equal(kind_of("maze").undo(seen, codes, 8), original)


def test_majority_prefers_the_frequent_answer_and_halt_the_confident_one() -> None:
    answers = np.array([[1, 2], [1, 2], [3, 4]], np.uint8)
    for choose, expected in (("majority", [1, 2]), ("halt", [3, 4])):
        votes = Votes(choose)  # type: ignore[arg-type]
        votes.add(np.array([7, 7, 7]), answers, np.array([0.1, 0.2, 5.0]))
        assert votes.answer(7).tolist() == expected


def test_votes_of_several_checkpoints_add_up_and_each_keeps_its_own() -> None:
    one, two, both = Votes(), Votes(), Votes()
    one.add(np.array([7, 7]), np.array([[1, 2], [3, 4]], np.uint8), np.array([1.0, 0.0]))
    two.add(np.array([7, 8]), np.array([[3, 4], [5, 6]], np.uint8), np.array([-1.0, 2.0]))
    both.take(one)
    both.take(two)
    assert both.items == [7, 8]
    assert [(list(c.answer), c.count) for c in both.ranking(7)] == [([3, 4], 2), ([1, 2], 1)]
    assert both.ranking(7)[0].mean_score == pytest.approx((0.5 + 1 / (1 + np.e)) / 2)
    assert [c.count for c in one.ranking(7)] == [1, 1] and two.items == [7, 8]


@pytest.mark.parametrize(
    ("kind", "side", "cells", "code", "message"),
    [
        ("sudoku", 4, np.full((1, 16), 6, np.uint8), 0, "cell value 6 is none of a Sudoku 4x4"),
        ("sudoku", 4, np.ones((1, 9), np.uint8), 0, "are not of 4x4 cells"),
        ("sudoku", 4, np.ones((2, 16), np.uint8), 0, "are not of 4x4 cells"),
        ("sudoku", 4, np.ones((1, 16), np.uint8), 2**40, "is none of the 3072 of sudoku"),
        ("maze", 8, np.ones((1, 64), np.uint8), 8, "augmentation 8 is none of the 8 of dihedral"),
        ("arc", 30, np.ones((1, 900), np.uint8), ARC_ORDER, f"augmentation {ARC_ORDER} is none of the"),
        ("arc", 30, np.ones((1, 100), np.uint8), 0, "are not of 30x30 cells"),
        ("arc", 10, np.ones((1, 100), np.uint8), 0, "ARC answers have 30x30 cells, not 10x10"),
    ],
)
def test_answers_out_of_range_are_refused(kind: str, side: int, cells: np.ndarray, code: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        kind_of(kind).undo(cells, np.array([code], np.uint64), side)


def test_submission_of_answers_that_are_no_arc_grids_is_refused() -> None:
    votes = Votes()
    votes.add(np.array([0]), np.full((1, 16), 3, np.uint8), np.array([1.0]))
    with pytest.raises(DataError, match="an answer of 16 cells is not an ARC answer"):
        submission(votes, {"task": [0]})


@pytest.mark.parametrize(("family", "side"), [("sudoku", 4), ("maze", 4)])
def test_answers_of_another_size_are_refused(family: str, side: int) -> None:
    good, bad = np.ones((2, 16), np.uint8), np.ones((2, 9), np.uint8)
    with pytest.raises(DataError, match=r"rows of shape \(2, 9\) are not 2 grids of 4x4 cells"):
        kind_of(family).valid(bad, bad, bad, side)
    if family == "maze":
        with pytest.raises(DataError, match=r"rows of shape \(2, 9\) are not 2 grids"):
            kind_of(family).valid(good, good, bad, side)
