"""Recomputing parts of the forward pass in the backward pass: the same gradient, less memory, as predicted."""

from __future__ import annotations

import gc
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.resources.runtime import work_of
from orchestrator.sweep.identity import trial_id
from orchestrator.sweep.settings import configure
from tests.trm_model.test_cost import DTYPES, config
from tests.trm_model.test_train import tiny
from trm_data import build
from trm_model import cost
from trm_model.config import ModelConfig, TrialConfig
from trm_model.model.halting import Carry
from trm_model.model.recursion import build_model
from trm_model.training.optim import FlatParameters
from trm_model.training.supervision import Supervised, supervise
from trm_model.training.trainer import Trainer

MODES = ("cycle", "block")
CELLS, VOCAB = 81, 11


class Step:
    """One training step of a fresh model, in parts."""

    def __init__(self, model_config: ModelConfig, recompute: Any, *, dtype: str = "float32", batch: int = 2) -> None:
        self.model = build_model(model_config, vocab_size=VOCAB, seq_len=CELLS, num_identifiers=3)
        with torch.no_grad():  # a fresh halting head gives no gradient to what is below it
            self.model.halt_head.normal_(generator=torch.Generator().manual_seed(1))
        self.model.recursion.set_recompute(recompute)
        self.flat = FlatParameters(self.model)
        self.dtype, self.batch = DTYPES[dtype], batch
        draw = torch.Generator().manual_seed(0)
        cells = torch.randint(1, VOCAB, (2, batch, CELLS), generator=draw)
        self.carry = Carry(
            states=self.model.start(batch, self.dtype),
            steps_B=torch.zeros(batch, dtype=torch.int32),
            halted_B=torch.ones(batch, dtype=torch.bool),
            inputs_BC=cells[0].to(torch.uint8),
            labels_BC=cells[1].to(torch.int16),
            puzzle_ids_B=torch.arange(batch, dtype=torch.int32) % 3,
        )
        embedding = self.model.puzzle_embedding
        self.rows = None if embedding is None else embedding.rows(self.carry.puzzle_ids_B, trained=True)

    def forward(self) -> Supervised:
        weights = self.flat.weights(self.dtype)
        return supervise(self.model, weights, self.carry, self.rows, torch.zeros(self.batch), "stablemax")

    def gradients(self) -> list[torch.Tensor]:
        done = self.forward()
        done.loss.backward()
        assert self.rows is not None and self.rows.grad is not None
        return [done.loss.detach(), self.flat.grad.clone(), self.rows.grad, *done.carry.states]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("recompute", MODES)
@pytest.mark.parametrize("name", ["attention", "mlp", "one-state", "many-latents", "two-networks", "continue", "hrm"])
def test_gradients_are_the_same_bit_for_bit(name: str, recompute: str, dtype: str) -> None:
    kept = Step(config(name), "none", dtype=dtype).gradients()
    again = Step(config(name), recompute, dtype=dtype).gradients()
    assert kept[1].abs().sum() > 0
    for one, other in zip(kept, again, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("recompute", MODES)
def test_training_is_the_same_bit_for_bit(recompute: str, tmp_path: Path) -> None:
    def trained(**runtime: Any) -> list[torch.Tensor]:
        settings = tiny(model={"halt_exploration": 0.5, "supervision_steps": 3}).plain()
        settings["runtime"] |= runtime
        trial = TrialConfig.parse(settings)
        trainer = Trainer(trial, build(trial.data.request(), tmp_path), torch.device("cpu"))
        for _ in range(4):
            trainer.train_step()
        return [trainer.flat.vector.detach(), *trainer.carry.states]

    for micro_batch_size in (None, 3):
        kept, again = (trained(recompute=mode, micro_batch_size=micro_batch_size) for mode in ("none", recompute))
        assert all(map(torch.equal, kept, again))


class _Live(TorchDispatchMode):
    """Track the bytes of living tensors that operations have made, and the most of them."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._sizes:
                    self._sizes[key] = storage.nbytes()
                    weakref.finalize(storage, self._sizes.pop, key, None)
        self.most = max(self.most, sum(self._sizes.values()))
        return out


def peak_bytes(model_config: ModelConfig, recompute: str, dtype: str, batch: int) -> int:
    step = Step(model_config, recompute, dtype=dtype, batch=batch)
    gc.collect()
    with _Live() as live:
        step.forward().loss.backward()
    return live.most


@cache
def example_bytes(model_config: ModelConfig, mode: str) -> float:
    one, three = (peak_bytes(model_config, mode, "float32", batch) for batch in (1, 3))
    return (three - one) / 2


@pytest.mark.parametrize("recompute", MODES)
@pytest.mark.parametrize("name", ["attention", "mlp"])
def test_memory_that_recomputing_saves_is_predicted_within_three_percent(name: str, recompute: str) -> None:
    """By example; the most that lives at once, in forward and backward pass."""
    model_config = config(name, latent_steps=3)

    def predicted(mode: str) -> int:
        return cost.example_activation_bytes(
            model_config, seq_len=CELLS, vocab_size=VOCAB, dtype="float32", device="cpu", recompute=mode
        )

    plain, less = (example_bytes(model_config, mode) for mode in ("none", recompute))
    assert plain - less == pytest.approx(predicted("none") - predicted(recompute), rel=0.03)
    assert plain - less > 0.6 * plain


@pytest.mark.parametrize("recompute", MODES)
@pytest.mark.parametrize("name", ["attention", "mlp", "hrm"])
def test_flops_of_recomputing_are_within_one_percent(name: str, recompute: str) -> None:
    trial = configure(
        TrialConfig(model=config(name)), {"runtime.recompute": recompute, "data.benchmark": "sudoku-extreme"}
    )
    step = Step(trial.model, recompute)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step.forward().loss.backward()
    predicted = cost.train_flops(trial.model, seq_len=CELLS, vocab_size=VOCAB)
    again = cost.recompute_flops(trial, seq_len=CELLS)
    assert counter.get_total_flops() / step.batch == pytest.approx(predicted + again, rel=0.01)
    assert again > 0


def test_recomputing_is_no_part_of_an_identity_and_takes_time_in_plans() -> None:
    plain = tiny()
    again = configure(plain, {"runtime.recompute": "block"})
    assert trial_id(plain, "data") == trial_id(again, "data")
    assert plain.trajectory() == again.trajectory()
    one, other = work_of(plain), work_of(again)
    assert other.train_flops == one.train_flops, "what a trial learns from is the same"
    assert other.flops > one.flops and other.calls > one.calls
