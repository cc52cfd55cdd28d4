"""Scores of a model on a split, one outcome per item. Independent of training: D supervision steps, views, rollouts.

Shapes: B batch, C grid cells, N items. An item is a grid to answer: a Sudoku, a maze, a test input of an ARC task.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from trm_data.errors import ConfigError
from trm_data.files import write_atomic
from trm_data.jit import Bytes
from trm_data.loader import EvalBatch, eval_batches
from trm_model.config import EvaluationConfig
from trm_model.recursion import Model, States, Weights, run
from trm_model.valid import valid
from trm_model.vote import Votes, pass_at, submission, undo

if TYPE_CHECKING:
    from trm_data import Dataset

PASS_AT = (1, 2, 5, 10, 100, 1000)
Column = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Scores and, per item of the split in order, what happened."""

    split: str
    supervision_steps: int
    metrics: dict[str, float]
    """exact_accuracy, cell_accuracy, halt_accuracy, halting_steps, first_step_accuracy (exact after one step),
    valid_accuracy (Sudoku and mazes); for ARC also pass@k (per test input, averaged over tasks) and task_pass@k."""
    columns: dict[str, Column]
    """(N) each: exact, cell_accuracy, halt_accuracy, halting_steps, first_step_accuracy, valid_accuracy."""
    votes: Votes | None = field(default=None, repr=False)
    """All answers, where views, rollouts or ARC made it necessary to count them."""
    tasks: dict[str, list[int]] = field(default_factory=dict, repr=False)
    """ARC: the items of each task."""

    @property
    def exact(self) -> NDArray[np.bool_]:
        """(N): whether the answer is the label."""
        return self.columns["exact_accuracy"].astype(np.bool_)

    @property
    def items(self) -> int:
        return len(self.columns["exact_accuracy"])

    @property
    def per_item(self) -> str:
        """`exact` as a packed hexadecimal string, eight items a byte, the first in the highest bit."""
        return np.packbits(self.exact).tobytes().hex()

    def write(self, path: Path) -> None:
        """Per-item outcomes as an Arrow IPC file."""
        table = pa.table({"item": np.arange(self.items), **self.columns})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_atomic(path, sink.getvalue().to_pybytes())

    def submission(self, tries: int = 2) -> dict[str, object]:
        """ARC answers in Kaggle's form.

        Raises:
            ConfigError: the dataset is not ARC.
        """
        if self.votes is None or not self.tasks:
            raise ConfigError("a submission needs an ARC dataset")
        return dict(submission(self.votes, self.tasks, tries))


