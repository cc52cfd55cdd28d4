"""Define the space of a sweep: which combinations of values exist, and which of them are meaningful."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.sweep.domains import Choice, Condition, Domain, Setting
from orchestrator.sweep.identity import changes_result, expected_id, may_repeat
from orchestrator.sweep.settings import get_setting, replace_settings
from trm_data.errors import ConfigError
from trm_model.config import ALIASES, TrialConfig

DRAWS = 1000
"""Random draws after which a space with ranges counts as empty: all but a thousandth of it is forbidden."""

MAX_TRIALS = 10_000_000
"""Trials that a sweep may have: a run holds each that it has started in memory."""

MAX_COMPARED = 1000
"""Cells that are configured to count their results, a fraction of a second."""

Cell = dict[str, Setting]
"""Settings by path."""


@dataclass(frozen=True, slots=True)
class Space:
    """Hold the cells over some axes, relative to a base configuration. Axes are full paths: `model.cycles`, not `T`."""

    base: TrialConfig
    axes: Mapping[str, Domain]
    only_if: Mapping[str, Condition] = field(default_factory=dict)
    """Axes that count only where earlier axes have certain values; elsewhere the base's value stays."""
    forbidden: tuple[Condition, ...] = ()
    """Combinations that are left out."""

    @property
    def is_countable(self) -> bool:
        """Return whether no axis is a range."""
        return all(isinstance(domain, Choice) for domain in self.axes.values())

    def grid(self) -> Iterator[Cell]:
        """Yield every cell once, the last axis varying fastest; a range contributes three of its values.

        Cells are made one by one, so that a space of millions takes no memory.
        """
        for cell in self._expand(list(self.axes), {}):
            if not self.is_forbidden(cell):
                yield cell

    def _expand(self, paths: list[str], cell: Cell) -> Iterator[Cell]:
        if not paths:
            yield dict(cell)
            return
        path, *rest = paths
        if not self.is_active(path, cell):
            yield from self._expand(rest, cell)
            return
        for value in self.axes[path].spread():
            yield from self._expand(rest, {**cell, path: value})

    def size(self, most: int | None = None) -> int:
        """Return the number of cells of the grid, without visiting those to which no condition applies.

        Args:
            most: counting ends above this number, and a number above it is returned.
        """
        bound, free = self._split()
        cells = bound.grid() if most is None else itertools.islice(bound.grid(), most + 1)
        return sum(1 for _ in cells) * math.prod(len(free.axes[path].spread()) for path in free.axes)

    def num_results(self, most: int | None = None) -> int:
        """Return how many results the cells of the grid have; see `size` for `most`.

        Cells of one result are told apart from others on the axes that may repeat one, unless these have too many.
        """
        loose = {path for path, domain in self.axes.items() if may_repeat(path) or _has_equal(domain.spread())}
        if not loose:
            return self.size(most)
        _, free = self._split()
        strict = {path: domain for path, domain in free.axes.items() if path not in loose}
        rest = replace(self, axes={path: domain for path, domain in self.axes.items() if path not in strict})
        some = head(rest.grid(), MAX_COMPARED + 1)
        if len(some) > MAX_COMPARED:
            return self.size(most)
        return len(set(map(rest._result_of, some))) * math.prod(len(domain.spread()) for domain in strict.values())

    def _result_of(self, cell: Cell) -> str:
        try:
            return expected_id(replace_settings(self.base, cell))
        except ConfigError:  # in sweeps of older versions
            return repr(cell)

    def max_cells(self, most: int | None = None) -> int | None:
        """Return an upper bound of the number of results, exact without ranges; None if it is infinite."""
        if self.is_countable:
            return self.num_results(most)
        counts = [domain.count for path, domain in self.axes.items() if changes_result(path)]
        return None if None in counts else math.prod(count for count in counts if count is not None)

    def sample(self, count: int, seed: int = 0) -> list[Cell]:
        """Return at most `count` different cells of the grid, every cell with the same chance."""
        size = self.size()
        if size <= count:
            return list(self.grid())
        bound, free = self._split()
        num_free = math.prod(len(domain.spread()) for domain in free.axes.values())
        chosen = iter(sorted(random.Random(seed).sample(range(size), count)))
        cells: list[Cell] = []
        index: int | None = next(chosen)
        for number, cell in enumerate(bound.grid()):
            while index is not None and index < (number + 1) * num_free:
                whole = cell | free._cell_at(index % num_free)
                cells.append({path: whole[path] for path in self.axes if path in whole})
                index = next(chosen, None)
        return cells

    def _split(self) -> tuple[Space, Space]:
        """Return the space of the axes that conditions name and the space of all others: every pair is a cell."""
        named = {path for condition in (*self.only_if.values(), *self.forbidden) for path in condition}
        bound = {path: domain for path, domain in self.axes.items() if path in named or path in self.only_if}
        free = {path: domain for path, domain in self.axes.items() if path not in bound}
        return replace(self, axes=bound), Space(self.base, free)

    def _cell_at(self, index: int) -> Cell:
        """Return a cell of a space without conditions by its position in the grid."""
        values: list[tuple[str, Setting]] = []
        for path, domain in reversed(list(self.axes.items())):
            index, position = divmod(index, len(spread := domain.spread()))
            values.append((path, spread[position]))
        return dict(reversed(values))

    def random(self, rng: random.Random) -> Cell | None:
        """Draw a cell uniformly from the space; None if (almost) all of it is forbidden."""
        for _ in range(DRAWS):
            cell = self.active({path: domain.draw(rng) for path, domain in self.axes.items()})
            if not self.is_forbidden(cell):
                return cell
        return None

    def active(self, settings: Mapping[str, Setting]) -> Cell:
        """Return the settings without inactive axes: if a condition fails, the base's value is used."""
        found: Cell = {}
        for path in self.axes:
            if path in settings and self.is_active(path, found):
                found[path] = settings[path]
        return found

    def is_active(self, path: str, settings: Mapping[str, Setting]) -> bool:
        """Return whether an axis is active, given the settings of the axes before it."""
        return path not in self.only_if or self._holds(self.only_if[path], settings)

    def is_forbidden(self, settings: Mapping[str, Setting]) -> bool:
        """Return whether the space excludes this combination."""
        return any(self._holds(condition, settings) for condition in self.forbidden)

    def cell_of(self, config: TrialConfig) -> Cell:
        """Return the cell that a configuration belongs to. Its values may lie outside the axes."""
        return self.active({path: get_setting(config, path) for path in self.axes})

    def holds(self, cell: Mapping[str, Setting]) -> bool:
        """Return whether every value of a cell lies on its axis and the combination is allowed."""
        return all(self.axes[path].holds(value) for path, value in cell.items()) and not self.is_forbidden(cell)

    def may_have(self, path: str, value: Setting) -> bool:
        """Return whether a cell may have a value: it lies on the axis, or the base has it."""
        return get_setting(self.base, path) == value or (path in self.axes and self.axes[path].holds(value))

    def _holds(self, condition: Condition, settings: Mapping[str, Setting]) -> bool:
        def value(path: str) -> Setting:
            return settings[path] if path in settings else get_setting(self.base, path)

        return all(
            value(path) in wanted if isinstance(wanted, tuple) else value(path) == wanted
            for path, wanted in condition.items()
        )


