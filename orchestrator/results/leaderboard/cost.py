"""Describe what a trial cost and the CO2 of its energy. `orchestrator.resources.usage` computes the figures.

Dollars are an upper bound: the on-demand list price unless the record names another market. So is energy, at the
maker's power limit, unless the GPUs measured it. A trial on CPU has no cost: the catalogue has GPUs only.
"""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.resources.usage import Cost
from orchestrator.sweep.text import readable


class Grid(NamedTuple):
    """Hold the CO2 that a kilowatt-hour emits."""

    g_per_kwh: float
    source: str


WORLD_GRID = Grid(436.0, "world average of 2022, Ember, Global Electricity Review 2023")
"""Used if the location of a machine is unknown. Covers electricity alone: neither cooling nor manufacturing."""


def describe_cost(cost: Cost | None, grid: Grid | None = None) -> str:
    """Format a cost as `0.24 GPU-hours, at most $0.44 and 0.08 kWh`, with the CO2 of that energy if a grid is given."""
    if cost is None:
        return "not known (no GPU)"
    usd = f"${readable(cost.usd)}" if cost.usd is not None else ""
    kwh = f"{readable(cost.kwh)} kWh" if cost.kwh is not None else ""
    bound = " and ".join(filter(None, [usd, "" if cost.is_measured else kwh]))
    words = f"{readable(cost.gpu_hours)} GPU-hours" + (f", at most {bound}" if bound else "")
    if cost.is_measured:
        words += f", {kwh} measured"
    if cost.kwh is not None and grid is not None:
        kg = cost.kwh * grid.g_per_kwh / 1000
        emitted = f"{kg:,.0f} kg CO2" if kg >= 10 else f"{kg:.2g} kg CO2"
        words += f", {'about' if cost.is_measured else 'at most'} {emitted} at {grid.g_per_kwh:g} g/kWh ({grid.source})"
    return words
