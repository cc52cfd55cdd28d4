"""Read CSV files of puzzles, with columns named in a header, without holding more than the requested rows."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
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
_MOST_RATING = float(np.finfo(np.float32).max)
_HEAD = 2**20  # bytes in which the first puzzle begins
_BEGINNING = 64  # bytes that say what a file is
_DELIMITERS = ",;\t|"
_NO_TEXT = {
    b"\x1f\x8b": ("compressed (gzip)", "Unpack it"),
    b"PK\x03\x04": ("a zip archive", "Unpack it"),
    b"BZh": ("compressed (bzip2)", "Unpack it"),
    b"\xfd7zXZ": ("compressed (xz)", "Unpack it"),
    b"\x28\xb5\x2f\xfd": ("compressed (zstd)", "Unpack it"),
    b"PAR1": ("a Parquet file", "Save it as CSV"),
    b"\xff\xfe": ("text in UTF-16 or UTF-32", "Save it as UTF-8"),
    b"\xfe\xff": ("text in UTF-16", "Save it as UTF-8"),
    b"{": ("JSON", "Save it as CSV"),
    b"[": ("JSON", "Save it as CSV"),
}
"""First bytes of files in other forms, what they are, and what helps."""
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
    """(N): which puzzles of the file they are, from 0."""
    address: Address

    def line(self, index: int) -> int:
        """Return on which line of the file, from 1, the puzzle at `index` begins."""
        return line_of(self.address, int(self.rows[index]))


class Layout(NamedTuple):
    """Hold the positions of the columns of a CSV."""

    names: list[str]
    """Of all columns, in the order of the file."""
    header_lines: int
    """1, or 0 where the first line is a puzzle already."""
    delimiter: str = ","


def decode(content: bytes, where: str, row: int = 1) -> str:
    """Return the text of a puzzle list, or of a part of one that begins with line `row`.

    Raises:
        DataError: it is no text; names what it is, or the row.
    """
    for start, (what, remedy) in _NO_TEXT.items():
        if row == 1 and content[:_BEGINNING].removeprefix(codecs.BOM_UTF8).lstrip().startswith(start):
            raise DataError(f"{where} is {what}", remedy)
    try:
        text = content.decode()
        bad = content.find(b"\0")
    except UnicodeDecodeError as error:
        bad = error.start
    if bad < 0:
        return text
    row += content[:bad].count(b"\n")
    raise _not_text(where, row)


def _not_text(where: str, row: int) -> DataError:
    return DataError(f"{where}, row {row}: not text", "Puzzle lists are plain text: save it as UTF-8")


def csv_rows(
    lines: Iterable[str], where: str, delimiter: str = ",", skipped: int = 0
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line and the cells of every row of a CSV.

    Args:
        where: names the file.
        skipped: lines of the file before `lines`.

    Raises:
        DataError: a row is not CSV.
    """
    reader = csv.reader(lines, skipinitialspace=True, delimiter=delimiter)
    first = 1 + skipped
    try:
        for cells in reader:
            yield first, cells
            first = 1 + skipped + reader.line_num
    except csv.Error as error:
        raise DataError(f"{where}, row {first}: {error}", _FORM) from None


def find_layout(first_line: str, where: str, *, needs_answers: bool = True) -> Layout | None:
    """Find the columns in the first line of a CSV: a header names them in any order, with any others between them.

    The names of Kaggle's lists (`quizzes,solutions`, `puzzle,solution`, ...) are understood too. Cells are separated
    by commas, semicolons, tabs or `|`.

    Returns:
        None if it is neither a header with a question and an answer nor a puzzle with its answer.

    Raises:
        DataError: a column comes twice.
    """
    line = first_line.removeprefix(_BOM).strip("\r\n")
    for delimiter in _DELIMITERS:
        _, cells = next(csv_rows([line], where, delimiter), (1, []))
        own = [cell.strip().lower() for cell in cells]
        # A file that has the usual name too uses the other one for something else.
        names = [name if OTHER_NAMES.get(name, name) in own else OTHER_NAMES.get(name, name) for name in own]
        if "question" in names and ("answer" in names or not needs_answers):
            twice = [name for name in COLUMNS if names.count(name) > 1]
            if twice:
                raise DataError(f"{where}, row 1: column {twice[0]!r} comes twice", _FORM)
            return Layout(names, 1, delimiter)
        for columns in (list(COLUMNS), list(COLUMNS[1:3])):
            for read in (own, line.split(delimiter)):  # a maze may begin with a space
                if len(read) == len(columns) and are_grids(*(read[columns.index(name)] for name in COLUMNS[1:3])):
                    return Layout(columns, 0, delimiter)  # the first line is a puzzle
    return None


