"""Score a model on a split, one outcome per item. Independent of training: D supervision steps, views, rollouts.

Shapes: B batch, C grid cells, N scored items. An item is a grid to answer: a Sudoku, a maze, a test input of an ARC
task. A test input whose answer is not known is answered, for a submission, and enters no score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from trm_data.dataset.loader import EvalBatch, eval_batches, num_views
from trm_data.errors import ConfigError
from trm_data.jit import Bytes
from trm_model.config import EvaluationConfig
from trm_model.distributed import Ranks
from trm_model.evaluation.inference import Answers, Noise, cast, final_answers, supervision_steps
from trm_model.evaluation.outcomes import Column, EvalResult
from trm_model.evaluation.voting import Votes, places
from trm_model.model.recursion import Model, Weights

if TYPE_CHECKING:
    from trm_data import Dataset

PASS_AT = (1, 2, 5, 10, 100, 1000)
_NO_SCORES = ("answers", "items", "puzzles")
Progress = Callable[[int, int], None]
"""(forward passes done, total), a pass being one supervision step of one item in one view and rollout."""


class EvaluationStoppedError(Exception):
    """Raised if an evaluation was asked to stop between two batches. It has no result."""


def never() -> bool:
    """Return False: the `should_stop` of uninterruptible work."""
    return False


class _Columns:
    """Collect per-item numbers that arrive batch by batch."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[Any]]] = {}

    def put(self, **columns: NDArray[Any]) -> None:
        for name, values in columns.items():
            self._parts.setdefault(name, []).append(values)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return np.concatenate(self._parts[name])

    def scores(self) -> dict[str, Column]:
        """Return all columns but the answers and the numbers of items and puzzles."""
        return {name: self[name].astype(np.float64) for name in self._parts if name not in _NO_SCORES}


class _Tally:
    """Collect the outcomes per item: of the only answer, or of the winner of a vote."""

    def __init__(self, dataset: Dataset, split: str, evaluation: EvaluationConfig, keep_votes: bool) -> None:
        self.dataset = dataset
        self.split = split
        self.evaluation = evaluation
        counted = keep_votes or dataset.kind.has_tasks or evaluation.votes > 1 or evaluation.rollouts > 1
        self.votes = Votes(evaluation.choose) if counted else None
        self.columns = _Columns()
        self.forward_passes = 0

    def add(self, batch: EvalBatch, answers: Answers, *, is_first: bool) -> None:
        """Add the answers of one run over a batch; `is_first` marks the run without noise."""
        cells = answers.cells_BC.to(torch.uint8).cpu().numpy()
        logits = answers.halt_logits_B.float().cpu().numpy()
        self.forward_passes += len(cells) * answers.num_steps
        if self.votes is not None:
            self.votes.add(batch.items, _undone(self.dataset, cells, batch), logits)
        scored = (batch.copies == 0) & batch.is_answered
        if is_first:
            first = answers.first_cells_BC.to(torch.uint8).cpu().numpy()[scored]
            kept = batch.select(scored)
            cells, logits = cells[scored], logits[scored]
            self.columns.put(
                halt_accuracy=(logits >= 0) == _solved(self.dataset, kept, cells),
                confidence=1 / (1 + np.exp(-logits.astype(np.float64))),
                first_step_accuracy=_solved(self.dataset, kept, first),
                halting_steps=answers.steps_B.cpu().numpy()[scored],
            )
            if self.votes is None:
                self.columns.put(
                    answers=cells, items=kept.items, puzzles=kept.puzzles, **_judge(self.dataset, kept, cells)
                )

    def result(self, num_steps: int) -> EvalResult:
        """Count the votes and average the outcomes."""
        if self.votes is not None:
            _judge_votes(self.votes, self.dataset, self.split, self.evaluation, self.columns)
        return _averaged(self.dataset, self.split, num_steps, self.columns, self.votes, self.forward_passes)


def _undone(dataset: Dataset, cells: Bytes, batch: EvalBatch) -> Bytes:
    return dataset.kind.undo(cells, batch.codes, dataset.grid_shape[0])


def _right(cells: Bytes, labels: Bytes) -> NDArray[np.bool_]:
    """Mark (B, C) the cells that are right or not supervised. Undefined for items without an answer."""
    right: NDArray[np.bool_] = (cells == labels) | (labels == 0)
    return right


