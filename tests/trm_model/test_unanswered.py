"""Test inputs without a known answer: answered for a submission, in no score, and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.support.arc_tasks import task, write_tasks
from tests.trm_model.test_train import run, tiny
from trm_data import DataRequest, Dataset, build
from trm_data.errors import ConfigError
from trm_model.config import EvaluationConfig, ModelConfig, TrialConfig
from trm_model.evaluation.evaluate import ensemble, evaluate
from trm_model.evaluation.gallery import gallery
from trm_model.model.recursion import Model, build_model

SHAPE = {"hidden_size": 16, "num_heads": 2, "cycles": 1, "latent_steps": 1, "supervision_steps": 2, "num_layers": 1}


def built(folder: Path, unanswered: dict[str, int]) -> Dataset:
    """Two training tasks, and evaluation tasks of two test inputs each, of which some have no answer."""
    tested = {
        f"evaluation/{name}": task(10 + n, tests=2, unanswered=u) for n, (name, u) in enumerate(unanswered.items())
    }
    write_tasks(folder / "in", {"training/a": task(1), "training/b": task(2), **tested})
    return build(DataRequest(benchmark="arc-agi-1", source=str(folder / "in"), num_validation=1), folder / "data")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return built(tmp_path_factory.mktemp("mixed"), {"half": 1, "none": 2, "whole": 0})


def silent(dataset: Dataset) -> Model:
    """A model that answers every cell with padding, as the stored label of an unknown answer is."""
    model = build_model(
        ModelConfig.parse(SHAPE),
        vocab_size=dataset.vocab_size,
        seq_len=dataset.seq_len,
        num_identifiers=dataset.num_identifiers(1),
    )
    with torch.no_grad():
        model.answer_head.zero_()  # all symbols are equally likely, and padding is the first
        model.halt_bias.fill_(5.0)
    return model


@pytest.mark.parametrize("votes", [1, 2])
def test_model_that_answers_nothing_scores_nothing(votes: int, mixed: Dataset) -> None:
    result = evaluate(silent(mixed), mixed, "test", EvaluationConfig(votes=votes), trained_augmentations=1)
    assert (result.items, result.unscored) == (3, 3)
    assert result.names == ["half", "whole", "whole"]
    assert result.numbers.tolist() == [0, 4, 5]
    for name in ("exact_accuracy", "cell_accuracy", "first_step_accuracy", "halt_accuracy", "pass@1", "task_pass@2"):
        assert result.metrics[name] == 0, name
    assert {len(column) for column in result.columns.values()} == {3}
    assert len(result.shares(1)) == 2, "a task without any known answer has no share"
    submission = result.submission()
    assert {name: len(answers) for name, answers in submission.items()} == {"half": 2, "none": 2, "whole": 2}  # type: ignore[arg-type]


def test_outcomes_and_gallery_name_the_scored_items(mixed: Dataset, tmp_path: Path) -> None:
    model = silent(mixed)
    result = evaluate(model, mixed, "test", EvaluationConfig())
    table = pa.ipc.open_file(pa.BufferReader(result.arrow())).read_all()
    assert table.column("item").to_pylist() == [0, 4, 5]
    assert table.column("puzzle").to_pylist() == ["half", "whole", "whole"]
    shown = json.loads(gallery(model, mixed, result, weights=dict(model.named_parameters()), dtype=torch.float32))
    assert [(one["item"], one["exact"]) for one in shown["puzzles"]] == [(0, False), (4, False), (5, False)]
    rows = mixed.rows("test")
    assert all(one["input"] == mixed.inputs[rows[one["item"]]].tolist() for one in shown["puzzles"])


def test_ensemble_scores_the_same_items(mixed: Dataset) -> None:
    evaluation = EvaluationConfig()
    members = [evaluate(silent(mixed), mixed, "test", evaluation, keep_votes=True) for _ in range(2)]
    together = ensemble(members, mixed, evaluation)
    assert (together.items, together.unscored, together.metrics["ensemble_pass@1"]) == (3, 3, 0)
    assert len(together.submission()) == 3


def test_split_without_any_answer_gives_a_submission_and_no_scores(tmp_path: Path) -> None:
    dataset = built(tmp_path, {"x": 2, "y": 2})
    model = silent(dataset)
    result = evaluate(model, dataset, "test", EvaluationConfig())
    assert (result.items, result.unscored, result.metrics) == (0, 4, {})
    assert result.submission().keys() == {"x", "y"}
    shown = json.loads(gallery(model, dataset, result, weights=dict(model.named_parameters()), dtype=torch.float32))
    assert shown["puzzles"] == []


def arc_trial(**sections: Any) -> TrialConfig:
    plain = {"data": {"benchmark": "arc-agi-1"}, "model": SHAPE, "train": {"batch_size": 2, "max_steps": 1}}
    runtime = {"device": "cpu", "num_threads": 1}
    return TrialConfig.parse({**plain, "runtime": runtime, **sections})


def test_training_says_how_many_items_are_in_no_score(mixed: Dataset, tmp_path: Path) -> None:
    result = run(arc_trial(evaluation={"split": "test"}), mixed, tmp_path)[-1].result  # type: ignore[union-attr]
    assert (result["items"], result["unscored"]) == (3, 3)
    assert len(np.unique(list(result["per_task"]))) == 2


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"split": "test", "max_puzzles": 1}, "no test puzzle of .* has a known answer"),
        ({"split": "validation", "votes": 3}, "votes=3, but only 1 views of each task were trained"),
    ],
)
def test_run_whose_final_score_is_impossible_is_refused_before_it_starts(
    evaluation: dict[str, Any], message: str, tmp_path: Path
) -> None:
    dataset = built(tmp_path, {"none": 2, "whole": 0})
    with pytest.raises(ConfigError, match=message):
        run(arc_trial(evaluation=evaluation), dataset, tmp_path / "run")
    assert not list((tmp_path / "run").glob("*"))


def test_empty_final_split_is_refused_before_the_first_step(tmp_path: Path) -> None:
    config = tiny(data={"num_test": 0}, evaluation={"split": "test"})
    dataset = build(config.data.request(), tmp_path / "data")
    with pytest.raises(ConfigError, match="has no test puzzles"):
        run(config, dataset, tmp_path / "run")
    assert not list((tmp_path / "run").glob("*"))
