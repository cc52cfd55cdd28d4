"""The plots of a report. Each takes plain data and returns markup; empty markup where there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from orchestrator.ablation import Ablation, Effect
from orchestrator.leaderboard import Entry
from orchestrator.report.importance import Importance
from orchestrator.report.markup import (
    Scale,
    axes,
    compact,
    duration,
    flops,
    percent,
    plot,
    polyline,
    signed,
    stretched,
    tag,
)
from orchestrator.report.views import Group, TrialView, Value, grouped, sort_values
from orchestrator.statistics import Interval

FAINT_ABOVE = 40
"""More curves than this are drawn fainter, so that the shape of the bundle stays visible."""


def kind_class(kind: str) -> str:
    """The colour of an architecture: TRM, HRM, direct prediction; everything else shares one."""
    return f"k-{kind if kind in ('trm', 'hrm', 'direct') else 'other'}"


def dots_and_intervals(entries: Sequence[Entry]) -> Markup:
    """Own rows: the mean as a dot, seeds as rings, the interval over seeds as a bar, that over items as a hairline."""
    own = [entry for entry in entries if entry.own]
    if not own:
        return Markup("")
    ends = [end for entry in own for end in _ends(entry)]
    scale = Scale.over([max(0.0, min(ends)), min(100.0, max(ends))])
    rows = [_dot_row(entry, scale) for entry in own]
    ticks = [tag("span", f"{tick:g}", style=f"left:{percent(scale.at(tick))}") for tick in scale.ticks(6)]
    axis = (
        tag("div", "", class_="dot-name") + tag("div", *ticks, class_="dot-axis") + tag("div", "", class_="dot-value")
    )
    return tag("div", *rows, tag("div", axis, class_="dot-row axis", aria_hidden="true"), class_="dots")


def _ends(entry: Entry) -> list[float]:
    intervals = [entry.item_interval, entry.own.seed_interval if entry.own else None]
    return [end for interval in intervals if interval for end in interval] + list(entry.own.scores if entry.own else ())


def _dot_row(entry: Entry, scale: Scale) -> Markup:
    own = entry.own
    assert own is not None
    marks = [tag("line", x1="0", x2="100%", y1="50%", y2="50%", class_="grid")]
    if entry.item_interval:
        marks.append(_bar(entry.item_interval, scale, "hair"))
    if own.seed_interval:
        marks.append(_bar(own.seed_interval, scale, "thick"))
    marks += [tag("circle", cx=percent(scale.at(score)), cy="50%", r="3.2", class_="seed") for score in own.scores]
    marks.append(tag("circle", cx=percent(scale.at(entry.score)), cy="50%", r="5.5", class_="mean"))
    label = f"{entry.system}: {describe(entry)}"
    svg = tag("svg", tag("title", label), *marks, width="100%", height="36", role="img", aria_label=label)
    name = tag("div", entry.system, tag("small", f"{compact(entry.params)} parameters"), class_="dot-name")
    value = tag("div", f"{entry.score:.1f}", tag("small", f"{len(own.scores)} seeds"), class_="dot-value")
    return tag("div", name, tag("div", svg, class_="dot-track"), value, class_=f"dot-row {kind_class(entry.kind)}")


def _bar(interval: Interval, scale: Scale, class_: str) -> Markup:
    low, high = percent(scale.at(interval.low)), percent(scale.at(interval.high))
    return tag("line", x1=low, x2=high, y1="50%", y2="50%", class_=class_)


def describe(entry: Entry) -> str:
    """A score with what is known of its error, in words."""
    words = f"{entry.score:.1f} %"
    if entry.own and entry.own.seed_interval:
        low, high = entry.own.seed_interval
        words += f" mean of {len(entry.own.scores)} seeds, 95 % interval over seeds {low:.1f} to {min(high, 100):.1f}"
    if entry.item_interval:
        low, high = entry.item_interval
        words += f", over {entry.items:,} items {low:.1f} to {high:.1f}"
    return words


def forest(ablation: Ablation) -> Markup:
    """Differences from the control: dot and interval, the paper's own difference as a diamond, the verdict in words."""
    effects = ablation.effects
    shown = [end for effect in effects for end in (effect.interval or (effect.difference,))]
    shown += [effect.published.difference for effect in effects if effect.published]
    scale = Scale.over([*shown, 0.0], margin=0.06)
    zero = percent(scale.at(0.0))
    ticks = [tag("span", signed(tick, "+g"), style=f"left:{percent(scale.at(tick))}") for tick in scale.ticks(6)]
    axis = tag("div", tag("div", *ticks, class_="dot-axis"), class_="dot-row axis", aria_hidden="true")
    return tag("div", *(_forest_row(effect, scale, zero) for effect in effects), axis, class_="dots forest")


