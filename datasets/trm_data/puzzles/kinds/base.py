"""Define what every kind of puzzle has: encoding, symmetries, validity, text form and pictures.

Shapes: E examples of a dataset, B rows of a batch, L = side * side cells, encoded as models read them: 0 is padding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trm_data.config import Augmentation, Family
from trm_data.errors import DataError
from trm_data.jit import Bytes, Ints, Words
from trm_data.puzzles.drawing import Colour, Panel, difference_panel

MOST_DERIVED = 2**31
"""Augmented copies of a puzzle, each derived from the puzzle's key and the number of the copy."""


class Question(NamedTuple):
    """Hold a grid that is to be answered."""

    cells: Bytes
    """(L)"""
    label: Bytes | None
    """(L): the answer, where it is known: a maze's own shortest path, a Sudoku's only solution, ARC's if given."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Hold examples whose cells, shapes and indices are in range; only these are passed to compiled code."""

    side: int
    facts: Mapping[str, Any]
    """Those of the manifest."""
    names: list[str]
    """Names of all puzzles."""
    numbers: Ints
    """(E): the number of each example within the dataset."""
    puzzle: Ints
    split: Bytes
    """(E): index into `splits`."""
    splits: Sequence[str]
    inputs: Bytes
    labels: Bytes
    shapes: Bytes

    def across_splits(self, keys: Sequence[bytes]) -> Iterator[str]:
        """Yield examples of different splits with equal keys."""
        seen: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            other = seen.setdefault(key, row)
            if self.split[other] != self.split[row]:
                here, there = (f"{self.numbers[i]} ({self.splits[self.split[i]]})" for i in (row, other))
                yield f"leak: example {here} equals example {there} up to symmetry"


