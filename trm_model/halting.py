"""The carry that lives from one supervision step to the next, and when a sequence leaves it.

A batch has fixed slots. Each optimizer step is one supervision step of every slot's sequence; where a sequence has
halted, the slot takes a new puzzle and fresh states. Shapes: B batch, C grid cells, L tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trm_model.recursion import States


@dataclass(frozen=True, slots=True)
class Carry:
    """The sequences in the slots. `halted_B` means that the slot wants a new puzzle before the next step."""

    states: States
    steps_B: Tensor
    halted_B: Tensor
    inputs_BC: Tensor
    labels_BC: Tensor
    puzzle_ids_B: Tensor


def earliest_halt(seed: int, step: int, slots: range, *, supervision_steps: int, exploration: float) -> np.ndarray:
    """For each slot the supervision step before which it may not halt: 0, or 2 .. N_sup with probability `exploration`.

    A pure function of (seed, step, slot): a resumed run and a run on several processes draw the same numbers.
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, step, 0, 0]))
    explores, later = generator.random((2, slots.stop))[:, slots.start :]
    last = max(supervision_steps, 2)
    return np.where(explores < exploration, 2 + (later * (last - 1)).astype(np.int64), 0)


def halts(
    halt_logits_B: Tensor,
    continue_logits_B: Tensor | None,
    steps_B: Tensor,
    earliest_B: Tensor,
    supervision_steps: int,
) -> Tensor:
    """Which sequences leave after this step: those that want to and may, and all at their last step."""
    wants_B = halt_logits_B > (0 if continue_logits_B is None else continue_logits_B)
    if supervision_steps == 1:
        return torch.ones_like(wants_B)
    return ((steps_B >= supervision_steps) | wants_B) & (steps_B >= earliest_B)
