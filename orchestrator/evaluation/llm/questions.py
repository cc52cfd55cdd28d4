"""Format puzzles as prompts, and parse replies into cells.

A reply counts only if its last `<answer>` block is the whole grid and nothing else; nothing is guessed or repaired.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trm_data import Dataset
from trm_data.config import Family
from trm_data.dataset.loader import eval_batches
from trm_data.jit import Bytes
from trm_data.puzzles.arc import SIDE, crop, frame
from trm_data.puzzles.sudoku import BOXES

_MAZE = {"#": 1, ".": 2, "S": 3, "G": 4, "o": 5}
"""Free cells are dots: a line that ends in spaces would not survive most tokenizers."""

_SUDOKU_PROMPT = """Solve this {side}x{side} Sudoku. Every row, every column and every box of {rows} rows by {cols} \
columns holds each of the digits 1 to {side} exactly once. A dot is an empty cell.

{grid}

Write the solved grid as {side} lines of {side} digits, with nothing else in between, like this:
<answer>
(the {side} lines)
</answer>"""
_MAZE_PROMPT = """This is a maze of {side} rows and {side} columns. # is a wall, . is free, S is the start, G the goal.

{grid}

Find a shortest path from S to G that goes up, down, left or right from cell to cell and never through a wall. Of \
equally short paths take the one that at every cell, from S on, takes the first of up, down, left, right that comes \
closer to G.

Write the maze again as {side} lines of {side} characters, with o in every free cell of the path between S and G and \
all other cells as they are, with nothing else in between, like this:
<answer>
(the {side} lines)
</answer>"""
_ARC_PROMPT = """Each of these examples turns an input grid into an output grid by the same rule. Cells are colours \
from 0 to 9.

{examples}

Find the rule and apply it to this input:

{grid}

Write the output grid as one JSON array of rows, with nothing else in between, like this:
<answer>
[[0, 1], [2, 3]]
</answer>"""


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
    family, side = dataset.manifest.family, dataset.grid_shape[0]
    found = []
    for batch in eval_batches(dataset, split, 1024, max_puzzles=limit):
        rows = (batch.inputs, batch.labels, batch.items, batch.puzzles, batch.is_answered)
        for cells, label, item, puzzle, is_answered in zip(*rows, strict=True):
            if not is_answered:  # nothing to compare a reply with
                continue
            if family == "arc":
                text = _arc_text(_demonstrations(dataset, int(puzzle)), cells)
            else:
                text = _grid_text(family, side, cells)
            found.append(Question(int(item), int(puzzle), text, cells.copy(), label.copy()))
    return found


def _grid_text(family: Family, side: int, cells: Bytes) -> str:
    if family == "maze":
        grid = _lines(cells, side, {token: symbol for symbol, token in _MAZE.items()})
        return _MAZE_PROMPT.format(side=side, grid=grid)
    rows, cols = BOXES[side]
    grid = _lines(cells, side, {token: str(token - 1) for token in range(2, side + 2)})
    return _SUDOKU_PROMPT.format(side=side, rows=rows, cols=cols, grid=grid)


def _lines(cells: Bytes, side: int, symbols: Mapping[int, str]) -> str:
    return "\n".join("".join(symbols.get(int(cell), ".") for cell in row) for row in cells.reshape(side, side))


def _demonstrations(dataset: Dataset, puzzle: int) -> list[tuple[Bytes, Bytes]]:
    rows = np.flatnonzero((dataset.puzzle == puzzle) & (dataset.split == 0))
    return [(crop(dataset.inputs[row]), crop(dataset.labels[row])) for row in rows]


def _arc_text(demonstrations: list[tuple[Bytes, Bytes]], cells: Bytes) -> str:
    examples = "\n\n".join(
        f"Example {number}\ninput: {json.dumps(given.tolist())}\noutput: {json.dumps(wanted.tolist())}"
        for number, (given, wanted) in enumerate(demonstrations, 1)
    )
    return _ARC_PROMPT.format(examples=examples, grid=json.dumps(crop(cells).tolist()))


def read_answer(text: str, family: Family, side: int) -> Bytes | None:
    """Parse the cells (L) of a reply, encoded as in the data; None without a whole grid of known symbols."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    if start < 0:
        return None
    body = text[start + len("<answer>") : end].strip()
    if family == "arc":
        return _read_json(body)
    return _read_lines(body, side, _MAZE if family == "maze" else {str(d): d + 1 for d in range(1, side + 1)})


def _read_lines(body: str, side: int, tokens: Mapping[str, int]) -> Bytes | None:
    """Parse lines of symbols, with or without spaces between them."""
    rows = [line.split() if " " in line.strip() else list(line.strip()) for line in body.splitlines()]
    if len(rows) != side or any(len(row) != side or not tokens.keys() >= set(row) for row in rows):
        return None
    return np.array([tokens[symbol] for row in rows for symbol in row], np.uint8)


def _read_json(body: str) -> Bytes | None:
    try:
        grid = json.loads(body)
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
