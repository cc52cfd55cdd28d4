"""Draw accuracy over D, the supervision steps at test time, and the best published score over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import accumulate

from markupsafe import Markup

from orchestrator.results.leaderboard import Entry
from orchestrator.results.leaderboard.confirmed import without_depth
from orchestrator.results.report.figure_data import Rows
from orchestrator.results.report.interval_plots import describe
from orchestrator.results.report.markup import Scale, axes, kind_class, percent, plot, polyline, stretched, tag
from orchestrator.results.report.views import TrialView
from orchestrator.sweep.text import plural

MAX_CURVES = 7
"""As many as there are colours."""
MIN_DATES = 3
"""Dates that a table must have before its best score is drawn over time."""
MOST_DATE_TICKS = 6
EXPORTED = "ARC Prize leaderboard"
"""Source whose rows carry the date of its export, not that of a result."""

BEST = "best so far"
KINDS = {
    "trm": "TRM",
    "hrm": "HRM",
    "direct": "direct prediction",
    "llm": "language models",
    "system": "other systems",
    "human": "people",
}
"""Names of the kinds of published rows in legends."""


@dataclass(frozen=True, slots=True)
class DepthCurve:
    """Hold the mean score in per cent by D of one configuration; `counts` are the trials behind each."""

    name: str
    means: dict[int, float]
    trials: dict[int, list[str]]
    """Ids of the trials behind each mean."""


def depth_curves(trials: Sequence[TrialView]) -> list[DepthCurve]:
    """Return a curve for each configuration that was scored at several D, at most `MAX_CURVES`, the best first.

    Every final score also records the score after its first supervision step, which is that of D = 1. Trials that
    differ in D alone are points of one curve. Confirmed trials and studies come before explored trials, which are
    scored on another split and never shown together with them.
    """
    done = [trial for trial in trials if trial.complete and trial.record.result is not None]
    final = [trial for trial in done if trial.stage != "explore"] or done
    scores: dict[tuple[str, str], dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for trial in final:
        result = trial.record.result
        assert result is not None
        steps, by_steps = result.supervision_steps, scores[without_depth(trial.family), trial.variant]
        first, last = (result.metrics.get(name) for name in ("first_step_accuracy", "exact_accuracy"))
        if steps is None or last is None:
            continue
        by_steps[steps][trial.trial_id] = 100 * last
        if steps > 1 and first is not None:
            by_steps[1][trial.trial_id] = 100 * first
    curves = [
        DepthCurve(
            name,
            {steps: sum(found.values()) / len(found) for steps, found in sorted(by_steps.items())},
            {steps: list(found) for steps, found in sorted(by_steps.items())},
        )
        for (name, _), by_steps in scores.items()
        if len(by_steps) > 1
    ]
    return sorted(curves, key=lambda curve: -max(curve.means.values()))[:MAX_CURVES]


def depth_plot(curves: Sequence[DepthCurve]) -> Markup:
    """Draw a line per configuration over D, with a legend that hides it."""
    if not curves:
        return Markup("")
    x = Scale.over([steps for curve in curves for steps in curve.means], log=True, margin=0.12)
    y = Scale.of_scores([mean for curve in curves for mean in curve.means.values()])
    lines, marks = [], []
    for number, curve in enumerate(curves):
        points = [(x.at(steps), y.at(mean)) for steps, mean in curve.means.items()]
        group = {"data_group": curve.name, "class_": f"s-{number}"}
        lines.append(tag("g", polyline(points, "depth-line"), **group))
        dots = [
            tag(
                "circle",
                tag("title", f"{curve.name}, D = {steps}: {mean:.1f} %, {plural(len(curve.trials[steps]), 'trial')}"),
                cx=percent(x.at(steps)),
                cy=percent(100 - y.at(mean)),
                r="4",
                class_="mean",
                data_trials=" ".join(curve.trials[steps]),
            )
            for steps, mean in curve.means.items()
        ]
        marks.append(tag("g", *dots, **group))
    ends = "; ".join(
        f"{curve.name}: {', '.join(f'{m:.1f} at {d}' for d, m in curve.means.items())}" for curve in curves
    )
    ticks = Markup("").join(_tick(str(steps), x.at(steps)) for steps in _apart(curves, x))
    drawing = axes(None, y) + ticks + stretched(*lines) + Markup("").join(marks)
    title = "D, supervision steps at test time"
    return plot(
        drawing,
        label=f"Exact accuracy over {title}. {ends}.",
        height=260,
        x_title=title,
        y_title="exact accuracy, %",
        legend=[(curve.name, f"s-{number}") for number, curve in enumerate(curves)],
    )


def _apart(curves: Sequence[DepthCurve], x: Scale) -> list[int]:
    """Return the values of D that were scored, without those whose names would overlap."""
    kept: list[int] = []
    for steps in sorted({steps for curve in curves for steps in curve.means}):
        if not kept or x.at(steps) - x.at(kept[-1]) > 5:
            kept.append(steps)
    return kept


def depth_rows(curves: Sequence[DepthCurve]) -> Rows:
    """Return the data of `depth_plot`."""
    rows = [(c.name, steps, round(mean, 4), len(c.trials[steps])) for c in curves for steps, mean in c.means.items()]
    return (("configuration", "D", "mean", "trials"), *rows)


def dated(entries: Sequence[Entry]) -> list[tuple[date, Entry]]:
    """Return published rows with the date of their source, oldest first.

    A source that states no day counts from the first of its month. Rows that name only a year, or the date of an
    export, are left out.
    """
    found = [
        (date.fromisoformat(entry.date if len(entry.date) == 10 else f"{entry.date}-01"), entry)
        for entry in entries
        if len(entry.date) >= 7 and not entry.measured_here and entry.source != EXPORTED
    ]
    return sorted(found, key=lambda pair: (pair[0], pair[1].score))


def best_over_time(entries: Sequence[Entry], y_title: str) -> Markup:
    """Draw published scores over the dates of their sources, and the best so far as a line of steps."""
    rows = dated(entries)
    if len({day for day, _ in rows}) < MIN_DATES:
        return Markup("")
    x = Scale.over([day.toordinal() for day, _ in rows], margin=0.08)
    y = Scale.over([entry.score for _, entry in rows], margin=0.08)
    highest = {day: entry.score for day, entry in rows}  # of a day: rows are in the order of their scores
    best = dict(zip(highest, accumulate(highest.values(), max), strict=True))
    steps: list[tuple[float, float]] = []
    for day, score in best.items():
        at = x.at(day.toordinal())
        steps += [(at, steps[-1][1])] if steps else []
        steps.append((at, y.at(score)))
    steps.append((100.0, steps[-1][1]))
    marks = []
    for day, entry in rows:
        place = {"cx": percent(x.at(day.toordinal())), "cy": percent(100 - y.at(entry.score))}
        words = f"{entry.system}: {describe(entry)}, {entry.date}, {entry.source}"
        is_best = entry.score == best[day]
        class_, radius = ("mean", "5") if is_best else ("trial", "3.5")
        dot = tag("circle", tag("title", words), r=radius, class_=class_, **place)
        parts = [dot]
        if is_best:
            side, shift = ("start", "8") if x.at(day.toordinal()) < 50 else ("end", "-8")
            corner = {"x": place["cx"], "y": place["cy"], "dx": shift, "dy": "-0.5em"}
            parts.append(tag("text", entry.system, class_=f"name {side}", **corner))
        marks.append(tag("g", *parts, class_=f"point {kind_class(entry.kind)}", data_group=KINDS[entry.kind]))
    months = enumerate(_months(rows[0][0], rows[-1][0]))
    ticks = Markup("").join(_tick(f"{day:%Y-%m}", x.at(day.toordinal()), is_spare=i % 2 == 1) for i, day in months)
    first, *_, last = best.values()
    label = f"{y_title} over time: from {first:.1f} in {rows[0][1].date} to {last:.1f} in {rows[-1][1].date}."
    front = tag("g", polyline(steps, "front"), data_group=BEST)
    drawing = axes(None, y) + ticks + stretched(front) + Markup("").join(marks)
    kinds = {entry.kind for _, entry in rows}
    legend = [(name, kind_class(kind)) for kind, name in KINDS.items() if kind in kinds]
    return plot(
        drawing,
        label=label,
        height=240,
        x_title="date of the source",
        y_title=f"{y_title}, %",
        legend=[*legend, (BEST, "k-other")],
    )


def time_rows(entries: Sequence[Entry]) -> Rows:
    """Return the data of `best_over_time`."""
    rows = dated(entries)
    best = accumulate((entry.score for _, entry in rows), max)
    found = [
        (entry.date, entry.system, entry.score, top, entry.source) for (_, entry), top in zip(rows, best, strict=True)
    ]
    return (("date", "system", "score", "best_so_far", "source"), *found)


def _months(first: date, last: date) -> Iterator[date]:
    """Yield firsts of months inside a range, evenly, at most `MOST_DATE_TICKS`."""
    months = [date(month // 12, month % 12 + 1, 1) for month in range(_number(first), _number(last) + 1)]
    inside = [day for day in months if first <= day <= last]
    yield from inside[:: max(1, -(-len(inside) // MOST_DATE_TICKS))]


def _number(day: date) -> int:
    return 12 * day.year + day.month - 1


def _tick(text: str, at: float, *, is_spare: bool = False) -> Markup:
    """Draw a tick; the words of a spare one are left out on a narrow screen."""
    line = tag("line", x1=percent(at), x2=percent(at), y1="100%", y2="100%", class_="grid mark")
    return line + tag(
        "text", text, x=percent(at), y="100%", dy="1.5em", class_="tick middle spare" if is_spare else "tick middle"
    )