def layout_of(first_line: str, where: str, *, row: int = 1, needs_answers: bool = True) -> Layout:
    """Return `find_layout`.

    Raises:
        DataError: it has found none.
    """
    found = find_layout(first_line, where, needs_answers=needs_answers)
    if found is None:
        raise DataError(f"{where}, row {row}: no columns question and answer in {first_line.strip()[:80]!r}", _FORM)
    return found


def are_grids(question: str, answer: str) -> bool:
    """Return whether two cells are square grids of one size, of Sudoku or mazes."""
    side = math.isqrt(len(question))
    return len(question) == len(answer) == side**2 > 1 and set((question + answer).lower()) <= set("0123456789.*_# sgo")


def _layout(address: Address) -> tuple[Layout, int]:
    """Return the columns of a file, and how many of its lines come before the first puzzle."""
    where = str(address)
    with files.open_binary(address) as stream:
        lines = stream.read(_HEAD).removeprefix(codecs.BOM_UTF8).splitlines()
    for number, line in enumerate(lines):
        text = decode(line, where, number + 1)
        layout = find_layout(text, where)  # before comments are left out: a maze begins with a wall, #
        if layout is None and text.strip() and not text.startswith("#"):
            layout = layout_of(text, where, row=number + 1)
        if layout is not None:
            return layout, number + layout.header_lines
    raise DataError(f"{where} holds no puzzle", _FORM)


def _blocks(address: Address, layout: Layout, skipped: int) -> Iterator[pa.RecordBatch]:
    """Yield the columns of `COLUMNS`, in this order, block by block; columns that the file lacks are empty."""
    from pyarrow import csv as arrow_csv

    present = [name for name in COLUMNS if name in layout.names]
    # Columns of other names may hold anything, and may share a name: they are numbered and left out.
    names = [name if name in COLUMNS else f"column {number}" for number, name in enumerate(layout.names)]
    convert = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(COLUMNS, pa.string()), strings_can_be_null=False, include_columns=present
    )
    parse = arrow_csv.ParseOptions(
        delimiter=layout.delimiter, invalid_row_handler=lambda row: "error" if row.text.strip() else "skip"
    )
    try:
        with files.open_binary(address) as stream:
            options = arrow_csv.ReadOptions(column_names=names, skip_rows=skipped)
            for block in arrow_csv.open_csv(stream, options, parse, convert):
                empty = pa.array([""] * block.num_rows, pa.string())
                columns = [block.column(name) if name in present else empty for name in COLUMNS]
                yield pa.RecordBatch.from_arrays(columns, names=list(COLUMNS))
    except pa.ArrowInvalid as error:
        raise _invalid(address, layout, skipped, error) from None


