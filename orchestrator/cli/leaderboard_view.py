"""The body of `trm leaderboard`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.baselines import load_baselines
from orchestrator.cli.console import out
from orchestrator.cli.single import SWEEP as SINGLE_RUNS
from orchestrator.leaderboard import Table, build_leaderboard, refusals
from orchestrator.record import TrialRecord, read_trials
from orchestrator.report.formats import to_csv, to_json, to_latex, to_markdown, to_rich
from orchestrator.report.page import write_report
from orchestrator.run import sweep_names
from orchestrator.storage import LocalStorage, Storage, open_storage
from trm_data.errors import ConfigError, nearest

TEXT_FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "markdown": to_markdown,
    "csv": to_csv,
    "json": to_json,
    "latex": to_latex,
}


def show(benchmark: str | None, text_format: str, html: Path | None, url: str) -> None:
    """Tables on standard output, and the page as a file."""
    if text_format not in ("table", *TEXT_FORMATS):
        raise ConfigError(f"unknown --format {text_format!r}", nearest(text_format, ["table", *TEXT_FORMATS]))
    storage = open_storage(url)
    records = all_records(storage)
    tables = build_leaderboard(benchmark, records, load_baselines())
    own = [table for table in tables if table.has_own]
    if benchmark is None and own:
        tables = own
    if text_format != "table":
        print(TEXT_FORMATS[text_format](tables))
        return
    for table in tables:
        out.print(to_rich(table))
        out.print()
    if not own:
        out.print("no own confirmed results here yet: run a sweep, e.g. trm sweep run sweeps/demo.py\n")
    refused = refusals(records)
    if refused:
        words = ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items()))
        out.print(f"not ranked: {words}", style="dim")
    path = html or _default_page(storage)
    write_report(records, path, now=datetime.now(UTC))
    out.print(f"page: [bold]{path}[/]")


def all_records(storage: Storage) -> list[TrialRecord]:
    """Every trial of every sweep; single runs have no sweep and are never ranked."""
    return [record for name in sweep_names(storage) if name != SINGLE_RUNS for record in read_trials(storage, name)]


def _default_page(storage: Storage) -> Path:
    return storage.root / "leaderboard.html" if isinstance(storage, LocalStorage) else Path("leaderboard.html")
