"""One self-contained HTML page from records and published results: no network, no script library, opens from file://."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from orchestrator.records.schema import TrialRecord
from orchestrator.results.ablation import Ablation, ablate
from orchestrator.results.baselines import Baseline, load_baselines
from orchestrator.results.baselines.like_for_like import like_for_like
from orchestrator.results.leaderboard import METRIC_TITLES, Entry, Table, build_leaderboard, refusals
from orchestrator.results.leaderboard.cost import WORLD_GRID, Grid, describe_cost
from orchestrator.results.llm_results import Measured
from orchestrator.results.report import interval_plots, markup, scatter, trial_plots
from orchestrator.results.report.formats import amounts
from orchestrator.results.report.gallery import Gallery, GallerySource, galleries, no_gallery
from orchestrator.results.report.importance import Importance, importances
from orchestrator.results.report.summary import summarise
from orchestrator.results.report.views import Study, studies
from trm_data.files import write_atomic

_ROWS_SHOWN = 12
"""Rows shown at first in a table or plot; the rest is one button away."""
_SETTINGS_DRAWN = 8
"""Settings that get a plot of their own; all of them are in the plot of settings and scores."""
SETTING_TITLES = {
    "T": "cycles",
    "n": "latent steps",
    "N_sup": "supervision steps",
    "D": "supervision steps at evaluation",
    "aug": "augmented copies per puzzle",
    "lr": "learning rate",
    "ema": "decay of the averaged weights",
    "wd": "weight decay",
}
_ROWS_FOR_PLOT = 10
"""Rows that must state a cost before a published table is drawn against it."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with its caption."""

    title: str
    caption: str
    body: Markup
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """Everything shown about one dataset."""

    study: Study
    summary: str
    tables: tuple[Table, ...]
    dots: Figure
    ablation: Figure | None
    figures: tuple[Figure, ...]
    galleries: tuple[Gallery, ...]
    refused: dict[str, int]


def write_report(
    records: Sequence[TrialRecord],
    path: Path,
    *,
    now: datetime,
    title: str = "",
    control: str | None = None,
    baselines: Sequence[Baseline] | None = None,
    measured: Sequence[Measured] = (),
    gallery: GallerySource = no_gallery,
    grid: Grid | None = WORLD_GRID,
) -> None:
    """Write the page to `path`, whole or not at all. With a `control`, other configurations are compared with it;
    `measured` are language models that were asked the same puzzles, `gallery` gives puzzles to look at, and
    `grid` turns energy into CO2.

    Raises:
        UserError: the page cannot be written there, or nothing is confirmed by the name of the control.
        DataError: a published result that cannot be believed.
    """
    page = render_report(
        records,
        now=now,
        title=title,
        control=control,
        baselines=baselines,
        measured=measured,
        gallery=gallery,
        grid=grid,
    )
    write_atomic(path, page.encode())


def render_report(
    records: Sequence[TrialRecord],
    *,
    now: datetime,
    title: str = "",
    control: str | None = None,
    baselines: Sequence[Baseline] | None = None,
    measured: Sequence[Measured] = (),
    gallery: GallerySource = no_gallery,
    grid: Grid | None = WORLD_GRID,
) -> str:
    """The page as text. `now` is shown as its date; `title` defaults to the names of the sweeps."""
    published = load_baselines() if baselines is None else list(baselines)
    ablation = ablate(records, control, baselines=published) if control is not None else None
    sections = [_section(study, published, measured, ablation, gallery) for study in studies(records)]
    own = {table.benchmark for section in sections for table in section.tables}
    apart = [m for m in measured if m.plan.fingerprint not in {section.study.fingerprint for section in sections}]
    tables = build_leaderboard(None, [], published, apart)
    others = [table for table in tables if table.has_measured or table.benchmark not in own]
    sweeps = list(dict.fromkeys(record.sweep for record in records))
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title or _title(sweeps),
            sections=sections,
            published=_related_first(others, sections),
            baselines=published,
            grid=grid,
            generated=now.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            num_trials=len(records),
            sweeps=sweeps,
        )
    )


def _title(sweeps: list[str]) -> str:
    if not sweeps:
        return "Published results"
    return sweeps[0] if len(sweeps) == 1 else f"{len(sweeps)} sweeps"


