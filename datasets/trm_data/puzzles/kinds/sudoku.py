"""Define Sudoku as a kind of puzzle: 1 is a blank, 2 and above are digits."""

from __future__ import annotations

import numpy as np

from trm_data.errors import DataError
from trm_data.jit import Bytes, Ints, Words
from trm_data.puzzles.augment import sudoku_pairs, sudoku_rows
from trm_data.puzzles.kinds.base import PuzzleKind
from trm_data.puzzles.sudoku import BOXES
from trm_data.puzzles.symmetry import recover_sudokus, sudoku_order


class Sudoku(PuzzleKind):
    """Define Sudoku of 4, 6 or 9 digits."""

    name = "sudoku"
    augmentation = "sudoku"
    sides = BOXES

    def vocab_size(self, side: int) -> int:
        """Count padding, blank and digits."""
        return side + 2

    def order(self, side: int) -> int:
        """Return the number of symmetries."""
        return sudoku_order(side, *BOXES[side])

    def view(
        self, inputs: Bytes, labels: Bytes, shapes: Bytes, rows: Ints, codes: Words, places: Words, side: int
    ) -> tuple[Bytes, Bytes]:
        """Return inputs and labels (B, L) with lines and digits permuted."""
        seen = np.empty((2, rows.size, side * side), np.uint8)
        sudoku_pairs(inputs, labels, rows, codes, side, *BOXES[side], seen[0], seen[1])
        return seen[0], seen[1]

    def _undo(self, cells: Bytes, codes: Words, side: int) -> Bytes:
        if cells.max(initial=0) > side + 1:
            raise DataError(f"cell value {cells.max()} is none of a Sudoku {side}x{side}")
        out = np.empty_like(cells)
        sudoku_rows(cells, codes, side, *BOXES[side], True, out)
        return out

    def recover(self, labels: Bytes, inputs: Bytes, base: Ints, side: int) -> Ints:
        """Return (B) the code that makes each example from the example `base` (B), -1 where none does."""
        return recover_sudokus(labels, inputs, base, *BOXES[side])
