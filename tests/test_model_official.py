"""Official checkpoints in and out, models out of checkpoints, and solving one puzzle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_model_parity import MODELS, Golden
from test_model_train import run, tiny

from trm_data import build
from trm_data.errors import DataError
from trm_model.artifact import load_trained
from trm_model.checkpoint import CheckpointError, LocalCheckpoints, newest, unpack
from trm_model.config import TrialConfig
from trm_model.official import config_from_official, export_official, import_official, to_official
from trm_model.recursion import build_model
from trm_model.solve import solve


def official_yaml(golden: Golden) -> str:
    """What an official run writes beside its checkpoints."""
    module = golden.facts["official_module"].removeprefix("models.")
    arch = {"name": f"{module}@{golden.facts['cls']}", **golden.facts["config"]}
    optimizer = {
        "global_batch_size": 4,
        "lr": 1e-3,
        "lr_min_ratio": 1.0,
        "lr_warmup_steps": 2000,
        "beta1": 0.9,
        "beta2": 0.95,
        "weight_decay": 0.1,
        "puzzle_emb_lr": 1e-2,
        "puzzle_emb_weight_decay": 0.1,
        "ema": True,
        "ema_rate": 0.999,
    }
    return yaml.safe_dump({"arch": arch, **optimizer})


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("name", MODELS)
def test_official_checkpoint_is_imported_by_its_yaml(name: str, prefix: str, shared: Path, tmp_path: Path) -> None:
    golden = Golden(shared / "golden", name)
    state = {prefix + key: value for key, value in to_official(golden.model()).items()}
    torch.save(state, tmp_path / "step_3")
    (tmp_path / "all_config.yaml").write_text(official_yaml(golden))
    model, data = import_official(tmp_path / "step_3", None, seq_len=16, id_map_hash="map", step=3)
    expected = golden.config.model_copy(update={"halting": None})
    assert model.config.model_copy(update={"halting": None}) == expected
    trained = load_trained(unpack(data))
    assert trained.step == 3
    for key, value in golden.model().state_dict().items():
        assert torch.equal(trained.model.state_dict()[key], value), key
    export_official(trained.model, tmp_path / "again")
    again = torch.load(tmp_path / "again", weights_only=True)
    assert all(torch.equal(again[key.removeprefix(prefix)], value) for key, value in state.items())


def test_checkpoint_with_another_shape_or_tensor_is_refused_by_name(tmp_path: Path) -> None:
    config = tiny()
    model = build_model(config.model, vocab_size=6, seq_len=16, num_identifiers=1)
    export_official(model, tmp_path / "step_1")
    deeper = config.model_copy(update={"model": config.model.model_copy(update={"num_layers": 3})})
    with pytest.raises(CheckpointError, match=r"has no tensor 'L_level\.layers\.2"):
        import_official(tmp_path / "step_1", deeper, seq_len=16, id_map_hash="")
    with pytest.raises(CheckpointError, match="in the checkpoint and"):
        import_official(tmp_path / "step_1", config, seq_len=25, id_map_hash="")
    with pytest.raises(CheckpointError, match=r"no .*all_config\.yaml"):
        import_official(tmp_path / "step_1", None, seq_len=16, id_map_hash="")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        import_official(tmp_path / "step_2", config, seq_len=16, id_map_hash="")


def test_pickled_objects_are_never_executed(tmp_path: Path) -> None:
    torch.save({"model": Path}, tmp_path / "step_1")
    with pytest.raises(CheckpointError, match="not a plain PyTorch checkpoint"):
        import_official(tmp_path / "step_1", tiny(), seq_len=16, id_map_hash="")


def test_yaml_without_a_setting_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "all_config.yaml").write_text("arch: {name: a.trm@B}\n")
    with pytest.raises(CheckpointError, match="pos_encodings"):
        config_from_official(tmp_path / "all_config.yaml")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("trained")
    config = tiny(optimizer={"further_ema_rates": [0.5]})
    dataset = build(config.data.request(), folder / "data")
    run(config, dataset, folder / "run")
    return dataset, newest(LocalCheckpoints(folder / "run"))


def test_each_set_of_weights_can_be_loaded(trained: Any) -> None:
    _, checkpoint = trained
    vectors = [load_trained(checkpoint, weights).model.answer_head for weights in ("raw", "ema", "0.5")]
    assert not torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[1], vectors[2])
    with pytest.raises(CheckpointError, match=r"no average '0\.7'"):
        load_trained(checkpoint, "0.7")


def test_another_depth_or_dataset_is_refused_by_name(trained: Any) -> None:
    _, checkpoint = trained
    one = load_trained(checkpoint)
    with pytest.raises(CheckpointError, match="latent_steps=6, but the checkpoint was trained with 2"):
        one.check_model(one.config.model.model_copy(update={"latent_steps": 6}))
    with pytest.raises(CheckpointError, match="puzzle-id map is other"):
        one.check_dataset("other", one.model.vocab_size, one.model.num_cells)
    one.check_dataset(one.id_map_hash, one.model.vocab_size, one.model.num_cells)
    assert TrialConfig.parse(checkpoint.header["config"]) == one.config


def test_solving_gives_an_answer_and_a_confidence_per_step(trained: Any) -> None:
    dataset, checkpoint = trained
    model = load_trained(checkpoint).model
    solution = solve(model, dataset.inputs[0], steps=4, halt=False)
    assert len(solution.answers) == len(solution.confidences) == 4
    assert solution.answer.shape == (16,)
    assert 0 <= solution.confidence <= 1
    with pytest.raises(DataError, match="has 9 cells, the model solves puzzles of 16"):
        solve(model, np.ones(9, np.uint8))
    with pytest.raises(DataError, match="beyond the model's 6 symbols"):
        solve(model, np.full(16, 9, np.uint8))
