"""Define what every kind of puzzle has: encoding, symmetries, validity, text form and pictures.

Shapes: E examples of a dataset, B rows of a batch, L = side * side cells, encoded as models read them: 0 is padding.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trm_data.benchmarks import CATALOGUE, Benchmark, is_built_in_name
from trm_data.config import Augmentation, Family
from trm_data.errors import DataError
from trm_data.jit import Bytes, Ints, Words
from trm_data.puzzles.augment import dihedral_rows
from trm_data.puzzles.drawing import LINE, PAPER, Colour, Panel, difference_panel, grid_panel
from trm_data.puzzles.symmetry import DIHEDRAL_INVERSE

_COLOURS = (
    "#F4F1EA",
    "#2B3440",
    "#2E9E5B",
    "#D6453D",
    "#F2B441",
    "#1E93FF",
    "#E53AA3",
    "#87D8F1",
    "#921231",
    "#999999",
)
_TRIED_EXAMPLES, _TRIED_CODES = 64, 16
"""How many examples are seen through how many symmetries, to check that these keep the rules."""
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


_PROMPT = """This is a {name} puzzle of {side} rows and {side} columns. {rules}

{grid}

Write the solved grid as {side} lines of {side} characters, with nothing else in between, like this:
<answer>
(the {side} lines)
</answer>"""


class PuzzleKind:
    """Define one kind of puzzle. Its methods get cells and codes that are in range, and may pass them to kernels.

    A kind of one's own needs `name`, `side`, `symbols`, `generate` and, unless only the label is right, `is_valid`.
    """

    name: ClassVar[Family] = ""
    side: ClassVar[int] = 0
    """Cells per row, where all puzzles have the same number."""
    sides: ClassVar[Collection[int]] = ()
    """Cells per row that its puzzles can have."""
    symbols: ClassVar[str] = ""
    """What stands for each value of a cell in a text; the first one for padding."""
    augmentation: ClassVar[Augmentation] = "none"
    """Its symmetries: `dihedral` where a puzzle may be turned and mirrored with its answer."""
    colours: ClassVar[Sequence[Colour]] = ()
    """`#RRGGBB` for each symbol but padding, in pictures."""
    description: ClassVar[str] = ""
    licence: ClassVar[str] = "none needed: generated"
    rules: ClassVar[str] = "Cells that are given stay as they are."
    """What a language model is told."""
    num_train: ClassVar[int] = 1000
    num_validation: ClassVar[int] = 100
    num_test: ClassVar[int] = 1000
    has_tasks: ClassVar[bool] = False
    """A puzzle is a task of several examples, has an embedding of its own, and is scored by pass@k."""
    is_framed: ClassVar[bool] = False
    """Grids of any size lie in a frame of padding, where training examples are moved about."""
    least_answer: ClassVar[int] = 1
    """The least value of a cell that is answered: not padding, nor an end marker."""
    difference_line: ClassVar[Colour | None] = None
    """The colour of the lines in the picture of a difference."""
    grid_line: ClassVar[Colour | None] = LINE
    """The colour of the lines between cells."""
    is_enumerated: ClassVar[bool] = True
    """Augmented copies are the symmetries in turn, and not draws from very many."""
    has_several_answers: ClassVar[bool] = False
    """A puzzle has several right answers, of which its label is one: `exact_accuracy` counts any valid one."""

    def __init_subclass__(cls) -> None:
        if "side" in vars(cls):
            cls.sides = (cls.side,)

    def incomplete(self) -> str:
        """Return what a kind of one's own lacks or has wrong; empty if nothing."""
        count = len(self.symbols)
        families = {each.family for each in CATALOGUE.values()}
        is_built_in = self.name in families or is_built_in_name(self.name) or self.name.endswith("-generated")
        generates = callable(self.generate) and type(self).generate is not PuzzleKind.generate
        texts, order = (self.symbols, self.description, self.licence, self.rules), self.order(self.side)
        is_number = isinstance(order, int | np.integer)
        sizes = (self.num_train - 1, self.num_validation, self.num_test)
        checks = (
            (re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", self.name), "name needs lower-case letters, digits and '-'"),
            (not is_built_in, "its name is built in"),
            (all(isinstance(text, str) for text in texts), "symbols, description, licence and rules must be texts"),
            (isinstance(self.side, int) and 2 <= self.side <= 255, "side, the cells per row, must be 2 to 255"),
            (3 <= count <= 255, "symbols needs one character for padding and 2 to 254 for values"),
            (len(set(self.symbols)) == count and not any(map(str.isspace, self.symbols)), "symbols must differ"),
            (self.augmentation in ("none", "dihedral"), "augmentation must be 'none' or 'dihedral'"),
            (len(self.colours) in (0, count - 1), f"colours needs {count - 1} entries, or none"),
            (all(re.fullmatch("#[0-9A-Fa-f]{6}", str(each)) for each in self.colours), "colours must be '#RRGGBB'"),
            (all(isinstance(size, int) and size >= 0 for size in sizes), "num_train, ... must be whole numbers"),
            (not (self.has_tasks or self.is_framed), "has_tasks and is_framed are for ARC only"),
            (is_number and 1 <= order <= MOST_DERIVED, f"order must return 1 to {MOST_DERIVED}"),
            (generates, "it defines no generate(side, count, seed)"),
        )
        return next((what for is_right, what in checks if not is_right), "")

    def benchmark(self, family: str) -> Benchmark:
        """Return the line of `trm data list` of a kind of one's own, whose puzzles are those of `family`."""
        return Benchmark(
            name=self.name, family=family, side=self.side, vocab_size=self.vocab_size(self.side),
            description=self.description or f"{self.name} {self.side}x{self.side}, of one's own", source="generator",
            licence=self.licence, generated=True, num_train=self.num_train, num_validation=self.num_validation,
            num_test=self.num_test, takes_source=False,
        )  # fmt: skip

    def generate(self, side: int, count: int, seed: int) -> tuple[Bytes, Bytes]:
        """Return inputs and labels, about `count` of each, (count, L) or (count, side, side), the same for a seed.

        Values are indices into `symbols`. Repeated puzzles are dropped, and more are asked for with another seed.
        """
        raise NotImplementedError(f"puzzles of {self.name} are not generated")

    def num_solutions(self, inputs: Bytes, side: int) -> NDArray[np.float64] | None:
        """Return (B) how many answers each puzzle has; None where that is not known."""
        return None

    def vocab_size(self, side: int) -> int:
        """Count the distinct values of a cell, padding included."""
        return len(self.symbols)

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

    def order(self, side: int) -> int:
        """Return the number of symmetries. Each has a code below it; 0 is the identity."""
        return len(DIHEDRAL_INVERSE) if self.augmentation == "dihedral" else 1

    def most_copies(self, side: int) -> int:
        """Return how many augmented copies of a puzzle there can be, besides the original."""
        return self.order(side) - 1 if self.is_enumerated else MOST_DERIVED

    def view(
        self, inputs: Bytes, labels: Bytes, shapes: Bytes, rows: Ints, codes: Words, places: Words, side: int
    ) -> tuple[Bytes, Bytes]:
        """Return inputs and labels (B, L) of the examples `rows` of (E, L), seen through `codes` (B).

        Args:
            shapes: (E, 4), see `Puzzles`.
            places: (B) words that choose a place in the frame, where there is one; 0 is the corner.
        """
        seen = np.empty((2, rows.size, side * side), np.uint8)
        dihedral_rows(inputs[rows], codes, side, seen[0])
        dihedral_rows(labels[rows], codes, side, seen[1])
        return seen[0], seen[1]

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

    def _undo(self, cells: Bytes, codes: Words, side: int) -> Bytes:
        """Undo codes that are in range, of cells of any value."""
        out = np.empty_like(cells)
        dihedral_rows(cells, np.array(DIHEDRAL_INVERSE, np.uint64)[codes.astype(np.int64)], side, out)
        return out

    def is_valid(self, question: Bytes, answer: Bytes) -> bool:
        """Return whether an answer (side, side) solves a puzzle (side, side) by its rules, equal to the label or not.

        `valid` takes batches; a kind without rules, whose label alone is right, overrides neither.
        """
        raise NotImplementedError(f"{self.name} has no rules")

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

    def valid(self, inputs: Bytes, answers: Bytes, labels: Bytes, side: int) -> NDArray[np.bool_] | None:
        """Return (B) which answers solve their puzzle by its rules, equal to the label or not; None without rules.

        Raises:
            DataError: the rows are not of one size.
        """
        if type(self).is_valid is PuzzleKind.is_valid:
            return None
        check_shapes(side, inputs, answers)
        pairs = zip(*(cells.reshape(-1, side, side) for cells in (inputs, answers)), strict=True)
        return np.array([bool(self.is_valid(question, answer)) for question, answer in pairs], bool)

    def problem(self, cells: Bytes, answer: Bytes, side: int) -> str:
        """Say in a few words why an answer (L) to the puzzle `cells` is not valid."""
        return "not the known output" if self.has_tasks else f"no solution of this {self.name} puzzle"

    def faults(self, examples: Examples) -> Iterator[str]:
        """Yield the examples that are no puzzles of this kind with their answer."""
        valid = self.valid(examples.inputs, examples.labels, examples.labels, examples.side)
        for row in () if valid is None else np.flatnonzero(~valid):
            yield f"example {examples.numbers[row]}: the label does not solve the puzzle"
        yield from self._symmetry_faults(examples)

    def _symmetry_faults(self, examples: Examples) -> Iterator[str]:
        """Yield the symmetries that do not give a puzzle with its answer, or that `_undo` does not undo, of a few
        examples."""
        side, first = examples.side, np.arange(min(len(examples.inputs), _TRIED_EXAMPLES))
        order = self.order(side)
        for code in {*range(min(order, _TRIED_CODES)), order - 1}:
            codes = np.full(len(first), code, np.uint64)
            inputs, labels = self.view(
                examples.inputs, examples.labels, examples.shapes, first, codes, np.zeros_like(codes), side
            )
            whose, most = f"symmetry {code} of {order}", self.vocab_size(side)
            cells = np.stack((inputs, labels))
            if cells.size and not self.least_cell <= cells.min() <= cells.max() < most:
                yield f"{whose}: view gives cells outside of {self.least_cell} to {most - 1}"
                continue
            same = (self.undo(labels, codes, side) == examples.labels[first]).all(1)
            for row in first[~same][:1]:
                yield f"{whose}, example {examples.numbers[row]}: undo does not give back the label"
            valid = self.valid(inputs, labels, labels, side)
            for row in () if valid is None else first[~valid][:1]:
                yield f"{whose}, example {examples.numbers[row]}: its label does not solve the puzzle that view gives"

    def keys(self, inputs: Bytes, side: int) -> list[bytes]:
        """Return (B) what two puzzles have in common that are the same up to symmetry."""
        least = _as_texts(inputs)
        turned = np.empty_like(inputs)
        for code in range(1, self.order(side)):
            dihedral_rows(inputs, np.full(len(inputs), code, np.uint64), side, turned)
            least = np.minimum(least, _as_texts(turned))
        return least.tolist()  # type: ignore[no-any-return]  # bytes, one per row

    def leaks(self, examples: Examples) -> Iterator[str]:
        """Yield the examples that are in two splits, up to symmetry."""
        return examples.across_splits(self.keys(examples.inputs, examples.side))

    def read(self, text: str, side: int) -> list[Question]:
        """Return the puzzles of a text: `side` lines each, or one line of all cells.

        Raises:
            DataError: it is not a puzzle, or one of another size.
        """
        rows = [line for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
        if rows and all(len(row.strip()) == side * side for row in rows):
            rows = [row.strip()[start : start + side] for row in rows for start in range(0, side * side, side)]
        parts = ["\n".join(rows[start : start + side]) for start in range(0, len(rows), side)]
        grids = [read_lines(part, side, self._tokens) for part in parts]
        if not grids or any(grid is None for grid in grids):
            raise DataError(
                f"the text is not a {self.name} puzzle of {side}x{side} cells",
                f"Write one line per row, with {self.symbols[1:]}",
            )
        return [Question(grid, None) for grid in grids if grid is not None]

    def write(self, cells: Bytes, side: int) -> list[str]:
        """Return a grid (L), one text per row."""
        return ["".join(self.symbols[cell] for cell in row) for row in cells.reshape(side, side).tolist()]

    def prompt(self, cells: Bytes, side: int, demonstrations: Sequence[tuple[Bytes, Bytes]]) -> str:
        """Ask a language model for the answer to a puzzle (L); `demonstrations` are the inputs and labels of a task."""
        return _PROMPT.format(name=self.name, side=side, rules=self.rules, grid="\n".join(self.write(cells, side)))

    @property
    def _tokens(self) -> dict[str, int]:
        return {symbol: value for value, symbol in enumerate(self.symbols) if value}

    def read_reply(self, text: str, side: int) -> Bytes | None:
        """Parse the cells (L) that a language model wrote; None unless the text is a whole grid of known symbols."""
        return read_lines(text, side, self._tokens)

    def palette(self) -> dict[int, Colour]:
        """Return the colour of each value of a cell."""
        return dict(enumerate(self.colours or [_COLOURS[i % len(_COLOURS)] for i in range(len(self.symbols) - 1)], 1))

    def panel(self, question: Bytes, cells: Bytes, label: Bytes | None, side: int) -> Panel:
        """Draw the cells (L) of a puzzle or of an answer to it; where they differ from the label, with both."""
        palette = self.palette()
        fills, right = (
            [[palette.get(cell, PAPER) for cell in row] for row in grid.reshape(side, side).tolist()]
            for grid in (cells, cells if label is None else label)
        )
        wrong = () if label is None else np.argwhere((cells != label).reshape(side, side)).tolist()
        return grid_panel(fills, self.grid_line, {(row, col): right[row][col] for row, col in wrong})

    def prediction_panel(self, question: Bytes, cells: Bytes, label: Bytes, side: int) -> Panel:
        """Draw an answer (L) that stands between its label and the difference."""
        return self.panel(question, cells, None, side)

    def difference_panel(self, label: Bytes, cells: Bytes, side: int) -> Panel:
        """Draw which cells (L) differ from the label."""
        return difference_panel((cells != label).reshape(side, side), self.difference_line)


def _as_texts(cells: Bytes) -> NDArray[np.object_]:
    """Return (B) the bytes of each row (B, L), which compare as its cells do."""
    return np.array([row.tobytes() for row in cells], object)


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
