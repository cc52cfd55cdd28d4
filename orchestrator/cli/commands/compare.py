"""`trm ablate`: compare the confirmed runs of one sweep with a control."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import OUTPUT_FILE, JsonOption, StorageOption, SweepArgument

if TYPE_CHECKING:
    from orchestrator.records.schema import TrialRecord
    from orchestrator.storage import Storage
    from trm_data.errors import UserError


def ablate(
    sweep: SweepArgument,
    control: Annotated[
        str | None,
        typer.Option("--control", help="Family that the others are compared with (required).", show_default=False),
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="table, markdown, csv, json or latex.")] = "table",
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Also write the forest plot here, as .svg or .pdf.", **OUTPUT_FILE)
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write the page with the forest plot here.", **OUTPUT_FILE)
    ] = None,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Compare every configuration of a sweep with one of them: effect, interval, adjusted p, and a verdict in words.

    How many seeds a comparison needs is part of `trm sweep plan`.

    Examples:

    trm ablate depth --control "T=1 n=2"

    trm ablate depth --control "T=1 n=2" --format latex --plot depth.pdf
    """
    from orchestrator.cli.views.console import err, line, out
    from orchestrator.records.index import load_definition
    from orchestrator.records.reader import read_trials
    from orchestrator.results.ablation import compare_with_control
    from orchestrator.results.baselines import load_baselines
    from orchestrator.results.report import effect_plot
    from orchestrator.results.report.ablation_formats import TEXT_FORMATS, to_rich, verdicts
    from orchestrator.storage import storage_to_read
    from trm_data.errors import ConfigError, nearest
    from trm_data.files import write_output

    format_ = "json" if as_json else format_
    if format_ not in ("table", *TEXT_FORMATS):
        raise ConfigError(f"unknown --format {format_!r}", nearest(format_, ["table", *TEXT_FORMATS]))
    if plot is not None:
        effect_plot.check_ending(plot)
    store = storage_to_read(storage)
    load_definition(store, sweep)
    records = read_trials(store, sweep)
    if control is None:
        raise _without_control(records)
    found = compare_with_control(records, control, baselines=load_baselines())
    if format_ == "table":
        out.print(to_rich(found))
        for verdict in verdicts(found):
            out.print(verdict)
    else:
        print(TEXT_FORMATS[format_](found), end="")
    if plot is not None:
        write_output(plot, effect_plot.draw(found, effect_plot.FORMATS[plot.suffix]))
        err.print(line("plot: ", (str(plot), "bold")), soft_wrap=True)
    if html is not None:
        _write_page(html, records, control, store)
        err.print(line("page: ", (str(html), "bold")), soft_wrap=True)


def _without_control(records: list[TrialRecord]) -> UserError:
    from orchestrator.results.ablation import configurations
    from trm_data.errors import ConfigError, nearest

    hint = nearest("", configurations(records)) or "No configuration has a confirmed result yet"
    return ConfigError("--control is missing: the configuration that the others are compared with", hint)


def _write_page(path: Path, records: list[TrialRecord], control: str, storage: Storage) -> None:
    from orchestrator.results.report import Report
    from orchestrator.results.report.gallery import stored_galleries

    Report(records=records, now=datetime.now(UTC), control=control, gallery=stored_galleries(storage)).write(path)
