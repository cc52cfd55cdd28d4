"""Predicted FLOPs, activation bytes and sizes against what PyTorch counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.trm_model.test_train import tiny
from trm_data import build
from trm_model import cost
from trm_model.config import ModelConfig, TrialConfig
from trm_model.model import layers, precision
from trm_model.model.halting import Carry
from trm_model.model.recursion import build_model
from trm_model.recipes import get_recipe
from trm_model.training.optim import FlatParameters
from trm_model.training.supervision import supervise
from trm_model.training.trainer import Trainer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
VARIANTS: dict[str, dict[str, Any]] = {
    "attention": {},
    "mlp": {"mixer": "mlp", "positions": "none"},
    "learned": {"positions": "learned"},
    "one-state": {"num_latents": 0},
    "many-latents": {"num_latents": 3},
    "two-networks": {"shared_network": False},
    "one-step": {"gradient": "step"},
    "continue": {"halting": "continue"},
    "hrm": {"variant": "hrm"},
    "direct": {"variant": "direct"},
}


def config(name: str, **changes: Any) -> ModelConfig:
    base = {"hidden_size": 64, "num_heads": 4, "cycles": 2, "latent_steps": 2, "puzzle_embedding_len": 2}
    return ModelConfig.parse({**base, **VARIANTS[name], **changes})


class Counts:
    """What one training step of a batch really does."""

    def __init__(self, model_config: ModelConfig, *, cells: int, vocab: int, dtype: str, batch: int) -> None:
        model = build_model(model_config, vocab_size=vocab, seq_len=cells, num_identifiers=1)
        flat = FlatParameters(model)
        self.num_parameters = flat.num_parameters
        carry = Carry(
            states=model.start(batch, DTYPES[dtype]),
            steps_B=torch.zeros(batch, dtype=torch.int32),
            halted_B=torch.ones(batch, dtype=torch.bool),
            inputs_BC=torch.ones(batch, cells, dtype=torch.uint8),
            labels_BC=torch.ones(batch, cells, dtype=torch.int16),
            puzzle_ids_B=torch.zeros(batch, dtype=torch.int32),
        )
        self._sizes: dict[int, int] = {}
        self._kept: list[torch.Tensor] = []  # alive, so that no address is used twice
        with FlopCounterMode(display=False) as counter:
            weights = flat.weights(DTYPES[dtype])
            fixed = {value.untyped_storage().data_ptr() for value in weights.values()}
            assert model.puzzle_embedding is not None
            rows = model.puzzle_embedding.rows(carry.puzzle_ids_B, trained=True)
            with torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor):
                done = supervise(model, weights, carry, rows, torch.zeros(batch), "stablemax")
            done.loss.backward()
        self.flops = counter.get_total_flops()
        self.saved_bytes = sum(size for place, size in self._sizes.items() if place not in fixed)

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self._sizes[storage.data_ptr()] = storage.nbytes()
        self._kept.append(tensor)
        return tensor


@pytest.mark.parametrize("name", VARIANTS)
def test_flops_are_within_one_percent(name: str) -> None:
    model_config = config(name)
    with sdpa_kernel(SDPBackend.MATH):
        counted = Counts(model_config, cells=81, vocab=11, dtype="float32", batch=2)
    predicted = cost.train_flops(model_config, seq_len=81, vocab_size=11)
    assert counted.flops / 2 == pytest.approx(predicted, rel=0.01)
    assert counted.num_parameters == cost.num_parameters(model_config, seq_len=81, vocab_size=11)


def test_flops_of_900_tokens_are_within_one_percent() -> None:
    model_config = config("attention", cycles=1, latent_steps=1, num_layers=1)
    with sdpa_kernel(SDPBackend.MATH):
        counted = Counts(model_config, cells=900, vocab=12, dtype="float32", batch=1)
    assert counted.flops == pytest.approx(cost.train_flops(model_config, seq_len=900, vocab_size=12), rel=0.01)


@pytest.mark.parametrize(
    ("dtype", "instructions", "device"),
    [
        ("float32", frozenset(), "cpu"),
        ("bfloat16", frozenset(), "cpu"),
        ("bfloat16", frozenset({"avx512_bf16"}), "cuda"),
    ],
)
@pytest.mark.parametrize("name", VARIANTS)
def test_activation_bytes_are_within_three_percent(
    name: str, dtype: str, instructions: frozenset[str], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "INSTRUCTIONS", instructions)
    if device == "cuda":  # where nothing is widened
        monkeypatch.setattr(layers, "widens_attention", lambda x: False)
    model_config = config(name)
    one, three = (Counts(model_config, cells=81, vocab=11, dtype=dtype, batch=size).saved_bytes for size in (1, 3))
    predicted = cost.example_activation_bytes(model_config, seq_len=81, vocab_size=11, dtype=dtype, device=device)
    # Without widening the first input is copied once more, which shows where the network is applied only once.
    assert (three - one) / 2 == pytest.approx(predicted, rel=0.03 if device == "cpu" else 0.035)


PROCESS = """
import resource, sys, torch
from trm_data import build
from trm_model.config import TrialConfig
from trm_model.training.trainer import Trainer
from pathlib import Path

