"""Official checkpoints in and out, models out of checkpoints, and solving one puzzle."""

from __future__ import annotations

import os
import zipfile
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from tests.trm_model.test_parity import MODELS, Golden
from tests.trm_model.test_train import run, tiny
from trm_data import build
from trm_data.errors import ConfigError, DataError
from trm_model.checkpoints.official import export_official, import_official, settings_of, to_official
from trm_model.checkpoints.official_config import config_from_official, config_to_official
from trm_model.checkpoints.run_checkpoints import RunCheckpoints
from trm_model.checkpoints.store import (
    Checkpoint,
    CheckpointError,
    LocalCheckpoints,
    newest_checkpoint,
    pack,
    read_header,
    unpack,
)
from trm_model.checkpoints.trained import check_dataset_is_known, load_trained, pack_scored_weights, pack_weights
from trm_model.config import TrialConfig
from trm_model.evaluation.solve import solve
from trm_model.model.recursion import build_model
from trm_model.recipes import get_recipe


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


def official_like(**model: Any) -> TrialConfig:
    """A small model that the official code could have trained."""
    return tiny(model={"inner_multiple": 256, **model})


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("name", MODELS)
def test_official_checkpoint_is_imported_by_its_yaml(name: str, prefix: str, tmp_path: Path) -> None:
    golden = Golden(name)
    state = {prefix + key: value for key, value in to_official(golden.model()).items()}
    torch.save(state, tmp_path / "step_3")
    (tmp_path / "all_config.yaml").write_text(official_yaml(golden))
    config = settings_of(tmp_path / "step_3", None)
    assert config.model == golden.config
    _, data = import_official(tmp_path / "step_3", config, seq_len=16, id_map_hash="map", num_ids=10, step=3)
    trained = load_trained(unpack(data))
    assert trained.step == 3
    for key, value in golden.model().state_dict().items():
        assert torch.equal(trained.model.state_dict()[key], value), key
    (tmp_path / "again").mkdir()
    export_official(trained.model, trained.config, tmp_path / "again/step_3")
    again = torch.load(tmp_path / "again/step_3", weights_only=True)
    assert all(torch.equal(again[key.removeprefix(prefix)], value) for key, value in state.items())
    assert config_from_official(tmp_path / "again/all_config.yaml") == config


def test_checkpoint_with_another_shape_or_tensor_is_refused_by_name(tmp_path: Path) -> None:
    config = official_like()
    model = build_model(config.model, vocab_size=6, seq_len=16, num_identifiers=1)
    export_official(model, config, tmp_path / "step_1")
    deeper = config.model_copy(update={"model": config.model.model_copy(update={"num_layers": 3})})
    with pytest.raises(CheckpointError, match=r"has no tensor 'L_level\.layers\.2"):
        import_official(tmp_path / "step_1", deeper)
    with pytest.raises(CheckpointError, match="in the checkpoint and"):
        import_official(tmp_path / "step_1", config, seq_len=25)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        import_official(tmp_path / "step_2", config)
    (tmp_path / "all_config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"no .*all_config\.yaml"):
        settings_of(tmp_path / "step_1", None)


def test_recipe_with_another_depth_than_the_yaml_is_refused_by_name(tmp_path: Path) -> None:
    config = official_like()
    export_official(build_model(config.model, vocab_size=6, seq_len=16, num_identifiers=1), config, tmp_path / "step_1")
    assert settings_of(tmp_path / "step_1", config) == config
    other = config.model_copy(update={"model": config.model.model_copy(update={"latent_steps": 6})})
    with pytest.raises(CheckpointError, match=r"model\.latent_steps=6 in the recipe, but .* says 2"):
        settings_of(tmp_path / "step_1", other)
    with pytest.raises(CheckpointError, match="belongs to another checkpoint"):
        export_official(
            build_model(other.model, vocab_size=6, seq_len=16, num_identifiers=1), other, tmp_path / "step_2"
        )


def test_size_of_the_grid_and_owner_of_the_embeddings_must_be_known(tmp_path: Path) -> None:
    attention = official_like(mixer="attention", positions="rotary", num_heads=1)
    model = build_model(attention.model, vocab_size=6, seq_len=16, num_identifiers=4)
    export_official(model, attention, tmp_path / "step_1")
    with pytest.raises(CheckpointError, match="size of the grid"):
        import_official(tmp_path / "step_1", attention)
    with pytest.raises(CheckpointError, match="has 4 puzzle embeddings, and only the dataset says"):
        import_official(tmp_path / "step_1", attention, seq_len=16)
    with pytest.raises(CheckpointError, match="has 4 puzzle embeddings, but the dataset has 9"):
        import_official(tmp_path / "step_1", attention, seq_len=16, id_map_hash="x", num_ids=9)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_latents": 3}, "num_latents=3"),
        ({"shared_network": False}, "shared_network=False"),
        ({"gradient": "step"}, "gradient=step"),
        ({"inner_multiple": 32}, "inner_multiple=32"),
        ({"recursion": "mine.py:Mine"}, "recursion=mine.py:Mine"),
    ],
)
def test_model_that_the_official_code_does_not_have_is_not_exported(change: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=f"the official code has no model with {named}"):
        config_to_official(official_like(**change))


