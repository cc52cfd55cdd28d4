"""Draw the trials of a study: curves, effects of settings, and the settings that explain the spread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from markupsafe import Markup

from orchestrator.results.report.importance import Importance
from orchestrator.results.report.markup import Scale, axes, kind_class, percent, plot, polyline, stretched, tag
from orchestrator.results.report.views import Group, TrialView, Value, grouped, sort_values

MAX_LINES = 500
"""Lines of a plot, chosen evenly: the others would lie on top of these, and a page would hold megabytes of them."""
FAINT_ABOVE = 40
"""More curves than this are drawn fainter, so that the shape of the bundle stays visible."""
MAX_COLUMNS = 8
"""A setting with more values than this is drawn on a numeric axis."""
LIGHT_INK_FROM = 66
"""Tint, in per cent, from which a cell's text changes ink: there both inks have a contrast of 4.5 in both themes."""


def curves(trials: Sequence[TrialView]) -> Markup:
    """Draw exact accuracy on validation over steps, a line per trial; the best and the confirmed ones in colour."""
    leading = _leading(trials)
    chosen = [trial for trial in trials if trial.trial_id in leading]
    others = [trial for trial in trials if trial.trial_id not in leading]
    chosen = evenly(others, max(0, MAX_LINES - len(chosen))) + evenly(chosen, MAX_LINES)
    points = {trial.trial_id: trial.curve() for trial in chosen}
    drawn = [trial for trial in chosen if len(points[trial.trial_id]) > 1]
    if not drawn:
        return Markup("")
    x = Scale(0, max(points[trial.trial_id][-1][0] for trial in drawn))
    y = Scale(0, 100)
    faint = " faint" if len(drawn) > FAINT_ABOVE else ""
    lines = []
    for trial in drawn:
        at = [(x.at(step), y.at(value)) for step, value in points[trial.trial_id]]
        class_ = f"curve {kind_class(trial.variant)} lead" if trial.trial_id in leading else f"curve{faint}"
        line = polyline(at, class_ if trial.complete else f"{class_} cut")
        lines.append(tag("g", tag("title", _trial_words(trial)), line))
    label = f"Exact accuracy on validation over training steps for {len(drawn)} trials."
    return plot(
        axes(x, y, x_format="compact") + stretched(*lines),
        label=label,
        height=280,
        x_title="training steps",
        y_title="exact accuracy on validation, %",
    )


def evenly(trials: Sequence[TrialView], most: int) -> list[TrialView]:
    """Return at most that many trials, evenly chosen."""
    if len(trials) <= most:
        return list(trials)
    return [trials[index * len(trials) // most] for index in range(most)]


def _leading(trials: Sequence[TrialView]) -> set[str]:
    """Return the ids of curves in colour: confirmed trials, the best explored one, and runs of a study's best cell."""
    explored = [trial for trial in trials if trial.stage == "explore" and trial.score is not None]
    cells: dict[str, list[TrialView]] = defaultdict(list)
    for trial in trials:
        if trial.stage == "study" and trial.score is not None:
            cells[trial.family].append(trial)
    best = sorted(explored, key=lambda trial: -(trial.score or 0.0))[:1]
    if cells:
        means = {family: sum(run.score or 0.0 for run in runs) / len(runs) for family, runs in cells.items()}
        best += cells[max(means, key=lambda family: means[family])]
    return {trial.trial_id for trial in [*best, *(t for t in trials if t.stage == "confirm")]}


def _trial_words(trial: TrialView) -> str:
    settings = " ".join(f"{name}={value}" for name, value in trial.settings.items())
    score = "no score" if trial.score is None else f"{trial.score:.1f} %"
    stage = "" if trial.stage == "explore" else f"{trial.family}, seed {trial.seed}: "
    return f"{stage}{settings}, {score}, {trial.status}"


def effect(trials: Sequence[TrialView], name: str, title: str) -> Markup:
    """Draw the score over one setting: columns for a few values, a numeric axis for many; hollow if stopped early."""
    groups = {key[0]: group for key, group in grouped(trials, name).items()}
    values = sort_values(set(groups))
    if len(values) < 2:
        return Markup("")
    y = Scale(0, 100)
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


def parallel(trials: Sequence[TrialView], names: Sequence[str]) -> Markup:
    """Draw a line per trial through its settings to its score; the best quarter of complete trials in colour."""
    drawn = [trial for trial in trials if trial.score is not None]
    if len(drawn) < 8 or len(names) < 2:
        return Markup("")
    columns = {name: sort_values({trial.settings[name] for trial in drawn}) for name in names}
    places = {name: 100 * index / len(names) for index, name in enumerate(names)}
    best = _best_quarter(drawn)
    faint = " faint" if len(drawn) > FAINT_ABOVE else ""
    lines, marks = [], []
    for trial in evenly(sorted(drawn, key=lambda trial: trial.score or 0.0), MAX_LINES):
        path = [(places[n], _place(trial.settings[n], columns[n])) for n in names] + [(100.0, trial.score or 0.0)]
        class_ = f"curve k-trm lead{faint}" if trial.trial_id in best else f"curve{faint}"
        line = polyline(path, class_ if trial.complete else f"{class_} cut")
        lines.append(tag("g", tag("title", _trial_words(trial)), line))
    for row, (name, values) in enumerate(columns.items()):
        ticks = [(_place(v, values), _plain(v)) for v in _few(values)]
        marks.append(_parallel_axis(places[name], name, ticks, lowered=row % 2 == 1))
    ticks = [(tick, f"{tick:g}") for tick in Scale(0, 100).ticks()]
    marks.append(_parallel_axis(100.0, "score, %", ticks, lowered=len(names) % 2 == 1))
    label = f"Settings and scores of {len(drawn)} trials; the best quarter is in colour."
    return plot(stretched(*lines) + Markup("").join(marks), label=label, height=260)


def _best_quarter(trials: Sequence[TrialView]) -> set[str]:
    """Return the ids of the best complete trials; none if all score the same."""
    complete = sorted((t for t in trials if t.complete), key=lambda t: -(t.score or 0.0))
    if not complete or complete[0].score == complete[-1].score:
        return set()
    return {trial.trial_id for trial in complete[: max(1, len(complete) // 4)]}


def _place(value: Value, values: Sequence[Value]) -> float:
    """Return the position of a value, evenly spaced in the order of the values."""
    return 50.0 if len(values) == 1 else 4 + 92 * values.index(value) / (len(values) - 1)


def _few(values: list[Value], most: int = 7) -> list[Value]:
    return values if len(values) <= most else [values[0], values[len(values) // 2], values[-1]]


def _parallel_axis(at: float, name: str, ticks: Sequence[tuple[float, str]], *, lowered: bool) -> Markup:
    """Draw an axis. Names alternate between two lines and omit the section, because neighbours would overlap."""
    x, drop = percent(at), "3.1em" if lowered else "1.7em"
    parts = [tag("line", x1=x, x2=x, y1="0", y2="100%", class_="base")]
    parts.append(
        tag("text", tag("title", name), name.rpartition(".")[2], x=x, y="100%", dy=drop, class_="axis-title middle")
    )
    for height, text in ticks:
        parts.append(tag("text", text, x=x, y=percent(100 - height), dx="-7", dy="0.32em", class_="tick end halo"))
    return Markup("").join(parts)


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
