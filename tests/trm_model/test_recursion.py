"""The family's members: shapes, depth, a custom recursion, and recipes that all construct."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trm_data.errors import ConfigError
from trm_data.own_code import pin
from trm_model.config import ModelConfig
from trm_model.model.recursion import build_model, run
from trm_model.recipes import CATALOGUE, RECIPES, get_recipe

SMALL = {"hidden_size": 16, "num_heads": 2, "cycles": 2, "latent_steps": 2, "num_layers": 1}

OWN = """
from trm_model.recursion import Recursion

class Impatient(Recursion):
    def cycle(self, states, input_BLD, rotary, steps_without_gradient):
        answer, latent = states
        return self.refine_answer(answer + latent + input_BLD, rotary), latent

class Other:
    pass
"""


def answer(config: ModelConfig) -> torch.Tensor:
    model = build_model(config, vocab_size=6, seq_len=16, num_identifiers=1)
    inputs = torch.ones(2, 16, dtype=torch.uint8)
    rows = None if model.puzzle_embedding is None else model.puzzle_embedding.rows(torch.zeros(2), trained=False)
    return run(model, dict(model.named_parameters()), model.start(2, torch.float32), inputs, rows).logits_BCV


def test_own_recursion_from_a_file_takes_the_place_of_the_variants(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    own = answer(ModelConfig.parse({**SMALL, "recursion": pin("mine.py:Impatient", tmp_path)}))
    assert own.shape == (2, 16, 6)
    assert not torch.allclose(own, answer(ModelConfig.parse(SMALL)))
    with pytest.raises(ConfigError, match=r"defines no class .Impatent.\. Did you mean .Impatient."):
        pin("mine.py:Impatent", tmp_path)
    with pytest.raises(ConfigError, match=r"no Recursion named .Other."):
        answer(ModelConfig.parse({**SMALL, "recursion": pin("mine.py:Other", tmp_path)}))
    with pytest.raises(ConfigError, match="no Python file"):
        pin("nowhere.py:X", tmp_path)
    with pytest.raises(ConfigError, match="no hash of the file's content"):
        answer(ModelConfig.parse({**SMALL, "recursion": f"{tmp_path}/mine.py:Impatient"}))


@pytest.mark.parametrize("length", [0, 1, 3])
@pytest.mark.parametrize("positions", ["rotary", "learned", "none"])
def test_puzzle_tokens_and_positions_combine(length: int, positions: str) -> None:
    config = ModelConfig.parse({**SMALL, "puzzle_embedding_len": length, "positions": positions})
    assert answer(config).shape == (2, 16, 6)


def test_puzzle_embedding_may_span_several_tokens() -> None:
    config = ModelConfig.parse({**SMALL, "puzzle_embedding_len": 2, "puzzle_embedding_size": 24})
    model = build_model(config, vocab_size=6, seq_len=16, num_identifiers=2)
    assert model.puzzle_embedding is not None
    model.puzzle_embedding.weight[1] = torch.arange(1.0, 25.0)
    rows = model.puzzle_embedding.rows(torch.tensor([1]), trained=False)
    embedded = model.embed(torch.ones(1, 16, dtype=torch.uint8), rows, torch.float32)
    expected = torch.cat((torch.arange(1.0, 25.0), torch.zeros(8))).view(2, 16)
    torch.testing.assert_close(embedded[0, :2], 4 * expected)
    with pytest.raises(ConfigError, match="puzzle_embedding_size=40 does not fit into 32 numbers"):
        ModelConfig.parse({**SMALL, "puzzle_embedding_len": 2, "puzzle_embedding_size": 40})


def test_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    config = ModelConfig.parse(SMALL)
    one, two, three = (
        build_model(config, vocab_size=6, seq_len=16, num_identifiers=1, seed=seed).answer_head for seed in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_impossible_settings_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="positions='rotary' has no meaning"):
        ModelConfig.parse({"mixer": "mlp"})
    with pytest.raises(ConfigError, match="hidden_size=20 must be a multiple"):
        ModelConfig.parse({"hidden_size": 20, "num_heads": 8})
    with pytest.raises(ConfigError, match="leaves nothing for a second network"):
        ModelConfig.parse({"num_latents": 0, "shared_network": False})


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_labelled_and_sourced(name: str) -> None:
    config = get_recipe(name)
    assert config.recipe == name
    assert type(config).parse(config.plain()) == config
    assert CATALOGUE[name].source
    assert RECIPES[name].__doc__


def test_misspelt_recipe_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'sudoku-mini'"):
        get_recipe("sudoku-mni")
