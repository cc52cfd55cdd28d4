"""Define mazes as a kind of puzzle."""

from __future__ import annotations

import numpy as np

from trm_data.jit import Bytes, Ints, Words
from trm_data.puzzles import maze
from trm_data.puzzles.augment import dihedral_rows
from trm_data.puzzles.kinds.base import PuzzleKind
from trm_data.puzzles.symmetry import DIHEDRAL_INVERSE


class Maze(PuzzleKind):
    """Define mazes, square, of any side."""

    name = "maze"
    augmentation = "dihedral"
    sides = range(2, 256)
    is_enumerated = True

    def vocab_size(self, side: int) -> int:
        """Count padding and `# SGo`."""
        return 1 + len(maze.CHARACTERS)

    def order(self, side: int) -> int:
        """Return the number of symmetries of a square."""
        return len(DIHEDRAL_INVERSE)

    def view(
        self, inputs: Bytes, labels: Bytes, shapes: Bytes, rows: Ints, codes: Words, places: Words, side: int
    ) -> tuple[Bytes, Bytes]:
        """Return inputs and labels (B, L), turned and mirrored."""
        seen = np.empty((2, rows.size, side * side), np.uint8)
        dihedral_rows(inputs[rows], codes, side, seen[0])
        dihedral_rows(labels[rows], codes, side, seen[1])
        return seen[0], seen[1]

    def _undo(self, cells: Bytes, codes: Words, side: int) -> Bytes:
        out = np.empty_like(cells)
        dihedral_rows(cells, np.array(DIHEDRAL_INVERSE, np.uint64)[codes.astype(np.int64)], side, out)
        return out

    def recover(self, labels: Bytes, inputs: Bytes, base: Ints, side: int) -> Ints:
        """Return (B) the code that makes each example from the example `base` (B), -1 where none does."""
        codes = np.full(len(base), -1, np.int64)
        for turn in reversed(range(self.order(side))):
            same = np.ones(len(base), bool)
            for cells in (labels, inputs):
                turned = np.empty_like(cells)
                dihedral_rows(cells[base], np.full(len(base), turn, np.uint64), side, turned)
                same &= (turned == cells).all(1)
            codes[same] = turn
        return codes
