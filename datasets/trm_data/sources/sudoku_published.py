"""Read Sudoku-Extreme and other Sudoku published as `train.csv` and `test.csv`."""

from __future__ import annotations

import numpy as np

from trm_data.config import DataRequest
from trm_data.dataset.schema import Puzzles
from trm_data.errors import DataError
from trm_data.jit import Bytes
from trm_data.puzzles import sudoku, sudoku_forms
from trm_data.sources.files import Address
from trm_data.sources.published import draw_pair
from trm_data.sources.sudoku import Listed, as_puzzles, check_solutions
from trm_data.sources.tables import Table


def _digits(cells: Bytes, table: Table, side: int, where: Address) -> Bytes:
    digits = sudoku.DIGITS[cells]
    bad = np.argwhere(digits > side)
    if len(bad):
        at, place = bad[0].tolist()
        raise DataError(
            f"{where}, row {table.line(at)}: character {chr(cells[at, place])!r} at place {place + 1}",
            f"Use 1-{side} for digits and '.' or 0 for a blank",
        )
    return digits


def _check(table: Table, side: int, where: Address) -> tuple[Bytes, Bytes]:
    puzzles, solutions = (_digits(cells, table, side, where) for cells in (table.questions, table.answers))
    check_solutions(puzzles, solutions, table, side)
    return puzzles, solutions


def _check_leaks(listed: Listed, splits: Bytes, side: int, where: Address) -> None:
    """Raise an error for puzzles that are equivalent across splits; canonical forms are compared only if invariants
    are equal."""
    shape = sudoku.shape(side)[:3]
    invariants = sudoku_forms.invariants(listed.puzzles, *shape)
    order = np.argsort(invariants, kind="stable")
    starts = np.flatnonzero(np.diff(invariants[order], prepend=invariants[order[0]] + np.uint64(1)))
    for group in np.split(order, starts[1:]):
        if len(set(splits[group].tolist())) < 2:
            continue
        forms: dict[bytes, int] = {}
        for i in group.tolist():
            form = sudoku_forms.canonical(listed.puzzles[i], listed.solutions[i], *shape).tobytes()
            other = forms.setdefault(form, i)
            if splits[other] != splits[i]:
                raise DataError(f"{where} leaks: puzzles {other} and {i} of different splits are equivalent")


def published(folder: Address, request: DataRequest, side: int) -> Puzzles:
    """Return the puzzles of `train.csv` and `test.csv` in a folder; train and validation are drawn from the first.

    Raises:
        DataError: naming file, row and reason; or equivalent puzzles in different splits.
    """
    pair, splits, facts = draw_pair(folder, request, side * side)
    parts = [_check(table, side, folder.join(name)) for name, table in pair.items()]
    puzzles, solutions = (np.concatenate(column) for column in zip(*parts, strict=True))
    ratings = np.concatenate([table.ratings for table in pair.values()])
    listed = Listed(puzzles, solutions, ratings, [name for table in pair.values() for name in table.sources])
    _check_leaks(listed, splits, side, folder)
    return as_puzzles(listed, splits, facts)
