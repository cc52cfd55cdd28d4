"""`trm ablate`: compare the confirmed runs of one sweep with a control."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import OUTPUT_FILE, StorageOption, SweepArgument


def ablate(
    sweep: SweepArgument,
    control: Annotated[str, typer.Option("--control", help="Family that the others are compared with.")],
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write the page with the forest plot here.", **OUTPUT_FILE)
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of a table.")] = False,
    storage: StorageOption = "runs",
) -> None:
    """Compare every configuration of a sweep with one of them: effect, interval, adjusted p, and a verdict in words.

    Example: trm ablate depth --control "T=1 n=2"
    """
    from orchestrator.cli.views.console import line, out
    from orchestrator.records.index import load_definition
    from orchestrator.records.reader import read_trials
    from orchestrator.results.ablation import compare_with_control
    from orchestrator.results.baselines import load_baselines
    from orchestrator.results.report import Report
    from orchestrator.results.report.formats import ablation_to_markdown, ablation_to_rich
    from orchestrator.results.report.gallery import stored_galleries
    from orchestrator.storage import open_storage

    store = open_storage(storage)
    load_definition(store, sweep)
    records = read_trials(store, sweep)
    found = compare_with_control(records, control, baselines=load_baselines())
    if markdown:
        print(ablation_to_markdown(found))
    else:
        out.print(ablation_to_rich(found))
        for effect in found.effects:
            out.print(f"{effect.name}: {effect.verdict}")
    if html is not None:
        gallery = stored_galleries(store)
        Report(records=records, now=datetime.now(UTC), control=control, gallery=gallery).write(html)
        out.print(line("page: ", (str(html), "bold")), soft_wrap=True)