torch.set_num_threads(1)
config = TrialConfig.model_validate_json(sys.argv[1])
trainer = Trainer(config, build(config.data.request(), Path(sys.argv[2])), torch.device("cpu"))
for _ in range(2):
    trainer.train_step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_memory_of_the_whole_process_is_within_fifteen_percent(tmp_path: Path) -> None:
    settings = get_recipe("sudoku-9x9-mini").plain()
    settings["model"] |= {"hidden_size": 128, "expansion": 4.0, "inner_multiple": 256, "latent_steps": 4, "cycles": 1}
    settings["train"] |= {"dtype": "float32"}
    settings["data"] |= {"num_train": 200, "num_validation": 10, "num_test": 10}
    trial = TrialConfig.parse(settings)
    arguments = [sys.executable, "-c", PROCESS, trial.model_dump_json(), str(tmp_path)]
    measured = int(subprocess.run(arguments, check=True, capture_output=True).stdout)
    assert measured > 1e9
    predicted = cost.peak_bytes(trial, seq_len=81, vocab_size=11, num_identifiers=1, device="cpu")
    assert measured == pytest.approx(predicted, rel=0.15)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "muon"},
        {"further_ema_rates": (0.9, 0.99)},
        {"further_ema_rates": (0.9, 0.999)},  # one of them is the main one
        {"name": "muon", "ema_rate": 0.0, "further_ema_rates": (0.5,)},
    ],
)
def test_everything_that_an_optimizer_and_its_averages_hold_is_predicted(
    optimizer: dict[str, Any], tmp_path: Path
) -> None:
    def sizes(trial: TrialConfig) -> tuple[int, int]:
        trainer = Trainer(trial, build(trial.data.request(), tmp_path), torch.device("cpu"))
        held = trainer.state({}).tensors
        measured = sum(value.nbytes for name, value in held.items() if value.ndim)
        shape = {"seq_len": trainer.dataset.seq_len, "vocab_size": trainer.dataset.vocab_size}
        return measured, cost.checkpoint_bytes(trial, num_identifiers=trainer.num_identifiers, **shape)

    plain = {"ema_rate": 0.999}
    (measured, predicted), (more_measured, more_predicted) = (
        sizes(tiny(optimizer=settings)) for settings in (plain, plain | optimizer)
    )
    assert more_predicted - predicted == more_measured - measured


@pytest.mark.parametrize("mixer", ["attention", "mlp"])
def test_a_step_in_micro_batches_needs_the_memory_of_one_of_them(mixer: str) -> None:
    """And a micro batch that is larger than the batch is the batch."""
    base = TrialConfig.parse({"model": config(mixer).plain(), "train": {"batch_size": 64}})
    sizes = {"seq_len": 81, "vocab_size": 11, "num_identifiers": 1}

    def num_bytes(batch_size: int, micro_batch_size: int | None) -> int:
        train = base.train.model_copy(update={"batch_size": batch_size})
        runtime = base.runtime.model_copy(update={"micro_batch_size": micro_batch_size})
        trial = base.model_copy(update={"train": train, "runtime": runtime})
        # The states of all examples of the batch are kept between its micro batches.
        return cost.training_bytes(trial, **sizes) - cost.state_bytes(trial, **sizes)

    assert num_bytes(64, 16) == num_bytes(16, None) < num_bytes(64, None) == num_bytes(64, 256)


def test_published_models_have_their_published_size() -> None:
    hrm = cost.num_parameters(get_recipe("hrm.sudoku").model, seq_len=81, vocab_size=11)
    assert hrm == 27_275_266  # as the official code prints it
    figures = {
        "sudoku-mlp.readme": (81, 42.7e9),
        "sudoku-att.readme": (81, 47.6e9),
        "maze-att.readme": (900, 398.1e9),
    }
    for name, (cells, flops) in figures.items():
        counted = cost.train_flops(get_recipe(name).model, seq_len=cells, vocab_size=11)
        assert counted == pytest.approx(flops, rel=0.01)
