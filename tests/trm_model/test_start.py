"""Runs that start from the weights of a checkpoint, and parts that stay frozen: to the bit, through resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.support.arc_tasks import task, write_tasks
from tests.trm_model.test_train import assert_same, final_tensors, run, tiny
from trm_data import DataRequest, Dataset, build
from trm_data.errors import ConfigError
from trm_model.checkpoints.start import check_start
from trm_model.checkpoints.store import CheckpointError, LocalCheckpoints, newest_checkpoint, read_header
from trm_model.checkpoints.trained import load_trained, pack_weights
from trm_model.config import TrainConfig, TrialConfig
from trm_model.cost import state_bytes, train_flops
from trm_model.model.recursion import build_model
from trm_model.start_file import pin_start
from trm_model.training.events import Finished, Started
from trm_model.training.launch import train_in_processes
from trm_model.training.trainer import Trainer

ARC: dict[str, Any] = {"data": {"benchmark": "arc-agi-1", "num_validation": 1, "num_augmentations": 2}}
ARC["data"] |= {"blanks": None, "num_train": None, "num_test": None}
ARC["model"] = {"puzzle_embedding_len": 16, "cycles": 1, "latent_steps": 1, "num_layers": 1}
ARC["train"] = {"batch_size": 4, "max_steps": 4, "dtype": "float32"}
ARC |= {"runtime": {"evaluate_every": 100}, "evaluation": {"max_puzzles": 1, "supervision_steps": 1}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(tiny().data.request(), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a whole run, whose averaged weights differ from its raw ones."""
    folder = tmp_path_factory.mktemp("trained")
    run(tiny(), dataset, folder)
    return folder / "step-00000010.safetensors"


def arc_data(folder: Path, first: int) -> Dataset:
    """Two training and two evaluation tasks; other ones for another `first`."""
    names = ("training/a", "training/b", "evaluation/c", "evaluation/d")
    write_tasks(folder / "in", {f"{name}{first}": task(first + number) for number, name in enumerate(names)})
    request = DataRequest(benchmark="arc-agi-1", source=str(folder / "in"), num_validation=1)
    return build(request, folder / "data")