def _rows(address: Address, layout: Layout, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the cells of every row that `_blocks` reads; slowly, for messages."""
    with files.open_binary(address) as stream:
        lines = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="")
        below = itertools.islice(lines, skipped, None)
        for row, cells in csv_rows(below, str(address), layout.delimiter, skipped):
            if len(cells) == len(layout.names) or "".join(cells).strip():
                yield row, cells


def line_of(address: Address, number: int) -> int:
    """Return on which line of a CSV, from 1, its puzzle `number`, from 0, begins."""
    return next(itertools.islice(_rows(address, *_layout(address)), number, None))[0]


def _invalid(address: Address, layout: Layout, skipped: int, error: pa.ArrowInvalid) -> DataError:
    """Return the error of the first row with another number of columns than the header, or that is not text."""
    for row, cells in _rows(address, layout, skipped):
        if len(cells) != len(layout.names):
            what = f"{len(cells)} columns instead of {len(layout.names)}"
            return DataError(f"{address}, row {row}: {what}", "Correct the row")
        try:
            "".join(cell for name, cell in zip(layout.names, cells, strict=True) if name in COLUMNS).encode()
        except UnicodeEncodeError:
            return _not_text(str(address), row)
    return DataError(f"{address}: {first_line(error)}", _FORM)


def _unwrapped(column: pa.Array, length: int) -> pa.Array:
    """Return texts without quotes and spaces around `length` characters: `"a" , "b"` is not read as quoted.

    A maze may begin or end with a space itself; where that is not clear, the check of the answer decides.
    """
    plain = compute.replace_substring_regex(column, r'^\s*"([^"]*)"\s*$', r"\1")
    head, rest = (compute.utf8_slice_codeunits(plain, *part) for part in ((0, length), (length,)))
    lead, tail = (compute.utf8_slice_codeunits(plain, *part) for part in ((0, -length), (-length,)))
    is_blank = [compute.equal(compute.utf8_trim_whitespace(part), "") for part in (rest, lead)]
    return compute.case_when(compute.make_struct(*is_blank), head, tail, plain)


def _characters(column: pa.Array, length: int, rows: Ints, where: Address, name: str) -> Bytes:
    """Return (N, length) bytes of a column of equally long texts; `rows` (N) are their numbers in the file."""
    if not compute.all(compute.equal(compute.binary_length(column), length)).as_py():
        column = _unwrapped(column, length)
    sizes = compute.binary_length(column)
    wrong = np.flatnonzero(sizes.to_numpy(zero_copy_only=False) != length)
    if wrong.size:
        size = sizes[int(wrong[0])].as_py()
        raise DataError(
            f"{where}, row {line_of(where, rows[wrong[0]])}: {name} has {size} characters instead of {length}",
            "Remove or correct the row",
        )
    fixed = column.cast(pa.binary(length))
    flat: Bytes = np.frombuffer(fixed.buffers()[1], np.uint8, count=len(column) * length, offset=fixed.offset * length)
    return flat.reshape(-1, length)


def count_rows(address: Address) -> int:
    """Count the puzzles of a CSV, without its header."""
    return sum(block.num_rows for block in _blocks(address, *_layout(address)))


def read_table(address: Address, length: int, choose: Choose | None = None) -> Table:
    """Return some rows of a CSV (all of them without `choose`).

    Args:
        length: characters of every question and answer.

    Raises:
        DataError: naming file, row and reason.
    """
    wanted = None if choose is None else choose(count_rows(address))
    parts: list[tuple[Any, ...]] = []
    start, (layout, skipped) = 0, _layout(address)
    for block in _blocks(address, layout, skipped):
        rows = np.arange(start, start + block.num_rows)
        if wanted is not None:
            rows = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + block.num_rows)]
        part = block.take(pa.array(rows - start))
        if len(rows):
            texts = [_characters(part.column(i), length, rows, address, COLUMNS[i]) for i in (1, 2)]
            parts.append((*texts, _ratings(part.column(3), rows, address), part.column(0).to_pylist(), rows))
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
        address,
    )


def _ratings(column: pa.Array, rows: Ints, where: Address) -> NDArray[np.float32]:
    texts = column.to_numpy(zero_copy_only=False)
    try:
        with np.errstate(over="raise"):
            ratings = np.where(texts == "", "nan", texts).astype(np.float32)
        if not np.isinf(ratings).any():
            return ratings
    except (ValueError, FloatingPointError):
        pass
    row, text = next((row, text) for row, text in zip(rows, texts, strict=True) if rating_of(text) is None)
    raise no_rating(text, where, line_of(where, row))


def rating_of(text: str) -> float | None:
    """Return a rating, NaN for an empty text; None if it is not a number that can be stored."""
    try:
        rating = float(text or "nan")
    except ValueError:
        return None
    return None if abs(rating) > _MOST_RATING else rating


def no_rating(text: str, where: object, row: int) -> DataError:
    """Return the error of a row of a file whose rating is none."""
    return DataError(
        f"{where}, row {row}: rating {text!r} is not a number, or too large",
        "Correct it, or give the column another name: it is then left out",
    )
