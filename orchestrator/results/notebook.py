"""Wrap leaderboards and ablations as objects that a notebook displays and that can be saved.

from orchestrator import ablate, leaderboard
leaderboard("sudoku-6x6")
ablate("parts-6x6", control="TRM").save("parts.svg")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from markupsafe import Markup

from orchestrator.errors import DEFAULT_STORAGE
from orchestrator.records.index import load_definition, sweep_name
from orchestrator.records.reader import read_trials
from orchestrator.results.ablation import Ablation, Effect, compare_with_control
from orchestrator.results.baselines import load_baselines
from orchestrator.results.baselines.own import OwnBaselines
from orchestrator.results.leaderboard import Table, build_leaderboard
from orchestrator.results.llm_results import read_measurements
from orchestrator.results.report import ablation_formats, effect_plot
from orchestrator.results.report.formats import to_csv, to_json, to_latex, to_markdown
from orchestrator.results.report.interval_plots import forest
from orchestrator.results.report.page import fragment, leaderboard_html
from orchestrator.results.report.storage_page import read_sweep_trials
from orchestrator.storage import Storage, as_storage, storage_to_read
from orchestrator.sweep.definition import Sweep
from trm_data.errors import ConfigError, nearest
from trm_data.files import write_output

_ENDINGS = {"markdown": ".md", "csv": ".csv", "json": ".json", "latex": ".tex"}


@dataclass(frozen=True)
class Leaderboard:
    """Hold tables of comparable results."""

    tables: tuple[Table, ...]

    def __str__(self) -> str:
        return to_markdown(self.tables)

    def _repr_html_(self) -> str:
        return fragment(Markup("").join(leaderboard_html(table, f"t{i}") for i, table in enumerate(self.tables)))

    def save(self, path: Path | str) -> None:
        """Write the tables as .html, .md, .csv, .json or .tex.

        Raises:
            ConfigError: another ending.
        """
        formats = {".md": to_markdown, ".csv": to_csv, ".json": to_json, ".tex": to_latex}
        writers = {ending: (lambda write=write: write(self.tables)) for ending, write in formats.items()}
        _save(Path(path), {".html": self._repr_html_, **writers})


@dataclass(frozen=True)
class AblationResult:
    """Hold the effects of changes against a control, with their forest plot."""

    ablation: Ablation

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Return one effect per configuration, largest loss first."""
        return self.ablation.effects

    def __str__(self) -> str:
        return ablation_formats.to_markdown(self.ablation)

    def _repr_html_(self) -> str:
        return fragment(forest(self.ablation))

    def _repr_svg_(self) -> str:
        """Return the forest plot as an SVG file."""
        return effect_plot.draw(self.ablation, "svg").decode()

    def save(self, path: Path | str) -> None:
        """Write the forest plot as .svg, .pdf or .html, or a table as .md, .csv, .json or .tex.

        Raises:
            ConfigError: another ending.
        """
        plots = {ending: partial(effect_plot.draw, self.ablation, form) for ending, form in effect_plot.FORMATS.items()}
        texts = {_ENDINGS[name]: partial(write, self.ablation) for name, write in ablation_formats.TEXT_FORMATS.items()}
        _save(Path(path), {".html": self._repr_html_, **plots, **texts})


def leaderboard(benchmark: str | None = None, storage: Storage | str | Path = DEFAULT_STORAGE) -> Leaderboard:
    """Rank the confirmed results of a storage together with published ones.

    Args:
        benchmark: None means every benchmark with results that were measured here.
        storage: a storage, or its folder or address.

    Raises:
        UserError: a benchmark that is neither published nor among the records.
        StorageError: the storage was named and does not exist, or cannot be reached.
    """
    store = storage_to_read(storage)
    rows = load_baselines(None, OwnBaselines(store).read())
    tables = build_leaderboard(benchmark, read_sweep_trials(store), rows, read_measurements(store))
    return Leaderboard(tuple(table for table in tables if benchmark is not None or table.has_measured))


def ablate(sweep: Sweep | str, storage: Storage | str | Path = DEFAULT_STORAGE, *, control: str) -> AblationResult:
    """Compare every confirmed configuration of a sweep with its configuration `control`.

    Raises:
        SweepError: no such sweep.
        UserError: the control has no confirmed result, is in several tables, or is alone in its own.
    """
    store = as_storage(storage)
    load_definition(store, sweep_name(sweep))
    records = read_trials(store, sweep_name(sweep))
    return AblationResult(compare_with_control(records, control, baselines=load_baselines()))


def _save(path: Path, writers: Mapping[str, Callable[[], str | bytes]]) -> None:
    if path.suffix not in writers:
        raise ConfigError(f"cannot save as {path.suffix or path.name!r}", nearest(path.suffix, writers))
    content = writers[path.suffix]()
    write_output(path, content if isinstance(content, bytes) else content.encode())
