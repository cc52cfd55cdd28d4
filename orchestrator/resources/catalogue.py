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
import os
import re
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from trm_data.errors import UserError, nearest
from trm_data.settings import Settings

Market = Literal["on-demand", "spot", "capacity-block"]


class CatalogueError(UserError):
    """Raised for a GPU, an instance or a price that the catalogue does not have."""


class Gpu(Settings):
    """Describe one type of GPU. Rates are the maker's dense peaks; a fact without a source is None."""

    name: str
    ray_type: str
    """Ray's label `ray.io/accelerator-type`."""
    aliases: str = ""
    """Other names, separated by `|`."""
    memory_bytes: int = Field(gt=0)
    bandwidth_gb_per_s: float | None = Field(None, gt=0)
    bf16_tflops: float | None = Field(None, gt=0)
    """With sums in float32; None where the GPU has no bfloat16 units: torch emulates it then."""
    fp16_tflops: float | None = Field(None, gt=0)
    fp32_tflops: float | None = Field(None, gt=0)
    tf32_tflops: float | None = Field(None, gt=0)
    power_w: float | None = Field(None, gt=0)
    source: str
    date: str = Field(pattern=r"^\d{4}(-\d\d){0,2}$")
    verified: Literal["yes", "partly"]

    @property
    def peak_flops(self) -> float | None:
        """Return the FLOP/s that a plan takes for the peak: bfloat16, else float32, whose units emulate it."""
        tflops = self.bf16_tflops or self.fp32_tflops
        return None if tflops is None else tflops * 1e12


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


class HostPrice(Settings):
    """Hold the on-demand price of a machine without GPUs, such as a cluster's head."""

    provider: str
    instance: str
    num_vcpus: int
    memory_gib: float
    region: str = ""
    usd_per_hour: float = Field(gt=0)
    source: str
    date: str = Field(pattern=r"^\d{4}(-\d\d){0,2}$")
    quality: Literal["verified", "anecdotal", "old"]


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
    """Return every price of the catalogue; a price in the user's own file replaces that of the same machine."""
    own = _load_own("prices.csv", Price)
    replaced = {(price.provider, price.instance, price.market, price.region) for price in own}
    shipped = _load("prices.csv", Price)
    return (
        *(each for each in shipped if (each.provider, each.instance, each.market, each.region) not in replaced),
        *own,
    )


@functools.cache
def host_prices() -> tuple[HostPrice, ...]:
    """Return the prices of machines without GPUs; the user's own come first."""
    return (*_load_own("hosts.csv", HostPrice), *_load("hosts.csv", HostPrice))


def own_folder() -> Path:
    """Return the folder of the user's own prices, which `trm cloud prices --update` writes."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "trm"


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


def ray_label(name: str) -> str:
    """Return Ray's label `ray.io/accelerator-type` for a GPU: from the catalogue, else as Ray derives it.

    A driver's name (`NVIDIA RTX A4000`) becomes the label that Ray 2.60 gives such a node (`RTX-A4000`). A name without
    spaces is taken for a label, except that `RTX3060` is short for `NVIDIA GeForce RTX 3060`.
    """
    try:
        return gpu(name).ray_type
    except CatalogueError:
        pass
    if short := _GEFORCE.fullmatch(name.strip()):
        return "-".join(["GeForce", short["kind"].upper(), short["number"], *short["more"].split()])
    if " " not in name.strip():
        return name.strip()
    found = _DRIVER_NAME.match(name.strip())
    return (found[1] if found else re.sub(r"^NVIDIA\s+", "", name.strip())).replace(" ", "-")


_GEFORCE = re.compile(
    r"(?:NVIDIA )?(?:GeForce )?(?P<kind>RTX|GTX)[ -]?(?P<number>[1-5]0[5-9]0) ?(?P<more>(?:Ti|SUPER|Ti SUPER)?)",
    re.IGNORECASE,
)
_DRIVER_NAME = re.compile(r"\w+\s+((?:[A-Z]+\s+)*[A-Z0-9]*\d[A-Z0-9]*)")
"""The model in a driver's name: capitals up to the first word with a digit, as Ray reads it."""


def near_miss(name: str) -> str:
    """Return Ray's type of the GPU of which an unknown name looks like a misspelling; empty if there is none."""
    if _folded(name) in _by_name():
        return ""

    def is_other_number(other: str) -> bool:  # another number is another GPU: RTX4080 is not a misspelling of RTX4090
        mine, theirs = (re.sub(r"\D", "", text) for text in (name, other))
        return mine != theirs and len(mine) == len(theirs)

    known = [other for other in _by_name() if not is_other_number(other)]
    close = difflib.get_close_matches(_folded(name), known, n=1, cutoff=0.8)  # L40 and L40S, not A100 and H100
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
    names = [(name, known) for known in gpus() for name in (known.name, *known.aliases.split("|")) if name]
    # A label stands for the first GPU that has it: `A100` for the one with 40 GB.
    labels = {_folded(known.ray_type): known for known in reversed(gpus())}
    return labels | {_folded(name): known for name, known in names}


Row = TypeVar("Row", bound=Settings)


def _load(name: str, kind: type[Row]) -> tuple[Row, ...]:
    return _read(_folder() / name, kind, name)


def _load_own(name: str, kind: type[Row]) -> tuple[Row, ...]:
    path = own_folder() / name
    return _read(path, kind, str(path)) if path.is_file() else ()


def _read(path: Path, kind: type[Row], where: str) -> tuple[Row, ...]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        kind.parse({key: value for key, value in row.items() if value != ""}, f"{where} line {number}")
        for number, row in enumerate(rows, start=2)
    )


def _folder() -> Path:
    """Return the folder of the catalogue in the wheel, or in the repository."""
    packed = Path(__file__).parents[1] / "_catalogue"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "infra" / "catalogue"
