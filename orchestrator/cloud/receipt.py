"""Account for a deployment: machine hours from start to end, what they cost, and in how many of them no trial ran."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.cloud.backend import Deployment, Machine, Receipt
from orchestrator.records.schema import Attempt, TrialRecord
from orchestrator.resources.usage import attempt_usage


def receipt(deployment: Deployment, records: Sequence[TrialRecord], now_s: float) -> Receipt:
    """Return the account of a deployment up to a moment.

    Args:
        records: trials of its sweep; attempts from before the deployment do not count.
    """
    hours = [machine_hours(machine, now_s) for machine in deployment.machines]
    usd = spent_usd(deployment.machines, now_s)
    since_s = min((machine.up_s for machine in deployment.machines), default=deployment.created_s)
    ends = [machine.down_s for machine in deployment.machines]
    # An attempt without an end of its own cannot have outlived the machines: a closed account does not change any more.
    closed_s = [each for each in ends if each is not None] if ends and None not in ends else []
    until_s = min([now_s, *([max(closed_s)] if closed_s else []), *filter(None, [deployment.ended_s])])
    spans, lost_hours = _spans(records, since_s, until_s)
    total = sum(hours)
    busy = min(total, sum(map(_union_hours, _by_host(spans).values())))
    unpriced = [machine.name for machine in deployment.machines if _price(machine) is None]
    return Receipt(
        name=deployment.name,
        backend=deployment.backend,
        state=deployment.state,
        planned_hours=deployment.planned_hours,
        planned_usd=deployment.planned_usd,
        price_source=deployment.price_source,
        price_date=deployment.price_date,
        machine_hours=total,
        usd=usd,
        assumed_usd_per_hour=_sum(machine.usd_per_hour for machine in deployment.machines),
        billed_usd_per_hour=_sum(machine.billed_usd_per_hour for machine in deployment.machines),
        trials=len({name for name, _, _, _ in spans}),
        busy_hours=busy,
        idle_hours=total - busy,
        idle_usd=None if usd is None else (usd * (total - busy) / total if total else 0.0),
        lost_hours=lost_hours,
        unknown=tuple(f"price of {name}: unknown" for name in unpriced),
    )


def spent_usd(machines: Iterable[Machine], now_s: float) -> float | None:
    """Return the dollars of the machine hours so far; None if a machine has no known price."""
    return _sum(
        None if (price := _price(machine)) is None else price * machine_hours(machine, now_s) for machine in machines
    )


def usd_an_hour(machines: Iterable[Machine]) -> float | None:
    """Return what machines cost an hour, all together; None if one has no known price."""
    return _sum(map(_price, machines))


def _price(machine: Machine) -> float | None:
    return machine.usd_per_hour if machine.billed_usd_per_hour is None else machine.billed_usd_per_hour


def machine_hours(machine: Machine, now_s: float) -> float:
    """Return the hours for which a machine has been up."""
    until_s = now_s if machine.down_s is None else machine.down_s
    return max(0.0, until_s - machine.up_s) / 3600


def _sum(values: Iterable[float | None]) -> float | None:
    """Return the sum, or None if one of the values is unknown or there is none."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if found and len(known) == len(found) else None


Span = tuple[str, str, float, float]
"""Trial, host, start and end in seconds of an attempt."""


def _spans(records: Sequence[TrialRecord], since_s: float, now_s: float) -> tuple[list[Span], float]:
    """Return when trials ran since a moment, and how many hours of that belong to attempts that were lost."""
    spans, lost_s = [], 0.0
    for record in records:
        for attempt, usage in zip(record.attempts, attempt_usage(record), strict=True):
            start_s = attempt.start.started_s
            if start_s < since_s:
                continue
            end_s = max(start_s, min(start_s + usage.duration_s, now_s))
            spans.append((record.trial_id, attempt.start.host or "", start_s, end_s))
            if _is_lost(record, attempt):
                lost_s += usage.duration_s
    return spans, lost_s / 3600


def _is_lost(record: TrialRecord, attempt: Attempt) -> bool:
    """Return whether an attempt has no end although a later one began."""
    return attempt.end is None and attempt is not record.attempts[-1]


def _by_host(spans: Sequence[Span]) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for _, host, start_s, end_s in spans:
        found.setdefault(host, []).append((start_s, end_s))
    return found


def _union_hours(spans: Iterable[tuple[float, float]]) -> float:
    """Return the hours that are covered by at least one span."""
    total_s, reached_s = 0.0, float("-inf")
    for start_s, end_s in sorted(spans):
        total_s += max(0.0, end_s - max(start_s, reached_s))
        reached_s = max(reached_s, end_s)
    return total_s / 3600
