"""Run a trained model: supervision steps from fresh states, with or without noise in the latent.

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
from trm_model.model.halting import wants_halt
from trm_model.model.recursion import Model, States, Weights, run


class Step(NamedTuple):
    """Hold the model's output after one supervision step."""

    cells_BC: Tensor
    halt_logits_B: Tensor
    wants_halt_B: Tensor
    """By the model's own rule, see `wants_halt`."""


class Answers(NamedTuple):
    """Hold the final answers of a batch."""

    cells_BC: Tensor
    first_cells_BC: Tensor
    """After one supervision step."""
    halt_logits_B: Tensor
    steps_B: Tensor
    """Supervision steps behind the answer."""
    num_steps: int
    """Supervision steps that were run, for the whole batch."""

    def cpu(self) -> Answers:
        """Copy all tensors to the CPU's memory."""
        cells_BC, first_cells_BC, halt_logits_B, steps_B, num_steps = self
        return Answers(cells_BC.cpu(), first_cells_BC.cpu(), halt_logits_B.cpu(), steps_B.cpu(), num_steps)


@dataclass(frozen=True, slots=True)
class Noise:
    """Draw Gaussian noise for the latents of a batch.

    The noise is a pure function of the seed and of the item, view, rollout and step that it is for: how items are
    batched, which must not change a score, does not change it.
    """

    scale: float
    seed: int
    rollout: int
    items: Ints
    """(B)"""
    copies: Ints
    """(B): the views through which they are seen."""

    def disturb(self, states: States, step: int) -> States:
        """Add noise to the latents, or to the answer where it is the only state."""
        first = min(1, len(states) - 1)
        disturbed = [
            state + self.scale * self._draw(step, index, state.shape[1:]).to(state)
            for index, state in enumerate(states[first:])
        ]
        return (*states[:first], *disturbed)

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
    """Convert `weights`, or the model's own if None, to the type to compute in."""
    weights = dict(model.named_parameters()) if weights is None else weights
    return {name: value.detach().to(dtype) for name, value in weights.items()}


def supervision_steps(
    model: Model, weights: Weights, inputs_BC: Tensor, ids_B: Tensor, *, dtype: torch.dtype, noise: Noise | None = None
) -> Iterator[Step]:
    """Yield the output of one supervision step after the other, without end.

    Args:
        ids_B: rows of the puzzle-embedding table.
        noise: disturbs the latent before every step.
    """
    rows_BE = None if model.puzzle_embedding is None else model.puzzle_embedding.rows(ids_B, trained=False)
    states = model.start(len(ids_B), dtype)
    step = 0
    while True:
        if noise is not None:
            states = noise.disturb(states, step)
        output = run(model, weights, states, inputs_BC, rows_BE)
        states, step = output.states, step + 1
        yield Step(output.logits_BCV.argmax(-1), output.halt_logits_B, wants_halt(output, model.config))


def _ignore(step: int) -> None:
    """Do nothing: the default `on_step` of `final_answers`."""


def final_answers(
    steps: Iterator[Step], num_steps: int, *, halt: bool, on_step: Callable[[int], None] = _ignore
) -> Answers:
    """Run at most `num_steps` steps and keep an answer per sequence.

    Args:
        halt: keep each answer from the step at which its sequence first wants to halt, instead of the last one, and
            end early when all sequences have halted.
        on_step: called with the number, from 1, of every step that has been run.
    """
    first = next(steps)
    cells_BC, logits_B, halted_B = first
    steps_B = torch.ones_like(logits_B, dtype=torch.int32)
    on_step(1)
    number = 1
    while number < num_steps and not (halt and bool(halted_B.all())):
        step, number = next(steps), number + 1
        active_B = ~halted_B if halt else torch.ones_like(halted_B)
        cells_BC = torch.where(active_B[:, None], step.cells_BC, cells_BC)
        logits_B = torch.where(active_B, step.halt_logits_B, logits_B)
        steps_B = torch.where(active_B, number, steps_B)
        halted_B = halted_B | step.wants_halt_B
        on_step(number)
    return Answers(cells_BC, first.cells_BC, logits_B, steps_B, number)
