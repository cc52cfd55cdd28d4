"""Evaluation apart from training: depth, halting, views, rollouts, validity, ARC scores and submissions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trm_model.test_train import tiny
from trm_data import Dataset, build
from trm_data.config import DataRequest
from trm_data.dataset.loader import eval_batches
from trm_data.errors import ConfigError, DataError
from trm_data.jit import Bytes
from trm_data.puzzles.kinds import kind_of
from trm_data.puzzles.maze import CHARACTERS
from trm_model.config import EvaluationConfig, ModelConfig
from trm_model.evaluation.evaluate import ensemble, evaluate
from trm_model.evaluation.gallery import gallery
from trm_model.evaluation.inference import Noise
from trm_model.evaluation.outcomes import unpack_items
from trm_model.model.recursion import Model, build_model


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
    assert table.column("exact_accuracy").to_pylist() == result.exact.tolist()
    assert table.column("halting_steps").to_pylist() == [3] * result.items
    split = sudoku.split == 2
    labels, answers = sudoku.labels[split], np.array(table.column("answer").to_pylist())
    assert table.column("puzzle").to_pylist() == [sudoku.names[puzzle] for puzzle in sudoku.puzzle[split]]
    assert (answers == labels).all(1).tolist() == result.exact.tolist()
    np.testing.assert_allclose(table.column("cell_accuracy").to_numpy(), (answers == labels).mean(1), atol=1e-6)


@pytest.mark.parametrize(
    ("packed", "items", "message"),
    [
        ("f0", 9, "per_item holds 1 bytes, 9 items need 2"),
        ("f0f0", 8, "per_item holds 2 bytes, 8 items need 1"),
        ("", 3, "per_item holds 0 bytes, 3 items need 1"),
        ("f0", -1, "per_item holds 1 bytes"),
        ("xy", 8, "per_item is not a hexadecimal text"),
    ],
)
def test_packed_outcomes_of_another_number_of_items_are_refused(packed: str, items: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        unpack_items(packed, items)


def test_batch_size_does_not_change_the_scores(sudoku: Dataset, model: Model) -> None:
    whole, parts = (score(model, sudoku, batch_size=size, votes=3) for size in (64, 4))
    assert whole == pytest.approx(parts)


def test_batch_size_does_not_change_noisy_rollouts(sudoku: Dataset, model: Model) -> None:
    """The batch size is not part of a trial's identity."""
    whole, parts = (score(model, sudoku, batch_size=size, votes=2, rollouts=3, noise=1.0) for size in (64, 3))
    assert whole == pytest.approx(parts)


def test_noise_disturbs_the_latents_alone_and_every_rollout_and_step_in_another_way() -> None:
    answer, latent = torch.zeros(2, 5, 4), torch.zeros(2, 5, 4)
    drawn = []
    for seed, rollout, step in ((0, 1, 0), (0, 2, 0), (0, 1, 1), (1, 1, 0)):
        noise = Noise(0.5, seed, rollout, np.array([3, 8]), np.array([0, 0]))
        kept, shaken = noise.disturb((answer, latent), step)
        assert torch.equal(kept, answer)
        drawn += [shaken[0], shaken[1]]
    assert all(not torch.equal(one, two) for number, one in enumerate(drawn) for two in drawn[:number])
    many = Noise(0.5, 0, 1, np.arange(64), np.zeros(64, np.int64)).disturb((torch.zeros(64, 100, 4),), 0)[0]
    assert many.std().item() == pytest.approx(0.5, rel=0.02)  # the only state is the answer: then it is disturbed
    again = Noise(0.5, 0, 1, np.array([9, 7]), np.array([0, 0])).disturb((torch.zeros(2, 100, 4),), 0)[0]
    assert torch.equal(again[1], many[7])
    generator = np.random.Generator(np.random.Philox(key=[6, 5], counter=[0, 4, 3, 2 << 8 | 1]))
    drawn_here = torch.from_numpy(generator.standard_normal((1, 5, 4), np.float32))
    one = Noise(0.5, 6, 5, np.array([4]), np.array([3])).disturb((answer[:1], latent[:1] - 1, latent[:1] + 1), 2)
    assert torch.equal(one[2], 1 + 0.5 * drawn_here), "what a seed draws is the same in every version"