def _forest_row(effect: Effect, scale: Scale, zero: str) -> Markup:
    marks = [tag("line", x1=zero, x2=zero, y1="0", y2="100%", class_="zero")]
    if effect.interval:
        marks.append(_bar(effect.interval, scale, "thick"))
    if effect.published:
        words = f"TRM paper, {effect.published.system}: {effect.published.difference:+.1f} points"
        at = percent(scale.at(effect.published.difference))
        marks.append(
            tag("svg", tag("path", tag("title", words), d="M0-5L5 0L0 5L-5 0Z", class_="paper"), x=at, y="50%")
        )
    class_ = "mean" if effect.is_separated else "mean open"
    marks.append(tag("circle", cx=percent(scale.at(effect.difference)), cy="50%", r="5.5", class_=class_))
    spoken = f"{effect.name}: {effect.difference:+.1f} points. {effect.verdict}"
    svg = tag("svg", tag("title", spoken), *marks, width="100%", height="40", role="img", aria_label=spoken)
    name = tag("div", effect.name, tag("small", effect.verdict), class_="dot-name")
    value = tag("div", signed(effect.difference), tag("small", _saved(effect)), class_="dot-value")
    return tag("div", name, tag("div", svg, class_="dot-track"), value, class_="dot-row k-trm")


def _saved(effect: Effect) -> str:
    if effect.compute_saved is None:
        return ""
    if abs(effect.compute_saved) < 0.005:
        return "equal compute"
    return f"{100 * abs(effect.compute_saved):.0f} % {'less' if effect.compute_saved >= 0 else 'more'} compute"


def curves(trials: Sequence[TrialView]) -> Markup:
    """Exact accuracy on validation over steps, a line per trial; the best explored and the confirmed ones in colour."""
    drawn = [trial for trial in trials if len(trial.curve) > 1]
    if not drawn:
        return Markup("")
    x = Scale(0, max(trial.curve[-1][0] for trial in drawn))
    y = Scale(0, 100)
    explored = [trial for trial in drawn if trial.stage == "explore" and trial.score is not None]
    best = max(explored, key=lambda trial: trial.score or 0.0, default=None)
    faint = " faint" if len(drawn) > FAINT_ABOVE else ""
    ordered = sorted(drawn, key=lambda trial: (trial.stage != "explore", trial is best))
    lines = []
    for trial in ordered:
        points = [(x.at(step), y.at(value)) for step, value in trial.curve]
        lead = trial is best or trial.stage != "explore"
        class_ = f"curve {kind_class(trial.variant)} lead" if lead else f"curve{faint}"
        line = polyline(points, class_ if trial.complete else f"{class_} cut")
        lines.append(tag("g", tag("title", _trial_words(trial)), line))
    label = f"Exact accuracy on validation over training steps for {len(drawn)} trials."
    return plot(
        axes(x, y, x_format="compact") + stretched(*lines),
        label=label,
        height=280,
        x_title="training steps",
        y_title="exact accuracy on validation, %",
    )


def _trial_words(trial: TrialView) -> str:
    settings = " ".join(f"{name}={value}" for name, value in trial.settings.items())
    score = "no score" if trial.score is None else f"{trial.score:.1f} %"
    stage = "" if trial.stage == "explore" else f"{trial.family}, seed {trial.seed}: "
    return f"{stage}{settings}, {score}, {trial.status}"


def effect(trials: Sequence[TrialView], name: str, title: str) -> Markup:
    """One setting against the score: a dot per trial (hollow if cut short), a bar at the mean of complete trials."""
    groups = {key[0]: group for key, group in grouped(trials, name).items()}
    values = sort_values(set(groups))
    if len(values) < 2:
        return Markup("")
    y = Scale(0, 100)
    marks: list[Markup] = []
    for index, value in enumerate(values):
        group = groups[value]
        centre, half = 100 * (index + 0.5) / len(values), 26 / len(values)
        marks += _strip(group.trials, centre, 100 / len(values), y)
        marks.append(tag("text", _plain(value), x=percent(centre), y="100%", dy="1.5em", class_="tick middle"))
        if group.complete:
            at, ends = percent(100 - y.at(group.mean)), (percent(centre - half), percent(centre + half))
            marks.append(tag("line", x1=ends[0], x2=ends[1], y1=at, y2=at, class_="mean-bar"))
    means = ", ".join(f"{value}: {groups[value].mean:.1f}" for value in values)
    label = f"Score by {title}; means {means}."
    return plot(axes(None, y) + Markup("").join(marks), label=label, height=220, x_title=title, y_title="score, %")


