"""Hold the rows of a trial: read on first use, and kept as columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from orchestrator.records.schema import LAST_TIME_S, Row

EXACT = 2**53
"""Integers below are floats without loss."""


class _Group(NamedTuple):
    """Hold rows of one split with the same metrics."""

    split: str
    names: tuple[str, ...]
    values: NDArray[np.float64]
    """[rows, metrics]."""
    is_integer: NDArray[np.bool_]
    """[rows, metrics]: written as an integer. A digest of the rows distinguishes 1 from 1.0."""


class Columns(NamedTuple):
    """Hold the rows of one or several segments as columns."""

    steps: NDArray[np.int64]
    times_s: NDArray[np.float64]
    group: NDArray[np.int32]
    """Index of each row's group."""
    place: NDArray[np.int32]
    """Index of each row in its group."""
    inherited: NDArray[np.bool_]
    """Whether each row says that it was inherited from a shorter trial. Those of earlier versions do not."""
    groups: tuple[_Group, ...]

    def row(self, index: int) -> Row:
        """Return one row."""
        group, place = self.groups[self.group[index]], self.place[index]
        numbers, are_integers = group.values[place].tolist(), group.is_integer[place].tolist()
        metrics = {
            name: int(number) if is_integer else number
            for name, number, is_integer in zip(group.names, numbers, are_integers, strict=True)
        }
        return Row(int(self.steps[index]), float(self.times_s[index]), group.split, metrics)

    def up_to(self, step: int) -> Columns:
        """Return the rows up to and including a step."""
        return self._only(self.steps <= step)

    def after_first(self, step: int) -> Columns:
        """Return the rows from the first one after a step on."""
        return self._only(np.logical_or.accumulate(self.steps > step))

    def own(self) -> Columns:
        """Return the rows that were not inherited."""
        return self._only(~self.inherited)

    def with_inherited(self, count: int) -> Columns:
        """Return the same rows, of which the first ones are marked as inherited."""
        return self._replace(inherited=self.inherited | (np.arange(len(self.steps)) < count))

    def begins_with(self, other: Columns) -> bool:
        """Return whether the first rows have the steps and times of all rows of another part."""
        count = len(other.steps)
        return np.array_equal(self.steps[:count], other.steps) and np.array_equal(self.times_s[:count], other.times_s)

    def _only(self, keep: NDArray[np.bool_]) -> Columns:
        if keep.all():
            return self
        return self._replace(
            steps=self.steps[keep],
            times_s=self.times_s[keep],
            group=self.group[keep],
            place=self.place[keep],
            inherited=self.inherited[keep],
        )

    def curve(self, metric: str, split: str) -> Iterator[tuple[int, float]]:
        """Yield (step, value) of one metric, in the order of the rows."""
        columns = {
            index: group.values[:, group.names.index(metric)]
            for index, group in enumerate(self.groups)
            if group.split == split and metric in group.names
        }
        for row in np.flatnonzero(np.isin(self.group, list(columns))):
            yield int(self.steps[row]), float(columns[int(self.group[row])][self.place[row]])


def _numbers(row: Row) -> list[float]:
    numbers = list(row.metrics.values())
    if not (0 <= row.step < EXACT and 0 <= row.time_s <= LAST_TIME_S):
        raise ValueError(f"step {row.step} at {row.time_s} s: no step, or no time")
    if not all(type(n) is float or (type(n) is int and abs(n) < EXACT) for n in numbers):
        raise ValueError(f"step {row.step}: a metric is not a number")
    return numbers


def columns_of(rows: Iterable[Row], inherited: Sequence[bool] | None = None) -> Columns:
    """Return rows as columns.

    Args:
        inherited: whether each row was inherited from a shorter trial; by default none was.

    Raises:
        ValueError: a metric is not a number, or too large an integer.
    """
    steps: list[int] = []
    times_s: list[float] = []
    group: list[int] = []
    place: list[int] = []
    known: dict[tuple[str, tuple[str, ...]], int] = {}
    values: list[list[list[float]]] = []
    for row in rows:
        key = (row.split, tuple(row.metrics))
        index = known.setdefault(key, len(values))
        if index == len(values):
            values.append([])
        numbers = _numbers(row)
        steps.append(row.step)
        times_s.append(row.time_s)
        group.append(index)
        place.append(len(values[index]))
        values[index].append(numbers)
    groups = tuple(
        _Group(
            split,
            names,
            np.array(values[index], np.float64).reshape(len(values[index]), len(names)),
            np.array([[type(n) is int for n in row] for row in values[index]], bool).reshape(
                len(values[index]), len(names)
            ),
        )
        for (split, names), index in known.items()
    )
    return Columns(
        np.array(steps, np.int64),
        np.array(times_s, np.float64),
        np.array(group, np.int32),
        np.array(place, np.int32),
        np.zeros(len(steps), bool) if inherited is None else np.array(inherited, bool),
        groups,
    )


class Rows(Sequence[Row]):
    """Load rows on first use. Equal to a list of the same rows."""

    def __init__(self, load: Callable[[], Sequence[Columns]]) -> None:
        self._load = load
        self._columns: Sequence[Columns] | None = None

    @property
    def columns(self) -> Sequence[Columns]:
        """Return the rows as columns, in several parts."""
        if self._columns is None:
            self._columns = [part for part in self._load() if len(part.steps)]
        return self._columns

    def __len__(self) -> int:
        return sum(len(part.steps) for part in self.columns)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        left = index + len(self) if index < 0 else index
        for part in self.columns if left >= 0 else ():
            if left < len(part.steps):
                return part.row(left)
            left -= len(part.steps)
        raise IndexError(index)

    def __iter__(self) -> Iterator[Row]:
        for part in self.columns:
            yield from (part.row(index) for index in range(len(part.steps)))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(a == b for a, b in zip(self, other, strict=True))
        )

    def __repr__(self) -> str:
        return f"Rows({list(self)!r})"

    __hash__ = None  # type: ignore[assignment]

    def last_step(self) -> int | None:
        """Return the highest step; None without rows."""
        return max((int(part.steps.max()) for part in self.columns), default=None)

    def curve(self, metric: str, split: str) -> list[tuple[int, float]]:
        """Return (step, value) of one metric."""
        return [point for part in self.columns for point in part.curve(metric, split)]


def dump_rows(rows: Iterable[Row], *, inherited: bool = False) -> bytes:
    """Return one segment: a JSON line per row. Each inherited row says so: a fold holds them next to others."""
    mark = {"inherited": True} if inherited else {}
    lines = [{"step": r.step, "time_s": r.time_s, "split": r.split, "metrics": r.metrics, **mark} for r in rows]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def parse_rows(data: bytes) -> tuple[Columns, str]:
    """Return the readable rows of a segment, and what is wrong with the first unreadable one."""
    rows: list[Row] = []
    inherited: list[bool] = []
    problem = ""
    for number, line in enumerate(data.splitlines(), 1):
        try:
            values: dict[str, Any] = json.loads(line)
            row = Row(int(values["step"]), float(values["time_s"]), str(values["split"]), dict(values["metrics"]))
            _numbers(row)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            problem = problem or f"line {number}: {type(error).__name__}: {error}"
            continue
        rows.append(row)
        inherited.append(values.get("inherited") is True)
    return columns_of(rows, inherited), problem
