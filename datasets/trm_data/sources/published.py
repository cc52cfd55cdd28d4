"""Select the rows of benchmarks published as `train.csv` and `test.csv` that a request uses."""

from __future__ import annotations

import numpy as np

from trm_data.config import DataRequest
from trm_data.errors import DataError
from trm_data.jit import Bytes, Ints
from trm_data.sources import files
from trm_data.sources.files import Address
from trm_data.sources.tables import Table, count_rows, read_table

_TRAIN, _TEST = "train.csv", "test.csv"
_TEST_SEED = 0


def draw_pair(folder: Address, request: DataRequest, cells: int) -> tuple[dict[str, Table], Bytes, dict[str, object]]:
    """Return the drawn rows of both files, the split of every row, and facts for the manifest.

    Training and validation rows are a draw without repetition from train.csv by the build seed; test rows are all of
    test.csv, or a draw of `num_test` that is the same for every build seed, so that results stay comparable.

    Raises:
        DataError: a file is missing, bad, or has fewer rows than requested.
    """
    if not folder.is_remote and files.exists(folder):
        raise DataError(f"{folder} is a file", f"Name a folder with {_TRAIN} and {_TEST}")
    train, test = folder.join(_TRAIN), folder.join(_TEST)
    available = count_rows(train)
    validation = request.num_validation or 0
    wanted = available - validation if request.num_train is None else request.num_train
    if wanted < 1 or wanted + validation > available:
        raise DataError(
            f"{train} has {available} rows, too few for train {max(wanted, 1)} + validation {validation}",
            "Lower num_train or num_validation",
        )
    drawn = _draw(available, wanted + validation, request.build_seed)
    held_out = np.sort(drawn[wanted:])
    order = np.sort(drawn)
    tables = {_TRAIN: read_table(train, cells, lambda _: order)}
    splits = np.isin(order, held_out).astype(np.uint8)
    by_split = np.argsort(splits, kind="stable")
    tables[_TRAIN] = _take(tables[_TRAIN], by_split)
    tables[_TEST] = read_table(test, cells, lambda count: _test_rows(count, request, test))
    splits = np.concatenate([splits[by_split], np.full(len(tables[_TEST].rows), 2, np.uint8)])
    hashes = {name: files.file_digest(folder.join(name)) for name in (_TRAIN, _TEST)}
    return tables, splits, {"files": hashes, "rows": {_TRAIN: available}}


def _draw(available: int, count: int, seed: int) -> Ints:
    rng = np.random.Generator(np.random.Philox(seed))
    return rng.permutation(available)[:count]


def _test_rows(count: int, request: DataRequest, where: Address) -> Ints:
    if request.num_test is None:
        return np.arange(count)
    if request.num_test > count:
        raise DataError(f"{where} has {count} rows, num_test={request.num_test} requests more", "Lower num_test")
    return np.sort(_draw(count, request.num_test, _TEST_SEED))


def _take(table: Table, order: Ints) -> Table:
    return table._replace(
        questions=table.questions[order],
        answers=table.answers[order],
        ratings=table.ratings[order],
        sources=[table.sources[i] for i in order],
        rows=table.rows[order],
    )
