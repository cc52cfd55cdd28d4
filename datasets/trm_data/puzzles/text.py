"""Read and write puzzles as text: Sudoku as digits and dots, mazes as `# SG`, ARC tasks as JSON. C cells, encoded."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from trm_data.config import Family
from trm_data.errors import DataError
from trm_data.jit import Bytes
from trm_data.puzzles import maze, sudoku
from trm_data.puzzles.arc import as_grid, crop, frame


class Question(NamedTuple):
    """Hold a grid that is to be answered."""

    cells: Bytes
    """(C)"""
    label: Bytes | None
    """(C): the answer, where it is known: a maze's own shortest path, a Sudoku's only solution, ARC's if given."""


def family_of(vocab_size: int, side: int) -> Family:
    """Return the kind of puzzle that a model with this number of symbols and cells per row reads."""
    if (vocab_size, side) == (12, 30):
        return "arc"
    return "sudoku" if vocab_size == side + 2 else "maze"


def read_questions(text: str, family: Family, side: int) -> list[Question]:
    """Return the puzzles of a text.

    Sudoku: a line each, `.` or 0 for a blank, or one as a square of lines. Mazes: one, a line per row. ARC: the JSON of
    a task, of which the test inputs are returned.

    Raises:
        DataError: it is not a puzzle, or one of another size.
    """
    if family == "arc":
        return _read_arc(text)
    return [_read_maze(text, side)] if family == "maze" else _read_sudoku(text, side)


def _read_sudoku(text: str, side: int) -> list[Question]:
    rows = [line for line in text.removeprefix("\ufeff").splitlines() if line.strip() and not line.startswith("#")]
    lines = [row.split()[0].partition(":")[0] for row in rows]  # tdoku's lists have a solution behind the puzzle
    if lines and all(len(line) < side * side for line in lines):
        lines = ["".join(letter for row in rows for letter in row if letter not in " |-+\t")]
    puzzles = []
    for line in lines:
        if len(line) != side * side or any(letter != "." and not "0" <= letter <= str(side) for letter in line):
            raise DataError(
                f"{line[:90]!r} is not a {side}x{side} Sudoku",
                f"Write {side * side} of 1-{side}, and '.' or 0 for a blank",
            )
        puzzles.append([0 if letter == "." else int(letter) for letter in line])
    if not puzzles:
        raise DataError("there is no puzzle in the text", "One Sudoku a line")
    grids = np.array(puzzles, np.uint8)
    for line, grid in zip(lines, grids, strict=True):
        if problem := sudoku.repetition(grid, side):
            raise DataError(f"{line!r} has no solution: {problem}", "Correct the puzzle")
    solutions, counts, _ = sudoku.solve_all(grids, sudoku.shape(side).units)
    return [
        Question(grid + np.uint8(1), solution + np.uint8(1) if count == 1 else None)
        for grid, solution, count in zip(grids, solutions, counts.tolist(), strict=True)
    ]


def _read_maze(text: str, side: int) -> Question:
    rows = [line.rstrip("\r") for line in text.strip("\n").split("\n")]
    if len(rows) == 1 and len(rows[0]) == side * side:
        rows = [rows[0][start : start + side] for start in range(0, side * side, side)]
    flat = "".join(row.ljust(side) for row in rows).replace(".", " ")
    if len(rows) != side or len(flat) != side * side or set(flat) - set("# SG"):
        raise DataError(f"the text is not a {side}x{side} maze", "Write one line per row: # wall, . floor, S, G")
    cells = np.array([1 + maze.CHARACTERS.index(letter) for letter in flat], np.uint8)
    label = np.empty_like(cells)
    if maze.solve(cells, side, label)[0] < 0:
        raise DataError("the maze needs one S, one G, and a way between them")
    return Question(cells, label)


def _read_arc(text: str) -> list[Question]:
    try:
        tests: list[dict[str, Any]] = json.loads(text)["test"]
        return [
            Question(frame(as_grid(pair["input"], "test input")), _framed(pair.get("output"), "test output"))
            for pair in tests
        ]
    except _NO_TASK as error:
        raise _no_task(error) from None


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


def write_rows(cells: Bytes, family: Family, side: int) -> list[str]:
    """Return a grid, one text per row: Sudoku digits with `.` for blanks, mazes as they are read, ARC colours as
    digits."""
    if family == "arc":
        return ["".join(str(colour) for colour in row) for row in crop(cells).tolist()]
    letters = "?" + (maze.CHARACTERS if family == "maze" else ".123456789")
    return ["".join(letters[value] for value in row) for row in cells.reshape(side, side).tolist()]
