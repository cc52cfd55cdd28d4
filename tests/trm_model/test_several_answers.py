"""Puzzles with several answers: any valid one is right, and coverage counts the different ones that were found."""

from __future__ import annotations

from itertools import islice, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trm_data import DataRequest, Dataset, build
from trm_model.config import EvaluationConfig, ModelConfig
from trm_model.evaluation import evaluate as evaluation
from trm_model.evaluation.evaluate import evaluate
from trm_model.evaluation.inference import Answers
from trm_model.evaluation.outcomes import EvalResult
from trm_model.model.recursion import build_model


def placements() -> list[np.ndarray]:
    """All boards of 8 queens that do not attack each other, found by trying all permutations."""
    found = []
    for columns in permutations(range(8)):
        if len({r + c for r, c in enumerate(columns)}) == len({r - c for r, c in enumerate(columns)}) == 8:
            cells = np.ones((8, 8), np.uint8)
            cells[np.arange(8), columns] = 2
            found.append(cells.reshape(-1))
    return found


PLACEMENTS = placements()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    request = DataRequest(benchmark="n-queens-8", num_train=20, num_validation=0, num_test=30)
    return build(request, tmp_path_factory.mktemp("data"))


def solutions(cells: np.ndarray) -> list[np.ndarray]:
    return [one for one in PLACEMENTS if (one[cells == 2] == 2).all()]


def scored(dataset: Dataset, choose: Any, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> EvalResult:
    """Evaluate a model whose answer of rollout k to a board is `choose(its solutions, k)`."""
    rollouts = iter(range(10**6))

    def answers(steps: Any, num_steps: int, **_: Any) -> Answers:
        number = next(rollouts) % settings.get("rollouts", 1)
        next(iter(islice(steps, 1)))
        rows = dataset.inputs[dataset.rows("test")]
        cells = torch.tensor(np.stack([choose(solutions(row), number) for row in rows]))
        return Answers(cells, cells, torch.ones(len(cells)), torch.ones(len(cells)), num_steps)

    monkeypatch.setattr(evaluation, "final_answers", answers)
    shape = ModelConfig(hidden_size=16, num_heads=2, cycles=1, latent_steps=1, num_layers=1, supervision_steps=1)
    model = build_model(shape, vocab_size=3, seq_len=64, num_identifiers=1)
    return evaluate(model, dataset, "test", EvaluationConfig(batch_size=64, **settings))


def test_any_solution_is_exact_and_not_only_the_label(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    result = scored(dataset, lambda found, _: found[0], monkeypatch)
    labels = dataset.labels[dataset.rows("test")]
    assert 0 < (result.answers == labels).all(1).mean() < 1, "some answers are another solution than the label"
    for name in ("exact_accuracy", "valid_accuracy", "first_step_accuracy", "halt_accuracy"):
        assert result.metrics[name] == 1, name
    wrong = scored(dataset, lambda found, _: np.ones(64, np.uint8), monkeypatch)
    assert wrong.metrics["exact_accuracy"] == wrong.metrics["halt_accuracy"] == 0 and "coverage" not in wrong.metrics


def test_coverage_is_the_share_of_the_solutions_that_rollouts_found(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    numbers = np.array([len(solutions(row)) for row in dataset.inputs[dataset.rows("test")]])
    other = scored(dataset, lambda found, k: found[k % len(found)], monkeypatch, rollouts=3, noise=0.1)
    np.testing.assert_allclose(other.columns["coverage"], np.minimum(numbers, 3) / numbers)
    assert other.metrics["coverage"] == pytest.approx((np.minimum(numbers, 3) / numbers).mean())
    same = scored(
        dataset, lambda found, k: found[0] if k else np.ones(64, np.uint8), monkeypatch, rollouts=3, noise=0.1
    )
    np.testing.assert_allclose(same.columns["coverage"], 1 / numbers)
