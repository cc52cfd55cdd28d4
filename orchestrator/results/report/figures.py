"""Choose and caption the figures of the results page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from orchestrator.results.ablation import Ablation
from orchestrator.results.leaderboard import METRIC_TITLES, Entry, Table
from orchestrator.results.report import effort, figure_data, interval_plots, scatter, trends, trial_plots
from orchestrator.results.report.explorer import SETTING_TITLES, as_script
from orchestrator.results.report.importance import MIN_TRIALS, Importance
from orchestrator.results.report.markup import tag
from orchestrator.results.report.views import Study
from orchestrator.sweep.text import plural

ROWS_SHOWN = 12
"""Rows shown at first in a table or plot; the rest is one button away."""
_SETTINGS_DRAWN = 8
"""Settings that get a plot of their own; all of them are in the plot of settings and scores."""
_ROWS_FOR_PLOT = 10
"""Rows that must state a cost before a published table is drawn against it."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Hold a plot with its caption."""

    title: str
    caption: str
    body: Markup
    wide: bool = False
    rows: figure_data.Rows = ()
    """Its data, the names first; empty if it has none of its own."""
    settings: tuple[str, ...] = ()
    """Its data are these settings of the study's trials, with their scores."""

    @property
    def slug(self) -> str:
        """Return the end of its element's id, by which it can be linked to."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    @property
    def data(self) -> str:
        """Return JSON of `rows` for a script element."""
        return as_script(self.rows)


def dots_figure(entries: Sequence[Entry]) -> Figure:
    """Draw the best rows and every control of another architecture; the table has the others."""
    drawn = [entry for rank, entry in enumerate(entries) if rank < ROWS_SHOWN or entry.kind in ("hrm", "direct")]
    caption = (
        "Test split, %. Dot: mean; rings: seeds; bar: 95 % interval over seeds; hairline: 95 % interval over puzzles."
    )
    if len(drawn) < len(entries):
        caption += f" {len(drawn)} of {len(entries)}, the best and the controls."
    return Figure(
        "Confirmed results", caption, interval_plots.dots_and_intervals(drawn), rows=figure_data.of_entries(drawn)
    )


def arrange(figures: list[Figure]) -> tuple[Figure, ...]:
    """Order wide figures first, then the others in pairs; the last of an odd number becomes wide."""
    wide, narrow = ([figure for figure in figures if figure.wide is value] for value in (True, False))
    if len(narrow) % 2:
        narrow[-1] = replace(narrow[-1], wide=True)
    return (*wide, *narrow)


def ablation_figure(ablation: Ablation) -> Figure:
    control = ablation.control
    caption = (
        f"Difference from {control.system} ({control.score:.1f} %, {plural(control.seeds or 0, 'seed')}) in points. "
        "Each interval has the level at which Holm's procedure tests that comparison (5 % for all together), so it "
        "leaves out zero exactly if the difference is significant (filled). Diamond: the same change in the TRM paper. "
        f"Own trials were scored on this test set {plural(ablation.table.test_scorings, 'time')}."
    )
    return Figure("Ablation", caption, interval_plots.forest(ablation), True, figure_data.of_ablation(ablation))


def study_figures(study: Study, entries: Sequence[Entry], importance: Importance | None) -> list[Figure]:
    figures = [*_setting_figures(study), _depth_figure(study)]
    if importance:
        caption = (
            f"{importance.evaluator} over {importance.trials} complete trials: association inside this space. In "
            "brackets 90 % of bootstrap samples of the trials, where there are few."
        )
        body, rows = trial_plots.importance_bars(importance), figure_data.of_importance(importance)
        figures.append(Figure("What explains the spread", caption, body, rows=rows))
    elif study.varied and study.compared:
        complete = sum(trial.complete and trial.score is not None for trial in study.compared)
        words = f"{plural(complete, 'complete trial')}: what a setting explains needs at least {MIN_TRIALS}."
        if complete >= MIN_TRIALS:
            words = f"All {complete} complete trials have the same settings or the same score."
        body = tag("p", words, class_="note")
        figures.append(Figure("What explains the spread", "Too few trials, or no spread.", body))
    systems = {entry.system for entry in entries}
    for axis, name in (("train_flops", "training compute"), ("params", "parameters")):
        caption = "Confirmed results with their intervals; the line is the Pareto front."
        body = scatter.cost_scatter(entries, axis, named=systems, y_title="exact accuracy on test")
        figures.append(Figure(f"Accuracy against {name}", caption, body, rows=figure_data.of_entries(entries)))
    return figures


def _setting_figures(study: Study) -> list[Figure]:
    """Draw T by n as a heat map where both vary, and every other varied setting by itself."""
    trials, figures = study.compared, []
    alone = list(study.varied)
    if {"T", "n"} <= set(alone):
        caption = "Mean of complete trials over other settings; dashed: not complete or not run. T: cycles, n: steps."
        figures.append(Figure("Depth: T by n", caption, trial_plots.heat_map(trials, "T", "n"), settings=("T", "n")))
        alone = [name for name in alone if name not in ("T", "n")]
    stopped = sum(not trial.complete for trial in trials)
    caption = "A dot per trial, a bar at the mean of complete ones."
    if stopped:
        caption += f" Hollow: not complete ({stopped}), with the score so far."
    for name in alone[:_SETTINGS_DRAWN]:
        words = SETTING_TITLES.get(name, name)
        body = trial_plots.effect(trials, name, f"{name}, {words}" if words != name else name)
        figures.append(Figure(f"{words[:1].upper()}{words[1:]}", caption, body, settings=(name,)))
    return figures


def _depth_figure(study: Study) -> Figure:
    curves = trends.depth_curves(study.trials)
    caption = (
        "Mean of complete trials. D is the number of supervision steps at test time: every final score also records "
        "that after its first step (D=1), and trials that differ in D alone share a line."
    )
    if len(curves) == trends.MAX_CURVES:
        caption += f" The {trends.MAX_CURVES} best configurations."
    rows = trends.depth_rows(curves)
    return Figure("Accuracy over supervision steps at test time", caption, trends.depth_plot(curves), rows=rows)


def effort_figures(tables: Sequence[Table]) -> list[Figure]:
    """Draw the rows of a benchmark's tables against GPU-hours of training and against passes per answer."""
    rows = effort.on_test_split([table for table in tables if table.benchmark in effort.DRAWN])
    figures = []
    for axis, name in ((effort.GPU_HOURS, "training cost"), (effort.PASSES, "test-time passes")):
        if body := effort.effort_plot(rows, axis):
            caption = (
                "All rows of the test split that state it. Colours are protocols, which are never ranked together; "
                "hollow: another training set than the published one, or one that is not stated."
            )
            if axis is effort.GPU_HOURS:
                caption += " GPU-hours of different GPUs are not the same: point at a dot for its type."
            else:
                caption += " A line joins the rows of one trained model, or of one own configuration."
            title = f"{tables[0].title}, accuracy against {name}"
            figures.append(Figure(title, caption, body, True, effort.effort_rows(rows, axis)))
    return figures


def published_figures(table: Table) -> list[Figure]:
    """Draw score against dollars per task and against parameters, where enough rows of a published table state them."""
    named = {entry.system for entry in table.entries if entry.stands_out}
    figures = []
    for axis, name in (("cost_per_task_usd", "dollars per task"), ("params", "parameters")):
        if sum(bool(getattr(entry, axis)) for entry in table.entries) >= _ROWS_FOR_PLOT:
            body = scatter.cost_scatter(table.entries, axis, named=named, y_title=METRIC_TITLES[table.metric])
            caption = "Lines: 95 % interval over items of named rows; dashed: Pareto front."
            figures.append(
                Figure(f"{table.heading}, against {name}", caption, body, True, figure_data.of_entries(table.entries))
            )
    if body := trends.best_over_time(table.entries, METRIC_TITLES[table.metric]):
        caption = (
            "Dashed: best published score so far, by the date of the source, which may be later than the model. Left "
            f"out: rows without a month, and those of the {trends.EXPORTED}, whose date is that of its export."
        )
        title = f"{table.heading}, best over time"
        figures.append(Figure(title, caption, body, True, trends.time_rows(table.entries)))
    return figures