@pytest.fixture(scope="module")
def arc(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return arc_data(tmp_path_factory.mktemp("arc"), 1)


@pytest.fixture(scope="module")
def arc_trained(arc: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arc-trained")
    run(tiny(**ARC), arc, folder)
    return folder / "step-00000004.safetensors"


def started(path: Path, *bases: dict[str, Any], **train: Any) -> TrialConfig:
    (sections,) = bases or ({},)
    more = {"start_from": pin_start(str(path), Path()), **train}
    return tiny(**{**sections, "train": {**sections.get("train", {}), **more}})


def begun(config: TrialConfig, dataset: Dataset, folder: Path) -> tuple[Started, dict[str, torch.Tensor]]:
    """The first event of a run that is stopped before its first step, and the tensors of its checkpoint."""
    from trm_model.training.loop import train

    first, *_ = train(config, dataset, checkpoints=LocalCheckpoints(folder), should_stop=lambda: True)
    assert isinstance(first, Started) and first.step == 0
    return first, final_tensors(folder)


def weights_of(path: Path, which: str) -> dict[str, torch.Tensor]:
    found = newest_checkpoint(LocalCheckpoints(path.parent))
    assert found is not None
    return dict(load_trained(found, which).model.state_dict())


def section(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def test_run_begins_with_the_averaged_weights_and_a_fresh_optimizer(
    trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    event, tensors = begun(started(trained), dataset, tmp_path)
    averaged = weights_of(trained, "ema")
    assert_same(section(tensors, "model"), averaged)
    assert any(not torch.equal(value, averaged[name]) for name, value in weights_of(trained, "raw").items())
    average = section(tensors, "ema/0.9")
    assert_same(average, {name: averaged[name] for name in average})
    assert not tensors["optimizer/count"] and not tensors["optimizer/first"].any()
    assert event.started_from.startswith(f"EMA weights of step 10 of {trained} (sha256 ")
    assert event.started_from.endswith("puzzle embeddings: 1 of the same puzzles")


def test_checkpoint_without_an_average_gives_its_only_weights(dataset: Dataset, tmp_path: Path) -> None:
    config = tiny()
    model = build_model(config.model, vocab_size=6, seq_len=16, num_identifiers=1, seed=9)
    file = tmp_path / "imported.safetensors"
    file.write_bytes(pack_weights(model, config, step=7, id_map_hash="shared"))
    event, tensors = begun(started(file), dataset, tmp_path / "run")
    assert_same(section(tensors, "model"), dict(model.state_dict()))
    assert event.started_from.startswith("weights of step 7 of ")


@pytest.mark.parametrize("train", [{}, {"freeze": "network"}, {"freeze": "embeddings"}, {"new_embeddings": "fresh"}])
def test_run_that_starts_from_weights_resumes_bit_for_bit(
    train: dict[str, Any], trained: Path, dataset: Dataset, tmp_path: Path
) -> None:
    config = started(trained, **train)
    straight = run(config, dataset, tmp_path / "straight")
    run(config, dataset, tmp_path / "resumed", stop_at=4)
    again = run(config, dataset, tmp_path / "resumed")
    assert again[0] == Started(4, straight[0].num_parameters, True)  # type: ignore[union-attr]
    assert_same(final_tensors(tmp_path / "straight"), final_tensors(tmp_path / "resumed"))
    fresh = tmp_path / "fresh"
    run(tiny(train=train), dataset, fresh)
    key = "model/token_embedding"
    assert not torch.equal(final_tensors(fresh)[key], final_tensors(tmp_path / "straight")[key])


@pytest.mark.parametrize("name", ["adam_atan2", "adamw", "muon"])
def test_frozen_network_does_not_change_by_a_bit(name: str, trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    config = started(trained, {"optimizer": {"name": name, "further_ema_rates": [0.5]}}, freeze="network")
    (*_, end) = run(config, dataset, tmp_path)
    assert isinstance(end, Finished) and end.result["weights"] == "raw"
    before, after = weights_of(trained, "ema"), section(tensors := final_tensors(tmp_path), "model")
    assert not torch.equal(before.pop("puzzle_embedding.weight"), after.pop("puzzle_embedding.weight"))
    assert_same(after, before)
    assert not [key for key in tensors if key.startswith(("optimizer/", "ema/"))]


def test_two_processes_begin_with_the_same_weights(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    config = started(trained, {"runtime": {"num_threads": 1}}, freeze="network", max_steps=3)
    store = LocalCheckpoints(tmp_path)
    events = list(train_in_processes(config, dataset, processes=2, checkpoints=store))
    assert isinstance(events[0], Started) and events[0].started_from.startswith("EMA weights of step 10")
    before, after = weights_of(trained, "ema"), section(final_tensors(tmp_path), "model")
    assert not torch.equal(before.pop("puzzle_embedding.weight"), after.pop("puzzle_embedding.weight"))
    assert_same(after, before)


def test_frozen_embeddings_do_not_change_by_a_bit(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    run(started(trained, freeze="embeddings"), dataset, tmp_path)
    before, after = weights_of(trained, "ema"), section(final_tensors(tmp_path), "model")
    assert torch.equal(before["puzzle_embedding.weight"], after["puzzle_embedding.weight"])
    assert not torch.equal(before["answer_head"], after["answer_head"])


def test_recomputing_leaves_a_frozen_run_the_same(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    for recompute in ("none", "cycle", "block"):
        run(started(trained, {"runtime": {"recompute": recompute}}, freeze="network"), dataset, tmp_path / recompute)
    assert_same(final_tensors(tmp_path / "none"), final_tensors(tmp_path / "cycle"))
    assert_same(final_tensors(tmp_path / "none"), final_tensors(tmp_path / "block"))


@pytest.mark.parametrize("mixer", ["mlp", "attention"])
@pytest.mark.parametrize("variant", ["trm", "hrm", "direct"])
def test_flops_and_memory_of_a_frozen_network_are_those_that_are_counted(
    mixer: str, variant: str, dataset: Dataset
) -> None:
    model = {"mixer": mixer, "positions": "none", "variant": variant, "hidden_size": 64, "latent_steps": 3}
    config = tiny(model=model, train={"freeze": "network"})
    trainer = Trainer(config, dataset, torch.device("cpu"))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        trainer.train_step()
    sizes: dict[str, Any] = {"seq_len": dataset.seq_len, "vocab_size": dataset.vocab_size}
    predicted = 8 * train_flops(config.model, **sizes, frozen=True)
    assert trainer.flops == predicted < 8 * train_flops(config.model, **sizes)
    assert counter.get_total_flops() == pytest.approx(predicted, rel=0.02)
    whole = tiny(model=model)
    trained, frozen = (state_bytes(each, num_identifiers=1, **sizes) for each in (whole, config))
    assert trained - frozen == 4 * 4 * trainer.flat.num_parameters  # gradient, two moments, average


def test_embeddings_of_the_same_puzzles_are_taken_over_and_of_new_ones_begin_at_the_mean(
    arc: Dataset, arc_trained: Path, tmp_path: Path
) -> None:
    table = weights_of(arc_trained, "ema")["puzzle_embedding.weight"]
    assert table[1:].any()
    event, same = begun(started(arc_trained, ARC), arc, tmp_path / "same")
    assert torch.equal(same["model/puzzle_embedding.weight"], table)
    assert event.started_from.endswith(f"{len(table)} of the same puzzles")
    other = arc_data(tmp_path, 21)
    mean = table[1:].double().mean(0).float()
    event, new = begun(started(arc_trained, ARC), other, tmp_path / "new")
    assert event.started_from.endswith(f"puzzle embeddings: {len(table)} at the mean")
    rows = new["model/puzzle_embedding.weight"]
    torch.testing.assert_close(rows, mean.expand_as(rows))
    event, fresh = begun(started(arc_trained, ARC, new_embeddings="fresh"), other, tmp_path / "fresh")
    assert not fresh["model/puzzle_embedding.weight"].any()
    assert event.started_from.endswith("at zero")


def test_more_augmentations_keep_the_rows_that_are_known(arc: Dataset, arc_trained: Path, tmp_path: Path) -> None:
    table = weights_of(arc_trained, "ema")["puzzle_embedding.weight"]
    for copies in (1, 4):
        sections = {**ARC, "data": {**ARC["data"], "num_augmentations": copies}}
        _, tensors = begun(started(arc_trained, sections), arc, tmp_path / str(copies))
        rows = tensors["model/puzzle_embedding.weight"]
        assert len(rows) == arc.num_identifiers(copies) != len(table)
        known = min(len(rows), len(table))
        assert torch.equal(rows[:known], table[:known])
        mean = table[1:].double().mean(0).float()
        torch.testing.assert_close(rows[known:], mean.expand_as(rows[known:]))


def test_large_table_of_new_embeddings_survives_checkpoints_before_and_after_the_first_step(
    arc: Dataset, tmp_path: Path
) -> None:
    """Checkpoints store a table of more than a megabyte as changes over one of zeros, which it is not here."""
    sections = {**ARC, "data": {**ARC["data"], "num_augmentations": 300}}
    sections["model"] = {**ARC["model"], "puzzle_embedding_size": 256}
    run(tiny(**sections), arc, tmp_path / "trained")
    found = newest_checkpoint(LocalCheckpoints(tmp_path / "trained"))
    assert found is not None and "table" in found.header
    config = started(tmp_path / "trained/step-00000004.safetensors", sections)
    wanted = found.tensors["model/puzzle_embedding.weight"]
    _, tensors = begun(config, arc, tmp_path / "run")
    assert torch.equal(tensors["model/puzzle_embedding.weight"], wanted)
    run(config, arc, tmp_path / "run")
    run(config, arc, tmp_path / "straight")
    one, two = final_tensors(tmp_path / "run"), final_tensors(tmp_path / "straight")
    assert_same(section(one, "model"), section(two, "model"))
    assert_same(section(one, "ema"), section(two, "ema"))


@pytest.mark.parametrize(
    ("model", "sizes", "message"),
    [
        ({"hidden_size": 32}, {}, r"model.hidden_size=16 and not 32.*--set model.hidden_size=16"),
        ({"num_layers": 3, "variant": "hrm"}, {}, r"model.variant=trm and not hrm, model.num_layers=2 and not 3"),
        (
            {},
            {"seq_len": 36, "vocab_size": 8},
            r"trained on 4x4 grids and not 6x6, 6 symbols and not 8.*Name a dataset",
        ),
    ],
)
def test_weights_of_another_model_are_refused_with_everything_that_differs(
    model: dict[str, Any], sizes: dict[str, int], message: str, trained: Path
) -> None:
    header = read_header(trained.read_bytes())
    config = tiny(model=model)
    with pytest.raises(CheckpointError, match=message):
        check_start(config.model, header, "it", **{"seq_len": 16, "vocab_size": 6, **sizes})


def test_depth_and_halting_may_differ(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    model = {"cycles": 1, "latent_steps": 3, "supervision_steps": 2, "halting": "continue"}
    assert isinstance(run(started(trained, {"model": model}), dataset, tmp_path)[-1], Finished)


def test_address_is_checked_when_it_is_named(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = pin_start(str(trained), Path())
    monkeypatch.chdir(trained.parent)
    assert TrainConfig(start_from=trained.name).start_from == pinned
    assert pin_start(trained.name, trained.parent) == pin_start(pinned, Path()) == pinned
    (tmp_path / "text").write_text("no checkpoint")
    (tmp_path / "official").write_bytes(b"PK\3\4" + bytes(100))
    for name, message in {
        "none": "none is not there.*hf://",
        ".": "is a folder",
        "text": "text is not a checkpoint of this program. Name another file",
        "official": "official is not a checkpoint.*trm checkpoint import",
    }.items():
        with pytest.raises(ConfigError, match=message):
            TrainConfig(start_from=str(tmp_path / name))
    with pytest.raises(ConfigError, match=r"has sha256 .* as its address says"):
        pin_start(f"{trained}#sha256={'0' * 64}", Path())


def test_changed_file_is_noticed_when_the_run_begins(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "start.safetensors"
    file.write_bytes(trained.read_bytes())
    config = started(file)
    file.write_bytes(trained.read_bytes() + b"\0")
    with pytest.raises(Exception, match="corrupt: its sha256 is not the one in its address"):
        run(config, dataset, tmp_path / "run")


def test_nothing_to_freeze_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"freeze='network' has nothing to train: model.puzzle_embedding_len=0"):
        tiny(model={"puzzle_embedding_len": 0}, train={"freeze": "network"})