def _strip(group: Sequence[TrialView], centre: float, width: float, y: Scale) -> list[Markup]:
    """Dots side by side inside a column, spread evenly in the order of the trials, so that none hides another."""
    step = min(width * 0.5 / max(len(group) - 1, 1), 2.2)
    dots = []
    for index, trial in enumerate(group):
        x = centre + (index - (len(group) - 1) / 2) * step
        class_ = f"trial {kind_class(trial.variant)}" + ("" if trial.complete else " cut")
        title = tag("title", _trial_words(trial)) if len(group) <= FAINT_ABOVE else Markup("")
        dots.append(
            tag("circle", title, cx=percent(x), cy=percent(100 - y.at(trial.score or 0.0)), r="3.6", class_=class_)
        )
    return dots


def heat_map(trials: Sequence[TrialView], row: str, column: str) -> Markup:
    """Mean score over two settings, as a table with tinted cells; `n` is the number of trials of a cell."""
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
        class_="hot" if share > 55 else None,
        style=style,
    )


def importance_bars(importance: Importance | None) -> Markup:
    """Share of the spread that each setting explains."""
    if importance is None:
        return Markup("")
    rows = [
        tag(
            "div",
            tag("div", name, class_="bar-name"),
            tag("div", tag("div", "", class_="bar", style=f"width:{100 * share:.1f}%"), class_="bar-track"),
            tag("div", f"{100 * share:.0f} %", class_="bar-value"),
            class_="bar-row",
        )
        for name, share in importance.shares.items()
    ]
    return tag("div", *rows, class_="bars")


def cost_scatter(entries: Sequence[Entry], axis: str) -> Markup:
    """Score of own rows against training compute, time or parameters on a log axis, with the Pareto front."""
    getters = {"train_flops": flops, "train_s": duration, "params": compact}
    points = [(cost, entry) for entry in entries if (cost := _cost(entry, axis))]
    if len(points) < 2:
        return Markup("")
    x = Scale.over([cost for cost, _ in points], log=True, margin=0.12)
    y = Scale.over([end for _, entry in points for end in (_low(entry), _high(entry))], margin=0.06)
    front = pareto([(cost, entry.score) for cost, entry in points])
    steps = [(x.at(cost), y.at(score)) for cost, score in front]
    marks = [axes(x, y, x_format="compact"), stretched(polyline(steps, "front"))]
    for cost, entry in points:
        marks.append(_scatter_mark(x.at(cost), entry, y, f"{entry.system}: {describe(entry)}, {getters[axis](cost)}"))
    titles = {"train_flops": "training compute, FLOP", "train_s": "training time, s", "params": "parameters"}
    label = f"Score against {titles[axis]} of {len(points)} own configurations."
    return plot(Markup("").join(marks), label=label, x_title=titles[axis], y_title="exact accuracy on test, %")


def _scatter_mark(at: float, entry: Entry, y: Scale, words: str) -> Markup:
    x, middle = percent(at), 100 - y.at(entry.score)
    whisker = tag("line", x1=x, x2=x, y1=percent(100 - y.at(_low(entry))), y2=percent(100 - y.at(_high(entry))))
    dot = tag("circle", tag("title", words), cx=x, cy=percent(middle), r="5", class_="mean")
    side = "end" if at > 70 else "start"
    name = tag(
        "text", entry.system, x=x, y=percent(middle), dx="-10" if side == "end" else "10", dy="0.32em", class_=side
    )
    return tag("g", whisker, dot, name, class_=f"point {kind_class(entry.kind)}")


def _cost(entry: Entry, axis: str) -> float | None:
    return entry.params if axis == "params" else getattr(entry.own, axis, None)


def _low(entry: Entry) -> float:
    interval = (entry.own and entry.own.seed_interval) or entry.item_interval
    return max(0.0, interval.low) if interval else entry.score


def _high(entry: Entry) -> float:
    interval = (entry.own and entry.own.seed_interval) or entry.item_interval
    return min(100.0, interval.high) if interval else entry.score


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats at lower or equal cost, by rising cost."""
    front: list[tuple[float, float]] = []
    best = -math.inf
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if score > best:
            front.append((cost, score))
            best = score
    return front


def _plain(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
