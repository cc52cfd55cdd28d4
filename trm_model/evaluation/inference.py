"""Supervision steps of a trained model, one after the other from fresh states, undisturbed or with noise in the latent.

Shapes: B batch, C grid cells, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trm_data.jit import Ints
from trm_model.model.recursion import Model, States, Weights, run


class Step(NamedTuple):
    """What the model says after one supervision step."""

    cells_BC: Tensor
    halt_logits_B: Tensor
    wants_halt_B: Tensor
    """By the model's own rule: the halt logit against zero, or against the continue logit."""


class Answers(NamedTuple):
    """What the model says in the end."""

    cells_BC: Tensor
    first_cells_BC: Tensor
    """After one supervision step."""
    halt_logits_B: Tensor
    steps_B: Tensor
    """Supervision steps behind the answer."""
    num_steps: int
    """Supervision steps that were run, for the whole batch."""

    def cpu(self) -> Answers:
        """The same in the CPU's memory."""
        cells_BC, first_cells_BC, halt_logits_B, steps_B, num_steps = self
        return Answers(cells_BC.cpu(), first_cells_BC.cpu(), halt_logits_B.cpu(), steps_B.cpu(), num_steps)


@dataclass(frozen=True, slots=True)
class Noise:
    """Gaussian noise for the latents of a batch.

    A pure function of the seed and of the item, view, rollout and step that it is for: how items are batched, which
    must not change a score, does not change it.
    """

    scale: float
    seed: int
    rollout: int
    items: Ints
    """(B)"""
    copies: Ints
    """(B): the views through which they are seen."""

    def disturb(self, states: States, step: int) -> States:
        """`states` with noise in the latents, or in the answer where it is the only state."""
        first = min(1, len(states) - 1)
        shaken = [
            state + self.scale * self._draw(step, index, state.shape[1:]).to(state)
            for index, state in enumerate(states[first:])
        ]
        return (*states[:first], *shaken)

    def _draw(self, step: int, state: int, shape: torch.Size) -> Tensor:
        key = np.array([self.seed, self.rollout], np.uint64)
        rows = [
            np.random.Generator(
                np.random.Philox(key=key, counter=np.array([0, item, copy, step << 8 | state], np.uint64))
            ).standard_normal(shape, np.float32)
            for item, copy in zip(self.items.tolist(), self.copies.tolist(), strict=True)
        ]
        return torch.from_numpy(np.stack(rows))


def cast(model: Model, weights: Weights | None, dtype: torch.dtype) -> Weights:
    """`weights`, or the model's own, in the type to compute in."""
    weights = dict(model.named_parameters()) if weights is None else weights
    return {name: value.detach().to(dtype) for name, value in weights.items()}


def think(
    model: Model, weights: Weights, inputs_BC: Tensor, ids_B: Tensor, *, dtype: torch.dtype, noise: Noise | None = None
) -> Iterator[Step]:
    """Supervision steps without end; with `noise`, each starts by disturbing the latent."""
    rows_BE = None if model.puzzle_embedding is None else model.puzzle_embedding.rows(ids_B, trained=False)
    states = model.start(len(ids_B), dtype)
    step = 0
    while True:
        if noise is not None:
            states = noise.disturb(states, step)
        output = run(model, weights, states, inputs_BC, rows_BE)
        states, step = output.states, step + 1
        rival = 0 if model.config.halting_rule == "sign" else output.continue_logits_B
        yield Step(output.logits_BCV.argmax(-1), output.halt_logits_B, output.halt_logits_B > rival)


def _ignore(step: int) -> None:
    """The default `tick` of `settle`."""


def settle(steps: Iterator[Step], num_steps: int, *, halt: bool, tick: Callable[[int], None] = _ignore) -> Answers:
    """Run the steps; with `halt`, an answer stays as it was when its sequence first wanted to halt.

    `tick` is told the number of every step that has been run.
    """
    first = next(steps)
    cells_BC, logits_B, done_B = first
    steps_B = torch.ones_like(logits_B, dtype=torch.int32)
    tick(1)
    number = 1
    while number < num_steps and not (halt and bool(done_B.all())):
        step, number = next(steps), number + 1
        going_B = ~done_B if halt else torch.ones_like(done_B)
        cells_BC = torch.where(going_B[:, None], step.cells_BC, cells_BC)
        logits_B = torch.where(going_B, step.halt_logits_B, logits_B)
        steps_B = torch.where(going_B, number, steps_B)
        done_B = done_B | step.wants_halt_B
        tick(number)
    return Answers(cells_BC, first.cells_BC, logits_B, steps_B, number)