@pytest.mark.parametrize(
    "name", ["sudoku-mlp.paper", "maze-att.readme", "arc-agi-1.readme", "hrm.sudoku", "maze.direct"]
)
def test_published_recipes_survive_the_official_form(name: str, tmp_path: Path) -> None:
    config = get_recipe(name)
    (tmp_path / "all_config.yaml").write_bytes(config_to_official(config))
    again = config_from_official(tmp_path / "all_config.yaml")
    assert again.optimizer == config.optimizer
    assert {**again.model.plain(), "halting": None} == {
        **config.model.plain(),
        **({"cycles": 1, "latent_steps": 1} if config.model.variant == "direct" else {}),
    }


def test_pickled_objects_are_never_executed(tmp_path: Path) -> None:
    torch.save({"model": Path}, tmp_path / "step_1")
    with pytest.raises(CheckpointError, match="not a plain PyTorch checkpoint"):
        import_official(tmp_path / "step_1", tiny())


class Executed:
    """An object whose pickle calls a function when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    ("value", "name"),
    [(Executed(), r"posix\.system"), (Path("x"), r"pathlib\S*Path"), (Fraction(1), r"fractions\.Fraction")],
)
def test_what_loading_would_execute_is_named_and_unsafe_loading_is_not_recommended(
    value: Any, name: str, is_zip: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": value}, "step_1", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match=rf"it holds {name}, which loading would execute") as told:
        import_official(Path("step_1"), tiny())
    assert "weights_only" not in str(told.value) and "\n" not in str(told.value) and not Path("executed").exists()


@pytest.mark.parametrize(
    "save",
    [
        lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
        lambda state, path: safetensors.torch.save_file(state, path),
    ],
    ids=["legacy", "safetensors"],
)
def test_other_formats_of_plain_tensors_are_imported(save: Any, tmp_path: Path) -> None:
    config = official_like()
    model = build_model(config.model, vocab_size=6, seq_len=16, num_identifiers=1)
    save(to_official(model), tmp_path / "step_1")
    _, data = import_official(tmp_path / "step_1", config)
    found = load_trained(unpack(data)).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a plain PyTorch checkpoint: it is empty"),
        (b"\x10" + bytes(7) + b'{"a": 1}' + bytes(8), "is not a plain PyTorch checkpoint: "),
        (b"text that is no checkpoint", "is not a plain PyTorch checkpoint"),
    ],
)
def test_file_without_a_checkpoint_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "step_1").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as told:
        import_official(tmp_path / "step_1", official_like())
    assert "weights_only" not in str(told.value) and "\n" not in str(told.value)


def test_tensor_that_is_there_twice_and_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = build_model(official_like().model, vocab_size=6, seq_len=16, num_identifiers=1)
    state = to_official(model)
    twice = state | {name.removeprefix("model."): 0 * value for name, value in state.items()}
    for content, message in (
        (twice, r"holds 'model\.inner\.\S+' and 'inner\.\S+', which are one tensor"),
        ({name: value * float("nan") for name, value in state.items()}, "that are no numbers"),
    ):
        torch.save(content, tmp_path / "step_1")
        with pytest.raises(CheckpointError, match=message):
            import_official(tmp_path / "step_1", official_like())


def test_folder_in_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "step_1").mkdir()
    with pytest.raises(CheckpointError, match="step_1 cannot be read: Is a directory"):
        import_official(tmp_path / "step_1", tiny())
    (tmp_path / "all_config.yaml").mkdir()
    with pytest.raises(CheckpointError, match=r"all_config\.yaml cannot be read: Is a directory"):
        settings_of(tmp_path / "step_2", None)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"[1, 2]",
        b"arch: 3",
        b"[" * 5000,
        b"{`" * 5000,
        b"- " * 5000,
        b'lr: !!int ""',
        b"arch: !!bool x",
        b"a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + b"".join(b"%c: &%c [%s]\n" % (c, c, b"*%c," % (c - 1) * 10) for c in range(98, 110)),
        b"",
        b"!!set {arch}",
    ],
    ids=range(11),
)
def test_file_that_is_no_official_yaml_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "all_config.yaml").write_bytes(content)
    with pytest.raises(CheckpointError, match="lacks or misspells a setting") as told:
        config_from_official(tmp_path / "all_config.yaml")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("value", [0, -1, "x", [], None, 2**80, {}, float("nan")])
@pytest.mark.parametrize("name", ["hidden_size", "puzzle_emb_ndim", "pos_encodings", "loss"])
def test_official_yaml_with_an_impossible_value_is_one_line(name: str, value: Any, tmp_path: Path) -> None:
    facts = yaml.safe_load(official_yaml(Golden(MODELS[0])))
    facts["arch"] = {key: each for key, each in facts["arch"].items() if key != "puzzle_emb_len"} | {name: value}
    (tmp_path / "all_config.yaml").write_text(yaml.safe_dump(facts))
    with suppress(CheckpointError, ConfigError):
        config_from_official(tmp_path / "all_config.yaml")


def as_meta(value: torch.Tensor) -> torch.Tensor:
    return value.to("meta")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state | {1: torch.zeros(1)},
        lambda state: state | {None: torch.zeros(1)},
        lambda state: state | {(1,): torch.zeros(1)},
        lambda state: {name: torch.tensor(1.0) for name in state},
        lambda state: {name: value.to_sparse() for name, value in state.items()},
        lambda state: {name: as_meta(value) for name, value in state.items()},
        lambda state: {name: value.to(torch.complex64) for name, value in state.items()},
        lambda state: {name: torch.zeros(1).expand(value.shape) for name, value in state.items()},
        lambda state: {name: value[:0] for name, value in state.items()},
        lambda state: state | {"model.inner.embed_tokens.embedding_weight": torch.tensor(1.0)},
        lambda state: state | {"model.inner.embed_tokens.embedding_weight": torch.zeros(0, 64)},
        lambda state: [torch.zeros(1)],
    ],
    ids=range(12),
)
def test_official_file_of_other_tensors_is_one_line(change: Any, tmp_path: Path) -> None:
    model = build_model(official_like().model, vocab_size=6, seq_len=16, num_identifiers=1)
    torch.save(change(to_official(model)), tmp_path / "step_1")
    with pytest.raises(CheckpointError) as told:
        import_official(tmp_path / "step_1", official_like())
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "stream",
    [
        b".",
        b"(.",
        b"\x80\x02ccollections\nOrderedDict\nK\x01R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02)Q.",
        b"\x80\x02ctorch\nfloat32\n)R.",
        b"\x80\x02(X\x07\x00\x00\x00storageNX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",
        b"\x80\x02NQ.",
        b"",
    ],
    ids=range(10),
)
def test_stream_that_is_no_pickle_is_one_line(stream: bytes, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "empty")
    with zipfile.ZipFile(tmp_path / "empty") as source, zipfile.ZipFile(tmp_path / "step_1", "w") as target:
        for name in source.namelist():
            target.writestr(name, stream if name.endswith("data.pkl") else source.read(name))
    with pytest.raises(CheckpointError, match="is not a plain PyTorch checkpoint") as told:
        import_official(tmp_path / "step_1", official_like())
    assert "\n" not in str(told.value)


def test_nobody_is_told_to_delete_a_file_of_another_program(tmp_path: Path) -> None:
    export_official(
        build_model(official_like().model, vocab_size=6, seq_len=16, num_identifiers=1),
        official_like(),
        tmp_path / "step_1",
    )
    for data, remedy in (((tmp_path / "step_1").read_bytes(), "trm checkpoint import"), (b"mine", "Name another")):
        with pytest.raises(CheckpointError, match=remedy) as refusal:
            unpack(data, "file")
        assert "delete" not in str(refusal.value).lower()


def test_damaged_checkpoint_is_refused_by_name_and_its_run_begins_again(tmp_path: Path) -> None:
    whole = pack_weights(
        build_model(tiny().model, vocab_size=6, seq_len=16, num_identifiers=1), tiny(), step=7, id_map_hash="shared"
    )
    store = LocalCheckpoints(tmp_path)
    store.write("step-00000007.safetensors", whole[:-100])
    with pytest.raises(CheckpointError, match="is damaged") as refusal:
        newest_checkpoint(store)
    assert "delete" not in str(refusal.value).lower()
    assert RunCheckpoints(store).restore(lambda _: None) is None, "its run begins again"


@pytest.mark.parametrize(
    ("notes", "recipe", "is_known"),
    [
        ({}, "", True),  # of a run of ours
        ({"imported_from": "step_1", "knows_dataset": False}, "", False),
        ({"imported_from": "step_1", "knows_dataset": True}, "", True),
        ({"imported_from": "step_1"}, "", False),  # by a version that did not note it
        ({"imported_from": "step_1"}, "sudoku-mlp.readme", True),
    ],
)
def test_imported_checkpoint_without_its_dataset_is_not_scored_on_another(
    notes: dict[str, Any], recipe: str, is_known: bool
) -> None:
    config = TrialConfig.parse({"recipe": recipe, "model": tiny().model.plain()})
    model = build_model(config.model, vocab_size=6, seq_len=16, num_identifiers=1)
    header = read_header(pack_weights(model, config, step=1, id_map_hash="shared", **notes))
    if is_known:
        check_dataset_is_known(header, "step_1")
    else:
        with pytest.raises(CheckpointError, match=r"step_1 does not name the dataset that it was trained on\. Name it"):
            check_dataset_is_known(header, "step_1")


def _edited(change: dict[str, Any], folder: Path, variant: str = "hrm") -> Path:
    """Write the yaml of a golden model in the form of its own repository, with some settings of `arch` changed."""
    golden = Golden(next(name for name in MODELS if Golden(name).config.variant == variant))
    facts = yaml.safe_load(official_yaml(golden))
    facts["arch"] |= {"loss": {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"}} | change
    (folder / "all_config.yaml").write_text(yaml.safe_dump(facts))
    return folder / "all_config.yaml"


def test_yaml_of_hrm_s_own_repository_is_of_hrm_and_an_unknown_model_is_refused(tmp_path: Path) -> None:
    own = {"name": "hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1"}
    assert config_from_official(_edited(own, tmp_path)).model == Golden("hrm").config
    for name in ("hrm.hrm_act_v9@HierarchicalReasoningModel_ACTV9", "recursive_reasoning.hrm@MyModel", "hrm_act_v1"):
        with pytest.raises(CheckpointError, match=rf"arch\.name='{name}' is none of the official models"):
            config_from_official(_edited({"name": name}, tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": {"name": "losses@DepthLossHead"}}, r"arch\.loss\.name='losses@DepthLossHead' is not the official"),
        ({"pos_encodings": "rope2d"}, r"arch\.pos_encodings='rope2d' is none of"),
        ({"adaptive_depth_controller": True}, r"arch\.adaptive_depth_controller='True' is no setting of the official"),
        ({"H_layers": 7}, r"arch\.H_layers='7' differs from L_layers=1"),
    ],
)
def test_setting_of_another_architecture_is_refused_by_name(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message) as told:
        config_from_official(_edited(change, tmp_path))
    assert "\n" not in str(told.value) and "move it away" in str(told.value)
    assert config_from_official(_edited({"adaptive_depth_controller": False}, tmp_path)).model == Golden("hrm").config


@pytest.mark.parametrize(("variant", "length"), [("hrm", 1), ("trm", 16)])
def test_tokens_of_the_embedding_that_a_yaml_leaves_out_are_those_of_the_official_class(
    variant: str, length: int, tmp_path: Path
) -> None:
    path = _edited({}, tmp_path, variant)
    facts = yaml.safe_load(path.read_text())
    facts["arch"].pop("puzzle_emb_len", None)
    path.write_text(yaml.safe_dump(facts))
    assert config_from_official(path).model.puzzle_embedding_len == length


def test_yaml_without_a_setting_is_refused_by_name(tmp_path: Path) -> None:
    path = _edited({}, tmp_path)
    facts = yaml.safe_load(path.read_text())
    del facts["arch"]["puzzle_emb_ndim"]
    path.write_text(yaml.safe_dump(facts))
    with pytest.raises(CheckpointError, match="puzzle_emb_ndim"):
        config_from_official(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("trained")
    config = tiny(optimizer={"further_ema_rates": [0.5]})
    dataset = build(config.data.request(), folder / "data")
    run(config, dataset, folder / "run")
    return dataset, newest_checkpoint(LocalCheckpoints(folder / "run"))


def test_each_set_of_weights_can_be_loaded(trained: Any) -> None:
    _, checkpoint = trained
    vectors = [load_trained(checkpoint, weights).model.answer_head for weights in ("raw", "ema", "0.5")]
    assert not torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[1], vectors[2])
    with pytest.raises(CheckpointError, match=r"no average '0\.7'"):
        load_trained(checkpoint, "0.7")


@pytest.mark.parametrize("name", ["nope.x", "nope", "recursion", "", "answer_head", "answer_head.weight"])
def test_average_of_other_weights_is_one_clear_line(name: str, trained: Any) -> None:
    _, checkpoint = trained
    tensors = checkpoint.tensors | {f"ema/0.5/{name}": torch.zeros(3, 3, 3)}
    broken = Checkpoint(tensors, checkpoint.header)
    for use in (load_trained, lambda one, weights: pack_scored_weights(one, tiny(), weights)):
        with pytest.raises(CheckpointError, match=r"its average 0\.5 has .* of shape \(3, 3, 3\)") as told:
            use(broken, "0.5")
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("damage", ["shape", "missing", "counter"])
def test_run_does_not_resume_with_an_average_of_other_weights(damage: str, trained: Any, tmp_path: Path) -> None:
    dataset, checkpoint = trained
    tensors, header = dict(checkpoint.tensors), dict(checkpoint.header)
    name = next(name for name in tensors if name.startswith("ema/0.5/"))
    if damage == "shape":
        tensors[name] = torch.zeros(3, 3, 3)
    elif damage == "missing":
        del tensors[name]
    else:
        header["ema_updates"] = {"0.5": "x"}
    LocalCheckpoints(tmp_path).write(f"step-{checkpoint.step:08d}.safetensors", pack(tensors, header))
    with pytest.raises(CheckpointError, match=f"the checkpoint at step {checkpoint.step} is damaged") as told:
        run(tiny(optimizer={"further_ema_rates": [0.5]}), dataset, tmp_path)
    assert "\n" not in str(told.value)


def test_another_dataset_is_refused_by_name(trained: Any) -> None:
    _, checkpoint = trained
    one = load_trained(checkpoint)
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
