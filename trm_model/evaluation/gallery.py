"""Select a few puzzles of the final score to look at: the answer and the confidence after every supervision step."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from trm_data.dataset.loader import eval_items
from trm_model.evaluation.inference import cast, supervision_steps
from trm_model.evaluation.outcomes import EvalResult
from trm_model.model.recursion import Model, Weights

if TYPE_CHECKING:
    from trm_data import Dataset

MOST_STEPS = 32
"""Of a longer evaluation, this many steps are kept, evenly spread, the last one among them."""


@torch.no_grad()
def gallery(
    model: Model, dataset: Dataset, result: EvalResult, *, weights: Weights, dtype: torch.dtype, most: int = 4
) -> bytes:
    """Return the content of `gallery.json`: `most` solved and `most` failed puzzles, evenly spread over the split.

    {"benchmark", "family", "colours": [of each value from 1], "grid_shape": [h, w], "steps": [numbers of the
    supervision steps], "puzzles": [{"item", "input", "label", "answers": [cells per step], "halt": [probability per
    step that the answer is right], "exact"}]}.
    Cells are encoded as in the data. What is shown is one undisturbed run on the original puzzle; `exact` is the
    outcome that was scored, by votes where there were several.
    """
    rows = np.concatenate([_spread(np.flatnonzero(result.exact), most), _spread(np.flatnonzero(~result.exact), most)])
    numbers = _spread(np.arange(1, result.supervision_steps + 1), MOST_STEPS)
    facts = {"benchmark": dataset.benchmark, "grid_shape": list(dataset.grid_shape), "steps": numbers.tolist()}
    facts |= {"family": dataset.kind.name, "colours": list(dataset.kind.palette().values())}
    if not len(rows):
        return json.dumps({**facts, "puzzles": []}, separators=(",", ":")).encode()
    items = result.numbers[rows]
    batch = eval_items(dataset, result.split, items)
    inputs_BC = torch.tensor(batch.inputs).to(model.device)
    ids_B = torch.tensor(batch.puzzle_ids).to(model.device)
    outputs = supervision_steps(model, cast(model, weights, dtype), inputs_BC, ids_B, dtype=dtype)
    steps = [step for number, step in enumerate(islice(outputs, result.supervision_steps), 1) if number in numbers]
    answers_SBC = np.stack([step.cells_BC.to(torch.uint8).cpu().numpy() for step in steps])
    halt_SB = torch.stack([step.halt_logits_B.float().sigmoid() for step in steps]).cpu().numpy()
    puzzles = [
        {
            "item": item,
            "input": batch.inputs[row].tolist(),
            "label": batch.labels[row].tolist(),
            "answers": answers_SBC[:, row].tolist(),
            "halt": [round(float(score), 4) for score in halt_SB[:, row]],
            "exact": bool(result.exact[rows[row]]),
        }
        for row, item in enumerate(items.tolist())
    ]
    return json.dumps({**facts, "puzzles": puzzles}, separators=(",", ":")).encode()


def _spread(values: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Select at most `most` of the values, evenly spread, the last one among them."""
    chosen: NDArray[np.int64] = values[np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)]
    return chosen
