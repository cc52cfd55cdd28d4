"""Format puzzles as prompts, and parse replies into cells.

A reply counts only if its last `<answer>` block is the whole grid and nothing else; nothing is guessed or repaired.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trm_data import Dataset
from trm_data.dataset.loader import eval_batches
from trm_data.jit import Bytes
from trm_data.puzzles.kinds import PuzzleKind


@dataclass(frozen=True, slots=True)
class Question:
    """Describe one item of a split: a grid to answer."""

    item: int
    """As evaluation counts them: 0 is the first of the split."""
    puzzle: int
    """The puzzle it belongs to; an ARC task may have several items."""
    text: str
    input: Bytes
    """(L) cells, encoded as in the data."""
    label: Bytes


def load_questions(dataset: Dataset, split: str, limit: int | None) -> list[Question]:
    """Load the items of the first `limit` puzzles (all if None) of a split, which are those that `evaluate` scores.

    Raises:
        ConfigError: the split is unknown or empty.
    """
    kind, side = dataset.kind, dataset.grid_shape[0]
    found = []
    for batch in eval_batches(dataset, split, 1024, max_puzzles=limit):
        rows = (batch.inputs, batch.labels, batch.items, batch.puzzles, batch.is_answered)
        for cells, label, item, puzzle, is_answered in zip(*rows, strict=True):
            if not is_answered:  # nothing to compare a reply with
                continue
            text = kind.prompt(cells, side, _demonstrations(dataset, int(puzzle)) if kind.has_tasks else [])
            found.append(Question(int(item), int(puzzle), text, cells.copy(), label.copy()))
    return found


def _demonstrations(dataset: Dataset, puzzle: int) -> list[tuple[Bytes, Bytes]]:
    rows = np.flatnonzero((dataset.puzzle == puzzle) & (dataset.split == 0))
    return [(dataset.inputs[row], dataset.labels[row]) for row in rows]


def read_answer(text: str, kind: PuzzleKind, side: int) -> Bytes | None:
    """Parse the cells (L) of a reply, encoded as in the data; None without a whole grid of known symbols."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    if start < 0:
        return None
    return kind.read_reply(text[start + len("<answer>") : end].strip(), side)
