"""What a trial cost: GPU-hours over all its attempts, lost ones included, dollars, energy, and the CO2 of that energy.

Dollars are an estimate from above: the on-demand list price unless the record names another market. So is energy, at
the maker's power limit, unless the GPUs measured it. A trial on CPU has none: the catalogue knows GPUs only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, cast

from orchestrator.records.schema import TrialRecord
from orchestrator.resources.catalogue import CatalogueError, Market, gpu, usd_per_gpu_hour
from orchestrator.resources.usage import measured_kwh


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one trial."""

    gpu_hours: float
    usd: float | None
    """None where the catalogue has no price."""
    kwh: float | None
    is_measured: bool = False
    """Whether the energy is what the GPUs counted, not their power limit."""


class Grid(NamedTuple):
    """What a kilowatt-hour emits."""

    g_per_kwh: float
    source: str


WORLD_GRID = Grid(436.0, "world average of 2022, Ember, Global Electricity Review 2023")
"""Used where nobody says where a machine stands. Of the electricity alone: neither cooling nor making the machine."""


def trial_cost(record: TrialRecord) -> Cost | None:
    """GPU-hours, dollars and energy of a trial; None if no attempt had a GPU."""
    starts = [attempt.start for attempt in record.attempts]
    later = [*(after.started_s for _, after in pairwise(starts)), float("inf")]
    hours, usd, kwh = 0.0, 0.0, 0.0
    known_price = known_power = True
    for attempt, until in zip(record.attempts, later, strict=True):
        name = attempt.start.gpu_name or attempt.start.gpu_type
        if not name or attempt.start.device == "cpu":
            continue
        last_seen = [row.time_s for row in record.rows if attempt.start.started_s <= row.time_s < until]
        ended = attempt.end.ended_s if attempt.end else max(last_seen, default=attempt.start.started_s)
        share = (ended - attempt.start.started_s) / 3600 * float(attempt.start.gpu_count or 1)
        price, power = _price(name, attempt.start.market), _power_kw(name)
        hours += share
        known_price, known_power = known_price and price is not None, known_power and power is not None
        usd, kwh = usd + share * (price or 0.0), kwh + share * (power or 0.0)
    if not hours:
        return None
    measured = measured_kwh(record)
    estimated = kwh if known_power else None
    return Cost(hours, usd if known_price else None, estimated if measured is None else measured, measured is not None)


def describe_cost(cost: Cost | None, grid: Grid | None = None) -> str:
    """`0.24 GPU-hours, at most $0.44 and 0.08 kWh`, and the CO2 of that energy where a grid is named."""
    if cost is None:
        return "not known (no GPU)"
    usd = f"${cost.usd:.3g}" if cost.usd is not None else ""
    kwh = f"{cost.kwh:.3g} kWh" if cost.kwh is not None else ""
    bound = " and ".join(filter(None, [usd, "" if cost.is_measured else kwh]))
    words = f"{cost.gpu_hours:.3g} GPU-hours" + (f", at most {bound}" if bound else "")
    if cost.is_measured:
        words += f", {kwh} measured"
    if cost.kwh is not None and grid is not None:
        emitted = f"{cost.kwh * grid.g_per_kwh / 1000:.2g} kg CO2"
        words += f", {'about' if cost.is_measured else 'at most'} {emitted} at {grid.g_per_kwh:g} g/kWh ({grid.source})"
    return words


def mean_cost(costs: Sequence[Cost | None]) -> Cost | None:
    """The mean of trials that ran alike; None unless each has a cost."""
    known = [cost for cost in costs if cost is not None]
    if not known or len(known) < len(costs):
        return None
    hours = sum(cost.gpu_hours for cost in known) / len(known)
    measured = all(cost.is_measured for cost in known)
    return Cost(hours, _mean([cost.usd for cost in known]), _mean([cost.kwh for cost in known]), measured)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _price(name: str, market: str | None) -> float | None:
    try:
        return usd_per_gpu_hour(name, cast("Market", market or "on-demand"))
    except CatalogueError:
        return None


def _power_kw(name: str) -> float | None:
    try:
        return gpu(name).power_w / 1000
    except CatalogueError:
        return None
