"""Define Sudoku as a kind of puzzle: 1 is a blank, 2 and above are digits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trm_data.errors import DataError
from trm_data.jit import Bytes, Ints, Words
from trm_data.puzzles import sudoku, sudoku_forms
from trm_data.puzzles.augment import sudoku_pairs, sudoku_rows
from trm_data.puzzles.drawing import INK, LINE, PAPER, SIZE, Colour, Panel, font, paint_cells
from trm_data.puzzles.kinds.base import Examples, PuzzleKind, Question, check_shapes, read_lines
from trm_data.puzzles.sudoku import BOXES
from trm_data.puzzles.symmetry import recover_sudokus, sudoku_order

if TYPE_CHECKING:
    from PIL import ImageDraw

_GIVEN, _FILLED, _TINT, _WRONG_INK = "#EEF1F5", "#1D4ED8", "#FBD5D5", "#B0141E"
_PROMPT = """Solve this {side}x{side} Sudoku. Every row, every column and every box of {rows} rows by {cols} \
columns holds each of the digits 1 to {side} exactly once. A dot is an empty cell.

{grid}

Write the solved grid as {side} lines of {side} digits, with nothing else in between, like this:
<answer>
(the {side} lines)
</answer>"""


class Sudoku(PuzzleKind):
    """Define Sudoku of 4, 6 or 9 digits."""

    name = "sudoku"
    augmentation = "sudoku"
    sides = BOXES
    symbols = "?.123456789"
    difference_line = "#FFFFFF"
    is_enumerated = False

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

    def valid(self, inputs: Bytes, answers: Bytes, labels: Bytes, side: int) -> NDArray[np.bool_]:
        """Return (B) whether every row, column and box holds every digit and the given cells are kept."""
        check_shapes(side, inputs, answers)
        units = sudoku.shape(side).units
        blank = inputs <= 1
        kept = ((answers == inputs) | blank).all(1) & ((answers >= 2) & (answers < side + 2)).all(1)
        return np.array(
            [keeps and sudoku.is_complete(answer - 1, units) for keeps, answer in zip(kept, answers, strict=True)]
        )

    def problem(self, cells: Bytes, answer: Bytes, side: int) -> str:
        """Name the first given that was changed, cell without a digit, or digit that stands twice."""
        changed, blank = (answer != cells) & (cells > 1), (answer < 2) | (answer > side + 1)
        for wrong, what in ((changed, "the given {0} in {1} was changed"), (blank, "no digit in {1}")):
            for cell in np.flatnonzero(wrong)[:1]:
                return what.format(cells[cell] - 1, f"row {cell // side + 1}, column {cell % side + 1}")
        return sudoku.repetition(answer - 1, side)

    def faults(self, examples: Examples) -> Iterator[str]:
        """Yield an example that its label does not solve, and one with several solutions."""
        units = sudoku.shape(examples.side).units
        puzzles, solutions = examples.inputs - np.uint8(1), examples.labels - np.uint8(1)
        wrong = int(sudoku.misfit(puzzles, solutions, units))
        if wrong >= 0:
            yield f"example {examples.numbers[wrong]}: the label does not solve the puzzle"
        several = int(sudoku.ambiguous(puzzles, units))
        if several >= 0:
            yield f"example {examples.numbers[several]}: the puzzle has not exactly one solution"

    def leaks(self, examples: Examples) -> Iterator[str]:
        """Yield equivalent puzzles of different splits. Canonical forms are compared only if the invariants are
        equal."""
        shape = sudoku.shape(examples.side)[:3]
        puzzles, solutions = examples.inputs - np.uint8(1), examples.labels - np.uint8(1)
        invariants = sudoku_forms.invariants(puzzles, *shape)
        _, group, sizes = np.unique(invariants, return_inverse=True, return_counts=True)
        keys: list[bytes] = [value.tobytes() for value in invariants]
        for row in np.flatnonzero(sizes[group] > 1):
            keys[row] = sudoku_forms.canonical(puzzles[row], solutions[row], *shape).tobytes()
        return examples.across_splits(keys)

    def read(self, text: str, side: int) -> list[Question]:
        """Return the puzzles of a text: a line each, `.`, `*`, `_` or 0 for a blank, or one as a square of lines."""
        rows = [line for line in text.removeprefix("\ufeff").splitlines() if line.strip() and not line.startswith("#")]
        lines = [row.split()[0].partition(":")[0] for row in rows]  # tdoku's lists have a solution behind the puzzle
        if lines and all(len(line) < side * side for line in lines):
            lines = ["".join(letter for row in rows for letter in row if letter not in " |-+\t")]
        puzzles = []
        for line in lines:
            digits = sudoku.DIGITS[np.frombuffer(line.encode("latin-1", "replace"), np.uint8)]
            if len(line) != side * side or (digits > side).any():
                raise DataError(
                    f"{line[:90]!r} is not a {side}x{side} Sudoku",
                    f"Write {side * side} of 1-{side}, and '.' or 0 for a blank",
                )
            puzzles.append(digits)
        if not puzzles:
            raise DataError("there is no puzzle in the text", "One Sudoku a line")
        grids = np.stack(puzzles)
        for line, grid in zip(lines, grids, strict=True):
            if problem := sudoku.repetition(grid, side):
                raise DataError(f"{line!r} has no solution: {problem}", "Correct the puzzle")
        solutions, counts, _ = sudoku.solve_all(grids, sudoku.shape(side).units)
        return [
            Question(grid + np.uint8(1), solution + np.uint8(1) if count == 1 else None)
            for grid, solution, count in zip(grids, solutions, counts.tolist(), strict=True)
        ]

    def prompt(self, cells: Bytes, side: int, demonstrations: Sequence[tuple[Bytes, Bytes]]) -> str:
        """Ask for the solved grid."""
        rows, cols = BOXES[side]
        return _PROMPT.format(side=side, rows=rows, cols=cols, grid="\n".join(self.write(cells, side)))

    def read_reply(self, text: str, side: int) -> Bytes | None:
        """Parse lines of digits."""
        return read_lines(text, side, {str(digit): digit + 1 for digit in range(1, side + 1)})

    def panel(self, question: Bytes, cells: Bytes, label: Bytes | None, side: int) -> Panel:
        """Draw bold givens on grey; a wrong cell is tinted, with the label's digit small in its corner."""
        given, grid = question.reshape(side, side), cells.reshape(side, side)
        truth = None if label is None else label.reshape(side, side)
        return _panel(grid, given, None if truth is None else np.asarray(grid != truth), truth)

    def prediction_panel(self, question: Bytes, cells: Bytes, label: Bytes, side: int) -> Panel:
        """Draw an answer whose wrong cells are tinted."""
        return _panel(*(row.reshape(side, side) for row in (cells, question, cells != label)))


