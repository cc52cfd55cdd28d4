"""Members of the family that the official numbers do not cover, against a naive float64 model (reference_model.py)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.reference_model import IGNORED, Reference, Sequence
from trm_model.config import ModelConfig
from trm_model.model.halting import Carry
from trm_model.model.recursion import Model, build_model
from trm_model.training.supervision import supervise

SYMBOLS, CELLS, ROWS, STEPS = 5, 9, 3, 4
GOLDEN = Path(__file__).parents[1] / "golden" / "variants.json"
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_heads": 2,
    "expansion": 2.0,
    "inner_multiple": 8,
    "num_layers": 2,
    "cycles": 2,
    "latent_steps": 3,
    "supervision_steps": 3,
    "puzzle_embedding_len": 2,
    "puzzle_embedding_size": 20,
}
MLP = {"mixer": "mlp", "positions": "none"}
CASES: dict[str, dict[str, Any]] = {
    "three latents, five steps": {"num_latents": 3, "latent_steps": 5},
    "two latents, mlp": {**MLP, "num_latents": 2},
    "one state": {"num_latents": 0},
    "one state, one-step gradient": {**MLP, "num_latents": 0, "gradient": "step"},
    "learned positions": {"positions": "learned"},
    "learned positions, mlp": {"mixer": "mlp", "positions": "learned"},
    "no positions": {"positions": "none", "puzzle_embedding_len": 0, "puzzle_embedding_size": None},
    "separate networks": {**MLP, "shared_network": False},
    "one-step gradient": {"gradient": "step"},
    "trm with the continue head": {"halting": "continue"},
    "hrm": {"variant": "hrm", "latent_steps": 2},
    "hrm, mlp, learned positions": {"variant": "hrm", "mixer": "mlp", "positions": "learned"},
    "direct": {"variant": "direct", "halting": "compare", "puzzle_embedding_len": 1, "puzzle_embedding_size": None},
}


def made(case: str) -> Model:
    """A model whose blocks are tame enough for float32 to follow float64, and whose halting is not trivial."""
    config = ModelConfig.parse(SMALL | CASES[case])
    model = build_model(config, vocab_size=SYMBOLS, seq_len=CELLS, num_identifiers=4, seed=5)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".blocks." in name:
                value *= 0.5
        model.halt_head.normal_(0, 0.5, generator=generator)
        model.halt_bias.copy_(torch.tensor([0.3, -0.2]))
        if model.puzzle_embedding is not None:
            model.puzzle_embedding.weight.normal_(generator=generator)
    return model


def batches() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(puzzles (B, C), labels (B, C), ids (B)) per step; some cells and one whole row are not supervised."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for _ in range(STEPS):
        puzzles, labels = (torch.randint(0, SYMBOLS, (ROWS, CELLS), generator=generator) for _ in range(2))
        labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORED
        found.append((puzzles, labels, torch.randint(0, 4, (ROWS,), generator=generator)))
    found[2][1][1] = IGNORED
    return found


def refilled(carry: Carry, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> Carry:
    halted = carry.halted_B
    return replace(
        carry,
        inputs_BC=torch.where(halted[:, None], batch[0], carry.inputs_BC),
        labels_BC=torch.where(halted[:, None], batch[1], carry.labels_BC),
        puzzle_ids_B=torch.where(halted, batch[2], carry.puzzle_ids_B),
    )


def empty(model: Model) -> Carry:
    zeros = torch.zeros(ROWS, CELLS, dtype=torch.int64)
    counts = torch.zeros(ROWS, dtype=torch.int64)
    return Carry(
        model.start(ROWS, torch.float32), counts.int(), torch.ones(ROWS, dtype=torch.bool), zeros, zeros, counts
    )


def wide(model: Model) -> dict[str, torch.Tensor]:
    """The model's weights for the reference, as leaves."""
    named = {name: value.detach().double() for name, value in model.state_dict().items()}
    return {name: value.requires_grad_(not name.startswith("start_")) for name, value in named.items()}


@pytest.mark.parametrize("case", CASES)
def test_variant_follows_the_naive_model_in_every_number(case: str) -> None:
    model = made(case)
    weights = wide(model)
    reference, carry = Reference(model.config, weights), empty(model)
    slots: list[Sequence] = []
    losses, halts = [], []
    for batch in batches():
        fresh = [Sequence(puzzle, label, int(number)) for puzzle, label, number in zip(*batch, strict=True)]
        slots = [old if slots and not old.halted else new for old, new in zip(slots or fresh, fresh, strict=True)]
        told = [reference.supervise(slot) for slot in slots]
        for value in weights.values():
            value.grad = None
        loss = torch.stack([one.loss for one in told]).sum()
        loss.backward()

        carry = refilled(carry, batch)
        rows = None if model.puzzle_embedding is None else model.puzzle_embedding.rows(carry.puzzle_ids_B, trained=True)
        model.zero_grad()
        done = supervise(
            model, dict(model.named_parameters()), carry, rows, torch.zeros(ROWS, dtype=torch.int64), "stablemax"
        )
        done.loss.backward()

        assert done.carry.halted_B.tolist() == [slot.halted for slot in slots]
        assert done.carry.steps_B.tolist() == [slot.steps for slot in slots]
        close(done.output.logits_BCV, torch.stack([one.logits for one in told]), 1e-4)
        close(done.output.halt_logits_B, torch.stack([one.halt for one in told]), 1e-4)
        close(done.output.continue_logits_B, torch.stack([one.go_on for one in told]), 1e-4)
        for number, state in enumerate(done.carry.states):
            close(state, torch.stack([slot.states[number] for slot in slots]), 1e-4)
        close(done.loss, loss, 1e-5)
        for name, value in model.named_parameters():
            close(value.grad, weights[name].grad, 1e-4, name)
        if rows is not None:
            assert rows.grad is not None
            table = torch.zeros_like(weights["puzzle_embedding.weight"])
            table.index_add_(0, carry.puzzle_ids_B, rows.grad.double())
            close(table, weights["puzzle_embedding.weight"].grad, 1e-4)
        carry = done.carry
        losses.append(loss.item())
        halts.append("".join("x" if slot.halted else "." for slot in slots))
    golden = json.loads(GOLDEN.read_text())[case]
    assert halts == golden["halted"], "the initial weights have changed, or the reference has"
    assert losses == pytest.approx(golden["losses"], rel=1e-5)


def close(found: torch.Tensor | None, expected: torch.Tensor | None, tolerance: float, name: str = "") -> None:
    """Equal up to the rounding of float32, relative to the largest number."""
    assert found is not None and expected is not None, name
    expected = expected.detach()
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(
        found.detach().double(), expected, atol=tolerance * scale, rtol=0, msg=lambda message: f"{name} {message}"
    )


def test_cases_halt_at_different_times() -> None:
    """A golden case in which everything halts at once would show nothing of the carry."""
    golden = json.loads(GOLDEN.read_text())
    assert golden.keys() == CASES.keys()
    patterns = {pattern for case in golden.values() for pattern in case["halted"]}
    assert len(patterns) >= 5
