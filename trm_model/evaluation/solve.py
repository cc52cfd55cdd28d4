"""Solve single puzzles with a trained model: the answer, its confidence, and the answer after every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trm_data import Dataset
from trm_data.config import Family
from trm_data.dataset.loader import eval_items
from trm_data.errors import DataError
from trm_data.jit import Bytes
from trm_data.puzzles.arc import crop
from trm_data.puzzles.text import Question, arc_inputs, family_of, read_questions, write_rows
from trm_model.checkpoints.trained import Trained
from trm_model.evaluation.inference import Step, think
from trm_model.evaluation.validity import valid
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


@dataclass(frozen=True, slots=True)
class Solved:
    """A puzzle and what the model made of it."""

    family: Family
    side: int
    question: Question
    solution: Solution

    @property
    def is_valid(self) -> bool | None:
        """Whether the answer solves the puzzle: a correct Sudoku, a shortest path, ARC's known output; else None."""
        answer, label = self.solution.answer, self.question.label
        if self.family == "arc":
            return None if label is None else np.array_equal(crop(answer), crop(label))
        rows = [cells[None] for cells in (self.question.cells, answer, answer if label is None else label)]
        outcome = valid(self.family, rows[0], rows[1], rows[2], self.side)
        return None if outcome is None else bool(outcome[0])

    def rows(self, cells: Bytes) -> list[str]:
        """A grid of this puzzle as text."""
        return write_rows(cells, self.family, self.side)

    def plain(self, with_steps: bool) -> dict[str, Any]:
        """As JSON-ready values; `steps` is a list of (answer, confidence)."""
        told = {
            "puzzle": self.rows(self.question.cells),
            "answer": self.rows(self.solution.answer),
            "valid": self.is_valid,
            "confidence": self.solution.confidence,
            "supervision_steps": len(self.solution.answers),
        }
        if not with_steps:
            return told
        both = zip(self.solution.answers, self.solution.confidences, strict=True)
        return told | {"steps": [{"answer": self.rows(answer), "confidence": sure} for answer, sure in both]}


def solve_text(trained: Trained, text: str, dataset: Callable[[], Dataset], depth: int | None = None) -> list[Solved]:
    """Solve the puzzles of a text, see `puzzle_text`, in at most `depth` supervision steps.

    Args:
        dataset: asked for where the model has an embedding per puzzle, which the dataset alone can find.

    Raises:
        UserError: no puzzle of the model's kind and size, or a task that it was not trained with.
    """
    model = trained.model
    side = math.isqrt(model.num_cells)
    family = family_of(model.vocab_size, side)
    questions = read_questions(text, family, side)
    puzzle_id = _task_id(trained, arc_inputs(text), dataset()) if family == "arc" else 0
    return [
        Solved(family, side, question, solve(model, question.cells, puzzle_id=puzzle_id, steps=depth))
        for question in questions
    ]


def _task_id(trained: Trained, inputs: list[Bytes], dataset: Dataset) -> int:
    """The embedding of the task that one of these inputs belongs to."""
    copies = trained.config.data.num_augmentations
    trained.check_dataset(dataset.id_map_hash(copies), dataset.vocab_size, dataset.seq_len)
    for cells in inputs:
        rows = np.flatnonzero((dataset.inputs == cells).all(1))
        if len(rows):
            split = dataset.split_of(int(rows[0]))
            item = np.searchsorted(dataset.rows(split), rows[:1])
            return int(eval_items(dataset, split, item).puzzle_ids[0])
    raise DataError(
        f"the task is not in {dataset.path.name}", "An ARC model answers only tasks whose examples it was trained with"
    )
