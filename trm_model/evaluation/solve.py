"""Solve single puzzles with a trained model, and give the answer and its confidence after every supervision step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trm_data import Dataset
from trm_data.benchmarks import CATALOGUE, resolve_benchmark
from trm_data.dataset.schema import SPLITS
from trm_data.errors import DataError
from trm_data.jit import Bytes
from trm_data.puzzles.kinds import PuzzleKind, Question, kind_of, kind_that_reads
from trm_data.puzzles.kinds.arc import read_arc_examples
from trm_model.checkpoints.trained import Trained
from trm_model.evaluation.inference import supervision_steps
from trm_model.model.recursion import Model


@dataclass(frozen=True, slots=True)
class Solution:
    """Hold the answers to one puzzle, one per supervision step; the last one counts."""

    answers: list[Bytes]
    """(C) cells each, encoded as in the data."""
    confidences: list[float]
    """The probability after each step that the answer is right, as the model estimates it: the sigmoid of the halt
    logit."""

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
        puzzle_id: the puzzle's row in the embedding table.
        halt: stop as soon as the model wants to halt by its own rule, see `wants_halt`.

    Raises:
        DataError: the puzzle has another number of cells, or a symbol that the model does not know.
    """
    if cells.shape != (model.num_cells,):
        raise DataError(f"the puzzle has {cells.size} cells, the model solves puzzles of {model.num_cells}")
    if int(cells.max(initial=0)) >= model.vocab_size:
        raise DataError(f"cell value {int(cells.max())} is beyond the model's {model.vocab_size} symbols")
    inputs_BC = torch.tensor(cells[None].astype(np.uint8)).to(model.device)
    ids_B = torch.tensor([puzzle_id], device=model.device)
    most = steps or model.config.supervision_steps
    answers: list[Bytes] = []
    confidences: list[float] = []
    outputs = supervision_steps(model, dict(model.named_parameters()), inputs_BC, ids_B, dtype=torch.float32)
    for step in islice(outputs, most):
        answers.append(step.cells_BC[0].to(torch.uint8).cpu().numpy())
        confidences.append(float(step.halt_logits_B.sigmoid()))
        if halt and bool(step.wants_halt_B):
            break
    return Solution(answers, confidences)


@dataclass(frozen=True, slots=True)
class Solved:
    """Hold a puzzle and the model's solution."""

    kind: PuzzleKind
    side: int
    question: Question
    solution: Solution

    @property
    def is_valid(self) -> bool | None:
        """Check the answer: a correct Sudoku, a shortest path, ARC's known output. None where it cannot be checked."""
        answer, label = self.solution.answer, self.question.label
        rows = [cells[None] for cells in (self.question.cells, answer, answer if label is None else label)]
        outcome = self.kind.valid(rows[0], rows[1], rows[2], self.side)
        if outcome is not None:
            return bool(outcome[0])
        if label is None:
            return None
        bare = [self.kind.undo(cells, np.zeros(1, np.uint64), self.side) for cells in rows[1:]]
        return np.array_equal(bare[0], bare[1])

    @property
    def problem(self) -> str:
        """Say in a few words why the answer is not valid; empty if it is, or if that cannot be checked."""
        if self.is_valid is not False:
            return ""
        return self.kind.problem(self.question.cells, self.solution.answer, self.side)

    def rows(self, cells: Bytes) -> list[str]:
        """Write a grid (C) of this puzzle as text, one string per row."""
        return self.kind.write(cells, self.side)

    def plain(self, with_steps: bool) -> dict[str, Any]:
        """Return JSON-ready values; `steps` is a list of answers with their confidence."""
        values = {
            "puzzle": self.rows(self.question.cells),
            "answer": self.rows(self.solution.answer),
            "valid": self.is_valid,
            "problem": self.problem,
            "confidence": self.solution.confidence,
            "supervision_steps": len(self.solution.answers),
        }
        if not with_steps:
            return values
        pairs = zip(self.solution.answers, self.solution.confidences, strict=True)
        steps = [{"answer": self.rows(answer), "confidence": confidence} for answer, confidence in pairs]
        return values | {"steps": steps}


