"""Evaluation apart from training: depth, halting, views, rollouts, validity, ARC scores and submissions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model_train import tiny

from trm_data import Dataset, build
from trm_data.config import DataRequest
from trm_data.errors import ConfigError
from trm_data.maze import CHARACTERS
from trm_model.config import EvaluationConfig, ModelConfig
from trm_model.evaluate import evaluate, unpack_items
from trm_model.recursion import Model, build_model
from trm_model.valid import valid_maze, valid_sudoku
from trm_model.vote import undo


@pytest.fixture(scope="module")
def sudoku(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(tiny().data.request(), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(sudoku: Dataset) -> Model:
    return build_model(tiny().model, vocab_size=sudoku.vocab_size, seq_len=sudoku.seq_len, num_identifiers=1, seed=3)


def score(model: Model, dataset: Dataset, **evaluation: Any) -> dict[str, float]:
    return evaluate(model, dataset, "test", EvaluationConfig.parse(evaluation)).metrics


def test_outcomes_are_per_item_and_survive_packing_and_arrow(sudoku: Dataset, model: Model, tmp_path: Path) -> None:
    result = evaluate(model, sudoku, "test", EvaluationConfig(batch_size=3))
    assert result.items == sudoku.counts["test"]
    assert (unpack_items(result.per_item, result.items) == result.exact).all()
    result.write(tmp_path / "outcomes.arrow")
    with pa.memory_map(str(tmp_path / "outcomes.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
    assert table.column("exact_accuracy").to_pylist() == result.exact.astype(float).tolist()


def test_batch_size_does_not_change_the_scores(sudoku: Dataset, model: Model) -> None:
    whole, parts = (score(model, sudoku, batch_size=size, votes=3) for size in (64, 4))
    assert whole == pytest.approx(parts)


def test_halting_uses_fewer_steps_and_forever_confident_model_stops_at_once(sudoku: Dataset, model: Model) -> None:
    assert score(model, sudoku, supervision_steps=5)["halting_steps"] == 5
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    weights["halt_bias"] += 100
    evaluation = EvaluationConfig(supervision_steps=5, halt=True)
    assert evaluate(model, sudoku, "test", evaluation, weights=weights).metrics["halting_steps"] == 1


def test_rollouts_are_reproducible_and_do_not_leak_between_evaluations(sudoku: Dataset, model: Model) -> None:
    evaluation = EvaluationConfig(rollouts=4, noise=0.5, choose="halt")
    one, two = (evaluate(model, sudoku, "test", evaluation, seed=1) for _ in range(2))
    assert one.votes is not None
    assert two.votes is not None
    assert one.metrics == two.metrics
    counts = [sum(candidate.count for candidate in result.votes.ranking(0)) for result in (one, two)]
    assert counts == [4, 4]


@settings(max_examples=25, deadline=None)
@given(code=st.integers(0, 2**31 - 1), cells=st.lists(st.integers(2, 5), min_size=16, max_size=16))
def test_undo_inverts_sudoku_symmetries(code: int, cells: list[int]) -> None:
    from trm_data.augment import sudoku_rows
    from trm_data.symmetry import sudoku_order

    codes = np.array([code % sudoku_order(4, 2, 2)], np.uint64)
    original = np.array([cells], np.uint8)
    seen = np.empty_like(original)
    sudoku_rows(original, codes, 4, 2, 2, False, seen)
    np.testing.assert_array_equal(undo("sudoku", 4, seen, codes), original)


def test_valid_sudoku_accepts_any_solution_and_no_changed_given() -> None:
    grid = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], np.uint8).reshape(1, 16) + 1
    empty = np.ones_like(grid)
    wrong = grid.copy()
    wrong[0, [0, 1]] = wrong[0, [1, 0]]
    assert valid_sudoku(empty, grid, 4).tolist() == [True]
    assert valid_sudoku(empty, wrong, 4).tolist() == [False]
    assert valid_sudoku(wrong, grid, 4).tolist() == [False]


def test_valid_maze_accepts_another_shortest_path_and_refuses_a_longer_one() -> None:
    def cells(text: str) -> np.ndarray:
        return np.array([[1 + CHARACTERS.index(cell) for cell in text]], np.uint8)

    maze = cells("S   #   G")  # three by three, a wall in the middle
    labelled, mirrored = cells("Soo #o  G"), cells("S  o# ooG")
    broken = labelled.copy()
    broken[0, 5] = 2
    assert valid_maze(maze, labelled, labelled, 3).tolist() == [True]
    assert valid_maze(maze, mirrored, labelled, 3).tolist() == [True]
    assert valid_maze(maze, broken, labelled, 3).tolist() == [False]


@pytest.fixture(scope="module")
def arc(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(DataRequest(benchmark="arc-agi-1"), tmp_path_factory.mktemp("arc"))


def test_arc_evaluation_votes_scores_tasks_and_writes_a_submission(arc: Dataset) -> None:
    config = ModelConfig(hidden_size=16, num_heads=2, cycles=1, latent_steps=1, supervision_steps=1, num_layers=1)
    model = build_model(config, vocab_size=arc.vocab_size, seq_len=arc.seq_len, num_identifiers=arc.num_identifiers(2))
    evaluation = EvaluationConfig(votes=3, max_puzzles=3)
    result = evaluate(model, arc, "test", evaluation, trained_augmentations=2)
    assert {"pass@1", "pass@2", "task_pass@2", "exact_accuracy"} <= result.metrics.keys()
    assert len(result.submission()) == 3
    assert all(attempts[0].keys() == {"attempt_1", "attempt_2"} for attempts in result.submission().values())  # type: ignore[index]
    with pytest.raises(ConfigError, match="only 1 views"):
        evaluate(model, arc, "test", evaluation, trained_augmentations=0)


def test_evaluation_leaves_the_model_unchanged(sudoku: Dataset, model: Model) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    score(model, sudoku, votes=2, rollouts=2, noise=0.1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
