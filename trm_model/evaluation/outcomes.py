"""Hold the results of an evaluation: scores, and the outcome of every scored item in order. N items, C grid cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trm_data.errors import ConfigError, DataError
from trm_data.files import write_atomic
from trm_data.jit import Bytes
from trm_model.evaluation.voting import Votes, submission

Column = NDArray[np.float64]
_TRUTHS = ("exact_accuracy", "valid_accuracy", "halt_accuracy", "first_step_accuracy", "pass@")


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Hold scores and outcomes of one checkpoint, or, with metrics that say so, of several that voted together.

    Only items with a known answer are scored. Others are counted in `unscored` and kept in `test_inputs`.
    """

    split: str
    supervision_steps: int
    metrics: dict[str, float]
    """exact_accuracy, cell_accuracy, halt_accuracy, halting_steps, first_step_accuracy (exact after one step),
    confidence (sigmoid of the halt logit), valid_accuracy (kinds with rules), coverage (of several votes or rollouts,
    where solutions are counted: the share of them that was found); for ARC also pass@k (per test input, averaged over
    tasks) and task_pass@k. An ensemble's are all named `ensemble_...`. Empty where no item has a known answer."""
    columns: dict[str, Column]
    """(N) each: the metrics per item, under the same names without `ensemble_`."""
    answers: Bytes = field(repr=False)
    """(N, C): the answers that count, as for the original puzzles; ARC answers are cropped to their grid."""
    names: list[str] = field(repr=False)
    """(N): the puzzle of each item."""
    forward_passes: int
    """Supervision steps that were run, over all items, views and rollouts."""
    numbers: NDArray[np.int64] = field(repr=False)
    """(N): the number of each item within its split, those without a known answer counted too."""
    unscored: int = 0
    """Items that were answered and are in no score, because their answer is not known."""
    votes: Votes | None = field(default=None, repr=False)
    """All answers, where views, rollouts or ARC made it necessary to count them."""
    test_inputs: dict[str, list[int]] = field(default_factory=dict, repr=False)
    """ARC: the numbers of all items of each task, scored or not, as a submission lists them."""

    @property
    def tasks(self) -> dict[str, list[int]]:
        """Return the rows of `columns` that belong to each ARC task with a known answer; empty for other benchmarks."""
        tasks: dict[str, list[int]] = {}
        for row, name in enumerate(self.names if self.test_inputs else ()):
            tasks.setdefault(name, []).append(row)
        return tasks

    @property
    def exact(self) -> NDArray[np.bool_]:
        """Return (N) whether each answer is the label."""
        return self.columns["exact_accuracy"].astype(np.bool_)

    @property
    def items(self) -> int:
        return len(self.columns["exact_accuracy"])

    @property
    def per_item(self) -> str:
        """Return `exact` as a packed hexadecimal string, eight items a byte, the first in the highest bit."""
        return np.packbits(self.exact).tobytes().hex()

    def shares(self, k: int) -> Column:
        """Return for each task of ARC the share of its scored test inputs that were answered within k tries."""
        hits = self.columns[f"pass@{k}"]
        return np.array([hits[rows].mean() for rows in self.tasks.values()])

    def arrow(self) -> bytes:
        """Serialize the outcomes as an Arrow IPC file: item, puzzle, the columns, and the answer cells."""
        columns = {name: pa.array(_narrow(name, values)) for name, values in self.columns.items()}
        cells = pa.FixedSizeListArray.from_arrays(pa.array(self.answers.reshape(-1)), self.answers.shape[1])
        table = pa.table({"item": self.numbers, "puzzle": self.names, **columns, "answer": cells})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        content: bytes = sink.getvalue().to_pybytes()
        return content

    def write(self, path: Path) -> None:
        """Write `arrow()` to a file."""
        write_atomic(path, self.arrow())

    def submission(self, tries: int = 2) -> dict[str, object]:
        """Return the answers to all test inputs of ARC in Kaggle's form.

        Raises:
            ConfigError: the dataset is not ARC.
        """
        if self.votes is None or not self.test_inputs:
            raise ConfigError("a submission needs an ARC dataset")
        return dict(submission(self.votes, self.test_inputs, tries))


def _narrow(name: str, values: Column) -> NDArray[np.generic]:
    if name.startswith(_TRUTHS):
        return values.astype(np.bool_)
    return values.astype(np.int32 if name == "halting_steps" else np.float32)


def unpack_items(packed: str, items: int) -> NDArray[np.bool_]:
    """Unpack the outcomes that `EvalResult.per_item` returned.

    Raises:
        DataError: it is not a hexadecimal text, or does not hold that many items.
    """
    try:
        packed_bytes = np.frombuffer(bytes.fromhex(packed), np.uint8)
    except ValueError:
        raise DataError("per_item is not a hexadecimal text", "The record is damaged: score the trial again") from None
    if items < 0 or packed_bytes.size != -(-items // 8):
        what = f"per_item holds {packed_bytes.size} bytes, {items} items need {-(-max(items, 0) // 8)}"
        raise DataError(what, "The record is damaged: score the trial again")
    return np.unpackbits(packed_bytes, count=items).astype(np.bool_)
