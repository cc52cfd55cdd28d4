"""Implement `trm leaderboard`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.cli.views.console import line, out
from orchestrator.cli.views.status import show_damaged
from orchestrator.errors import command_line
from orchestrator.records.reader import collector_off
from orchestrator.results.baselines import load_baselines
from orchestrator.results.baselines.own import OwnBaselines
from orchestrator.results.leaderboard import Table, build_leaderboard, refusals, select
from orchestrator.results.leaderboard.cost import WORLD_GRID, Grid
from orchestrator.results.llm_results import read_measurements
from orchestrator.results.report.formats import shorten, to_csv, to_json, to_latex, to_markdown, to_rich
from orchestrator.results.report.storage_page import read_sweep_records, write_storage_page
from orchestrator.storage import LocalStorage, Storage, storage_to_read
from orchestrator.sweep.text import plural
from trm_data.benchmarks import resolve_benchmark
from trm_data.errors import ConfigError, UserError, nearest

TEXT_FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "markdown": to_markdown,
    "csv": to_csv,
    "json": to_json,
    "latex": to_latex,
}


REPRODUCED = {
    name: ("plan", f"reproduce/{file}")
    for name, file in (
        ("sudoku-extreme", "sudoku_mlp"),
        ("maze-hard", "maze_attention"),
        ("arc-agi-1", "arc_agi_1"),
        ("arc-agi-2", "arc_agi_2"),
    )
}
"""By benchmark: what the hint below a table without own results names. These sweeps cost GPU hours: plan them first."""
_SMALL = 10
"""Cells per row, up to which a laptop trains the recipe `mini` in minutes."""
HEADLINE_ROWS = 8


@collector_off()
def show(
    benchmark: str | None,
    text_format: str,
    html: Path | None,
    url: str,
    split: str | None,
    own_rows: Path | None,
    gco2_per_kwh: float | None,
    sweeps: Sequence[str] = (),
) -> None:
    """Print tables, and write the page as a file."""
    if text_format not in ("table", *TEXT_FORMATS):
        raise ConfigError(f"unknown --format {text_format!r}", nearest(text_format, ["table", *TEXT_FORMATS]))
    storage = storage_to_read(url)
    records, damaged = read_sweep_records(storage, sweeps)
    show_damaged(damaged)
    measured = read_measurements(storage)
    baselines = load_baselines(None, OwnBaselines(storage, own_rows).read())
    tables = build_leaderboard(benchmark, records, baselines, measured)
    if split is not None:
        tables = select(tables, split=split)
    own = [table for table in tables if table.has_measured]
    if text_format != "table":
        print(TEXT_FORMATS[text_format](own if benchmark is None and own else tables))
        return
    path = html or _default_page(storage)
    # First, because a reader like `head` may close the output early.
    page = line("page: ", (path.absolute().as_uri(), "bold"))
    try:
        write_storage_page(
            storage, path, records=records, baselines=baselines, measured=measured, grid=_grid(gco2_per_kwh)
        )
    except UserError as error:
        if html is not None:
            raise
        # The page is optional: tables are printed even if the storage is read-only.
        page = line(f"the page was not written: {error}")
    shown = tables if benchmark is not None or split is not None else own or _headlines(tables)
    has_own = any(table.has_own for table in tables)
    if not has_own:
        where = "in this storage" if benchmark is None else "on this benchmark in this storage"
        out.print(f"no confirmed results {where} yet{_how_to_make_some(benchmark, storage)}\n", soft_wrap=True)
    for table in shown:
        out.print(to_rich(table))
        out.print()
    if benchmark is None:
        _show_what_is_published(tables, storage, is_shortened=split is None and not own)
    refused = refusals(records)
    if refused:
        reasons = ", ".join(f"{plural(count, 'trial')} {reason}" for reason, count in sorted(refused.items()))
        out.print(f"not ranked: {reasons}", style="dim")
    out.print(page, soft_wrap=True)
    if isinstance(storage, LocalStorage) and has_own:
        out.print(f"next: serve it with MLflow and Optuna: {command_line('ui', storage=storage.url)}", soft_wrap=True)


def _how_to_make_some(benchmark: str | None, storage: Storage) -> str:
    """Return the command of a sweep whose results are ranked; empty where a benchmark cannot be built."""
    name = (benchmark or "").removesuffix("-generated")
    words = ["run", "demo"]
    if name in REPRODUCED:
        words = list(REPRODUCED[name])
    elif name:
        try:
            side = resolve_benchmark(name).side
        except UserError:  # published for another representation, as Pencil Puzzle Bench is
            return ""
        settings = ("--set", f"data.benchmark={name}", "--set", "evaluation.split=test")
        words = ["run" if side <= _SMALL else "plan", "--recipe", "mini", *settings]
    command = command_line("sweep", *words, storage=storage.url)
    return f". {words[0].capitalize()} a sweep, for example: {command}"


def _show_what_is_published(tables: Sequence[Table], storage: Storage, *, is_shortened: bool) -> None:
    if is_shortened:
        kept = f"its best {HEADLINE_ROWS} rows, TRM, HRM and the models that the TRM paper compares with"
        out.print(f"each table shows {kept}; ranks count the rows left out", style="dim", soft_wrap=True)
    names = ", ".join(sorted({table.benchmark for table in tables if not table.has_measured}))
    every = command_line("leaderboard", "BENCHMARK", storage=storage.url)
    out.print(f"published results: `{every}` (BENCHMARK is one of {names})", style="dim")


def _headlines(tables: Sequence[Table]) -> list[Table]:
    """Return the fullest published table of every benchmark, limited to TRM, HRM and the paper's competitors."""
    fullest: dict[str, Table] = {}
    for table in tables:
        if not table.has_measured and len(table.entries) > len(getattr(fullest.get(table.benchmark), "entries", ())):
            fullest[table.benchmark] = table
    return [shorten(table, HEADLINE_ROWS) for table in fullest.values()]


def _grid(gco2_per_kwh: float | None) -> Grid | None:
    """Return the user's own figure, the world average, or none for 0."""
    if gco2_per_kwh is None:
        return WORLD_GRID
    return Grid(gco2_per_kwh, "as given") if gco2_per_kwh else None


def _default_page(storage: Storage) -> Path:
    return storage.root / "leaderboard.html" if isinstance(storage, LocalStorage) else Path("leaderboard.html")