@pytest.mark.parametrize(("rule", "expected"), [("sign", 1), ("continue", 3)])
def test_halting_follows_the_rule_of_the_model(rule: str, expected: int, sudoku: Dataset) -> None:
    """A model that is sure to be right, and surer still that going on is worth it, goes on if it learned to."""
    config = ModelConfig.parse({**tiny().model.plain(), "halting": rule})
    model = build_model(config, vocab_size=sudoku.vocab_size, seq_len=sudoku.seq_len, num_identifiers=1)
    with torch.no_grad():
        model.halt_bias.copy_(torch.tensor([100.0, 1000.0]))
    assert score(model, sudoku, halt=True, supervision_steps=3)["halting_steps"] == expected


def test_forward_passes_and_progress_count_what_was_run(sudoku: Dataset, model: Model) -> None:
    seen: list[tuple[int, int]] = []
    evaluation = EvaluationConfig(supervision_steps=4, votes=3, rollouts=2, noise=0.1, batch_size=8)
    result = evaluate(model, sudoku, "test", evaluation, progress=lambda *now: seen.append(now))
    assert result.forward_passes == result.items * 4 * 3 * 2 == seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen)


def test_halting_uses_fewer_steps_and_forever_confident_model_stops_at_once(sudoku: Dataset, model: Model) -> None:
    assert score(model, sudoku, supervision_steps=5)["halting_steps"] == 5
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    weights["halt_bias"] += 100
    evaluation = EvaluationConfig(supervision_steps=5, halt=True)
    assert evaluate(model, sudoku, "test", evaluation, weights=weights).metrics["halting_steps"] == 1


def other_weights(model: Model, seed: int) -> dict[str, torch.Tensor]:
    other = build_model(
        model.config, vocab_size=model.vocab_size, seq_len=model.num_cells, num_identifiers=1, seed=seed
    )
    return dict(other.named_parameters())


def test_ensemble_is_another_metric_and_leaves_its_members_alone(sudoku: Dataset, model: Model) -> None:
    evaluation = EvaluationConfig(votes=2)
    members = [
        evaluate(model, sudoku, "test", evaluation, weights=other_weights(model, seed), keep_votes=True)
        for seed in range(3)
    ]
    before = [dict(member.metrics) for member in members]
    together = ensemble(members, sudoku, evaluation)
    assert all(name.startswith("ensemble_") for name in together.metrics)
    assert not any(name.startswith("ensemble_") for member in members for name in member.metrics)
    assert [member.metrics for member in members] == before
    assert together.votes is not None and members[0].votes is not None
    assert sum(c.count for c in together.votes.ranking(0)) == 6
    assert sum(c.count for c in members[0].votes.ranking(0)) == 2
    alone = ensemble(members[:1], sudoku, evaluation)
    assert alone.metrics["ensemble_exact_accuracy"] == members[0].metrics["exact_accuracy"]
    with pytest.raises(ConfigError, match="must keep their votes"):
        ensemble([evaluate(model, sudoku, "test", EvaluationConfig())], sudoku, evaluation)


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
    from trm_data.puzzles.augment import sudoku_rows
    from trm_data.puzzles.symmetry import sudoku_order

    codes = np.array([code % sudoku_order(4, 2, 2)], np.uint64)
    original = np.array([cells], np.uint8)
    seen = np.empty_like(original)
    sudoku_rows(original, codes, 4, 2, 2, False, seen)
    np.testing.assert_array_equal(kind_of("sudoku").undo(seen, codes, 4), original)


def valid(kind: str, inputs: Bytes, answers: Bytes, labels: Bytes, side: int) -> list[bool]:
    outcomes = kind_of(kind).valid(inputs, answers, labels, side)
    assert outcomes is not None
    return outcomes.tolist()


def test_valid_sudoku_accepts_any_solution_and_no_changed_given() -> None:
    grid = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], np.uint8).reshape(1, 16) + 1
    empty = np.ones_like(grid)
    wrong = grid.copy()
    wrong[0, [0, 1]] = wrong[0, [1, 0]]
    assert valid("sudoku", empty, grid, grid, 4) == [True]
    assert valid("sudoku", empty, wrong, wrong, 4) == [False]
    assert valid("sudoku", wrong, grid, grid, 4) == [False]


