"""Show what is billed and what machines cost. An unknown price is `unknown`, never 0."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.cli.views.console import out, table
from orchestrator.cloud.aws.orphans import Orphan
from orchestrator.resources.catalogue import Price
from orchestrator.sweep.text import about, plural


def show_orphans(found: Sequence[Orphan], where: str = "") -> None:
    """Print a table of what is billed, the cost of an hour, and the commands that end it."""
    if not found:
        out.print(f"{where}nothing with the tag trm-cluster is billed")
        return
    rows = table("kind", "name", "region", "cluster", "what", "age", "USD/h", right=("USD/h",), words=("name",))
    for each in found:
        age = "unknown" if each.age_s is None else about(each.age_s)
        usd = "unknown" if each.usd_per_hour is None else f"{each.usd_per_hour:.2f}"
        rows.add_row(each.kind, each.name, each.region, each.cluster, each.what, age, usd)
    out.print(rows)
    known = [each.usd_per_hour for each in found if each.usd_per_hour is not None]
    unknown = len(found) - len(known)
    more = f", and {plural(unknown, 'resource')} of unknown price" if unknown else ""
    out.print(f"{plural(len(found), 'resource')}: {sum(known):.2f} USD/h{more}. These commands end them:")
    for each in found:
        out.print(f"  {each.command}", soft_wrap=True)


def show_prices(found: Sequence[Price]) -> None:
    """Print a table of prices; their sources are in the JSON."""
    rows = table(
        *("provider", "machine", "GPUs", "market", "region", "USD/h", "USD/GPU h", "date", "quality"),
        right=("USD/h", "USD/GPU h"),
        drop=("quality", "region"),
    )
    for price in found:
        rows.add_row(
            price.provider,
            price.instance,
            f"{price.num_gpus} {price.gpu}",
            price.market,
            price.region or "-",
            f"{price.usd_per_hour:.2f}",
            f"{price.usd_per_gpu_hour:.2f}",
            price.date,
            price.quality,
        )
    out.print(rows)
