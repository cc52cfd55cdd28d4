"""Define mazes as a kind of puzzle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from trm_data.errors import DataError
from trm_data.jit import Bytes
from trm_data.puzzles import maze
from trm_data.puzzles.kinds.base import Examples, PuzzleKind, Question, check_shapes, read_lines

_TOKENS = {letter: value for value, letter in enumerate("#.SGo", 1)}
"""Free cells are dots: a line that ends in spaces would not survive most tokenizers."""
_PROMPT = """This is a maze of {side} rows and {side} columns. # is a wall, . is free, S is the start, G the goal.

{grid}

Find a shortest path from S to G that goes up, down, left or right from cell to cell and never through a wall. Of \
equally short paths take the one that at every cell, from S on, takes the first of up, down, left, right that comes \
closer to G.

Write the maze again as {side} lines of {side} characters, with o in every free cell of the path between S and G and \
all other cells as they are, with nothing else in between, like this:
<answer>
(the {side} lines)
</answer>"""


class Maze(PuzzleKind):
    """Define mazes, square, of any side."""

    name = "maze"
    augmentation = "dihedral"
    sides = range(2, 256)
    symbols = "?" + maze.CHARACTERS
    colours = ("#2B3440", "#F4F1EA", "#2E9E5B", "#D6453D", "#F2B441")
    grid_line = None

    def valid(self, inputs: Bytes, answers: Bytes, labels: Bytes, side: int) -> NDArray[np.bool_]:
        """Return (B) whether each answer is a path over free cells as short as the labelled one."""
        check_shapes(side, inputs, answers, labels)
        only_marks = ((answers == inputs) | ((answers == maze.PATH) & (inputs == maze.SPACE))).all(1)
        return np.array(
            [
                marks and maze.path_length(answer, side) == maze.path_length(label, side)
                for marks, answer, label in zip(only_marks, answers, labels, strict=True)
            ]
        )

    def problem(self, cells: Bytes, answer: Bytes, side: int) -> str:
        """Say what an answer has to be."""
        return "not a shortest path from S to G"

    def faults(self, examples: Examples) -> Iterator[str]:
        """Yield examples whose label is not a shortest path, or not the only one in mazes that promise one path."""
        side, bounds = examples.side, examples.facts.get("only_path")
        _, edges, ways = maze.solve_all(examples.inputs, side)
        for row in range(len(edges)):
            match bounds:
                case [int(least), int(most)] if ways[row] != 1 or not least <= edges[row] <= most:
                    found = f"{ways[row]:.0f} shortest paths of {edges[row]} edges"
                    yield f"example {examples.numbers[row]}: {found}, not one of {least} to {most}"
            if edges[row] < 0 or maze.path_length(examples.labels[row], side) != edges[row]:
                yield f"example {examples.numbers[row]}: the label is not a shortest path"
            plain = np.where(examples.labels[row] == maze.PATH, maze.SPACE, examples.labels[row])
            if (plain != examples.inputs[row]).any():
                yield f"example {examples.numbers[row]}: the label is of another maze"

    def keys(self, inputs: Bytes, side: int) -> list[bytes]:
        """Return (B) the canonical form of each maze."""
        return [maze.canonical(row.reshape(side, side)) for row in inputs]

    def read(self, text: str, side: int) -> list[Question]:
        """Return the maze of a text, a line per row or all in one."""
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
        return [Question(cells, label)]

    def prompt(self, cells: Bytes, side: int, demonstrations: Sequence[tuple[Bytes, Bytes]]) -> str:
        """Ask for the maze with the path that a label has."""
        return _PROMPT.format(side=side, grid="\n".join(self.write(cells, side)).replace(" ", "."))

    def read_reply(self, text: str, side: int) -> Bytes | None:
        """Parse the lines of a maze."""
        return read_lines(text, side, _TOKENS)