def _related_first(tables: list[Table], sections: Sequence[Section]) -> list[tuple[str, list[Table], bool]]:
    """(title, tables, open at first) per benchmark: the kin of what was trained here comes first, and open."""
    kinds = {section.study.benchmark.split("-")[0] for section in sections}
    groups: dict[str, list[Table]] = {}
    for table in sorted(tables, key=lambda table: table.benchmark.split("-")[0] not in kinds):
        groups.setdefault(table.title, []).append(table)
    return [(title, group, group[0].benchmark.split("-")[0] in kinds) for title, group in groups.items()]


def _section(
    study: Study,
    published: Sequence[Baseline],
    measured: Sequence[Measured],
    ablation: Ablation | None,
    gallery: GallerySource,
) -> Section:
    asked = [measurement for measurement in measured if measurement.plan.fingerprint == study.fingerprint]
    tables = tuple(build_leaderboard(study.benchmark, study.records, published, asked))
    main = next((table for table in tables if table.has_own), None)
    entries = [entry for entry in main.entries if entry.own] if main else []
    compared = ablation if ablation and main and _same_puzzles(main, ablation.table) else None
    importance = importances(study.compared, study.varied)
    return Section(
        study=study,
        summary=summarise(study, main),
        tables=tables,
        dots=_dots_figure(entries),
        ablation=_ablation_figure(compared) if compared else None,
        figures=_laid_out([figure for figure in _figures(study, entries, importance) if figure.body]),
        galleries=tuple(galleries(entries, study.records, gallery)),
        refused=refusals(study.records),
    )


def _dots_figure(entries: Sequence[Entry]) -> Figure:
    """The best rows and every control of another architecture: more dots than these are better read in the table."""
    drawn = [entry for rank, entry in enumerate(entries) if rank < _ROWS_SHOWN or entry.kind in ("hrm", "direct")]
    caption = (
        "Test split, %. Dot: mean; rings: seeds; bar: 95 % interval over seeds; hairline: 95 % interval over puzzles."
    )
    if len(drawn) < len(entries):
        caption += f" {len(drawn)} of {len(entries)}, the best and the controls."
    return Figure("Confirmed results", caption, interval_plots.dots_and_intervals(drawn))


def _same_puzzles(one: Table, other: Table) -> bool:
    return (one.benchmark, one.split, one.fingerprint) == (other.benchmark, other.split, other.fingerprint)


def _laid_out(figures: list[Figure]) -> tuple[Figure, ...]:
    """Wide figures first, then the others in pairs; one without a partner takes the whole width."""
    wide, narrow = ([figure for figure in figures if figure.wide is value] for value in (True, False))
    if len(narrow) % 2:
        narrow[-1] = replace(narrow[-1], wide=True)
    return (*wide, *narrow)


def _ablation_figure(ablation: Ablation) -> Figure:
    control = ablation.control
    caption = (
        f"Difference from {control.system} ({control.score:.1f} %, {control.seeds} seeds) in points, with the 95 % "
        "interval over seeds. Filled: separated after Holm's correction. Diamond: the same change in the TRM paper."
    )
    return Figure("Ablation", caption, interval_plots.forest(ablation), wide=True)


def _figures(study: Study, entries: Sequence[Entry], importance: Importance | None) -> list[Figure]:
    caption = "A line per trial, dashed if cut short; in colour the best of the search or study and confirmed controls."
    figures = [Figure("Learning curves", caption, trial_plots.curves(study.trials), wide=True)]
    caption = "A line per trial through its settings, values evenly spaced; in colour the best quarter."
    body = trial_plots.parallel(study.compared, study.varied)
    figures.append(Figure("Settings and scores", caption, body, wide=True))
    figures += _setting_figures(study)
    if importance:
        caption = f"{importance.evaluator} over {importance.trials} complete trials: association inside this space."
        figures.append(Figure("What explains the spread", caption, trial_plots.importance_bars(importance)))
    systems = {entry.system for entry in entries}
    for axis, name in (("train_flops", "training compute"), ("params", "parameters")):
        caption = "Confirmed results with their intervals; the line is the Pareto front."
        body = scatter.cost_scatter(entries, axis, named=systems, y_title="exact accuracy on test")
        figures.append(Figure(f"Accuracy against {name}", caption, body))
    return figures