class PuzzleKind(ABC):
    """Define one kind of puzzle. Its methods get cells and codes that are in range, and may pass them to kernels."""

    name: ClassVar[Family]
    augmentation: ClassVar[Augmentation]
    """The name of its symmetries in manifests."""
    sides: ClassVar[Collection[int]]
    """Cells per row that its puzzles can have."""
    symbols: ClassVar[str] = ""
    """What stands for each value of a cell in a text."""
    has_tasks: ClassVar[bool] = False
    """A puzzle is a task of several examples, has an embedding of its own, and is scored by pass@k."""
    is_framed: ClassVar[bool] = False
    """Grids of any size lie in a frame of padding, where training examples are moved about."""
    least_answer: ClassVar[int] = 1
    """The least value of a cell that is answered: not padding, nor an end marker."""
    difference_line: ClassVar[Colour | None] = None
    """The colour of the lines in the picture of a difference."""
    is_enumerated: ClassVar[bool] = False
    """Augmented copies are the symmetries in turn, and not draws from very many."""

    @abstractmethod
    def vocab_size(self, side: int) -> int:
        """Count the distinct values of a cell, padding included."""

    def fits(self, vocab_size: int, side: int) -> bool:
        """Return whether puzzles of this kind have so many symbols and cells per row."""
        return side in self.sides and vocab_size == self.vocab_size(side)

    @property
    def least_cell(self) -> int:
        """Return the least value of a cell: only grids in a frame are padded."""
        return 0 if self.is_framed else 1

    def wrong_shapes(self, shapes: Bytes, side: int) -> NDArray[np.bool_]:
        """Return (E) whether rows of (E, 4) are not the height and width of an input and a label."""
        whole = bool((shapes == side).all())
        return np.zeros(len(shapes), bool) if whole else np.asarray((shapes != side).any(1))

    @abstractmethod
    def order(self, side: int) -> int:
        """Return the number of symmetries. Each has a code below it; 0 is the identity."""

    def most_copies(self, side: int) -> int:
        """Return how many augmented copies of a puzzle there can be, besides the original."""
        return self.order(side) - 1 if self.is_enumerated else MOST_DERIVED

    @abstractmethod
    def view(
        self, inputs: Bytes, labels: Bytes, shapes: Bytes, rows: Ints, codes: Words, places: Words, side: int
    ) -> tuple[Bytes, Bytes]:
        """Return inputs and labels (B, L) of the examples `rows` of (E, L), seen through `codes` (B).

        Args:
            shapes: (E, 4), see `Puzzles`.
            places: (B) words that choose a place in the frame, where there is one; 0 is the corner.
        """

    def undo(self, cells: Bytes, codes: Words, side: int) -> Bytes:
        """Return answers (B, L) as they would be given to the original puzzles; framed ones are cropped to their grid.

        Raises:
            DataError: answers of another size, symbols that the puzzles do not have, or codes that are no symmetry.
        """
        if cells.ndim != 2 or cells.shape[1] != side * side or codes.shape != cells.shape[:1]:
            raise DataError(f"answers of shape {cells.shape} with {codes.size} codes are not of {side}x{side} cells")
        if codes.max(initial=0) >= self.order(side):
            raise DataError(f"augmentation {codes.max()} is none of the {self.order(side)} of {self.augmentation}")
        return self._undo(cells, codes, side)

    @abstractmethod
    def _undo(self, cells: Bytes, codes: Words, side: int) -> Bytes:
        """Undo codes that are in range, of cells of any value."""

    def recover(self, labels: Bytes, inputs: Bytes, base: Ints, side: int) -> Ints:
        """Return (B) the code that makes each example from the example `base` (B), -1 where none does."""
        raise NotImplementedError(f"imported examples of {self.name} have their codes in their identifiers")

    def valid(self, inputs: Bytes, answers: Bytes, labels: Bytes, side: int) -> NDArray[np.bool_] | None:
        """Return (B) which answers solve their puzzle by its rules, equal to the label or not; None without rules.

        Raises:
            DataError: the rows are not of one size.
        """
        return None

    def problem(self, cells: Bytes, answer: Bytes, side: int) -> str:
        """Say in a few words why an answer (L) to the puzzle `cells` is not valid."""
        return "not the known output"

    @abstractmethod
    def faults(self, examples: Examples) -> Iterator[str]:
        """Yield the examples that are no puzzles of this kind with their answer."""

    @abstractmethod
    def leaks(self, examples: Examples) -> Iterator[str]:
        """Yield the examples that are in two splits, up to symmetry."""

    @abstractmethod
    def read(self, text: str, side: int) -> list[Question]:
        """Return the puzzles of a text.

        Raises:
            DataError: it is not a puzzle, or one of another size.
        """

    def write(self, cells: Bytes, side: int) -> list[str]:
        """Return a grid (L), one text per row."""
        return ["".join(self.symbols[cell] for cell in row) for row in cells.reshape(side, side).tolist()]

    @abstractmethod
    def prompt(self, cells: Bytes, side: int, demonstrations: Sequence[tuple[Bytes, Bytes]]) -> str:
        """Ask a language model for the answer to a puzzle (L); `demonstrations` are the inputs and labels of a task."""

    @abstractmethod
    def read_reply(self, text: str, side: int) -> Bytes | None:
        """Parse the cells (L) that a language model wrote; None unless the text is a whole grid of known symbols."""

    @abstractmethod
    def panel(self, question: Bytes, cells: Bytes, label: Bytes | None, side: int) -> Panel:
        """Draw the cells (L) of a puzzle or of an answer to it; where they differ from the label, with both."""

    def prediction_panel(self, question: Bytes, cells: Bytes, label: Bytes, side: int) -> Panel:
        """Draw an answer (L) that stands between its label and the difference."""
        return self.panel(question, cells, None, side)

    def difference_panel(self, label: Bytes, cells: Bytes, side: int) -> Panel:
        """Draw which cells (L) differ from the label."""
        return difference_panel((cells != label).reshape(side, side), self.difference_line)


def check_shapes(side: int, *grids: Bytes) -> None:
    """Raise DataError for rows of another size, which the kernels would read beyond their end."""
    for cells in grids:
        if cells.shape != (len(grids[0]), side * side):
            raise DataError(f"rows of shape {cells.shape} are not {len(grids[0])} grids of {side}x{side} cells")


def read_lines(text: str, side: int, tokens: Mapping[str, int]) -> Bytes | None:
    """Parse lines of symbols, with or without spaces between them; None unless they are a whole grid."""
    rows = [line.split() if " " in line.strip() else list(line.strip()) for line in text.splitlines()]
    if len(rows) != side or any(len(row) != side or not tokens.keys() >= set(row) for row in rows):
        return None
    return np.array([tokens[symbol] for row in rows for symbol in row], np.uint8)
