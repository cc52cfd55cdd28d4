"""Draw the trials of a study: effects of settings, and the settings that explain the spread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from markupsafe import Markup

from orchestrator.records.state import shown
from orchestrator.results.report.importance import Importance
from orchestrator.results.report.markup import Scale, axes, kind_class, percent, plot, tag
from orchestrator.results.report.views import Group, TrialView, Value, grouped, sort_values

MAX_LINES = 500
"""Lines of a plot, and curves in a file, chosen evenly: the others would lie on top of these, and take megabytes."""
MAX_COLUMNS = 8
"""A setting with more values than this is drawn on a numeric axis."""
LIGHT_INK_FROM = 66
"""Tint, in per cent, from which a cell's text changes ink: there both inks have a contrast of 4.5 in both themes."""


def evenly(trials: Sequence[TrialView], most: int) -> list[TrialView]:
    """Return at most that many trials, evenly chosen."""
    if len(trials) <= most:
        return list(trials)
    return [trials[index * len(trials) // most] for index in range(most)]


def leading(trials: Sequence[TrialView]) -> set[str]:
    """Return the ids of curves in colour: confirmed trials, the best explored one, and runs of a study's best cell."""
    explored = [trial for trial in trials if trial.stage == "explore" and trial.score is not None]
    cells: dict[str, list[TrialView]] = defaultdict(list)
    for trial in trials:
        if trial.stage == "study" and trial.score is not None:
            cells[trial.family].append(trial)
    best = sorted([trial for trial in explored if trial.complete] or explored, key=_merit)[:1]
    if cells:
        means = {family: sum(run.score or 0.0 for run in runs) / len(runs) for family, runs in cells.items()}
        best += cells[max(means, key=lambda family: means[family])]
    return {trial.trial_id for trial in [*best, *(t for t in trials if t.stage == "confirm")]}


def _merit(trial: TrialView) -> tuple[float, float, float, str]:
    """Return a sort key, smaller is better, with the ties of a search's own choice: cells, then cost, then name."""
    result = trial.record.result
    cell = result.metrics.get("cell_accuracy", 0.0) if result else 0.0
    flops = (result.train_flops or 0.0) if result else 0.0
    return (-(trial.score or 0.0), -cell, flops, trial.trial_id)


def _trial_words(trial: TrialView) -> str:
    settings = " ".join(f"{name}={value}" for name, value in trial.settings.items())
    score = "no score" if trial.score is None else f"{trial.score:.1f} %"
    stage = "" if trial.stage == "explore" else f"{trial.family}, seed {trial.seed}: "
    return f"{stage}{settings}, {score}, {shown(trial.record)}"


def effect(trials: Sequence[TrialView], name: str, title: str) -> Markup:
    """Draw the score over one setting: columns for a few values, a numeric axis for many; hollow if stopped early."""
    groups = {key[0]: group for key, group in grouped(trials, name).items()}
    values = sort_values(set(groups))
    if len(values) < 2:
        return Markup("")
    y = Scale.of_scores([trial.score for trial in trials if trial.score is not None])
    means = ", ".join(f"{_plain(value)}: {groups[value].mean:.1f}" for value in values[:MAX_COLUMNS])
    label = f"Score by {title}; means {means}."
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    if len(values) > MAX_COLUMNS and len(numbers) == len(values):
        log = numbers[0] > 0 and numbers[-1] / numbers[0] >= 20
        x = Scale.over(numbers, log=log)
        drawing = axes(x, y) + Markup("").join(
            _trial_dot(trial, x.at(value), y)
            for value, key in zip(numbers, values, strict=True)
            for trial in groups[key].trials
        )
    else:
        drawing = axes(None, y) + Markup("").join(
            _column(groups[value], value, index, len(values), y) for index, value in enumerate(values)
        )
    return plot(drawing, label=label, height=220, x_title=title, y_title="score, %")


def _column(group: Group, value: Value, index: int, count: int, y: Scale) -> Markup:
    """Draw the dots of one value and their mean."""
    centre, half = 100 * (index + 0.5) / count, 26 / count
    marks = _strip(group.trials, centre, 100 / count, y)
    marks.append(tag("text", _plain(value), x=percent(centre), y="100%", dy="1.5em", class_="tick middle"))
    if group.complete:
        at, ends = percent(100 - y.at(group.mean)), (percent(centre - half), percent(centre + half))
        marks.append(tag("line", x1=ends[0], x2=ends[1], y1=at, y2=at, class_="mean-bar"))
    return Markup("").join(marks)


def _strip(group: Sequence[TrialView], centre: float, width: float, y: Scale) -> list[Markup]:
    """Draw dots side by side inside a column, in the order of the trials, so that none hides another."""
    step = min(width * 0.5 / max(len(group) - 1, 1), 2.2)
    return [_trial_dot(trial, centre + (i - (len(group) - 1) / 2) * step, y) for i, trial in enumerate(group)]


def _trial_dot(trial: TrialView, x: float, y: Scale) -> Markup:
    class_ = f"trial {kind_class(trial.variant)}" + ("" if trial.complete else " cut")
    title = tag("title", _trial_words(trial))
    return tag("circle", title, cx=percent(x), cy=percent(100 - y.at(trial.score or 0.0)), r="3.6", class_=class_)


def heat_map(trials: Sequence[TrialView], row: str, column: str) -> Markup:
    """Draw the mean score over two settings as a table with tinted cells; `n` is the number of trials of a cell."""
    cells = grouped(trials, row, column)
    rows, columns = (sort_values({key[index] for key in cells}) for index in (0, 1))
    if len(rows) < 2 or len(columns) < 2:
        return Markup("")
    means = [group.mean for group in cells.values() if group.complete] or [0.0]
    scale = Scale(min(means), max(max(means), min(means) + 1))
    names = [f"{row} \\ {column}", *map(_plain, columns)]
    head = tag("tr", *(tag("th", name, scope="col") for name in names))
    body = [
        tag("tr", tag("th", _plain(r), scope="row"), *(_heat_cell(cells.get((r, c)), scale) for c in columns))
        for r in reversed(rows)
    ]
    return tag("table", tag("thead", head), tag("tbody", *body), class_="heat")


def _heat_cell(group: Group | None, scale: Scale) -> Markup:
    if group is None:
        return tag("td", tag("span", "not run", class_="visually-hidden"), class_="none")
    if not group.complete:
        return tag("td", f"{group.mean:.1f}", tag("small", f"n {len(group.trials)}, cut"), class_="none")
    share = scale.at(group.mean)
    style = f"--v:{share:.0f}%"
    return tag(
        "td",
        f"{group.mean:.1f}",
        tag("small", f"n {group.complete}"),
        class_="hot" if share > LIGHT_INK_FROM else None,
        style=style,
    )


def importance_bars(importance: Importance | None) -> Markup:
    """Draw the share of the spread that each setting explains."""
    if importance is None:
        return Markup("")
    rows = [
        tag(
            "div",
            tag("div", name, class_="bar-name"),
            tag("div", tag("div", "", class_="bar", style=f"width:{100 * share:.1f}%"), class_="bar-track"),
            tag("div", _share_words(share, importance.intervals.get(name)), class_="bar-value"),
            class_="bar-row",
        )
        for name, share in importance.shares.items()
    ]
    return tag("div", *rows, class_="bars")


def _share_words(share: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return f"{100 * share:.0f} %"
    low, high = interval
    return f"{100 * share:.0f} % ({100 * low:.0f}-{100 * high:.0f})"


def _plain(value: Value) -> str:
    return "default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
