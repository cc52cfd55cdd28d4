"""Puzzle embeddings that are not a puzzle's own: zero, drawn from the table, or those of another puzzle."""

from __future__ import annotations

import pytest
import torch

from tests.support.arc_tasks import task, write_tasks
from trm_data import DataRequest, Dataset, build
from trm_data.errors import ConfigError
from trm_model.config import ModelConfig
from trm_model.evaluation.embeddings import replace_embeddings
from trm_model.model.recursion import Model, build_model

COPIES = 5


@pytest.fixture(scope="module", params=["native", "upstream"])
def arc(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Seven tasks whose first grids differ, so that they have different numbers of augmentations at most."""
    folder = tmp_path_factory.mktemp("arc")
    names = [f"training/t{number}" for number in range(4)] + [f"evaluation/e{number}" for number in range(3)]
    write_tasks(folder / "in", {name: task(number + 1) for number, name in enumerate(names)})
    more = {"ids": "upstream", "upstream_augmentations": COPIES} if request.param == "upstream" else {}
    asked = DataRequest(benchmark="arc-agi-1", source=str(folder / "in"), num_validation=0, **more)
    return build(asked, folder / "data")


def numbered(dataset: Dataset) -> Model:
    """A model whose row R holds the number R."""
    model = build_model(
        ModelConfig.parse({"hidden_size": 16, "num_heads": 2, "num_layers": 1}),
        vocab_size=dataset.vocab_size,
        seq_len=dataset.seq_len,
        num_identifiers=dataset.num_identifiers(COPIES),
    )
    assert model.puzzle_embedding is not None
    model.puzzle_embedding.weight.copy_(torch.arange(len(model.puzzle_embedding.weight))[:, None])
    return model


def replaced(dataset: Dataset, kind: str, seed: int = 0) -> list[int]:
    model = numbered(dataset)
    replace_embeddings(model, dataset, COPIES, kind, seed)  # type: ignore[arg-type]
    assert model.puzzle_embedding is not None
    return [int(value) for value in model.puzzle_embedding.weight[:, 0]]


def test_blank_is_zero_and_trained_is_left_alone(arc: Dataset) -> None:
    assert set(replaced(arc, "blank")) == {0}
    assert replaced(arc, "trained") == list(range(arc.num_identifiers(COPIES)))


def test_random_rows_are_those_of_puzzles_and_follow_the_seed(arc: Dataset) -> None:
    first = replaced(arc, "random")
    assert first == replaced(arc, "random") != replaced(arc, "random", seed=1)
    assert 0 not in first and max(first) < len(first) and len(set(first)) > len(first) / 3


@pytest.mark.parametrize("seed", range(5))
def test_swapped_rows_are_those_of_one_other_puzzle_each(arc: Dataset, seed: int) -> None:
    names = [name.partition("|")[0] for name in arc.identifiers(COPIES)]
    found = replaced(arc, "swapped", seed)
    assert found[0] == 0
    others = {name: {names[found[row]] for row in range(len(names)) if names[row] == name} for name in names[1:]}
    assert all(len(taken) == 1 and name not in taken for name, taken in others.items())
    assert len(others) == 7 == len({name for taken in others.values() for name in taken})


def test_model_without_embeddings_is_refused(arc: Dataset) -> None:
    shape = {"vocab_size": arc.vocab_size, "seq_len": arc.seq_len, "num_identifiers": 0}
    model = build_model(ModelConfig.parse({"hidden_size": 16, "num_heads": 2, "puzzle_embedding_len": 0}), **shape)
    with pytest.raises(ConfigError, match="embedding=blank: the model has no puzzle embeddings"):
        replace_embeddings(model, arc, COPIES, "blank", 0)
