"""Run one supervision step of a batch: refresh halted slots, run the model, decide which slots halt, sum up the loss.

Shapes: B batch, C grid cells. One optimizer step of training is one such step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from trm_model.model.halting import Carry, halts, wants_halt
from trm_model.model.recursion import Model, Output, Weights, run
from trm_model.training.losses import answer_loss, continue_loss, continue_target, halt_loss, judge

SUMS = (
    "count",
    "cell_accuracy",
    "exact_accuracy",
    "halt_accuracy",
    "halting_steps",
    "answer_loss",
    "halt_loss",
    "continue_loss",
)
"""Names of `Supervised.sums`: over the rows that have halted with labels, but the losses over all rows."""


class Supervised(NamedTuple):
    """Hold the outcome of a supervision step."""

    loss: Tensor
    """Scalar, a sum over rows."""
    carry: Carry
    output: Output
    sums: Tensor
    """float64, in the order of `SUMS`."""


def supervise(
    model: Model, weights: Weights, carry: Carry, puzzle_rows_BE: Tensor | None, earliest_B: Tensor, loss: str
) -> Supervised:
    """Run one supervision step of every slot, compare the answers with the labels, and sum up the loss.

    Args:
        puzzle_rows_BE: puzzle embeddings, or None where the model has none.
        earliest_B: the supervision step before which a slot may not halt (exploration).
        loss: a name in `CROSS_ENTROPIES`.
    """
    config = model.config
    steps_B = torch.where(carry.halted_B, 0, carry.steps_B) + 1
    states = model.reset(carry.states, carry.halted_B)
    output = run(model, weights, states, carry.inputs_BC, puzzle_rows_BE)
    judged = judge(output.logits_BCV, carry.labels_BC)
    halt_logits_B = output.halt_logits_B
    answer = answer_loss(output.logits_BCV, carry.labels_BC, loss)
    halting = halt_loss(halt_logits_B, judged.correct_B)
    continuing = halting.new_zeros(())
    if config.learns_continue:
        with torch.no_grad():
            ahead = run(model, weights, output.states, carry.inputs_BC, puzzle_rows_BE)
        target_B = continue_target(ahead, steps_B >= config.supervision_steps)
        continuing = continue_loss(output.continue_logits_B, target_B)
    with torch.no_grad():
        halted_B = halts(wants_halt(output, config), steps_B, earliest_B, config.supervision_steps)
        counted_B = halted_B & judged.has_labels_B
        says_right_B = (halt_logits_B >= 0) == judged.correct_B
        rows = (torch.ones_like(steps_B), judged.cell_accuracy_B, judged.correct_B, says_right_B, steps_B)
        sums = [(counted_B * row).sum() for row in rows] + [answer.detach(), halting.detach(), continuing.detach()]
    return Supervised(
        answer + 0.5 * (halting + continuing),
        replace(carry, states=output.states, steps_B=steps_B, halted_B=halted_B),
        output,
        torch.stack([value.double() for value in sums]),
    )
