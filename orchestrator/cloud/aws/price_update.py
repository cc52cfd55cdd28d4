"""Read AWS's own prices of the catalogue's machines and write them to the user's file; the package stays as it is.

On-demand prices come from the Price List API, spot prices from the spot price history: the median of the zones, because
a launch cannot count on the cheapest one. The environment names other servers than AWS (`AWS_ENDPOINT_URL_PRICING`).
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.resources.aws.clients import client, new_session
from orchestrator.resources.aws.errors import AwsError, asked
from orchestrator.resources.catalogue import HostPrice, Market, Price, host_prices, own_folder, prices
from trm_data.files import write_atomic

PRICING_REGION = "us-east-1"
"""The Price List API answers for all regions from a few of them."""


class Update(NamedTuple):
    """Report what was read and where it was written."""

    prices: tuple[Price, ...]
    hosts: tuple[HostPrice, ...]
    not_offered: tuple[str, ...]
    """Machines for which a region has no price."""
    path: Path


def update_prices(regions: Sequence[str], now: datetime | None = None) -> Update:
    """Read the prices of all AWS machines of the catalogue in these regions and write them to the user's files.

    Raises:
        AwsError: refused, no credentials, no network, no such region; or AWS has none of the machines there.
    """
    at = now or datetime.now(UTC)
    known = {price.instance: price for price in prices() if price.provider == "aws"}
    hosts = {host.instance: host for host in host_prices() if host.provider == "aws"}
    session = new_session()
    pricing = client("pricing", PRICING_REGION, session)
    found: list[Price] = []
    found_hosts: list[HostPrice] = []
    missing = []
    for region in regions:
        for instance, price in known.items():
            usd = _on_demand(pricing, instance, region)
            if usd is None:
                missing.append(f"{instance} in {region}")
                continue
            found.append(_dated(price, "on-demand", region, usd, "AWS Price List API", at))
        for instance, host in hosts.items():
            usd = _on_demand(pricing, instance, region)
            if usd is not None:
                changed = {"region": region, "usd_per_hour": usd, "source": "AWS Price List API", **_day(at)}
                found_hosts.append(host.model_copy(update=changed))
        for instance, usd, zones in _spot(client("ec2", region, session), list(known), at):
            source = f"AWS spot price history, median of {zones} zones"
            found.append(_dated(known[instance], "spot", region, usd, source, at))
    if not found:
        raise AwsError(f"AWS has no price for any machine in {', '.join(regions)}", "Check the region")
    folder = own_folder()
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "prices.csv", Price, found, ("provider", "instance", "market", "region"))
    _write(folder / "hosts.csv", HostPrice, found_hosts, ("provider", "instance", "region"))
    prices.cache_clear()
    host_prices.cache_clear()
    return Update(tuple(found), tuple(found_hosts), tuple(missing), folder / "prices.csv")


def _on_demand(pricing: Any, instance: str, region: str) -> float | None:
    """Return the hourly price for Linux on shared hardware, without software; None if there is none."""
    terms = {
        "instanceType": instance,
        "regionCode": region,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
    }
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in terms.items()]
    answer = asked(
        lambda: pricing.get_products(ServiceCode="AmazonEC2", Filters=filters, MaxResults=100),
        f"ask for the price of {instance} in {region}",
    )
    rates = [rate for product in answer["PriceList"] for rate in _rates(product)]
    return min(rates) if rates else None


def _rates(product: str | dict[str, Any]) -> Iterator[float]:
    parsed = json.loads(product) if isinstance(product, str) else product
    for offer in parsed.get("terms", {}).get("OnDemand", {}).values():
        for dimension in offer["priceDimensions"].values():
            usd = float(dimension["pricePerUnit"].get("USD", 0.0))
            if dimension.get("unit") == "Hrs" and usd > 0:
                yield usd


def _spot(ec2: Any, instances: Sequence[str], at: datetime) -> Iterator[tuple[str, float, int]]:
    """Yield each machine with the median of its newest prices in the zones, and the number of zones."""
    pages = ec2.get_paginator("describe_spot_price_history").paginate(
        InstanceTypes=list(instances), ProductDescriptions=["Linux/UNIX"], StartTime=at
    )
    newest: dict[tuple[str, str], tuple[datetime, float]] = {}
    for page in asked(lambda: list(pages), f"ask for spot prices in {ec2.meta.region_name}"):
        for entry in page["SpotPriceHistory"]:
            key = (str(entry["InstanceType"]), str(entry["AvailabilityZone"]))
            if key not in newest or entry["Timestamp"] > newest[key][0]:
                newest[key] = (entry["Timestamp"], float(entry["SpotPrice"]))
    for instance in instances:
        zones = [usd for (name, _), (_, usd) in newest.items() if name == instance]
        if zones:
            yield instance, statistics.median(zones), len(zones)


def _dated(price: Price, market: Market, region: str, usd: float, source: str, at: datetime) -> Price:
    changed = {"market": market, "region": region, "usd_per_hour": usd, "source": source, **_day(at)}
    return price.model_copy(update=changed)


def _day(at: datetime) -> dict[str, str]:
    return {"date": at.date().isoformat(), "quality": "verified"}


def _write(path: Path, kind: type[Price] | type[HostPrice], rows: Sequence[Any], key: Sequence[str]) -> None:
    """Write rows over those of the same machines in the file; others stay."""
    kept: list[Any] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            parsed = (
                kind.parse({name: text for name, text in row.items() if text}, str(path))
                for row in csv.DictReader(file)
            )
            replaced = {tuple(getattr(row, name) for name in key) for row in rows}
            kept = [row for row in parsed if tuple(getattr(row, name) for name in key) not in replaced]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(kind.model_fields), lineterminator="\n")
    writer.writeheader()
    for row in [*kept, *rows]:
        writer.writerow({name: "" if value is None else value for name, value in row.plain().items()})
    write_atomic(path, text.getvalue().encode())
