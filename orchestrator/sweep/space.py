"""The cells of a sweep's space: which combinations of values there are, and which of them mean something."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from orchestrator.sweep.domains import Choice, Condition, Value
from orchestrator.sweep.settings import get_setting, label
from trm_model.config import TrialConfig

if TYPE_CHECKING:
    from orchestrator.sweep.definition import Sweep

DRAWS = 1000
"""Random draws after which a space with ranges counts as empty: all but a thousandth of it is forbidden."""

Cell = dict[str, Value]
"""Settings by path."""


def cells(sweep: Sweep) -> Iterator[tuple[str, Cell]]:
    """(family name, settings) of every cell of a study: the grid over `space`, then the named variants."""
    if sweep.space or not sweep.variants:
        for settings in grid(sweep):
            yield label(settings), settings
    for variant in sweep.variants:
        yield variant.name, dict(variant.settings)


def is_countable(sweep: Sweep) -> bool:
    """Whether the space has no range."""
    return all(isinstance(domain, Choice) for domain in sweep.space.values())


def grid(sweep: Sweep) -> list[Cell]:
    """Every cell of a space once; a range counts with three of its values."""
    axes = [[(path, value) for value in domain.spread()] for path, domain in sweep.space.items()]
    found = (active(sweep, dict(combination)) for combination in itertools.product(*axes))
    return list({label_exactly(cell): cell for cell in found if not is_forbidden(sweep, cell)}.values())


def label_exactly(cell: Cell) -> str:
    """A key that tells apart what a label rounds."""
    return repr(sorted(cell.items()))


def random_cell(sweep: Sweep, rng: random.Random) -> Cell | None:
    """A cell drawn evenly from the space; None where (almost) all of it is forbidden."""
    for _ in range(DRAWS):
        cell = active(sweep, {path: domain.draw(rng) for path, domain in sweep.space.items()})
        if not is_forbidden(sweep, cell):
            return cell
    return None


def active(sweep: Sweep, settings: Mapping[str, Value]) -> Cell:
    """Without the axes that count for nothing here: where the condition fails, the base's value stays."""
    found: Cell = {}
    for path in sweep.space:
        if path in settings and is_active(sweep, path, found):
            found[path] = settings[path]
    return found


def is_active(sweep: Sweep, path: str, settings: Mapping[str, Value]) -> bool:
    """Whether an axis counts, given the settings of the axes before it."""
    return path not in sweep.only_if or _holds(sweep, sweep.only_if[path], settings)


def is_forbidden(sweep: Sweep, settings: Mapping[str, Value]) -> bool:
    """Whether the sweep leaves this combination out."""
    return any(_holds(sweep, condition, settings) for condition in sweep.forbidden)


def drawn_settings(sweep: Sweep, config: TrialConfig) -> Cell:
    """The cell that a configuration is."""
    return active(sweep, {path: get_setting(config, path) for path in sweep.space})


def _holds(sweep: Sweep, condition: Condition, settings: Mapping[str, Value]) -> bool:
    def value(path: str) -> Value:
        return settings[path] if path in settings else get_setting(sweep.base, path)

    return all(
        value(path) in wanted if isinstance(wanted, tuple) else value(path) == wanted
        for path, wanted in condition.items()
    )
