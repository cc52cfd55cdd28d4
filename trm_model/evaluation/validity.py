"""Check answers by the rules of a puzzle, whether or not they equal the label. B batch, C grid cells, encoded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trm_data.errors import DataError
from trm_data.jit import Bytes
from trm_data.puzzles import maze, sudoku

Outcomes = NDArray[np.bool_]


def _check_shapes(side: int, *grids: Bytes) -> None:
    """Raise DataError for rows of another size, which the kernels would read beyond their end."""
    for cells in grids:
        if cells.shape != (len(grids[0]), side * side):
            raise DataError(f"rows of shape {cells.shape} are not {len(grids[0])} grids of {side}x{side} cells")


def valid_sudoku(inputs: Bytes, answers: Bytes, side: int) -> Outcomes:
    """Return (N) whether every row, column and box holds every digit and the given cells are kept."""
    _check_shapes(side, inputs, answers)
    units = sudoku.shape(side).units
    blank = inputs <= 1
    kept = ((answers == inputs) | blank).all(1) & ((answers >= 2) & (answers < side + 2)).all(1)
    return np.array(
        [keeps and sudoku.is_complete(answer - 1, units) for keeps, answer in zip(kept, answers, strict=True)]
    )


def valid_maze(inputs: Bytes, answers: Bytes, labels: Bytes, side: int) -> Outcomes:
    """Return (N) whether each answer is a path over free cells as short as the labelled one; there may be several."""
    _check_shapes(side, inputs, answers, labels)
    only_marks = ((answers == inputs) | ((answers == maze.PATH) & (inputs == maze.SPACE))).all(1)
    return np.array(
        [
            marks and maze.path_length(answer, side) == maze.path_length(label, side)
            for marks, answer, label in zip(only_marks, answers, labels, strict=True)
        ]
    )


def valid(family: str, inputs: Bytes, answers: Bytes, labels: Bytes, side: int) -> Outcomes | None:
    """Return (N) which answers solve their puzzle; None where only the label counts (ARC)."""
    if family == "sudoku":
        return valid_sudoku(inputs, answers, side)
    if family == "maze":
        return valid_maze(inputs, answers, labels, side)
    return None