def _has_equal(values: Sequence[Setting]) -> bool:
    return len(set(values)) < len(values)


def with_paths(settings: Any) -> Any:
    """Return settings with the paper's letters as paths; what is not a mapping as it is, for its field to refuse."""
    if not isinstance(settings, Mapping):
        return settings
    return {ALIASES.get(name, name): value for name, value in settings.items()}


def head(cells: Iterator[Cell], count: int) -> list[Cell]:
    """Return the first `count` cells."""
    return list(itertools.islice(cells, count))


def require_few(space: Space, seeds: int, trials: int | None, more: int) -> None:
    """Raise ConfigError if a sweep has more than `MAX_TRIALS` trials. Counts cells only where they may be too many.

    Args:
        trials: of a search; None for a study, which runs every cell.
        more: trials that do not belong to a cell of the space.
    """
    cells = math.prod(domain.count or MAX_TRIALS for domain in space.axes.values())
    if trials is None and cells * seeds + more > MAX_TRIALS and (space.only_if or space.forbidden):
        cells = space.size(MAX_TRIALS)
    explored = cells if trials is None else min(cells, trials)
    if explored * seeds + more > MAX_TRIALS:
        raise ConfigError(f"the sweep has more than {MAX_TRIALS:,} trials", "Give fewer seeds, trials or values")
