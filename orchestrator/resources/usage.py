"""What a sweep has used up, from its records, and whether that is more than its budget. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import Field

from orchestrator.records.schema import GPU_ENERGY, SYSTEM_SPLIT, Attempt, Status, TrialRecord
from orchestrator.resources.catalogue import CatalogueError, Market, usd_per_gpu_hour
from trm_data.settings import Settings


class Budget(Settings):
    """Limits of a sweep; None is no limit."""

    trials: int | None = Field(None, ge=1)
    """Trials that were started."""
    gpu_hours: float | None = Field(None, gt=0)
    """Shares of a GPU count as such: two trials on one GPU for an hour are one GPU-hour."""
    usd: float | None = Field(None, gt=0)
    """GPU-hours at the catalogue's price of the machine's market. Disks, heads and idle machines come on top."""
    wall_hours: float | None = Field(None, gt=0)
    """From the start of the first trial."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used up to a moment, by running trials too."""

    trials: int
    gpu_hours: float
    usd: float
    unpriced_gpu_hours: float
    """GPU-hours on types that the catalogue has no price for; not in `usd`."""
    wall_hours: float


class _Use(NamedTuple):
    gpu_hours: float
    usd: float | None


SILENT_S = 900.0
"""Longer than any evaluation between two rows: a running attempt that says nothing for so long has died."""


def spending(records: Sequence[TrialRecord], now_s: float) -> Spent:
    """Add up all attempts. One without an end lasts until its successor starts, or until now unless it fell silent.

    Trials that were taken over from another sweep cost this one nothing.
    """
    records = [record for record in records if record.origin is None or record.origin.kind != "reused"]
    uses = [use for record in records for use in _uses(record, now_s)]
    starts = [_started_s(record.attempts[0]) for record in records if record.attempts]
    return Spent(
        trials=len(starts),
        gpu_hours=sum(use.gpu_hours for use in uses),
        usd=sum(use.usd for use in uses if use.usd is not None),
        unpriced_gpu_hours=sum(use.gpu_hours for use in uses if use.usd is None),
        wall_hours=(now_s - min(starts)) / 3600 if starts else 0.0,
    )


def exceeded(spent: Spent, budget: Budget) -> str | None:
    """The first limit that is reached, in words; None if none is."""
    for name, unit in (("trials", "trials"), ("gpu_hours", "GPU-hours"), ("usd", "USD"), ("wall_hours", "hours")):
        limit, used = getattr(budget, name), getattr(spent, name)
        if limit is not None and used >= limit:
            return f"{used:.4g} of {limit:.4g} {unit} used"
    return None


def _uses(record: TrialRecord, now_s: float) -> list[_Use]:
    followers = [_started_s(attempt) for attempt in record.attempts[1:]]
    sign_s = _last_sign_s(record)
    last_s = now_s if record.status is Status.RUNNING and now_s - sign_s < SILENT_S else sign_s
    return [
        _use(attempt, attempt.end.ended_s if attempt.end else until_s)
        for attempt, until_s in zip(record.attempts, [*followers, last_s], strict=False)
    ]


def _use(attempt: Attempt, until_s: float) -> _Use:
    count = float(attempt.start.gpu_count or 0.0)
    hours = count * max(0.0, until_s - _started_s(attempt)) / 3600
    if not hours:
        return _Use(0.0, 0.0)
    price = market_price(attempt.start.gpu_type, attempt.start.market)
    return _Use(hours, None if price is None else hours * price)


def market_price(gpu_type: str | None, market: str | None) -> float | None:
    """USD per GPU-hour; a market without a price of its own costs as much as on-demand. None if unknown."""
    tried: list[Market] = ["spot", "on-demand"] if market == "spot" else ["on-demand"]
    for name in tried if gpu_type else []:
        try:
            return usd_per_gpu_hour(str(gpu_type), name)
        except CatalogueError:
            continue
    return None


def _started_s(attempt: Attempt) -> float:
    return attempt.start.started_s


def _last_sign_s(record: TrialRecord) -> float:
    return max(
        [_started_s(attempt) for attempt in record.attempts] + [row.time_s for row in record.rows[-1:]], default=0.0
    )


def measured_kwh(record: TrialRecord) -> float | None:
    """Energy of a trial's GPUs over all its attempts; None unless each has measured it.

    From below: what a lost attempt did after its last checkpoint is not in its record.
    """
    starts = [attempt.start.started_s for attempt in record.attempts]
    total_j = 0.0
    for begin, end in zip(starts, [*starts[1:], float("inf")], strict=True):
        samples = [
            row.metrics.get(GPU_ENERGY)
            for row in record.rows
            if row.split == SYSTEM_SPLIT and begin <= row.time_s < end
        ]
        known = [sample for sample in samples if sample is not None]
        if not known:
            return None
        total_j += known[-1]
    return total_j / 3.6e6 if starts else None
