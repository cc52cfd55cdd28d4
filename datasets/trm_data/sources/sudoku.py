"""Read Sudoku from the generator, or from a puzzle list: one puzzle a line, or CSV `source,question,answer,rating`."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trm_data.config import DataRequest
from trm_data.dataset.schema import Puzzles
from trm_data.errors import DataError
from trm_data.generators.sudoku import Distinct, GeneratedSudoku, generate
from trm_data.generators.sudoku_hard import generate_hard
from trm_data.jit import Bytes, Ints
from trm_data.puzzles import sudoku, sudoku_forms
from trm_data.sources import files
from trm_data.sources.files import Address
from trm_data.sources.tables import Table, are_grids, csv_rows, decode, find_layout, layout_of, no_rating, rating_of

Progress = Callable[[str, int, int], None]
_LINES = str.maketrans("", "", " \t|-+")
"""Removes what people draw between the cells of a square."""


class Line(NamedTuple):
    """Hold one puzzle of a list, as text; `row` counts lines of the file from 1."""

    row: int
    question: str
    answer: str | None
    """None where the list has none; empty where all cells of a row are."""
    source: str
    rating: float


class Listed(NamedTuple):
    """Hold checked puzzles of a list, flat, 0 = blank."""

    puzzles: Bytes
    solutions: Bytes
    ratings: NDArray[np.float32]
    """Those of the list; where it has none, the solver's guesses."""
    sources: list[str]


def split_sizes(request: DataRequest, available: int, where: str) -> list[int]:
    """Return the number of puzzles per split. Defaults: a tenth for validation and for test, the rest for training.

    Raises:
        DataError: the source has fewer puzzles than requested.
    """
    validation = available // 10 if request.num_validation is None else request.num_validation
    test = available // 10 if request.num_test is None else request.num_test
    train = available - validation - test if request.num_train is None else request.num_train
    if train < 1 or train + validation + test > available:
        raise DataError(
            f"{where} has {available} inequivalent puzzles, too few for train {max(train, 1)} + validation "
            f"{validation} + test {test}",
            "Lower num_train, num_validation or num_test",
        )
    return [train, validation, test]


def as_puzzles(listed: Listed, splits: Bytes, facts: dict[str, object]) -> Puzzles:
    """Encode 0 = blank, 1..side = digits as 1 = blank, 2.. = digits; 0 stays free for padding."""
    count, cells = listed.puzzles.shape
    return Puzzles(
        family="sudoku",
        names=[f"p{i:06d}" for i in range(count)],
        sources=listed.sources,
        ratings=listed.ratings,
        puzzle=np.arange(count, dtype=np.int32),
        split=splits,
        inputs=listed.puzzles + np.uint8(1),
        labels=listed.solutions + np.uint8(1),
        shapes=np.full((count, 4), int(cells**0.5), np.uint8),
        facts=facts,
    )


def split_column(sizes: list[int]) -> Bytes:
    """Train, validation and test rows in this order."""
    return np.repeat(np.arange(3, dtype=np.uint8), sizes)


