"""Sudoku from the generator, or from a puzzle list: one puzzle a line, or CSV `source,question,answer,rating`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from trm_data import sudoku
from trm_data.config import DataRequest
from trm_data.errors import DataError
from trm_data.generators.sudoku import Distinct, generate
from trm_data.jit import Bytes
from trm_data.schema import Puzzles

Progress = Callable[[str, int, int], None]


class Line(NamedTuple):
    """One puzzle of a list, as text; `row` counts lines of the file from 1."""

    row: int
    question: str
    answer: str | None
    source: str
    rating: float


def split_sizes(request: DataRequest, available: int, where: str) -> list[int]:
    """Puzzles per split; a missing number of test puzzles means the rest.

    Raises:
        DataError: the source has fewer puzzles than asked for.
    """
    validation = request.num_validation or 0
    train = request.num_train if request.num_train is not None else available - validation - (request.num_test or 0)
    test = request.num_test if request.num_test is not None else available - validation - train
    if train < 1 or test < 0 or train + validation + test > available:
        raise DataError(
            f"{where} has {available} usable puzzles, fewer than train {max(train, 1)} + validation {validation} + "
            f"test {max(test, 0)}",
            "Set num_train, num_validation and num_test",
        )
    return [train, validation, test]


def _as_puzzles(
    questions: Bytes, answers: Bytes, ratings: list[float], sources: list[str], splits: Bytes, facts: dict[str, object]
) -> Puzzles:
    """Encode 0 = blank, 1..side = digits as 1 = blank, 2.. = digits; 0 stays free for padding."""
    count, cells = questions.shape
    return Puzzles(
        names=[f"p{i:06d}" for i in range(count)],
        sources=sources,
        ratings=np.array(ratings, np.float32),
        puzzle=np.arange(count, dtype=np.int32),
        split=splits,
        inputs=questions + np.uint8(1),
        labels=answers + np.uint8(1),
        shapes=np.full((count, 4), int(cells**0.5), np.uint8),
        facts=facts,
    )


def _split_column(sizes: list[int]) -> Bytes:
    return np.repeat(np.arange(3, dtype=np.uint8), sizes)


def generated(request: DataRequest, side: int, progress: Progress) -> Puzzles:
    """A complete request -> puzzles from the generator, in the order train, validation, test."""
    assert request.num_train is not None and request.blanks is not None
    sizes = [request.num_train, request.num_validation or 0, request.num_test or 0]
    total = sum(sizes)
    made = generate(
        side, total, request.blanks, request.build_seed, lambda done: progress("generating puzzles", done, total)
    )
    return _as_puzzles(
        made.puzzles, made.solutions, made.ratings.tolist(), ["generator"] * total, _split_column(sizes), {}
    )


def read_lines(text: str, where: str) -> Iterator[Line]:
    """The puzzles of a list. Comments (`#` first) and empty lines are skipped; a CSV is known by its header.

    Raises:
        DataError: naming file and row.
    """
    first = text.split("\n", 1)[0].lower()
    if "," in first and "source" in first:
        for cells in (reader := csv.reader(io.StringIO(text))):
            if reader.line_num == 1 or not cells:
                continue
            if len(cells) != 4:
                raise DataError(
                    f"{where}, row {reader.line_num}: {len(cells)} columns instead of source,question,answer,rating"
                )
            source, question, answer, rating = cells
            try:
                yield Line(reader.line_num, question, answer or None, source, float(rating or "nan"))
            except ValueError:
                raise DataError(f"{where}, row {reader.line_num}: rating {rating!r} is no number") from None
        return
    for row, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield Line(row, line.split()[0], None, where.rsplit("/", 1)[-1], float("nan"))


def _digits(text: str, side: int, row: int, where: str) -> Bytes:
    if len(text) != side * side:
        raise DataError(
            f"{where}, row {row}: {len(text)} characters, a {side}x{side} puzzle has {side * side}",
            "One puzzle a line, row by row, '.' or 0 for a blank",
        )
    for place, character in enumerate(text):
        if character != "." and not ("0" <= character <= str(side)):
            raise DataError(
                f"{where}, row {row}: character {character!r} at place {place + 1}",
                f"Use 1-{side} for digits and '.' or 0 for a blank",
            )
    return np.frombuffer(text.replace(".", "0").encode(), np.uint8) - np.uint8(48)


def check_line(line: Line, shape: sudoku.Shape, where: str) -> tuple[Bytes, Bytes, int]:
    """Puzzle, solution and rating (guesses) of one line.

    Raises:
        DataError: no solution, several solutions, or an answer that contradicts the puzzle.
    """
    question = _digits(line.question, shape.side, line.row, where)
    solution = np.zeros_like(question)
    found, _ = sudoku.solve(question, 2, shape.units, solution)
    if found != 1:
        what = "has no solution" if found == 0 else "has more than one solution"
        raise DataError(f"{where}, row {line.row}: the puzzle {what}", "Remove the row")
    if line.answer is not None and (_digits(line.answer, shape.side, line.row, where) != solution).any():
        raise DataError(f"{where}, row {line.row}: the answer does not solve the puzzle", "Remove or mend the row")
    _, guesses = sudoku.solve(question, 1, shape.units, solution)
    return question, solution, guesses


def listed(text: str, where: str, request: DataRequest, side: int, facts: dict[str, object]) -> Puzzles:
    """A puzzle list -> puzzles, shuffled by the build seed. Of equivalent puzzles only the first is kept.

    Raises:
        DataError: a bad row, or fewer puzzles than asked for.
    """
    shape = sudoku.shape(side)
    lines = list(read_lines(text, where))
    if not lines:
        raise DataError(f"{where} holds no puzzle", "One puzzle a line, or CSV with source,question,answer,rating")
    checked = [check_line(line, shape, where) for line in lines]
    names = sudoku.invariants(np.stack([question for question, _, _ in checked]), *shape[:3]).tolist()
    distinct = Distinct(shape)
    kept = [i for i, (question, solution, _) in enumerate(checked) if distinct.is_new(question, solution, names[i])]
    sizes = split_sizes(request, len(kept), where)
    order = np.random.Generator(np.random.Philox(request.build_seed)).permutation(kept)[: sum(sizes)]
    ratings = [checked[i][2] if np.isnan(lines[i].rating) else lines[i].rating for i in order]
    return _as_puzzles(
        np.stack([checked[i][0] for i in order]),
        np.stack([checked[i][1] for i in order]),
        ratings,
        [lines[i].source for i in order],
        _split_column(sizes),
        facts | {"rows": len(lines), "equivalent_rows_dropped": len(lines) - len(kept)},
    )
