"""Define the carry that persists between supervision steps, and when a sequence leaves it.

A batch has fixed slots. Each optimizer step is one supervision step of every slot's sequence; where a sequence has
halted, the slot takes a new puzzle and fresh states. Shapes: B batch, C grid cells, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trm_model.config import IGNORED, ModelConfig
from trm_model.model.recursion import Output, States


@dataclass(frozen=True, slots=True)
class Carry:
    """Hold the sequences in the slots. `halted_B` marks the slots that take a new puzzle before the next step."""

    states: States
    steps_B: Tensor
    halted_B: Tensor
    inputs_BC: Tensor
    labels_BC: Tensor
    puzzle_ids_B: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name; each has the slots as its first axis."""
        named = {f"state_{index}": state for index, state in enumerate(self.states)}
        names = ("steps_B", "halted_B", "inputs_BC", "labels_BC", "puzzle_ids_B")
        return named | {name: getattr(self, name) for name in names}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Carry:
        """Build a carry from the result of `tensors`."""
        count = sum(name.startswith("state_") for name in tensors)
        states = tuple(tensors[f"state_{index}"] for index in range(count))
        return cls(states, **{name: value for name, value in tensors.items() if not name.startswith("state_")})

    def rows(self, part: slice) -> Carry:
        """Select some of the slots."""
        return Carry.of({name: value[part] for name, value in self.tensors().items()})

    @classmethod
    def join(cls, parts: Sequence[Carry]) -> Carry:
        """Concatenate the slots of several carries."""
        if len(parts) == 1:
            return parts[0]
        return cls.of({name: torch.cat([part.tensors()[name] for part in parts]) for name in parts[0].tensors()})


def without_halted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select what a checkpoint needs of a carry: the states of halted slots are left out, since they start fresh.

    Args:
        tensors: `Carry.tensors`, each with B rows.

    Returns:
        The same names; states have as many rows as there are slots that have not halted.
    """
    active_B = ~tensors["halted_B"]
    return {name: value[active_B] if name.startswith("state_") else value for name, value in tensors.items()}


def with_halted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `without_halted`: every tensor has B rows again, and the states of halted slots are zero.

    States that already have B rows, as earlier versions wrote them, stay as they are.
    """
    active_B = ~tensors["halted_B"]
    whole = dict(tensors)
    for name, value in tensors.items():
        if name.startswith("state_") and len(value) < len(active_B):
            whole[name] = value.new_zeros(len(active_B), *value.shape[1:])
            whole[name][active_B] = value
    return whole


def carry_fault(
    tensors: Mapping[str, Tensor],
    own: Carry,
    *,
    slots: int,
    vocab_size: int,
    num_identifiers: int,
    supervision_steps: int,
) -> str | None:
    """Describe what is wrong with the carry of a checkpoint, for a run whose own carry is `own`; None if it is usable.

    Args:
        tensors: as `without_halted` gives them, or whole.
        slots: B of all processes together.
    """
    expected = own.tensors()
    if set(tensors) != set(expected):
        return f"its carry has {', '.join(sorted(tensors)) or 'no tensors'}, not {', '.join(sorted(expected))}"
    for name, value in tensors.items():
        if value.dtype != expected[name].dtype or value.shape[1:] != expected[name].shape[1:] or value.ndim == 0:
            return f"carry/{name} is {value.dtype} of shape {tuple(value.shape)}, which is another model's"
    active = int((~tensors["halted_B"]).sum())
    for name, value in tensors.items():
        if len(value) != slots and not (name.startswith("state_") and len(value) == active):
            return f"carry/{name} has {len(value)} slots, the batch has {slots}"
    labels = tensors["labels_BC"]
    highest = {
        "steps_B": supervision_steps,
        "inputs_BC": vocab_size - 1,
        "puzzle_ids_B": max(num_identifiers, 1) - 1,
    }
    values = {name: tensors[name] for name in highest} | {"labels_BC": labels.masked_fill(labels == IGNORED, 0)}
    for name, value in values.items():
        most = highest.get(name, vocab_size - 1)
        if value.numel() and not (int(value.min()) >= 0 and int(value.max()) <= most):
            return f"carry/{name} has values from {int(value.min())} to {int(value.max())}, outside 0 to {most}"
    return None


def earliest_halt(seed: int, step: int, batch_size: int, *, supervision_steps: int, exploration: float) -> np.ndarray:
    """Draw for each slot the supervision step before which it may not halt: 0, or 2 .. N_sup with probability
    `exploration`.

    The numbers of a slot depend on the size of the whole batch, so a process or a micro-batch that holds a part of it
    draws for all slots and selects its own.

    Args:
        batch_size: B of all processes together.

    Returns:
        (B) int64.
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, step, 0, 0]))
    explores, later = generator.random((2, batch_size))
    last = max(supervision_steps, 2)
    return np.where(explores < exploration, 2 + (later * (last - 1)).astype(np.int64), 0)


def wants_halt(output: Output, config: ModelConfig) -> Tensor:
    """Decide (B) by the model's halting rule which sequences want to halt after a supervision step.

    Training, `trm eval` and `trm solve` all decide by this function. A rule of `sign` compares the halt logit with
    zero; `continue` and `compare` compare it with the continue logit.
    """
    if config.halting_rule == "sign":
        return output.halt_logits_B > 0
    return output.halt_logits_B > output.continue_logits_B


def halts(wants_B: Tensor, steps_B: Tensor, earliest_B: Tensor, supervision_steps: int) -> Tensor:
    """Select (B) the sequences that leave their slot after this step of training.

    Args:
        wants_B: see `wants_halt`.
        steps_B: supervision steps that each sequence has had, this one included.
        earliest_B: see `earliest_halt`.
        supervision_steps: N_sup, the last step of every sequence.
    """
    if supervision_steps == 1:
        return torch.ones_like(wants_B)
    return ((steps_B >= supervision_steps) | wants_B) & (steps_B >= earliest_B)