def unpack_items(packed: str, items: int) -> NDArray[np.bool_]:
    """The outcomes that `EvalResult.per_item` holds."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(packed), np.uint8), count=items).astype(np.bool_)


class Answers(NamedTuple):
    """What the model says about a batch."""

    cells_BC: Tensor
    first_cells_BC: Tensor
    """After one supervision step."""
    halt_logits_B: Tensor
    steps_B: Tensor
    """Supervision steps behind the answer."""


class Step(NamedTuple):
    """One supervision step of `think`."""

    cells_BC: Tensor
    halt_logits_B: Tensor


def think(
    model: Model,
    weights: Weights,
    inputs_BC: Tensor,
    ids_B: Tensor,
    *,
    dtype: torch.dtype,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """Supervision steps without end from fresh states; with `noise`, each starts by disturbing the latent."""
    rows_BE = None if model.puzzle_embedding is None else model.puzzle_embedding.rows(ids_B, trained=False)
    states = model.start(len(ids_B), dtype)
    while True:
        if noise:
            states = _disturbed(states, noise, generator)
        output = run(model, weights, states, inputs_BC, rows_BE)
        states = output.states
        yield Step(output.logits_BCV.argmax(-1), output.halt_logits_B)


def _disturbed(states: States, noise: float, generator: torch.Generator | None) -> States:
    """Gaussian noise in the latents, or in the answer where it is the only state."""
    first = min(1, len(states) - 1)
    shaken = [
        state + noise * torch.randn(state.shape, generator=generator, dtype=torch.float32).to(state)
        for state in states[first:]
    ]
    return (*states[:first], *shaken)


def _answers(steps: Iterator[Step], num_steps: int, halt: bool) -> Answers:
    """Run the steps; with `halt`, an answer stays as it was when its sequence first wanted to halt."""
    first = next(steps)
    cells_BC, logits_B = first
    steps_B = torch.ones_like(logits_B)
    done_B = logits_B > 0
    for number in range(2, num_steps + 1):
        if halt and bool(done_B.all()):
            break
        step = next(steps)
        going_B = ~done_B if halt else torch.ones_like(done_B)
        cells_BC = torch.where(going_B[:, None], step.cells_BC, cells_BC)
        logits_B = torch.where(going_B, step.halt_logits_B, logits_B)
        steps_B = torch.where(going_B, number, steps_B)
        done_B = done_B | (step.halt_logits_B > 0)
    return Answers(cells_BC, first.cells_BC, logits_B, steps_B)


class _Tally:
    """Outcomes per item: of the only answer, or of the winner of a vote."""

    def __init__(self, dataset: Dataset, evaluation: EvaluationConfig) -> None:
        self.dataset = dataset
        self.evaluation = evaluation
        self.is_arc = dataset.augmentation == "arc"
        counted = self.is_arc or evaluation.votes > 1 or evaluation.rollouts > 1
        self.votes = Votes() if counted else None
        self._columns: dict[str, list[Column]] = {}
        self._originals: list[EvalBatch] = []
        self._labels: dict[int, bytes] = {}
        self._puzzles: dict[int, int] = {}

    def add(self, batch: EvalBatch, answers: Answers, *, is_first: bool) -> None:
        """Take the answers of one run over a batch; `is_first` for the run without noise."""
        cells = answers.cells_BC.to(torch.uint8).cpu().numpy()
        logits = answers.halt_logits_B.float().cpu().numpy()
        side = self.dataset.grid_shape[0]
        if self.votes is not None:
            self.votes.add(batch.items, undo(self.dataset.augmentation, side, cells, batch.codes), logits)
        original = batch.codes == 0
        if is_first and original.any():
            first = answers.first_cells_BC.to(torch.uint8).cpu().numpy()
            kept = EvalBatch(*(column[original] for column in batch))
            self._note(kept, cells[original], logits[original])
            self._put("first_step_accuracy", _right(first[original], kept.labels).all(1))
            self._put("halting_steps", answers.steps_B.cpu().numpy()[original])
            if self.votes is not None:
                self._remember(kept)

    def _note(self, batch: EvalBatch, cells: Bytes, logits: NDArray[np.floating]) -> None:
        exact = _right(cells, batch.labels).all(1)
        self._put("halt_accuracy", (logits >= 0) == exact)
        if self.votes is None:
            self._judge(batch, cells)

    def _judge(self, batch: EvalBatch, cells: Bytes) -> None:
        """Compare final answers with the labels."""
        right, supervised = _right(cells, batch.labels), batch.labels != 0
        # An ARC answer has no marked end: what lies beside the label's grid must be empty.
        self._put("exact_accuracy", (cells == batch.labels if self.is_arc else right).all(1))
        self._put("cell_accuracy", (right & supervised).sum(1) / np.maximum(supervised.sum(1), 1))
        solved = valid(self.dataset.benchmark, batch.inputs, cells, batch.labels, self.dataset.grid_shape[0])
        if solved is not None:
            self._put("valid_accuracy", solved)

    def _remember(self, batch: EvalBatch) -> None:
        labels = undo(self.dataset.augmentation, self.dataset.grid_shape[0], batch.labels, batch.codes)
        self._labels |= {item: row.tobytes() for item, row in zip(batch.items.tolist(), labels, strict=True)}
        self._puzzles |= dict(zip(batch.items.tolist(), batch.puzzles.tolist(), strict=True))
        self._originals.append(batch._replace(labels=labels))

    def _put(self, name: str, values: Any) -> None:
        self._columns.setdefault(name, []).append(np.asarray(values, np.float64))

    def result(self, split: str, num_steps: int) -> EvalResult:
        """Count the votes and sum up."""
        choose = "majority" if self.is_arc else self.evaluation.choose
        if self.votes is not None:
            for batch in self._originals:
                winners = np.stack([self.votes.answer(item, choose) for item in batch.items.tolist()])
                self._judge(batch, winners)
        columns = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        metrics = {name: float(column.mean()) for name, column in columns.items()}
        tasks: dict[str, list[int]] = {}
        if self.is_arc and self.votes is not None:
            for k in PASS_AT:
                metrics[f"pass@{k}"], metrics[f"task_pass@{k}"] = pass_at(self.votes, self._labels, self._puzzles, k)
            for item, puzzle in self._puzzles.items():
                tasks.setdefault(self.dataset.names[puzzle], []).append(item)
        return EvalResult(split, num_steps, metrics, columns, self.votes, tasks)


def _right(cells: Bytes, labels: Bytes) -> NDArray[np.bool_]:
    """Cells that are right or not supervised."""
    right: NDArray[np.bool_] = (cells == labels) | (labels == 0)
    return right


def check_votes(votes: int, trained_augmentations: int, dataset: Dataset) -> None:
    """Refuse views that a model with embeddings per puzzle has never seen.

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
) -> EvalResult:
    """Score `weights` (the model's own if None) on a split. `seed` is of the rollouts' noise.

    Raises:
        ConfigError: the split is empty, or there are more votes than trained views.
    """
    check_votes(evaluation.votes, trained_augmentations, dataset)
    num_steps = evaluation.supervision_steps or model.config.supervision_steps
    weights = dict(model.named_parameters()) if weights is None else weights
    weights = {name: value.to(dtype) for name, value in weights.items()}
    generator = torch.Generator().manual_seed(seed)
    tally = _Tally(dataset, evaluation)
    for batch in eval_batches(
        dataset,
        split,
        evaluation.batch_size,
        max_puzzles=evaluation.max_puzzles,
        num_augmentations=evaluation.votes - 1,
    ):
        inputs_BC = torch.tensor(batch.inputs).to(model.device)
        ids_B = torch.tensor(batch.puzzle_ids).to(model.device)
        for rollout in range(evaluation.rollouts):
            noise = evaluation.noise if rollout else 0.0
            steps = think(model, weights, inputs_BC, ids_B, dtype=dtype, noise=noise, generator=generator)
            tally.add(batch, _answers(steps, num_steps, evaluation.halt), is_first=rollout == 0)
    return tally.result(split, num_steps)
