"""A small dataset and its questions for language models."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.evaluation.llm.questions import Question, load_questions
from tests.support.llm import (
    PUZZLES,
)
from trm_data import DataRequest, Dataset, build


@pytest.fixture(scope="module")
def storage_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llm")


@pytest.fixture(scope="module")
def dataset(storage_root: Path) -> Dataset:
    request = DataRequest(benchmark="sudoku-4x4", num_train=8, num_validation=2, num_test=PUZZLES)
    return build(request, storage_root / "datasets")


@pytest.fixture(scope="module")
def questions(dataset: Dataset) -> list[Question]:
    return load_questions(dataset, "test", None)
