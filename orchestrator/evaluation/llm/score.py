"""Score stored answers on the same items and labels, and by the same rules, as trained models.

Shapes: N items, L cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.llm.answers import Answers
from orchestrator.evaluation.llm.questions import Question, read_answer
from orchestrator.results.llm_results import Measured, Plan
from trm_data import Dataset
from trm_data.jit import Bytes


class Score(NamedTuple):
    """Hold scores as fractions, with the outcomes of all items."""

    metrics: dict[str, float]
    """exact_accuracy (of the first attempt) and, with two, pass@2; valid_accuracy of Sudoku and mazes. ARC: pass@1 and
    pass@2 per test input averaged over tasks, task_pass@1 and task_pass@2 of whole tasks."""
    exact: NDArray[np.bool_]
    """(N): whether the first attempt is the label."""
    per_task: dict[str, list[float]]
    """ARC: share of each task's test inputs answered, for pass@1 and pass@2; else empty."""


def is_exact(dataset: Dataset, question: Question, cells: Bytes | None) -> bool:
    """Return whether cells (L) equal the label; False without an answer."""
    return cells is not None and bool(_exact(dataset, cells[None], question.label[None])[0])


def score(dataset: Dataset, questions: Sequence[Question], answers: Answers, attempts: int) -> Score:
    """Score the answers to `questions`; one that is missing or unreadable is wrong."""
    tries = [_cells(dataset, questions, answers, number) for number in range(1, attempts + 1)]
    labels = np.stack([question.label for question in questions])
    right = np.stack([_exact(dataset, cells, labels) for cells in tries])
    metrics = {"exact_accuracy": float(right[0].mean())}
    if dataset.kind.has_tasks:
        per_task = _task_shares(questions, right)
        for name, shares in per_task.items():
            metrics |= {name: float(np.mean(shares)), f"task_{name}": float(np.mean(np.equal(shares, 1)))}
        return Score(metrics, right[0], per_task)
    inputs = np.stack([question.input for question in questions])
    solved = dataset.kind.valid(inputs, tries[0], labels, dataset.grid_shape[0])
    if solved is not None:
        metrics["valid_accuracy"] = float(solved.mean())
    if attempts > 1:
        metrics["pass@2"] = float(right.any(0).mean())
    return Score(metrics, right[0], {})


def _cells(dataset: Dataset, questions: Sequence[Question], answers: Answers, attempt: int) -> Bytes:
    """Return cells (N, L), zeros without an answer, as where the first attempt was right and no second one was made."""
    kind, side = dataset.kind, dataset.grid_shape[0]
    found = np.zeros((len(questions), dataset.seq_len), np.uint8)
    for row, question in enumerate(questions):
        answer = answers.get(question.item, attempt)
        cells = read_answer(answer.text, kind, side) if answer and answer.finish != "length" else None
        if cells is not None:
            found[row] = cells
    return found


def _exact(dataset: Dataset, cells: Bytes, labels: Bytes) -> NDArray[np.bool_]:
    """Return (N): whether cells equal the label where it is not blank; ARC grids are compared as cropped grids."""
    if dataset.kind.is_framed:
        same: NDArray[np.bool_] = (_undone(dataset, cells) == _undone(dataset, labels)).all(1)
        return same
    right: NDArray[np.bool_] = ((cells == labels) | (labels == 0)).all(1)
    return right


def _undone(dataset: Dataset, cells: Bytes) -> Bytes:
    """Crop ARC cells to their grid, as voting does."""
    return dataset.kind.undo(cells, np.zeros(len(cells), np.uint64), dataset.grid_shape[0])


def _task_shares(questions: Sequence[Question], right: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Return the share of each task's items answered within one and two attempts; `right` is (attempts, N)."""
    shares = {}
    for k in range(1, len(right) + 1):
        outcomes: dict[int, list[bool]] = {}
        hits: NDArray[np.bool_] = np.logical_or.reduce(right[:k])
        for question, hit in zip(questions, hits, strict=True):
            outcomes.setdefault(question.puzzle, []).append(bool(hit))
        shares[f"pass@{k}"] = [float(np.mean(found)) for found in outcomes.values()]
    return shares


def summarise(plan: Plan, dataset: Dataset, questions: Sequence[Question], answers: Answers, attempts: int) -> Measured:
    """Return the result of a measurement of which all questions are answered."""
    scored = score(dataset, questions, answers, attempts)
    kept = [a for q in questions for number in range(1, attempts + 1) if (a := answers.get(q.item, number))]
    first = [answer for answer in kept if answer.attempt == 1]
    kind, side = dataset.kind, dataset.grid_shape[0]
    whole = [answer for answer in first if answer.finish != "length"]
    return Measured(
        name=plan.name,
        plan=plan,
        generated=dataset.generated,
        puzzles=len({question.puzzle for question in questions}),
        puzzles_in_split=dataset.counts[plan.split],
        items=len(questions),
        attempts=attempts,
        metrics=scored.metrics,
        per_item=np.packbits(scored.exact).tobytes().hex(),
        per_task=scored.per_task,
        usd=sum(answer.usd for answer in kept),
        answers=len(kept),
        tokens_in=sum(answer.tokens_in for answer in kept),
        tokens_out=sum(answer.tokens_out for answer in kept),
        estimated=any(answer.estimated for answer in kept),
        truncated=len(first) - len(whole),
        unreadable=sum(read_answer(answer.text, kind, side) is None for answer in whole),
        ended_s=max(answer.answered_s for answer in kept),
    )
