"""One puzzle in, an answer out, with its confidence and what the model thought at every supervision step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trm_data.errors import DataError
from trm_data.jit import Bytes
from trm_model.evaluation.inference import Step, think
from trm_model.model.recursion import Model


@dataclass(frozen=True, slots=True)
class Solution:
    """The answers to one puzzle, one per supervision step; the last one counts."""

    answers: list[Bytes]
    """(C) cells each, encoded as in the data."""
    confidences: list[float]
    """How sure the model was, after each step, that its answer is right: the sigmoid of the halt logit."""

    @property
    def answer(self) -> Bytes:
        return self.answers[-1]

    @property
    def confidence(self) -> float:
        return self.confidences[-1]


@torch.no_grad()
def solve(model: Model, cells: Bytes, *, puzzle_id: int = 0, steps: int | None = None, halt: bool = True) -> Solution:
    """Solve a puzzle (C), encoded as in the data, in at most `steps` supervision steps (None: as many as in training).

    Args:
        halt: stop as soon as the model is more likely right than not.

    Raises:
        DataError: the puzzle has another number of cells, or a symbol that the model does not know.
    """
    if cells.shape != (model.num_cells,):
        raise DataError(f"the puzzle has {cells.size} cells, the model solves puzzles of {model.num_cells}")
    if int(cells.max(initial=0)) >= model.vocab_size:
        raise DataError(f"cell value {int(cells.max())} is beyond the model's {model.vocab_size} symbols")
    inputs_BC = torch.tensor(cells[None].astype(np.uint8)).to(model.device)
    ids_B = torch.tensor([puzzle_id], device=model.device)
    weights = dict(model.named_parameters())
    thoughts: list[Step] = []
    for thought in think(model, weights, inputs_BC, ids_B, dtype=torch.float32):
        thoughts.append(thought)
        enough = len(thoughts) == (steps or model.config.supervision_steps)
        if enough or (halt and float(thought.halt_logits_B) > 0):
            break
    return Solution(
        [thought.cells_BC[0].to(torch.uint8).cpu().numpy() for thought in thoughts],
        [float(thought.halt_logits_B.sigmoid()) for thought in thoughts],
    )
