"""Compute the bill before anything starts: machines, hours and dollars from low to high, and what is not known.

Machines are billed from their start to their end, so a quote adds to the time of the trials what the set-up takes and,
in its high end, the idle time after which the timer ends them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.cloud.backend import Limits, Offer
from orchestrator.records.index import find_definition
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status
from orchestrator.resources.devices import CLUSTER
from orchestrator.resources.estimate import Estimate, estimate
from orchestrator.resources.gpu_choice import decide_gpus
from orchestrator.resources.nodes import Node
from orchestrator.storage import Storage
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.text import num_bytes
from trm_data.settings import Settings

SETUP_HOURS = (0.05, 0.25)
"""From the start of a machine to the start of the driver: an environment that is there, or one that is installed."""
ASSUMED_CPUS = 8.0
"""Cores of a machine of which the catalogue does not say how many it has."""


class Quote(Settings):
    """Hold what a deployment would do and cost."""

    name: str
    backend: str
    offers: tuple[Offer, ...]
    num_trials: int
    num_finished: int = 0
    """Trials of an earlier run that are not repeated; time and dollars are those of the rest."""
    slots: dict[str, int]
    """Trials at once, by device."""
    hours: tuple[float, float] | None
    """Hours for which the machines would be up; None where the time is unknown."""
    usd_per_hour: float | None
    """Of all machines together; None if one has no known price."""
    usd: tuple[float, float] | None
    misfits: tuple[str, ...]
    """What fits on none of the machines."""
    uploads: str = ""
    """Which files are copied to the machines."""
    unknown: tuple[str, ...]
    """What the figures leave out or assume, one sentence each."""
    limits: Limits
    has_timer: bool = True
    """Whether a timer on the head counts machine hours and enforces the limits."""


def quote(sweep: Sweep, backend: str, offers: Sequence[Offer], storage: Storage, limits: Limits) -> Quote:
    """Estimate a sweep on the offered machines and price it.

    Raises:
        SweepError: the sweep cannot be expanded.
    """
    nodes = [node for offer in offers for node in _nodes(offer)]
    has_gpus = any(offer.num_gpus for offer in offers)
    plan = estimate(decide_gpus(sweep, 1.0 if has_gpus else 0.0), storage, None, nodes, has_gpus or None)
    hours = None
    finished = _num_finished(sweep.name, storage)
    if plan.wall_range_s is not None:
        left = max(0, plan.num_trials - finished) / max(1, plan.num_trials)
        low, high = (left * seconds for seconds in plan.wall_range_s)
        hours = (low / 3600 + SETUP_HOURS[0], high / 3600 + SETUP_HOURS[1] + limits.idle_minutes / 60)
    known = [offer.usd_per_hour * offer.count for offer in offers if offer.usd_per_hour is not None]
    usd_per_hour = sum(known) if offers and len(known) == len(offers) else None
    usd = None if hours is None or usd_per_hour is None else (hours[0] * usd_per_hour, hours[1] * usd_per_hour)
    return Quote(
        name=sweep.name,
        backend=backend,
        offers=tuple(offers),
        num_trials=plan.num_trials,
        num_finished=min(finished, plan.num_trials),
        slots=plan.slots,
        hours=hours,
        usd_per_hour=usd_per_hour,
        usd=usd,
        misfits=tuple(_misfits(plan)),
        unknown=(*_unknown(plan, offers), *_over_budget(usd, limits)),
        limits=limits,
    )


def _num_finished(name: str, storage: Storage) -> int:
    """Return how many trials of a sweep have finished already."""
    if find_definition(storage, name) is None:
        return 0
    return sum(record.status in (Status.FINISHED, Status.STOPPED) for record in read_trials(storage, name))


def _over_budget(usd: tuple[float, float] | None, limits: Limits) -> list[str]:
    """Say whether the budget may end the sweep before it is complete."""
    if usd is None or limits.max_usd is None or usd[1] <= limits.max_usd:
        return []
    how = "ends" if usd[0] > limits.max_usd else "may end"
    return [
        f"the budget {how} it before it is complete; `trm sweep plan FILE --max-usd {limits.max_usd:g}` says what fits"
    ]


def _nodes(offer: Offer) -> list[Node]:
    gpus = float(offer.num_gpus)
    cpus = offer.num_cpus or ASSUMED_CPUS * max(1, offer.num_gpus)
    return [Node("", offer.machine, False, cpus, gpus, offer.gpu, offer.market) for _ in range(offer.count)]


def _misfits(plan: Estimate) -> list[str]:
    """Describe the cells that fit on no device with slots."""
    devices = {device.name: device for device in plan.devices}
    found = []
    for cell in plan.cells:
        names = [name for name in plan.slots or devices if name in cell.does_not_fit]
        if names and len(names) == len(plan.slots or devices):
            room = ", ".join(f"{name} has {num_bytes(devices[name].memory_bytes or 0)}" for name in names)
            needs = max(cell.memory_by_device.get(name, cell.memory_bytes) for name in names)
            found.append(f"{cell.family} needs {num_bytes(needs)} of memory; {room}")
    if not plan.slots:
        found.append("no trial fits on these machines: too few cores, or other GPUs than the sweep asks for")
    return found


def _unknown(plan: Estimate, offers: Sequence[Offer]) -> list[str]:
    found = [
        f"price of {offer.machine}: unknown (--usd-per-hour, --usd-per-gpu-hour, or --provider)"
        for offer in offers
        if offer.usd_per_hour is None
    ]
    if any(offer.usd_per_hour is None and not offer.num_gpus for offer in offers):
        found.append("a machine without a GPU is priced by --usd-per-hour, not by --usd-per-gpu-hour")
    if plan.slots and plan.wall_s is None:
        found.append("time: unknown before the first trial on these devices")
    if CLUSTER in plan.slots:
        found.append("time on CPUs: estimated as on this machine")
    elif any(offer.num_cpus is None for offer in offers):
        found.append(f"CPU cores: unknown, {ASSUMED_CPUS:g} for each GPU assumed")
    if any(not math.isclose(spread, 0) and spread > 1 for spread in [plan.wall_spread]):
        found.append(f"time: known within a factor of {1 + plan.wall_spread:.0f}")
    found.append("not included: disks, traffic, storage, taxes")
    return found
