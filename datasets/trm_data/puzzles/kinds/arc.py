"""Define ARC tasks as a kind of puzzle: grids of up to 30x30 colours in a frame, see `puzzles/arc.py`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trm_data.errors import DataError
from trm_data.jit import Bytes, Ints, Words
from trm_data.puzzles.arc import MOST_AUGMENTATIONS, SIDE
from trm_data.puzzles.augment import arc_rows, undo_arc
from trm_data.puzzles.kinds.base import PuzzleKind
from trm_data.puzzles.symmetry import ARC_ORDER


class Arc(PuzzleKind):
    """Define ARC tasks."""

    name = "arc"
    augmentation = "arc"
    sides = (SIDE,)
    has_tasks = True
    is_framed = True

    def vocab_size(self, side: int) -> int:
        """Count padding, end marker and ten colours."""
        return 12

    def wrong_shapes(self, shapes: Bytes, side: int) -> NDArray[np.bool_]:
        """Return (E) whether rows of (E, 4) are not the height and width of an input and a label in the frame."""
        wrong = (shapes > SIDE).any(1) | (shapes[:, :2] == 0).any(1)
        unknown = shapes[:, 2:] == 0  # the answer of a test input may be unknown: a grid without cells
        return np.asarray(wrong | (unknown[:, 0] != unknown[:, 1]))

    def order(self, side: int) -> int:
        """Return the number of turns and reflections times the permutations of nine colours."""
        return ARC_ORDER

    def most_copies(self, side: int) -> int:
        """Return how many augmentations of a task are listed at most."""
        return MOST_AUGMENTATIONS

    def view(
        self, inputs: Bytes, labels: Bytes, shapes: Bytes, rows: Ints, codes: Words, places: Words, side: int
    ) -> tuple[Bytes, Bytes]:
        """Return inputs and labels (B, L) turned, with colours permuted, at their places."""
        seen = np.empty((2, rows.size, SIDE * SIDE), np.uint8)
        arc_rows(inputs, labels, shapes, rows, codes, places, seen[0], seen[1])
        return seen[0], seen[1]

    def _undo(self, cells: Bytes, codes: Words, side: int) -> Bytes:
        if side != SIDE:
            raise DataError(f"ARC answers have {SIDE}x{SIDE} cells, not {side}x{side}")
        out = np.empty_like(cells)
        undo_arc(cells, codes, out)
        return out
