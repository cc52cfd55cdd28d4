"""Read CSV files of puzzles, with columns named in a header, without holding more than the requested rows."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from numpy.typing import NDArray

from trm_data.errors import DataError, first_line
from trm_data.jit import Bytes, Ints
from trm_data.sources import files
from trm_data.sources.files import Address

COLUMNS = ("source", "question", "answer", "rating")
"""The published order, which a file without a header has."""
OTHER_NAMES = {
    "puzzle": "question", "puzzles": "question", "quiz": "question", "quizzes": "question",
    "solution": "answer", "solutions": "answer",
    "difficulty": "rating",
}  # fmt: skip
"""Names of columns in lists of others, such as Kaggle's, and what they are here."""
_FORM = "Name the columns question and answer (source and rating are optional) in the first line"
_BOM = "\ufeff"
Choose = Callable[[int], Ints]
"""Number of rows -> the rows to keep, in ascending order."""


class Table(NamedTuple):
    """Hold some rows of a CSV, cells as characters."""

    questions: Bytes
    """(N, L)"""
    answers: Bytes
    ratings: NDArray[np.float32]
    sources: list[str]
    rows: Ints
    """(N): line numbers in the file, from 1; a header is line 1."""


class Layout(NamedTuple):
    """Hold the positions of the columns of a CSV."""

    names: list[str]
    """Of all columns, in the order of the file."""
    header_lines: int
    """1, or 0 where the first line is a puzzle already."""


def csv_rows(lines: Iterable[str], where: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the last line and the cells of every row of a CSV.

    Raises:
        DataError: a row is not CSV; `where` names the file.
    """
    reader = csv.reader(lines, skipinitialspace=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{where}, row {reader.line_num}: {error}", _FORM) from None


def layout_of(first_line_of_file: str, where: str) -> Layout:
    """Find the columns in the first line of a CSV: a header names them in any order, with any others between them.

    The names of Kaggle's lists (`quizzes,solutions`, `puzzle,solution`, ...) are understood too.

    Raises:
        DataError: it is neither a header with a question and an answer nor a puzzle with its answer.
    """
    _, cells = next(csv_rows([first_line_of_file.removeprefix(_BOM).strip()], where), (1, []))
    own = [cell.strip().lower() for cell in cells]
    # A file that has the usual name too uses the other one for something else.
    names = [name if OTHER_NAMES.get(name, name) in own else OTHER_NAMES.get(name, name) for name in own]
    if {"question", "answer"} <= set(names):
        twice = [name for name in COLUMNS if names.count(name) > 1]
        if twice:
            raise DataError(f"{where}, row 1: column {twice[0]!r} comes twice", _FORM)
        return Layout(names, 1)
    for columns in (list(COLUMNS), list(COLUMNS[1:3])):
        if len(cells) == len(columns) and _are_grids(*(cells[columns.index(name)] for name in COLUMNS[1:3])):
            return Layout(columns, 0)  # the first line is a puzzle
    raise DataError(f"{where}, row 1: no columns question and answer in {', '.join(names)[:80]!r}", _FORM)


def _are_grids(question: str, answer: str) -> bool:
    """Return whether two cells are square grids of one size, of Sudoku or mazes."""
    side = math.isqrt(len(question))
    return len(question) == len(answer) == side**2 > 1 and set(question + answer) <= set("0123456789.# SGo")


def _layout(address: Address) -> Layout:
    with files.open_binary(address) as stream:
        raw = stream.readline()
    try:
        return layout_of(raw.decode(), str(address))
    except UnicodeDecodeError:
        raise DataError(f"{address}, row 1: not text", _FORM) from None


def _blocks(address: Address, layout: Layout) -> Iterator[pa.RecordBatch]:
    """Yield the columns of `COLUMNS`, in this order, block by block; columns that the file lacks are empty."""
    from pyarrow import csv as arrow_csv

    present = [name for name in COLUMNS if name in layout.names]
    # Columns of other names may hold anything, and may share a name: they are numbered and left out.
    names = [name if name in COLUMNS else f"column {number}" for number, name in enumerate(layout.names)]
    convert = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(COLUMNS, pa.string()), strings_can_be_null=False, include_columns=present
    )
    try:
        with files.open_binary(address) as stream:
            options = arrow_csv.ReadOptions(column_names=names, skip_rows=layout.header_lines)
            for block in arrow_csv.open_csv(stream, read_options=options, convert_options=convert):
                empty = pa.array([""] * block.num_rows, pa.string())
                columns = [block.column(name) if name in present else empty for name in COLUMNS]
                yield pa.RecordBatch.from_arrays(columns, names=list(COLUMNS))
    except pa.ArrowInvalid as error:
        raise DataError(f"{address}: {first_line(error)}", _FORM) from None


def _characters(column: pa.Array, length: int, lines: Ints, where: Address, name: str) -> Bytes:
    """Return (N, length) bytes of a column of equally long texts; `lines` (N) are their numbers in the file."""
    sizes = compute.binary_length(column)
    wrong = np.flatnonzero(sizes.to_numpy(zero_copy_only=False) != length)
    if wrong.size:
        size = sizes[int(wrong[0])].as_py()
        raise DataError(
            f"{where}, row {lines[wrong[0]]}: {name} has {size} characters instead of {length}",
            "Remove or correct the row",
        )
    fixed = column.cast(pa.binary(length))
    flat: Bytes = np.frombuffer(fixed.buffers()[1], np.uint8, count=len(column) * length, offset=fixed.offset * length)
    return flat.reshape(-1, length)


def count_rows(address: Address) -> int:
    """Count the puzzles of a CSV, without its header."""
    return sum(block.num_rows for block in _blocks(address, _layout(address)))


def read_table(address: Address, length: int, choose: Choose | None = None) -> Table:
    """Return some rows of a CSV (all of them without `choose`).

    Args:
        length: characters of every question and answer.

    Raises:
        DataError: naming file, row and reason.
    """
    wanted = None if choose is None else choose(count_rows(address))
    parts: list[tuple[Any, ...]] = []
    start, layout = 0, _layout(address)
    first = 1 + layout.header_lines
    for block in _blocks(address, layout):
        rows = np.arange(start, start + block.num_rows)
        if wanted is not None:
            rows = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + block.num_rows)]
        part = block.take(pa.array(rows - start))
        if len(rows):
            lines = rows + first
            texts = [_characters(part.column(i), length, lines, address, COLUMNS[i]) for i in (1, 2)]
            parts.append((*texts, _ratings(part.column(3), lines, address), part.column(0).to_pylist(), lines))
        start += block.num_rows
    if not parts:
        raise DataError(f"{address} holds no puzzle", _FORM)
    questions, answers, ratings, names, numbers = zip(*parts, strict=True)
    return Table(
        np.concatenate(questions),
        np.concatenate(answers),
        np.concatenate(ratings),
        [name for part in names for name in part],
        np.concatenate(numbers),
    )


def _ratings(column: pa.Array, lines: Ints, where: Address) -> NDArray[np.float32]:
    texts = column.to_numpy(zero_copy_only=False)
    try:
        return np.where(texts == "", "nan", texts).astype(np.float32)
    except ValueError:
        line, text = next((line, text) for line, text in zip(lines, texts, strict=True) if not _is_rating(text))
        raise DataError(f"{where}, row {line}: rating {text!r} is not a number", "Correct it") from None


def _is_rating(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True