def solve_text(
    trained: Trained,
    text: str,
    dataset: Callable[[], Dataset],
    steps: int | None = None,
    *,
    task: str | None = None,
    halt: bool = True,
) -> list[Solved]:
    """Solve the puzzles of a text, see `PuzzleKind.read`, in at most `steps` supervision steps.

    Args:
        dataset: called where the model has an embedding per puzzle, to find the puzzle among those trained on.
        task: the name of the ARC task whose embedding to use; None finds it by its demonstrations.
        halt: see `solve`.

    Raises:
        UserError: no puzzle of the model's kind and size, or not exactly one task of the dataset fits.
    """
    model = trained.model
    side = math.isqrt(model.num_cells)
    kind = _kind_of(trained, side)
    if kind is None:
        raise DataError(f"no puzzle has {model.vocab_size} symbols and {side}x{side} cells, which the model reads")
    questions = kind.read(text, side)
    puzzle_id = 0
    if kind.has_tasks:
        puzzle_id = _embedding_of(trained, dataset(), text, task)
    elif task is not None:
        raise DataError(f"a {kind.name} model has no embedding per task", "Leave the task out")
    return [
        Solved(kind, side, question, solve(model, question.cells, puzzle_id=puzzle_id, steps=steps, halt=halt))
        for question in questions
    ]


def _kind_of(trained: Trained, side: int) -> PuzzleKind | None:
    """Return the kind of the puzzles that a model was trained on; None if its size fits none.

    Raises:
        ConfigError: it is a kind of one's own that cannot be loaded here.
    """
    name, vocab_size = trained.config.data.benchmark, trained.model.vocab_size
    if name in CATALOGUE:
        return kind_that_reads(vocab_size, side)
    kind = kind_of(resolve_benchmark(name).family)
    return kind if kind.fits(vocab_size, side) else kind_that_reads(vocab_size, side)


def _embedding_of(trained: Trained, dataset: Dataset, text: str, task: str | None) -> int:
    """Find the embedding row of the task in `text`, or of the task of that name."""
    copies = trained.config.data.num_augmentations
    trained.check_dataset(dataset.id_map_hash(copies), dataset.vocab_size, dataset.seq_len)
    puzzle = find_task(dataset, text) if task is None else dataset.puzzle_index(task)
    return dataset.identifier_of(puzzle)


def find_task(dataset: Dataset, text: str) -> int:
    """Find the puzzle of an ARC dataset that has all demonstrations of a task.

    Different tasks may share inputs, so one match is not enough: a3df8b1e and e179c5f4 of ARC-AGI-1 have the same
    inputs. Where the demonstrations fit several tasks, the test inputs decide. A task that holds them out comes before
    one that was trained on them: evaluation task 070dd51e repeats training task 40853293.

    Args:
        text: the JSON of the task.

    Returns:
        The number of the puzzle.

    Raises:
        DataError: no task of the dataset has all demonstrations, or several have.
    """
    demonstrations, tests = read_arc_examples(text)
    if not demonstrations:
        raise DataError("the task has no demonstrations by which to find it", "Add its train pairs, or name it: --task")
    trained = dataset.split == SPLITS.index("train")
    owners = [
        _owners(dataset, trained & (dataset.inputs == question).all(1) & (dataset.labels == answer).all(1))
        for question, answer in demonstrations
    ]
    fitting = set.intersection(*owners)
    matches = [(dataset.inputs == question).all(1) for question in tests]
    for known in ([rows & ~trained for rows in matches], matches):  # held out as test inputs, or anywhere in the task
        narrowed = fitting.intersection(*(_owners(dataset, rows) for rows in known))
        if len(fitting) > 1 and tests and narrowed:
            fitting = narrowed
    if not fitting:
        raise DataError(
            f"no task of {dataset.path.name} has all {len(demonstrations)} demonstrations",
            "An ARC model answers only tasks that it was trained on; name one of them with --task",
        )
    if len(fitting) > 1:
        names = sorted(dataset.names[puzzle] for puzzle in fitting)
        raise DataError(f"the demonstrations fit several tasks: {', '.join(names[:6])}", "Name one with --task")
    return fitting.pop()


def _owners(dataset: Dataset, examples: NDArray[np.bool_]) -> set[int]:
    """Return the puzzles that the chosen examples belong to."""
    return set(dataset.puzzle[examples].tolist())
