"""Scores of a model on a split, one outcome per puzzle. Independent of training: no halting, D supervision steps.

Shapes: B batch, C grid cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from trm_data.errors import DataError
from trm_data.loader import eval_batches
from trm_model.config import EvaluationConfig
from trm_model.losses import as_targets, judge
from trm_model.recursion import Model, Weights, run

if TYPE_CHECKING:
    from trm_data import Dataset


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Scores and, per item of the split in order, what happened."""

    split: str
    supervision_steps: int
    metrics: dict[str, float]
    """exact_accuracy, cell_accuracy, first_step_accuracy (exact after one step), halt_accuracy."""
    exact: NDArray[np.bool_]

    @property
    def items(self) -> int:
        return len(self.exact)

    @property
    def per_item(self) -> str:
        """`exact` as a packed hexadecimal string, eight items a byte, the first in the highest bit."""
        return np.packbits(self.exact).tobytes().hex()


def unpack_items(packed: str, items: int) -> NDArray[np.bool_]:
    """The outcomes that `EvalResult.per_item` holds."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(packed), np.uint8), count=items).astype(np.bool_)


@torch.no_grad()
def evaluate(
    model: Model,
    dataset: Dataset,
    split: str,
    evaluation: EvaluationConfig,
    *,
    weights: Weights | None = None,
    dtype: torch.dtype = torch.float32,
) -> EvalResult:
    """Score `weights` (the model's own if None) on a split.

    Raises:
        DataError: the split is empty.
    """
    steps = evaluation.supervision_steps or model.config.supervision_steps
    weights = dict(model.named_parameters()) if weights is None else weights
    weights = {name: value.to(dtype) for name, value in weights.items()}
    columns: list[torch.Tensor] = []
    for batch in eval_batches(dataset, split, evaluation.batch_size, max_puzzles=evaluation.max_puzzles):
        inputs_BC = torch.tensor(batch.inputs).to(model.device)
        labels_BC = as_targets(torch.tensor(batch.labels)).to(model.device)
        ids_B = torch.tensor(batch.puzzle_ids).to(model.device)
        rows_BE = None if model.puzzle_embedding is None else model.puzzle_embedding.rows(ids_B, trained=False)
        states = model.start(len(ids_B), dtype)
        for step in range(steps):
            output = run(model, weights, states, inputs_BC, rows_BE)
            states = output.states
            if step == 0:
                first_B = judge(output.logits_BCV, labels_BC).correct_B
        judged = judge(output.logits_BCV, labels_BC)
        says_right_B = (output.halt_logits_B >= 0) == judged.correct_B
        columns.append(torch.stack([judged.correct_B, judged.cell_accuracy_B, first_B, says_right_B]).double().cpu())
    if not columns:
        raise DataError(f"split {split!r} has no puzzles to score", "Build it with some, or score another split")
    table = torch.cat(columns, dim=1).numpy()
    names = ("exact_accuracy", "cell_accuracy", "first_step_accuracy", "halt_accuracy")
    metrics = {name: float(column.mean()) for name, column in zip(names, table, strict=True)}
    return EvalResult(split, steps, metrics, table[0].astype(np.bool_))
