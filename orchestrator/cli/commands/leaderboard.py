"""`trm leaderboard`: rank your confirmed results with published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import OUTPUT_FILE, BaselinesOption, JsonOption, StorageOption


def leaderboard(
    benchmark: Annotated[
        str | None, typer.Argument(help="One benchmark; all with own results if left out.", show_default=False)
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="table, markdown, csv, json or latex.")] = "table",
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write the page here; leaderboard.html in the storage if left out.", **OUTPUT_FILE),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Only the tables of this split.")] = None,
    sweep: Annotated[
        list[str] | None, typer.Option("--sweep", help="Only the trials of this sweep; may be repeated.")
    ] = None,
    gco2_per_kwh: Annotated[
        float | None,
        typer.Option("--gco2-per-kwh", min=0, help="CO2 of your electricity; the world average if left out."),
    ] = None,
    baselines: BaselinesOption = None,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Show your confirmed results next to published HRM, TRM and LLM results, one table per benchmark and split.

    Examples:

    trm leaderboard

    trm leaderboard arc-agi-1 --format markdown

    trm leaderboard --sweep demo --html demo.html
    """
    from orchestrator.cli.views.leaderboard import show

    show(benchmark, "json" if as_json else format_, html, storage, split, baselines, gco2_per_kwh, sweep or ())
