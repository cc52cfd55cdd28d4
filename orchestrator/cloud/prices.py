"""Price machines: by what the user pays, else by the catalogue, with its source and date, else not at all.

price_machine("H100", 1, Options(provider="lambda"))     # 4.29 USD/h, lambda, 2026-09-25
"""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.cloud.backend import CloudError, Offer, Options
from orchestrator.resources import catalogue
from orchestrator.resources.catalogue import CatalogueError, Market, Price
from orchestrator.resources.pricing import providers
from trm_data.errors import nearest

YOURS = "your price"


class MachinePrice(NamedTuple):
    """Hold the price of one machine; None and empty texts where it is unknown."""

    usd_per_hour: float | None = None
    spot_usd_per_hour: float | None = None
    provider: str = ""
    source: str = ""
    date: str = ""


def price_machine(gpu: str | None, num_gpus: int, options: Options) -> MachinePrice:
    """Return the price of a machine with so many GPUs of a type.

    Without a price of the user, the catalogue answers if a provider is named: the same GPU costs three times as much
    at one provider as at another, so that a price without a provider would be a guess.

    Raises:
        CloudError: there is no such provider in the catalogue.
    """
    if options.usd_per_hour is not None:
        return MachinePrice(options.usd_per_hour, None, options.provider or "", YOURS)
    if options.usd_per_gpu_hour is not None and num_gpus:
        return MachinePrice(options.usd_per_gpu_hour * num_gpus, None, options.provider or "", YOURS)
    if options.provider is None or gpu is None:
        return MachinePrice(provider=options.provider or "")
    require_provider(options.provider)
    wanted = cheapest(gpu, options.market, options.provider)
    spot = cheapest(gpu, "spot", options.provider)
    return MachinePrice(
        None if wanted is None else wanted.usd_per_gpu_hour * num_gpus,
        None if spot is None else spot.usd_per_gpu_hour * num_gpus,
        options.provider,
        "" if wanted is None else wanted.source,
        "" if wanted is None else wanted.date,
    )


def cheapest(gpu: str, market: Market, provider: str | None = None) -> Price | None:
    """Return the lowest price per GPU of the catalogue; None if it has none, or does not know the GPU."""
    try:
        found = catalogue.prices_for(gpu, market, provider)
    except CatalogueError:
        return None
    return found[0] if found else None


def require_provider(name: str) -> None:
    """Raise CloudError for a provider that the catalogue does not have."""
    if name not in providers():
        raise CloudError(f"no prices of provider {name!r}", nearest(name, providers()))


def cheapest_machine(gpu: str, least_gpus: float, market: Market, provider: str | None = None) -> Price | None:
    """Return the machine with enough GPUs that costs least an hour; None if the catalogue has none."""
    try:
        found = [each for each in catalogue.prices_for(gpu, market, provider) if each.num_gpus >= least_gpus]
    except CatalogueError:
        return None
    return min(found, key=lambda each: each.usd_per_hour, default=None)


def catalogue_offers(gpus: list[str], options: Options, least_gpus: float = 1.0) -> list[Offer]:
    """Return the cheapest machine of each GPU type, of one provider or of all; the cheapest first.

    Args:
        least_gpus: that a machine must have.

    Raises:
        CloudError: unknown provider, or it has none of these GPUs.
    """
    if options.provider is not None:
        require_provider(options.provider)
    wanted = (cheapest_machine(gpu, least_gpus, options.market, options.provider) for gpu in gpus)
    found = [price for price in wanted if price is not None]
    if not found:
        where = f" of {options.provider}" if options.provider else ""
        raise CloudError(
            f"the catalogue has no {options.market} price{where} for {' or '.join(gpus)}",
            f"Name another provider ({', '.join(providers())}), or the price: --usd-per-gpu-hour",
        )
    offers = [_offer(price, options) for price in found]
    return sorted(offers, key=lambda offer: offer.usd_per_hour or 0.0)


def _offer(price: Price, options: Options) -> Offer:
    spot = cheapest(price.gpu, "spot", price.provider)
    own = options.usd_per_gpu_hour
    return Offer(
        machine=price.instance,
        provider=price.provider,
        region=price.region,
        gpu=catalogue.gpu(price.gpu).ray_type,
        num_gpus=price.num_gpus,
        num_cpus=price.num_vcpus,
        market=price.market,
        usd_per_hour=price.usd_per_hour if own is None else own * price.num_gpus,
        spot_usd_per_hour=None if spot is None else spot.usd_per_gpu_hour * price.num_gpus,
        price_source=price.source if own is None else YOURS,
        price_date=price.date if own is None else "",
    )
