"""CSV files of puzzles, `source,question,answer,rating`: read without holding more than the rows that are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
Choose = Callable[[int], Ints]
"""Number of rows -> the rows to keep, in ascending order."""


class Table(NamedTuple):
    """Some rows of a CSV, cells as characters."""

    questions: Bytes
    """(N, L)"""
    answers: Bytes
    ratings: NDArray[np.float32]
    sources: list[str]
    rows: Ints
    """(N): line numbers in the file, from 1; the header is line 1."""


def _blocks(address: Address) -> Iterator[pa.RecordBatch]:
    from pyarrow import csv

    convert = csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()), strings_can_be_null=False)
    try:
        with files.open_binary(address) as stream:
            options = csv.ReadOptions(column_names=list(COLUMNS), skip_rows=1)
            yield from csv.open_csv(stream, read_options=options, convert_options=convert)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{address}: {first_line(error)}", "A row is source,question,answer,rating after one header line"
        ) from None


def _characters(column: pa.Array, length: int, first_row: int, where: Address, name: str) -> Bytes:
    """(N, length) bytes of a column of equally long texts."""
    sizes = compute.binary_length(column)
    wrong = np.flatnonzero(sizes.to_numpy(zero_copy_only=False) != length)
    if wrong.size:
        size = sizes[int(wrong[0])].as_py()
        raise DataError(
            f"{where}, row {first_row + int(wrong[0])}: {name} has {size} characters instead of {length}",
            "Remove or mend the row",
        )
    fixed = column.cast(pa.binary(length))
    flat: Bytes = np.frombuffer(fixed.buffers()[1], np.uint8, count=len(column) * length, offset=fixed.offset * length)
    return flat.reshape(-1, length)


def count_rows(address: Address) -> int:
    """Rows of a CSV, without the header."""
    return sum(block.num_rows for block in _blocks(address))


def read_table(address: Address, length: int, choose: Choose | None = None) -> Table:
    """Some rows of a CSV (all of them without `choose`).

    Args:
        length: characters of every question and answer.

    Raises:
        DataError: naming file, row and reason.
    """
    wanted = None if choose is None else choose(count_rows(address))
    parts: list[tuple[Any, ...]] = []
    start = 0
    for block in _blocks(address):
        rows = np.arange(start, start + block.num_rows)
        if wanted is not None:
            rows = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + block.num_rows)]
        part = block.take(pa.array(rows - start))
        if len(rows):
            line = 2 + int(rows[0])
            texts = [_characters(part.column(i), length, line, address, COLUMNS[i]) for i in (1, 2)]
            parts.append((*texts, _ratings(part.column(3), line, address), part.column(0).to_pylist(), rows + 2))
        start += block.num_rows
    if not parts:
        raise DataError(f"{address} holds no puzzle", "A row is source,question,answer,rating after one header line")
    questions, answers, ratings, names, lines = zip(*parts, strict=True)
    return Table(
        np.concatenate(questions),
        np.concatenate(answers),
        np.concatenate(ratings),
        [name for part in names for name in part],
        np.concatenate(lines),
    )


def _ratings(column: pa.Array, first_row: int, where: Address) -> NDArray[np.float32]:
    try:
        texts = column.to_numpy(zero_copy_only=False)
        return np.where(texts == "", "nan", texts).astype(np.float32)
    except ValueError as error:
        raise DataError(f"{where}, from row {first_row}: a rating is no number ({error})", "Mend the row") from None
