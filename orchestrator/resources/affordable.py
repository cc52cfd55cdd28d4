"""Say which part of a sweep a sum of money pays for, and on which GPU or machine of which provider.

The sum buys whole seeds of all cells if it can, else as many cells as it can with one seed, or all cells with fewer
steps. Only trials are counted: machines also bill while they are set up and while no trial runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from orchestrator.resources.catalogue import HostPrice
from orchestrator.resources.devices import Device
from orchestrator.resources.estimate import Estimate
from orchestrator.resources.pricing import Pricing
from trm_data.settings import Settings


class Affordable(Settings):
    """Hold what a sum pays for on one type of GPU, or of machine without GPUs, at one price."""

    device: str
    source: str
    """Whose price, and of which day."""
    usd_per_hour: float
    """Of a GPU, or of a machine without GPUs."""
    num_cells: int
    """Cells that are covered."""
    seeds: int
    """Seeds of each covered cell; 1 for the trials of a search."""
    steps_share: float
    """Share of the steps that all cells could make with one seed; 1 where the sum is sufficient for all of them."""
    num_trials: int
    usd: float
    """Predicted price of these trials."""
    is_whole: bool
    """Whether that is the whole sweep."""


class _Offer(NamedTuple):
    """Describe what an hour costs on a device."""

    name: str
    usd_per_hour: float
    trial_usd_per_hour: float
    """Of the share of it that one trial occupies."""
    source: str


def affordable(
    plan: Estimate,
    max_usd: float,
    pricings: Sequence[Pricing],
    hosts: Sequence[HostPrice] = (),
    cpus: float = 1.0,
) -> list[Affordable]:
    """Return what a sum pays for on every device with a known price and speed: the most trials first, then the
    cheapest.

    Args:
        pricings: the prices of GPUs to compare.
        hosts: machines without GPUs, on which a trial is taken to be as fast as on this machine.
        cpus: cores of a trial there.
    """
    found = []
    for device in plan.devices:
        offers = _gpu_offers(device, pricings) if device.kind == "cuda" else _host_offers(hosts, cpus)
        found += [_on(plan, device, max_usd, offer) for offer in offers if device.speed]
    return sorted(found, key=lambda one: (-one.num_trials, -one.steps_share, one.usd))


def _gpu_offers(device: Device, pricings: Sequence[Pricing]) -> Iterator[_Offer]:
    for pricing in pricings:
        price = pricing.usd(device.name)
        if price is not None:
            yield _Offer(device.name, price, price * device.gpus, pricing.source(device.name))


def _host_offers(hosts: Sequence[HostPrice], cpus: float) -> Iterator[_Offer]:
    first: dict[tuple[str, str], HostPrice] = {}
    for host in hosts:  # the user's own prices come first
        first.setdefault((host.provider, host.instance), host)
    for host in first.values():
        at_once = int(host.num_vcpus / max(cpus, 1.0))
        if at_once:
            name = f"{host.instance} ({host.num_vcpus:g} vCPUs)"
            yield _Offer(name, host.usd_per_hour, host.usd_per_hour / at_once, f"{host.provider}, {host.date}")


def _on(plan: Estimate, device: Device, max_usd: float, offer: _Offer) -> Affordable:
    if plan.kind == "search":
        return _of_search(plan, device, max_usd, offer)
    cells = [cell for cell in plan.cells if device.name not in cell.does_not_fit]
    costs = [cell.seconds[device.name] / 3600 * offer.trial_usd_per_hour for cell in cells]
    scale = plan.num_cells / max(1, len(plan.cells))  # where the cells are a sample
    one_seed = sum(costs) * scale
    seeds_planned = max(1, round(plan.num_trials / max(1, plan.num_cells)))
    seeds = seeds_planned if not one_seed else min(seeds_planned, int(max_usd / one_seed))
    num_fitting = round(len(cells) * scale)
    if seeds:
        num_trials = min(plan.num_trials, num_fitting * seeds)
        num_cells, usd, share = num_fitting, one_seed * seeds, 1.0
    else:
        num_cells, usd = _first_cells(costs, scale, max_usd)
        num_trials, share = num_cells, max_usd / one_seed
    return Affordable(
        device=offer.name,
        source=offer.source,
        usd_per_hour=offer.usd_per_hour,
        num_cells=num_cells,
        seeds=max(1, seeds),
        steps_share=share,
        num_trials=num_trials,
        usd=usd,
        is_whole=seeds == seeds_planned and num_fitting == plan.num_cells,
    )


def _of_search(plan: Estimate, device: Device, max_usd: float, offer: _Offer) -> Affordable:
    """Count the trials of a search at their mean price: which cells it will try is not known."""
    hours = next((cost.device_hours for cost in plan.costs if cost.device == device.name), None) or 0.0
    whole = hours * offer.trial_usd_per_hour
    is_whole = whole <= max_usd
    count = plan.num_trials if is_whole else int(plan.num_trials * max_usd / whole)
    return Affordable(
        device=offer.name,
        source=offer.source,
        usd_per_hour=offer.usd_per_hour,
        num_cells=count,
        seeds=1,
        steps_share=1.0 if is_whole else max_usd / whole,
        num_trials=count,
        usd=whole * count / plan.num_trials,
        is_whole=is_whole,
    )


def _first_cells(costs: Sequence[float], scale: float, max_usd: float) -> tuple[int, float]:
    """Return how many cells, in the order of the sweep, a sum pays for with one seed, and their price."""
    if scale > 1:
        mean = sum(costs) / len(costs)
        count = int(max_usd / mean)
        return count, count * mean
    count, usd = 0, 0.0
    for cost in costs:
        if usd + cost > max_usd:
            break
        count, usd = count + 1, usd + cost
    return count, usd
