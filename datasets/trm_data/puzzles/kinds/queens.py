"""Define N-Queens as a kind of puzzle: some queens are given, and any placement of all of them is right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trm_data.errors import DataError
from trm_data.jit import Bytes
from trm_data.puzzles import queens
from trm_data.puzzles.kinds.base import PuzzleKind, Question, check_shapes

_DRAWS_PER_PUZZLE, _FEWEST_DRAWS = 16, 16_384


class Queens(PuzzleKind):
    """Define boards of any side from 4."""

    name = "n-queens"
    augmentation = "dihedral"
    sides = range(4, queens.MOST_SIDE + 1)
    symbols = "?.Q"
    colours = ("#F4F1EA", "#2B3440")
    has_several_answers = True
    rules = (
        "Q is a queen and . an empty square. Add queens until every row has one, so that no two are in the same row, "
        "column or diagonal; those that are there stay."
    )

    def generate(self, side: int, count: int, seed: int) -> tuple[Bytes, Bytes]:
        """Return the boards of many draws, most of which repeat another or have one solution."""
        draws = max(_FEWEST_DRAWS, _DRAWS_PER_PUZZLE * count)
        inputs, labels = np.empty((2, draws, side * side), np.uint8)
        made = queens.draw_boards(seed, draws, side, inputs, labels)
        return inputs[:made], labels[:made]

    def num_solutions(self, inputs: Bytes, side: int) -> NDArray[np.float64]:
        """Return (B) how many placements contain the given queens."""
        return queens.numbers_of_completions(inputs, side)

    def valid(self, inputs: Bytes, answers: Bytes, labels: Bytes, side: int) -> NDArray[np.bool_]:
        """Return (B) whether each answer has a queen in every row, none attacks another, and the given ones stay."""
        check_shapes(side, inputs, answers)
        placed = answers == queens.QUEEN
        right = ((inputs != queens.QUEEN) | placed).all(1) & ((answers == queens.EMPTY) | placed).all(1)
        right &= placed.sum(1) == side
        for _, cells in queens.lines(side):
            right &= placed[:, cells].sum(1) <= 1
        return np.asarray(right)

    def problem(self, cells: Bytes, answer: Bytes, side: int) -> str:
        """Name the first given queen that is missing, line with two queens, or how many there are."""
        placed = answer == queens.QUEEN
        for cell in np.flatnonzero((cells == queens.QUEEN) & ~placed)[:1]:
            return f"the given queen in row {cell // side + 1}, column {cell % side + 1} is missing"
        crowded = next((name for name, line in queens.lines(side) if placed[line].sum() > 1), None)
        return f"{placed.sum()} queens instead of {side}" if crowded is None else f"two queens are in {crowded}"

    def read(self, text: str, side: int) -> list[Question]:
        """Return the boards of a text, see `PuzzleKind.read`.

        Raises:
            DataError: it is no board, or one that cannot be completed.
        """
        found = super().read(text, side)
        for question in found:
            if not self.num_solutions(question.cells[None], side)[0]:
                what = f"{''.join(self.write(question.cells, side))!r} has no solution"
                raise DataError(what, "Take a queen away, or move one")
        return found
