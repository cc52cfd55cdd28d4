"""Read the catalogue of GPUs and their prices in `infra/catalogue/`, each entry with its source and date.

    gpu("H100").bf16_tflops                # 989.0
    usd_per_gpu_hour("L40S", "spot")       # 0.65

Rates are dense peaks and prices are list prices: a plan starts from them, measured trials correct it. A name may be
the catalogue's own, Ray's accelerator type (`H100` means the SXM card, the one in AWS P5) or what the driver reports.
"""

from __future__ import annotations

import csv
import difflib
import functools
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from trm_data.errors import UserError, nearest
from trm_data.settings import Settings

Market = Literal["on-demand", "spot", "capacity-block"]


class CatalogueError(UserError):
    """Raised for a GPU, an instance or a price that the catalogue does not have."""


class Gpu(Settings):
    """Describe one type of GPU. Rates are the maker's dense peaks."""

    name: str
    ray_type: str
    """Ray's label `ray.io/accelerator-type`."""
    aliases: str = ""
    """Other names, separated by `|`."""
    memory_bytes: int = Field(gt=0)
    bandwidth_gb_per_s: float = Field(gt=0)
    bf16_tflops: float = Field(gt=0)
    power_w: float = Field(gt=0)
    source: str
    date: str = Field(pattern=r"^\d{4}(-\d\d){0,2}$")
    verified: Literal["yes", "partly"]


class Price(Settings):
    """Hold the price of one kind of machine on a day, in one market."""

    provider: str
    instance: str
    gpu: str
    num_gpus: int = Field(gt=0)
    num_vcpus: int | None = None
    memory_gib: float | None = None
    market: Market
    region: str = ""
    usd_per_hour: float = Field(gt=0)
    """Price of the whole machine."""
    source: str
    date: str = Field(pattern=r"^\d{4}(-\d\d){0,2}$")
    quality: Literal["verified", "anecdotal", "old"]

    @property
    def usd_per_gpu_hour(self) -> float:
        """Return the price of the machine divided by its number of GPUs, in USD."""
        return self.usd_per_hour / self.num_gpus


class Quota(Settings):
    """Describe a limit of an AWS account, in vCPUs, for one instance family (`g`, `p`) and market."""

    family: str
    market: Literal["on-demand", "spot"]
    code: str
    name: str


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """Return every GPU of the catalogue."""
    return _load("gpus.csv", Gpu)


@functools.cache
def prices() -> tuple[Price, ...]:
    """Return every price of the catalogue."""
    return _load("prices.csv", Price)


@functools.cache
def quotas() -> tuple[Quota, ...]:
    """Return the AWS quotas that bound the number of GPU instances."""
    return _load("quotas.csv", Quota)


def gpu(name: str) -> Gpu:
    """Return a GPU by the catalogue's name, Ray's accelerator type or the driver's name.

    Raises:
        CatalogueError: unknown; names the nearest one.
    """
    found = _by_name().get(_folded(name))
    if found is None:
        raise CatalogueError(f"unknown GPU {name!r}", nearest(name, [known.name for known in gpus()]))
    return found


def near_miss(name: str) -> str:
    """Return Ray's type of the GPU of which an unknown name looks like a misspelling; empty if there is none."""
    if _folded(name) in _by_name():
        return ""
    close = difflib.get_close_matches(
        _folded(name), _by_name(), n=1, cutoff=0.8
    )  # L40 and L40S are close, A100 and H100 are not
    return _by_name()[close[0]].ray_type if close else ""


def prices_for(name: str, market: Market | None = None, provider: str | None = None) -> list[Price]:
    """Return prices of machines with this GPU, the cheapest per GPU first; outdated ones are left out.

    Raises:
        CatalogueError: unknown GPU.
    """
    wanted = gpu(name).name
    found = [
        price
        for price in prices()
        if price.gpu == wanted
        and price.quality != "old"
        and market in (None, price.market)
        and provider in (None, price.provider)
    ]
    return sorted(found, key=lambda price: (price.usd_per_gpu_hour, price.num_gpus))


def instances_for(name: str) -> list[Price]:
    """Return the AWS instances with this GPU at their on-demand price, the cheapest per GPU first."""
    return prices_for(name, "on-demand", "aws")


def usd_per_gpu_hour(name: str, market: Market = "on-demand", provider: str = "aws") -> float:
    """Return the lowest known price of one such GPU for an hour, in USD.

    Raises:
        CatalogueError: unknown GPU, or no price in this market.
    """
    found = prices_for(name, market, provider)
    if not found:
        offers = sorted({f"{price.provider} {price.market}" for price in prices_for(name)})
        raise CatalogueError(f"no {market} price for {name} at {provider}", f"Known: {', '.join(offers) or 'none'}")
    return found[0].usd_per_gpu_hour


def _folded(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


@functools.cache
def _by_name() -> dict[str, Gpu]:
    return {_folded(name): known for known in gpus() for name in (known.name, *known.aliases.split("|")) if name}


Row = TypeVar("Row", bound=Settings)


def _load(name: str, kind: type[Row]) -> tuple[Row, ...]:
    with (_folder() / name).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        kind.parse({key: value for key, value in row.items() if value != ""}, f"{name} line {number}")
        for number, row in enumerate(rows, start=2)
    )


def _folder() -> Path:
    """Return the folder of the catalogue in the wheel, or in the repository."""
    packed = Path(__file__).parents[1] / "_catalogue"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "infra" / "catalogue"