def _setting_figures(study: Study) -> list[Figure]:
    """T by n as a heat map where both vary, and every other varied setting by itself."""
    trials, figures = study.compared, []
    alone = list(study.varied)
    if {"T", "n"} <= set(alone):
        caption = "Mean of complete trials over other settings; dashed: cut short or not run. T: cycles, n: steps."
        figures.append(Figure("Depth: T by n", caption, trial_plots.heat_map(trials, "T", "n")))
        alone = [name for name in alone if name not in ("T", "n")]
    stopped = sum(not trial.complete for trial in trials)
    caption = "A dot per trial, a bar at the mean of complete ones."
    if stopped:
        caption += f" Hollow: cut short ({stopped}), scored where it stopped."
    for name in alone[:_SETTINGS_DRAWN]:
        words = SETTING_TITLES.get(name, name)
        body = trial_plots.effect(trials, name, f"{name}, {words}" if words != name else name)
        figures.append(Figure(f"{words[:1].upper()}{words[1:]}", caption, body))
    return figures


def published_figures(table: Table) -> list[Figure]:
    """Score against dollars per task and against parameters, where enough rows of a published table state them."""
    named = {entry.system for entry in table.entries if entry.stands_out}
    figures = []
    for axis, name in (("cost_per_task_usd", "dollars per task"), ("params", "parameters")):
        if sum(bool(getattr(entry, axis)) for entry in table.entries) >= _ROWS_FOR_PLOT:
            body = scatter.cost_scatter(table.entries, axis, named=named, y_title=METRIC_TITLES[table.metric])
            caption = "Lines: 95 % interval over items of named rows; dashed: Pareto front."
            figures.append(Figure(f"{table.heading}, against {name}", caption, body, wide=True))
    return figures


def shown_first(table: Table) -> set[str]:
    """Systems shown before "show all": the best, the best of our own, the family of TRM and the paper's rivals."""
    own = [entry for entry in table.entries if entry.own][:_ROWS_SHOWN]
    others = [entry for entry in table.entries if entry.stands_out and not entry.own]
    return {entry.system for entry in (*table.entries[:_ROWS_SHOWN], *own, *others)}


def interval_cell(entry: Entry) -> Markup:
    """A small dot and interval on 0..100 for a table row."""
    if entry.interval is None:
        return Markup("")
    low, high = map(markup.percent, entry.interval)
    bar = markup.tag("line", x1=low, x2=high, y1="50%", y2="50%")
    dot = markup.tag("circle", cx=markup.percent(entry.score), cy="50%", r="2.6")
    base = markup.tag("line", x1="0", x2="100%", y1="50%", y2="50%", class_="grid")
    return markup.tag("svg", base, bar, dot, class_="mini", width="88", height="14", aria_hidden="true")


def source_link(source: str) -> str:
    """The address of an arXiv or GitHub source, or nothing."""
    word = source.split()[1] if source.startswith("arXiv ") else source.split()[0]
    if source.startswith("arXiv "):
        return f"https://arxiv.org/abs/{word}"
    return f"https://{word}" if word.startswith(("github.com/", "arcprize.org/")) else ""


def remark(detail: str) -> str:
    """What a row's detail says beyond the identifier at its source."""
    return "; ".join(part for part in detail.split("; ") if not part.startswith("id "))


def provenance_rows(entry: Entry, study: Study, grid: Grid | None = None) -> list[tuple[str, Any]]:
    """(what, value) of everything needed to find an own result again."""
    own = entry.own
    if own is None:
        return []
    runs = ", ".join(f"{score:.2f} (seed {seed})" for score, seed in zip(own.scores, own.seeds, strict=True))
    return [
        ("Scores, %", runs),
        ("Trials", ", ".join(own.trial_ids)),
        ("Sweep, stage", f"{', '.join(own.sweeps)}; {', '.join(own.stages)}"),
        ("Dataset", f"{own.fingerprint} ({study.records[0].dataset.source or 'own source'})"),
        ("Commit", ", ".join(own.commits) or "not recorded"),
        ("Machine", ", ".join(own.machines) or "not recorded"),
        ("Training", f"{markup.duration(own.train_s)}, {markup.flops(own.train_flops)} per run"),
        ("Cost per run", describe_cost(own.cost, grid)),
        ("Puzzles presented", markup.compact(own.puzzles_presented)),
    ]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator.results.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "compact": markup.compact,
        "dollars": markup.dollars,
        "duration": markup.duration,
        "flops": markup.flops,
        "number": markup.number,
        "points": markup.points,
        "pretty_json": lambda value: json.dumps(value, indent=1, sort_keys=True),
    }
    environment.globals |= {
        "amounts": amounts,
        "interval_cell": interval_cell,
        "like_for_like": like_for_like,
        "kind_class": markup.kind_class,
        "provenance_rows": provenance_rows,
        "published_figures": published_figures,
        "remark": remark,
        "shown_first": shown_first,
        "source_link": source_link,
    }
    return environment