def test_valid_maze_accepts_another_shortest_path_and_refuses_a_longer_one() -> None:
    def cells(text: str) -> np.ndarray:
        return np.array([[1 + CHARACTERS.index(cell) for cell in text]], np.uint8)

    maze = cells("S   #   G")  # three by three, a wall in the middle
    labelled, mirrored = cells("Soo #o  G"), cells("S  o# ooG")
    broken = labelled.copy()
    broken[0, 5] = 2
    assert valid("maze", maze, labelled, labelled, 3) == [True]
    assert valid("maze", maze, mirrored, labelled, 3) == [True]
    assert valid("maze", maze, broken, labelled, 3) == [False]


def test_gallery_shows_solved_and_failed_puzzles_with_every_step(sudoku: Dataset, model: Model) -> None:
    result = evaluate(model, sudoku, "test", EvaluationConfig(supervision_steps=5))
    outcomes = np.array([1, 0, 1, 1, 0, 0, 1, 1, 1, 0], np.float64)  # as if so many were solved
    result.columns["exact_accuracy"] = outcomes
    weights = dict(model.named_parameters())
    content = gallery(model, sudoku, result, weights=weights, dtype=torch.float32)
    assert content == gallery(model, sudoku, result, weights=weights, dtype=torch.float32)
    shown = json.loads(content)
    assert shown["grid_shape"] == [4, 4] and shown["steps"] == [1, 2, 3, 4, 5]
    assert [(p["item"], p["exact"]) for p in shown["puzzles"]] == [
        (0, True), (3, True), (6, True), (8, True), (1, False), (4, False), (5, False), (9, False)
    ]  # fmt: skip
    rows = np.flatnonzero(sudoku.split == 2)
    for puzzle in shown["puzzles"]:
        row = rows[puzzle["item"]]
        assert puzzle["input"] == sudoku.inputs[row].tolist() and puzzle["label"] == sudoku.labels[row].tolist()
        assert len(puzzle["answers"]) == len(puzzle["halt"]) == 5
        assert puzzle["answers"][-1] == result.answers[puzzle["item"]].tolist()
        assert all(0 <= score <= 1 for score in puzzle["halt"])


def test_gallery_of_a_deep_evaluation_keeps_32_steps_with_the_last(sudoku: Dataset, model: Model) -> None:
    result = evaluate(model, sudoku, "test", EvaluationConfig(supervision_steps=40, max_puzzles=2))
    shown = json.loads(gallery(model, sudoku, result, weights=dict(model.named_parameters()), dtype=torch.float32))
    assert len(shown["steps"]) == 32 and shown["steps"][0] == 1 and shown["steps"][-1] == 40
    assert shown["puzzles"][0]["answers"][-1] == result.answers[shown["puzzles"][0]["item"]].tolist()


def test_copy_that_happens_to_be_the_identity_is_a_view_and_no_second_original(tmp_path: Path) -> None:
    """A 4x4 Sudoku has so few symmetries that a derived one is the identity now and then."""
    request = DataRequest(benchmark="sudoku-4x4", num_train=4, num_validation=0, num_test=100)
    dataset = build(request, tmp_path)
    batches = list(eval_batches(dataset, "test", 512, num_augmentations=60))
    assert any(((batch.codes == 0) & (batch.copies > 0)).any() for batch in batches)
    model = build_model(tiny().model, vocab_size=dataset.vocab_size, seq_len=dataset.seq_len, num_identifiers=1)
    result = evaluate(model, dataset, "test", EvaluationConfig(votes=61, supervision_steps=1))
    assert {len(column) for column in result.columns.values()} == {100}


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
    by_task = [[result.columns["pass@2"][item] for item in items] for items in result.tasks.values()]
    assert result.metrics["pass@2"] == np.mean([np.mean(hits) for hits in by_task])
    assert result.metrics["task_pass@2"] == np.mean([all(hits) for hits in by_task])
    assert all(attempts[0].keys() == {"attempt_1", "attempt_2"} for attempts in result.submission().values())  # type: ignore[index]
    confident = evaluate(model, arc, "test", evaluation.model_copy(update={"choose": "halt"}), trained_augmentations=2)
    assert confident.votes is not None
    for item in confident.votes.items:
        best = max(confident.votes.ranking(item), key=lambda candidate: candidate.best)
        assert confident.answers[item].tobytes() == best.answer
    with pytest.raises(ConfigError, match="only 1 views"):
        evaluate(model, arc, "test", evaluation, trained_augmentations=0)


def test_evaluation_leaves_the_model_unchanged(sudoku: Dataset, model: Model) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    score(model, sudoku, votes=2, rollouts=2, noise=0.1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
