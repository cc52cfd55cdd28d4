"""Compute GPU-hours, cost, energy and duration of trials from their records.

Every figure of this kind comes from here: budgets, plans, leaderboards, MLflow and the watchdog share one account.

- An attempt with an end lasts until that end. One without an end (killed, preempted, power cut) lasts until its last
  sign of life, including what the next attempt did again. The time between two attempts is never charged.
- Only budgets of a sweep whose driver lives add the time since the last row of the attempts that this driver started.
- The end of an attempt states how long it lasted. Older records do not: where training seconds agree with the wall
  clock, its start and its end count, and no row is read.
- A wall clock that steps back adds nothing. Where training seconds, which a monotonic clock measures, show that the
  wall clock jumped forward, they count instead.
- Two trials on one GPU for an hour are one GPU-hour. Measured energy is already the trial's share.
- A GPU-hour costs the lowest price of its market, or the on-demand price where the market has none.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple, cast

from orchestrator.records.schema import GPU_ENERGY, SYSTEM_SPLIT, Attempt, AttemptStart, Row, Status, TrialRecord
from orchestrator.resources.catalogue import CatalogueError, Market, gpu, usd_per_gpu_hour
from orchestrator.sweep.budget import Budget
from trm_data.benchmarks import find_benchmark

SILENT_S = 900.0
"""A running attempt without a row for this many seconds has died: evaluations between two rows are shorter."""
UNITS = {"trials": "trials", "gpu_hours": "GPU-hours", "usd": "USD", "wall_hours": "hours"}
"""The limits of a `Budget` and their units."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Hold what a sweep has used up to a moment, running trials included."""

    trials: int
    gpu_hours: float
    usd: float
    unpriced_gpu_hours: float
    """GPU-hours on types that the catalogue has no price for; not in `usd`."""
    wall_hours: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: Spent) -> Spent:
        return Spent(*map(operator.sub, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class Cost:
    """Hold what one trial has used over all its attempts, lost ones included."""

    gpu_hours: float
    usd: float | None
    """None where the catalogue has no price."""
    kwh: float | None
    """Measured by the GPUs, else an upper bound: the power limit over all GPU-hours. None where neither is known."""
    is_measured: bool = False
    """Whether `kwh` was measured."""


class AttemptUsage(NamedTuple):
    """Hold what one attempt has used."""

    duration_s: float
    gpu_hours: float
    usd: float | None
    """0.0 without a GPU, None where the catalogue has no price."""
    limit_kwh: float | None
    """Energy at the GPUs' power limit; None where the catalogue does not know the GPU."""


def price_per_gpu_hour(gpu_type: str | None, market: str | None = None) -> float | None:
    """Return USD per GPU-hour on AWS, or None if the catalogue has no price.

    A market without a price of its own costs as much as on-demand, so that a missing figure never makes a sweep look
    cheaper than it is.
    """
    for name in dict.fromkeys((market or "on-demand", "on-demand")) if gpu_type else ():
        try:
            return usd_per_gpu_hour(str(gpu_type), cast(Market, name))
        except CatalogueError:
            continue
    return None


def attempt_usage(record: TrialRecord, now_s: float | None = None, since_s: float | None = None) -> list[AttemptUsage]:
    """Return the usage of every attempt of a trial, in order.

    Args:
        now_s: the present, in seconds since the epoch, if the sweep's driver lives: an attempt that runs is charged
            until then. None charges every attempt up to its end or its last row.
        since_s: start of that driver. Attempts from before it were those of a driver that has died.
    """
    starts = [attempt.start.started_s for attempt in record.attempts]
    last = len(starts) - 1
    found = []
    for index, attempt in enumerate(record.attempts):
        successor_s = starts[index + 1] if index < last else None
        may_run = index == last and record.status is Status.RUNNING and starts[index] >= (since_s or 0.0)
        until_s = now_s if may_run else None
        found.append(_charged(attempt.start, _duration_s(record, attempt, successor_s, until_s)))
    return found


def whole_run(record: TrialRecord) -> Attempt | None:
    """Return the attempt that ran all of a finished trial; None where there were more, or where only code that is not
    trusted or not installed here knows how large the trial's puzzles are."""
    if record.status is not Status.FINISHED or len(record.attempts) != 1:
        return None
    return record.attempts[0] if find_benchmark(record.config.data.benchmark) else None


def uses_gpu(record: TrialRecord) -> bool:
    """Return whether an attempt used a GPU. Reads no rows."""
    return any(_gpu_count(attempt.start) for attempt in record.attempts)


def trial_cost(record: TrialRecord) -> Cost | None:
    """Return GPU-hours, USD and energy of a trial up to its last sign of life; None if no attempt used a GPU."""
    used = _gpu_usage(record)
    if not used:
        return None
    measured = measured_kwh(record)
    kwh = measured if measured is not None else _sum_known(usage.limit_kwh for usage in used)
    hours = sum(usage.gpu_hours for usage in used)
    return Cost(hours, _sum_known(usage.usd for usage in used), kwh, measured is not None)


def trial_usd(record: TrialRecord) -> float | None:
    """Return what a trial has cost; None if no attempt used a GPU, or a GPU has no price. Reads no more than its usage
    needs."""
    used = _gpu_usage(record)
    return _sum_known(usage.usd for usage in used) if used else None


def _gpu_usage(record: TrialRecord) -> list[AttemptUsage]:
    return [usage for usage in attempt_usage(record) if usage.gpu_hours] if uses_gpu(record) else []


def mean_cost(costs: Sequence[Cost | None]) -> Cost | None:
    """Return the mean over trials of one configuration; None unless every one of them used a GPU."""
    known = [cost for cost in costs if cost is not None]
    if not known or len(known) < len(costs):
        return None
    usd, kwh = _sum_known(cost.usd for cost in known), _sum_known(cost.kwh for cost in known)
    count = len(known)
    return Cost(
        gpu_hours=sum(cost.gpu_hours for cost in known) / count,
        usd=None if usd is None else usd / count,
        kwh=None if kwh is None else kwh / count,
        is_measured=all(cost.is_measured for cost in known),
    )


def measured_kwh(record: TrialRecord) -> float | None:
    """Return the measured GPU energy of a trial over all its attempts in kWh; None unless every attempt has measured
    it. One that has ended within a GPU-second, as where training never began, had nothing to measure.

    This is a lower bound: what a lost attempt did after its last checkpoint is not in its record.
    """
    starts = [attempt.start.started_s for attempt in record.attempts]
    measured_j = []
    for attempt, successor_s in zip(record.attempts, [*starts[1:], None], strict=False):
        rows = _rows_of(record, attempt, successor_s)
        samples = [row.metrics[GPU_ENERGY] for row in rows if row.split == SYSTEM_SPLIT and GPU_ENERGY in row.metrics]
        if samples:
            measured_j.append(max(samples))  # the counter of an attempt starts at 0 and only grows
        elif attempt.end is None or _gpu_count(attempt.start) * _duration_s(record, attempt, successor_s, None) >= 1.0:
            return None
    return sum(measured_j) / 3.6e6 if measured_j else None


def spending(
    records: Iterable[TrialRecord], now_s: float | None = None, since_s: float | None = None, wall_hours: float = 0.0
) -> Spent:
    """Add up all attempts of a sweep. Trials that were reused from another sweep cost this one nothing.

    Args:
        now_s, since_s: the present and the start of the driver, if one lives; see `attempt_usage`.
        wall_hours: hours that the driver has run.
    """
    own = _own(records)
    uses = [usage for record in own for usage in attempt_usage(record, now_s, since_s)]
    return Spent(
        trials=sum(bool(record.attempts) for record in own),
        gpu_hours=sum(use.gpu_hours for use in uses),
        usd=sum(use.usd for use in uses if use.usd is not None),
        unpriced_gpu_hours=sum(use.gpu_hours for use in uses if use.usd is None),
        wall_hours=wall_hours,
    )


def elapsed_s(records: Iterable[TrialRecord]) -> float:
    """Return the seconds that all attempts of a sweep have lasted together, each up to its last sign of life."""
    return sum(usage.duration_s for record in _own(records) for usage in attempt_usage(record))


def exceeded(spent: Spent, budget: Budget) -> str | None:
    """Describe the first limit that is reached, or return None."""
    for name, unit in UNITS.items():
        limit, used = getattr(budget, name), getattr(spent, name)
        if limit is not None and used >= limit:
            return f"{used:.4g} of {limit:.4g} {unit} used"
    return None


def _own(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that the sweep has run itself."""
    return [record for record in records if record.origin is None or record.origin.kind != "reused"]


def _rows_of(record: TrialRecord, attempt: Attempt, successor_s: float | None) -> list[Row]:
    """Return the rows of one attempt.

    An attempt that has recorded nothing has no rows, whatever times those of others have: the wall clock may have
    stepped between them. Rows are told apart by their times only where a record does not say whose they are.
    """
    begin_s = attempt.start.started_s
    if attempt.rows is not None:
        return list(attempt.rows)
    own = [row for row in record.rows if begin_s <= row.time_s and (successor_s is None or row.time_s < successor_s)]
    return sorted(own, key=lambda row: row.time_s)


def _duration_s(record: TrialRecord, attempt: Attempt, successor_s: float | None, until_s: float | None) -> float:
    """Return how long an attempt lasted, in seconds. `until_s`: the current time for a running trial."""
    begin_s = attempt.start.started_s
    if attempt.end is not None and attempt.end.elapsed_s is not None:
        return max(0.0, attempt.end.elapsed_s)  # by a monotonic clock: no step of the wall clock changes it
    if attempt.end is not None:
        total_s = attempt.end.ended_s - begin_s
        if attempt.end.train_s <= total_s <= attempt.end.train_s + SILENT_S:
            return total_s
    total_s, last_s = _time_of_rows(begin_s, _rows_of(record, attempt, successor_s))
    if attempt.end is not None:
        return total_s + max(0.0, attempt.end.ended_s - last_s)
    if until_s is not None and until_s - last_s < SILENT_S:
        total_s += max(0.0, until_s - last_s)
    return total_s


def _time_of_rows(begin_s: float, rows: Iterable[Row]) -> tuple[float, float]:
    """Return the seconds from the start of an attempt to its last row, and the wall clock at that row."""
    total_s, last_s, trained_s = 0.0, begin_s, None
    for row in rows:
        gap_s = max(0.0, row.time_s - last_s)
        now_trained_s = row.metrics.get("train_s")
        if now_trained_s is not None:
            # Only between two training rows is nothing but training done; an evaluation may take long.
            if trained_s is not None and row.split == "train" and gap_s > SILENT_S + now_trained_s - trained_s:
                gap_s = max(0.0, now_trained_s - trained_s)
            trained_s = now_trained_s
        total_s, last_s = total_s + gap_s, row.time_s
    return total_s, last_s


def _charged(start: AttemptStart, duration_s: float) -> AttemptUsage:
    name = _gpu_of(start)
    hours = _gpu_count(start) * duration_s / 3600
    if not hours:
        return AttemptUsage(duration_s, 0.0, 0.0, 0.0)
    price, power_kw = price_per_gpu_hour(name, start.market), _power_kw(name)
    return AttemptUsage(
        duration_s,
        hours,
        None if price is None else hours * price,
        None if power_kw is None else hours * power_kw,
    )


def _gpu_count(start: AttemptStart) -> float:
    if start.gpu_count:
        return start.gpu_count  # reserved for this trial, whatever it trained on
    if start.device == "cpu":
        return 0.0
    # `trm train` reserves nothing from Ray, and a trial that reserved no GPU may still have trained on one.
    is_unreserved = start.gpu_count is None and _gpu_of(start) is not None
    return float(is_unreserved or start.device == "cuda")


def _gpu_of(start: AttemptStart) -> str | None:
    """Return the node's label, or the driver's name if the catalogue knows only that."""
    names = [name for name in (start.gpu_type, start.gpu_name) if name]
    return next((name for name in names if _power_kw(name) is not None), names[0] if names else None)


def _power_kw(name: str | None) -> float | None:
    try:
        power_w = gpu(name).power_w if name else None
    except CatalogueError:
        return None
    return None if power_w is None else power_w / 1000


def _sum_known(values: Iterable[float | None]) -> float | None:
    """Return the sum, or None if any value is unknown."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if len(known) == len(found) else None
