"""Define ARC tasks as a kind of puzzle: grids of up to 30x30 colours in a frame, see `puzzles/arc.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trm_data.benchmarks import CATALOGUE
from trm_data.errors import DataError
from trm_data.jit import Bytes, Ints, Words
from trm_data.puzzles.arc import MOST_AUGMENTATIONS, SIDE, as_grid, crop, frame, pair_keys
from trm_data.puzzles.augment import arc_rows, undo_arc
from trm_data.puzzles.drawing import PAPER, Panel, difference_panel, grid_panel
from trm_data.puzzles.kinds.base import Examples, PuzzleKind, Question
from trm_data.puzzles.symmetry import ARC_ORDER

_COLOURS = (
    "#000000",
    "#1E93FF",
    "#F93C31",
    "#4FCC30",
    "#FFDC00",
    "#999999",
    "#E53AA3",
    "#FF851B",
    "#87D8F1",
    "#921231",
)
"""Those of arcprize.org."""
_LINES = "#555555"

_PROMPT = """Each of these examples turns an input grid into an output grid by the same rule. Cells are colours \
from 0 to 9.

{examples}

Find the rule and apply it to this input:

{grid}

Write the output grid as one JSON array of rows, with nothing else in between, like this:
<answer>
[[0, 1], [2, 3]]
</answer>"""


class Arc(PuzzleKind):
    """Define ARC tasks."""

    name = "arc"
    augmentation = "arc"
    sides = (SIDE,)
    has_tasks = True
    is_framed = True
    least_answer = 2
    difference_line = "#FFFFFF"
    is_enumerated = False

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

    def faults(self, examples: Examples) -> Iterator[str]:
        """Yield grids that are not framed as the official builder frames them."""
        for name, cells, first in (("input", examples.inputs, 0), ("label", examples.labels, 2)):
            for row in range(len(cells)):
                height, width = (int(size) for size in examples.shapes[row, first : first + 2])
                grid = cells[row].reshape(SIDE, SIDE)[:height, :width]
                if (grid < 2).any() or (frame(grid - np.uint8(2)) != cells[row]).any():
                    yield f"example {examples.numbers[row]}: {name} is not a framed grid of {height}x{width}"

    def leaks(self, examples: Examples) -> Iterator[str]:
        """Yield training pairs that equal a test pair, except those of a published benchmark and those that were
        allowed."""
        facts = examples.facts
        published = frozenset().union(*(benchmark.published_overlaps for benchmark in CATALOGUE.values()))
        known = (published & set(facts.get("published_overlaps", {}))) | set(facts.get("allowed_overlaps", []))
        keys = pair_keys(examples.inputs, examples.labels, examples.shapes)
        tested = set(keys[examples.split == examples.splits.index("test")].tolist())
        for row in np.flatnonzero(examples.split == examples.splits.index("train")):
            name = examples.names[examples.puzzle[row]]
            if int(keys[row]) in tested and name not in known:
                yield f"leak: training task {name} holds a test pair"

    def read(self, text: str, side: int) -> list[Question]:
        """Return the test inputs of a task in JSON."""
        try:
            tests: list[dict[str, Any]] = json.loads(text)["test"]
            return [
                Question(frame(as_grid(pair["input"], "test input")), _framed(pair.get("output"), "test output"))
                for pair in tests
            ]
        except _NO_TASK as error:
            raise _no_task(error) from None

    def write(self, cells: Bytes, side: int) -> list[str]:
        """Return colours as digits, one text per row of the grid."""
        return ["".join(str(colour) for colour in row) for row in crop(cells).tolist()]

    def prompt(self, cells: Bytes, side: int, demonstrations: Sequence[tuple[Bytes, Bytes]]) -> str:
        """Ask for the output grid by the rule of the demonstrations."""
        examples = "\n\n".join(
            f"Example {number}\ninput: {json.dumps(crop(given).tolist())}\noutput: {json.dumps(crop(wanted).tolist())}"
            for number, (given, wanted) in enumerate(demonstrations, 1)
        )
        return _PROMPT.format(examples=examples, grid=json.dumps(crop(cells).tolist()))

    def read_reply(self, text: str, side: int) -> Bytes | None:
        """Parse a JSON array of rows."""
        try:
            grid = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(grid, list) or not 1 <= len(grid) <= SIDE or not all(isinstance(row, list) for row in grid):
            return None
        width = len(grid[0])
        if not 1 <= width <= SIDE or any(len(row) != width for row in grid):
            return None
        if any(type(cell) is not int or not 0 <= cell <= 9 for row in grid for cell in row):
            return None
        return frame(np.array(grid, np.uint8))

    def panel(self, question: Bytes, cells: Bytes, label: Bytes | None, side: int) -> Panel:
        """Draw a grid in the extent of its label, if one is given, with the cells in which they differ marked."""
        grid = crop(cells)
        if label is None:
            return grid_panel([[_COLOURS[colour] for colour in row] for row in grid], _LINES)
        truth = crop(label)
        shown = cells.reshape(side, side)[: truth.shape[0], : truth.shape[1]].astype(int) - 2
        fills = [[_COLOURS[colour] if colour >= 0 else PAPER for colour in row] for row in shown]
        corners = {(int(r), int(c)): _COLOURS[truth[r, c]] for r, c in np.argwhere(shown != truth)}
        return grid_panel(fills, _LINES, corners)

    def difference_panel(self, label: Bytes, cells: Bytes, side: int) -> Panel:
        """Draw equal cells green and others red, over the larger of both grids."""
        truth, guess = crop(label), crop(cells)
        height, width = np.maximum(truth.shape, guess.shape)

        def same(r: int, c: int) -> bool:
            inside = [r < grid.shape[0] and c < grid.shape[1] for grid in (truth, guess)]
            return all(inside) and bool(truth[r, c] == guess[r, c])

        wrong = [[not same(r, c) for c in range(width)] for r in range(height)]
        return difference_panel(wrong, self.difference_line)


def _framed(grid: Any, where: str) -> Bytes | None:
    return None if grid is None else frame(as_grid(grid, where))


def read_arc_examples(text: str) -> tuple[list[tuple[Bytes, Bytes]], list[Bytes]]:
    """Read the demonstrations (input, output) and the test inputs of an ARC task, framed (900 cells each).

    Raises:
        DataError: the text is not an ARC task.
    """
    try:
        task = json.loads(text)
        demonstrations = [
            (frame(as_grid(pair["input"], "train input")), frame(as_grid(pair["output"], "train output")))
            for pair in task.get("train", [])
        ]
        return demonstrations, [frame(as_grid(pair["input"], "test input")) for pair in task["test"]]
    except _NO_TASK as error:
        raise _no_task(error) from None


_NO_TASK = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def _no_task(error: Exception) -> DataError:
    what = f"the text is not an ARC task: {type(error).__name__} {error}"
    return DataError(what, 'Give its JSON: {"train": [...], "test": [{"input": [[...]]}]}')