def _panel(grid: Bytes, givens: Bytes, wrong: Bytes | None, label: Bytes | None = None) -> Panel:
    """Draw a grid; a wrong cell is tinted, with the label's digit small in its corner where a label is given."""
    side = grid.shape[0]
    box_rows, box_cols = BOXES[side]
    size = SIZE / side

    def paint(pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
        def fill(r: int, c: int) -> Colour:
            if wrong is not None and wrong[r, c]:
                return _TINT
            return _GIVEN if givens[r, c] > 1 else PAPER

        paint_cells(pen, left, top, [[fill(r, c) for c in range(side)] for r in range(side)], None, size)
        for i in range(side + 1):
            wide_row, wide_col = (3 if i % box == 0 else 1 for box in (box_rows, box_cols))
            at = round(i * size)
            pen.line((left, top + at, left + SIZE, top + at), INK if wide_row == 3 else LINE, wide_row)
            pen.line((left + at, top, left + at, top + SIZE), INK if wide_col == 3 else LINE, wide_col)
        for (r, c), value in np.ndenumerate(grid):
            x, y = left + c * size, top + r * size
            is_wrong = wrong is not None and bool(wrong[r, c])
            corner = is_wrong and label is not None
            if value > 1:
                aside = 0.08 * size if corner else 0.0  # room for the label's digit
                given = givens[r, c] > 1
                ink = INK if given else _WRONG_INK if is_wrong else _FILLED
                stroke = 0.6 if given else 0.0  # Pillow's font has no bold cut
                centre = (x + 0.5 * size - aside, y + 0.5 * size + aside)
                pen.text(centre, str(value - 1), ink, font(size * 0.56), "mm", stroke_width=stroke)
            if corner and label is not None:
                digit = str(label[r, c] - 1)
                pen.text((x + 0.92 * size, y + 0.08 * size), digit, INK, font(size * 0.3), "ra", stroke_width=0.3)

    return paint