def _whole(right: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark (B) the items of which every cell is right."""
    return np.asarray(right.all(1))


def _solved(dataset: Dataset, batch: EvalBatch, cells: Bytes) -> NDArray[np.bool_]:
    """Mark (B) the items that answers (B, C) solve: as the label does, or, where a puzzle has several, in any way."""
    valid = None
    if dataset.kind.has_several_answers:
        valid = dataset.kind.valid(batch.inputs, cells, batch.labels, dataset.grid_shape[0])
    return _whole(_right(cells, batch.labels)) if valid is None else valid


def _judge(dataset: Dataset, batch: EvalBatch, cells: Bytes) -> dict[str, NDArray[Any]]:
    """Compare final answers (B, C) with the labels of a batch whose answers are all known."""
    right, supervised = _right(cells, batch.labels), batch.labels != 0
    # An ARC answer has no marked end: what lies outside the label's grid must be empty.
    exact = _whole(cells == batch.labels) if dataset.kind.is_framed else _solved(dataset, batch, cells)
    scores = {"exact_accuracy": exact, "cell_accuracy": (right & supervised).sum(1) / np.maximum(supervised.sum(1), 1)}
    solved = dataset.kind.valid(batch.inputs, cells, batch.labels, dataset.grid_shape[0])
    return scores if solved is None else scores | {"valid_accuracy": solved}


def _judge_votes(votes: Votes, dataset: Dataset, split: str, evaluation: EvaluationConfig, columns: _Columns) -> None:
    """Compare the winners with the labels; for ARC, find the place that each label takes in the ranking."""
    for whole in eval_batches(dataset, split, evaluation.batch_size, max_puzzles=evaluation.max_puzzles):
        batch = whole.select(whole.is_answered)
        batch = batch._replace(labels=_undone(dataset, batch.labels, batch))
        winners = np.empty_like(batch.labels)
        for row, item in enumerate(batch.items.tolist()):
            winners[row] = votes.answer(item)
        columns.put(answers=winners, items=batch.items, puzzles=batch.puzzles, **_judge(dataset, batch, winners))
        if dataset.kind.has_several_answers:
            columns.put(**_coverage(votes, dataset, batch))
        if dataset.kind.has_tasks:
            place = places(votes, batch.items, batch.labels)
            columns.put(**{f"pass@{k}": place < k for k in PASS_AT})


def _coverage(votes: Votes, dataset: Dataset, batch: EvalBatch) -> dict[str, NDArray[Any]]:
    """Return (B) the share of each item's solutions that are among its answers; nothing where they are not counted."""
    side = dataset.grid_shape[0]
    numbers = dataset.kind.num_solutions(batch.inputs, side)
    if numbers is None:
        return {}
    found = np.empty(len(batch.items))
    for row, item in enumerate(batch.items.tolist()):
        answers = np.stack([np.frombuffer(one.answer, np.uint8) for one in votes.ranking(item)])
        same = [np.repeat(cells[row : row + 1], len(answers), axis=0) for cells in (batch.inputs, batch.labels)]
        valid = dataset.kind.valid(same[0], answers, same[1], side)
        found[row] = 0 if valid is None else valid.sum()
    return {"coverage": found / np.maximum(numbers, 1)}


def _averaged(
    dataset: Dataset, split: str, num_steps: int, columns: _Columns, votes: Votes | None, forward_passes: int
) -> EvalResult:
    scores = columns.scores()
    names = [dataset.names[puzzle] for puzzle in columns["puzzles"].tolist()]
    metrics: dict[str, float] = {}
    if names:  # a split without any known answer has no scores, and can still be submitted
        metrics = {name: float(score.mean()) for name, score in scores.items() if not name.startswith("pass@")}
    test_inputs = {} if votes is None or not dataset.kind.has_tasks else _test_inputs(dataset, split, votes.items)
    answered = len(names) if not test_inputs else sum(len(items) for items in test_inputs.values())
    result = EvalResult(
        split,
        num_steps,
        metrics,
        scores,
        columns["answers"],
        names,
        forward_passes,
        numbers=columns["items"].astype(np.int64),
        unscored=answered - len(names),
        votes=votes,
        test_inputs=test_inputs,
    )
    passed: dict[str, float] = {}
    for k in PASS_AT if result.tasks else ():
        shares = result.shares(k)
        passed |= {f"pass@{k}": float(shares.mean()), f"task_pass@{k}": float((shares == 1).mean())}
    return replace(result, metrics=metrics | passed)


def _test_inputs(dataset: Dataset, split: str, items: Sequence[int]) -> dict[str, list[int]]:
    """Group the items of an ARC split by the name of their task, those without a known answer included."""
    puzzles = dataset.puzzle[dataset.rows(split)]
    tasks: dict[str, list[int]] = {}
    for item in items:
        tasks.setdefault(dataset.names[puzzles[item]], []).append(item)
    return tasks


def check_evaluation(dataset: Dataset, split: str, evaluation: EvaluationConfig, trained_augmentations: int) -> None:
    """Raise an error for an evaluation that cannot be run, before anything is trained for it.

    Raises:
        ConfigError: the split is empty, or there are more votes than views or than trained identifiers.
    """
    dataset.rows(split)
    check_votes(evaluation.votes, trained_augmentations, dataset)
    dataset.num_views(evaluation.votes - 1)


def check_votes(votes: int, trained_augmentations: int, dataset: Dataset) -> None:
    """Raise an error for views that a model with embeddings per puzzle has never seen.

    Raises:
        ConfigError: more votes than trained identifiers.
    """
    if dataset.has_identifiers and votes > trained_augmentations + 1:
        raise ConfigError(
            f"votes={votes}, but only {trained_augmentations + 1} views of each task were trained",
            f"Take at most {trained_augmentations + 1}",
        )


@torch.no_grad()
def evaluate(
    model: Model,
    dataset: Dataset,
    split: str,
    evaluation: EvaluationConfig,
    *,
    weights: Weights | None = None,
    dtype: torch.dtype = torch.float32,
    trained_augmentations: int = 0,
    seed: int = 0,
    keep_votes: bool = False,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
    should_stop: Callable[[], bool] = never,
) -> EvalResult:
    """Score `weights` (the model's own if None) on a split.

    Args:
        seed: of the rollouts' noise.
        keep_votes: keep all answers, so that the result can be a member of an `ensemble`.
        ranks: processes that share the batches; the result is that of one process, in each of them.
        should_stop: called after every batch; the result of the first process counts for all.

    Raises:
        EvaluationStoppedError: `should_stop` became true.
        ConfigError: the split is empty, or there are more votes than views or than trained identifiers.
    """
    check_evaluation(dataset, split, evaluation, trained_augmentations)
    num_steps = evaluation.supervision_steps or model.config.supervision_steps
    copies, limit = evaluation.votes - 1, evaluation.max_puzzles
    weights = cast(model, weights, dtype)
    tally = _Tally(dataset, split, evaluation, keep_votes)
    views = num_views(dataset, split, max_puzzles=limit, num_augmentations=copies)
    done, total = 0, views * evaluation.rollouts * num_steps

    def answer(run: tuple[EvalBatch, int]) -> Answers:
        nonlocal done
        batch, rollout = run
        inputs_BC = torch.tensor(batch.inputs).to(model.device)
        ids_B = torch.tensor(batch.puzzle_ids).to(model.device)
        noise = None
        if rollout and evaluation.noise:
            noise = Noise(evaluation.noise, seed, rollout, batch.items, batch.copies)
        on_step = partial(_report, progress, done, len(ids_B), total)
        steps = supervision_steps(model, weights, inputs_BC, ids_B, dtype=dtype, noise=noise)
        done += len(ids_B) * num_steps
        return final_answers(steps, num_steps, halt=evaluation.halt, on_step=on_step).cpu()

    batches = eval_batches(dataset, split, evaluation.batch_size, max_puzzles=limit, num_augmentations=copies)
    runs = ((batch, rollout) for batch in batches for rollout in range(evaluation.rollouts))
    ranks = ranks or Ranks()
    for (batch, rollout), answers in ranks.spread(runs, answer):
        tally.add(batch, answers, is_first=rollout == 0)
        if ranks.broadcast_flag(should_stop()):
            raise EvaluationStoppedError
    return tally.result(num_steps)


def _report(progress: Progress | None, done: int, size: int, total: int, step: int) -> None:
    if progress is not None:
        progress(done + step * size, total)


def ensemble(members: Sequence[EvalResult], dataset: Dataset, evaluation: EvaluationConfig) -> EvalResult:
    """Score several checkpoints that vote together: another metric than the score of one, so names start with
    `ensemble_`.

    Raises:
        ConfigError: a member kept no votes, or they answered other items.
    """
    votes = Votes(evaluation.choose)
    for member in members:
        if member.votes is None or member.names != members[0].names or member.split != members[0].split:
            raise ConfigError("the members of an ensemble must keep their votes and answer the same items")
        votes.take(member.votes)
    columns = _Columns()
    _judge_votes(votes, dataset, members[0].split, evaluation, columns)
    passes = sum(member.forward_passes for member in members)
    result = _averaged(dataset, members[0].split, members[0].supervision_steps, columns, votes, passes)
    return replace(result, metrics={f"ensemble_{name}": value for name, value in result.metrics.items()})