def generated(request: DataRequest, side: int, progress: Progress) -> Puzzles:
    """Generate the puzzles of a complete request, in the order train, validation, test."""
    assert request.num_train is not None
    sizes = [request.num_train, request.num_validation or 0, request.num_test or 0]
    total = sum(sizes)

    def report(done: int) -> None:
        progress("generating puzzles", done, total)

    if request.min_rating is not None:
        parts = generate_hard(sizes, request.min_rating, request.build_seed, report)
        made = GeneratedSudoku(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    else:
        assert request.blanks is not None
        made = generate(side, total, request.blanks, request.build_seed, report)
    listed = Listed(made.puzzles, made.solutions, made.ratings.astype(np.float32), ["generator"] * total)
    return as_puzzles(listed, split_column(sizes), {})


def read_lines(text: str, side: int, where: str) -> Iterator[Line]:
    """Yield the puzzles of a list. Comments (`#` first) and empty lines are skipped.

    Every line is a puzzle, or a puzzle and its solution, or as in tdoku's lists a puzzle, the number of its solutions
    and one of them: `p:1:s`. Squares of `side` lines and CSV files are recognised by the first line.

    Raises:
        DataError: naming file and row.
    """
    name = where.rsplit("/", 1)[-1]
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    rows = [(row, line) for row, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    first = rows[0][1] if rows else ""
    if "," in first or find_layout(first, where, needs_answers=False):
        yield from _csv_lines(lines, first, where, name)
    elif len(first.translate(_LINES)) == side:
        yield from _squares(rows, side, where, name)
    else:
        for row, line in rows:
            yield _plain_line(row, line.split(), side, where, name)


def _squares(rows: list[tuple[int, str]], side: int, where: str, name: str) -> Iterator[Line]:
    """Join the puzzles that are written as squares of `side` lines, with or without lines between boxes."""
    cells = [(row, line.translate(_LINES)) for row, line in rows if line.translate(_LINES)]
    for row, line in cells:
        if len(line) != side:
            what = f"{len(line)} characters, a line of a square has {side}"
            raise DataError(f"{where}, row {row}: {what}", "Write one square below another, '.' or 0 for a blank")
    if len(cells) % side:
        raise DataError(f"{where}, row {cells[-1][0]}: the last square has {len(cells) % side} lines", "Complete it")
    for start in range(0, len(cells), side):
        square = "".join(line for _, line in cells[start : start + side])
        yield Line(cells[start][0], square, None, name, float("nan"))


def _plain_line(row: int, words: list[str], side: int, where: str, name: str) -> Line:
    """Return the puzzle in the words of a line; the second may be its solution, or other notes."""
    if len(words) > 1 and (words[0].endswith(":") or words[1].startswith(":")):
        words = ["".join(words)]  # `p : 1 : s`
    question, *more = words[0].strip("\"'").split(":")
    if more and not (len(more) <= 2 and re.fullmatch("[0-9]{1,9}", more[0])):
        raise DataError(f"{where}, row {row}: {words[0][:40]!r} is no puzzle", "Write the puzzle, or PUZZLE:1:SOLUTION")
    if more and int(more[0]) != 1:
        raise DataError(f"{where}, row {row}: the puzzle has {more[0]} solutions", "Remove the row")
    answer = more[1] if len(more) > 1 else words[1] if len(words) > 1 and _is_solution(words[1], side) else ""
    return Line(row, question, answer or None, name, float("nan"))


def _is_solution(word: str, side: int) -> bool:
    """Return whether a word behind a puzzle is a solution, perhaps cut off, and no rating or note."""
    return len(word) > 2 * side and set(word) <= set("0123456789.*_")


def _csv_lines(lines: list[str], first: str, where: str, name: str) -> Iterator[Line]:
    """Read the puzzles of a CSV, whose first line below any comments is `first`.

    Without a column `source`, they are from the file called `name`.
    """
    layout = layout_of(first, where, row=lines.index(first) + 1, needs_answers=False)
    to_skip = layout.header_lines
    for row, cells in csv_rows((f"{line}\n" for line in lines), where, layout.delimiter):
        if not "".join(cells).strip():
            if len(cells) > 1:
                yield Line(row, "", "", name, float("nan"))
            continue
        if cells[0].startswith("#"):
            continue
        if to_skip:
            to_skip -= 1
            continue
        if len(cells) != len(layout.names):
            what = f"{len(cells)} columns instead of {len(layout.names)}"
            raise DataError(f"{where}, row {row}: {what}", "Correct the row")
        values = dict(zip(layout.names, cells, strict=True))
        rating = rating_of(values.get("rating", ""))
        if rating is None:
            raise no_rating(values["rating"], where, row)
        question, answer = values["question"].strip(), values.get("answer", "").strip() or None
        yield Line(row, question, answer, values.get("source", name), rating)


def _digits(texts: list[str], rows: list[int], side: int, where: str) -> Bytes:
    """Return (N, side * side) digits of N texts."""
    for text, row in zip(texts, rows, strict=True):
        if len(text) != side * side:
            raise DataError(
                f"{where}, row {row}: {len(text)} characters{_size(text)}, a {side}x{side} puzzle has {side * side}",
                f"Sudoku are {', '.join(f'{size}x{size}' for size in sudoku.BOXES)}: one puzzle a line, row by row, "
                "'.' or 0 for a blank",
            )
    cells = np.array(bytearray("".join(texts).encode("latin-1", "replace")), np.uint8)
    digits = sudoku.DIGITS[cells].reshape(len(texts), side * side)
    bad = np.argwhere(digits > side)
    if len(bad):
        at, place = bad[0].tolist()
        raise DataError(
            f"{where}, row {rows[at]}: character {texts[at][place]!r} at place {place + 1}",
            f"Use 1-{side} for digits and '.' or 0 for a blank",
        )
    return digits


def _size(text: str) -> str:
    """Return the size of a puzzle of another size, in brackets; empty if the text is no puzzle."""
    side = math.isqrt(len(text))
    return f" ({side}x{side})" if side > 1 and are_grids(text, text) else ""


def check(lines: list[Line], side: int, where: str) -> Listed:
    """Return puzzles, solutions and ratings of a list.

    Raises:
        DataError: a bad row, no solution, several solutions, or an answer that contradicts its puzzle.
    """
    shape = sudoku.shape(side)
    rows = [line.row for line in lines]
    puzzles = _digits([line.question for line in lines], rows, side, where)
    solutions, found, guesses = sudoku.solve_all(puzzles, shape.units)
    for i in np.flatnonzero(found != 1):
        what = "has no solution" if found[i] == 0 else "has more than one solution"
        raise DataError(f"{where}, row {rows[i]}: the puzzle {what}", "Remove the row")
    answered = [i for i, line in enumerate(lines) if line.answer is not None]
    answers = _digits([lines[i].answer or "" for i in answered], [rows[i] for i in answered], side, where)
    for i in np.flatnonzero((answers != solutions[answered]).any(1)):
        raise DataError(f"{where}, row {rows[answered[i]]}: the answer does not solve the puzzle", "Correct the row")
    ratings = np.array([line.rating for line in lines], np.float32)
    ratings = np.where(np.isnan(ratings), guesses, ratings).astype(np.float32)
    return Listed(puzzles, solutions, ratings, [line.source for line in lines])


_PROVED = 50_000  # rows of which uniqueness is proved when building, 0.1 ms each; `verify` proves all


def check_solutions(puzzles: Bytes, solutions: Bytes, table: Table, side: int) -> None:
    """Raise DataError for the first row whose answer does not solve its puzzle, or that has several solutions."""
    where = table.address
    units = sudoku.shape(side).units
    wrong = int(sudoku.misfit(puzzles, solutions, units))
    if wrong >= 0:
        raise DataError(f"{where}, row {table.line(wrong)}: the answer does not solve the puzzle", "Correct the row")
    if len(puzzles) <= _PROVED and (several := int(sudoku.ambiguous(puzzles, units))) >= 0:
        raise DataError(f"{where}, row {table.line(several)}: the puzzle has more than one solution", "Remove the row")


def inequivalent(listed: Listed, side: int) -> Ints:
    """Return the rows of a list, only the first of equivalent puzzles."""
    shape = sudoku.shape(side)
    names = sudoku_forms.invariants(listed.puzzles, *shape[:3]).tolist()
    distinct = Distinct(shape)
    return np.array(
        [i for i, name in enumerate(names) if distinct.is_new(listed.puzzles[i], listed.solutions[i], name)], np.int64
    )


def listed(address: Address, request: DataRequest, side: int) -> Puzzles:
    """Draw the puzzles of a list by the build seed. Only the first of equivalent puzzles is kept.

    Raises:
        DataError: a bad row, or fewer puzzles than requested.
    """
    content = files.read(address)
    read = list(read_lines(decode(content, str(address)), side, str(address)))
    lines = [line for line in read if line.question or line.answer != ""]
    if not lines:
        raise DataError(f"{address} holds no puzzle", "One puzzle a line, or CSV with source,question,answer,rating")
    whole = check(lines, side, str(address))
    kept = inequivalent(whole, side)
    sizes = split_sizes(request, len(kept), str(address))
    order = np.random.Generator(np.random.Philox(request.build_seed)).permutation(kept)[: sum(sizes)]
    chosen = Listed(
        whole.puzzles[order], whole.solutions[order], whole.ratings[order], [whole.sources[i] for i in order]
    )
    hashes = {address.base.rsplit("/", 1)[-1]: hashlib.sha256(content).hexdigest()}
    facts: dict[str, object] = {"files": hashes, "rows": len(lines)}
    if len(lines) < len(read):
        facts["empty_rows_dropped"] = len(read) - len(lines)
    return as_puzzles(chosen, split_column(sizes), facts | {"equivalent_rows_dropped": len(lines) - len(kept)})
