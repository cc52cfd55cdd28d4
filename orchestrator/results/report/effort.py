"""Draw the scores of a benchmark against the cost of training and against the passes of an answer.

One drawing holds the rows of several tables, which are not ranked together: the colour of a dot is its protocol, a
hollow one has another training set than the published one. Against passes a line joins the points of a depth curve: the
rows of one trained model; no other line joins rows. A row that does not state the cost is not drawn but counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

from markupsafe import Markup

from orchestrator.results.baselines import Protocol
from orchestrator.results.leaderboard import PUBLISHED, Entry, Table
from orchestrator.results.leaderboard.comparable import PROTOCOL_TITLES
from orchestrator.results.report.figure_data import Cell, Rows
from orchestrator.results.report.interval_plots import describe
from orchestrator.results.report.markup import Scale, axes, percent, plot, polyline, stretched, tag
from orchestrator.results.report.scatter import LEAST_RATIO, place_names
from orchestrator.sweep.text import readable

DRAWN = ("sudoku-extreme",)
"""Benchmarks of which enough rows state both costs."""
_METRIC = "exact_accuracy"
_PROTOCOLS = {
    name: (PROTOCOL_TITLES.get(name, "one answer"), f"s-{number}") for number, name in enumerate(get_args(Protocol))
}
"""Name in the legend and colour."""


class Axis(NamedTuple):
    """Describe a cost."""

    name: str
    """Of the column in the data."""
    title: str
    missing: str
    """What a row that is not drawn does not state."""
    of: Callable[[Entry], float | None]
    shown: Callable[[Entry], str]


GPU_HOURS = Axis(
    "train_gpu_hours",
    "GPU-hours of training",
    "their GPU-hours of training",
    lambda entry: entry.gpu_hours,
    lambda entry: f"{readable(entry.gpu_hours or 0)} GPU-hours {entry.gpu}".rstrip(),
)
PASSES = Axis(
    "passes_per_answer",
    "passes per answer: supervision steps x views x samples",
    "how many passes an answer takes",
    lambda entry: entry.answer_passes,
    lambda entry: f"passes: {entry.answer_passes or 0:,}",
)


def on_test_split(tables: Sequence[Table]) -> list[tuple[Table, Entry]]:
    """Return the rows of the published test split, with their tables."""
    return [
        (table, entry)
        for table in tables
        if table.metric == _METRIC and not table.fingerprint and table.split == PUBLISHED[table.benchmark].test_split
        for entry in table.entries
    ]


def effort_plot(rows: Sequence[tuple[Table, Entry]], axis: Axis) -> Markup:
    """Draw scores against a cost, on a log axis, with a count of the rows that do not state it.

    Empty if fewer than two rows state it, or all the same.
    """
    points = [(table, entry, cost) for table, entry in rows if (cost := axis.of(entry))]
    costs = [cost for *_, cost in points]
    if len(points) < 2 or max(costs) < LEAST_RATIO * min(costs):
        return Markup("")
    x = Scale.over(costs, log=True, margin=0.12)
    y = Scale.of_scores([entry.score for _, entry, _ in points])
    lines = stretched(*_curves(points, x, y)) if axis is PASSES else Markup("")
    marks = [_dot(table, entry, x.at(cost), y, axis) for table, entry, cost in points]
    best_first = sorted(points, key=lambda point: -point[1].score)
    places = [(x.at(cost), 100 - y.at(entry.score), entry) for _, entry, cost in best_first]
    marks += place_names(places, [(at, down) for at, down, _ in places])
    shown = [_PROTOCOLS[name] for name in _PROTOCOLS if any(table.protocol == name for table, *_ in points)]
    best = best_first[0][1]
    drawing = plot(
        axes(x, y, x_format="compact") + lines + Markup("").join(marks),
        label=f"Exact accuracy against {axis.title}, {len(points)} rows; highest: {best.system}, "
        f"{best.score:.1f} %, {axis.shown(best)}.",
        height=360,
        x_title=axis.title,
        y_title="exact accuracy, %",
        legend=shown,
    )
    left = len(rows) - len(points)
    words = f"{left} of the {len(rows)} rows on this test split do not state {axis.missing} and are not drawn."
    return drawing + (tag("p", words, class_="note") if left else Markup(""))


def effort_rows(rows: Sequence[tuple[Table, Entry]], axis: Axis) -> Rows:
    """Return the data of `effort_plot`, without the rows that it leaves out."""
    names = ("system", "protocol", "compute", "training", axis.name, "gpu", "score", "source")
    head: tuple[Cell, ...] = (*names, "curve") if axis is PASSES else names
    found: list[tuple[Cell, ...]] = []
    for table, entry in rows:
        if cost := axis.of(entry):
            ways = (table.protocol, table.compute, table.training)
            row = (entry.system, *ways, cost, entry.gpu, entry.score, entry.source)
            found.append((*row, entry.curve) if axis is PASSES else row)
    return (head, *found)


def _curves(points: Sequence[tuple[Table, Entry, float]], x: Scale, y: Scale) -> list[Markup]:
    """Draw a line through the points of each depth curve, in the colour of their protocol."""
    curves: dict[tuple[object, ...], list[tuple[float, float]]] = defaultdict(list)
    for table, entry, cost in points:
        if entry.curve:
            # A row of the user's own may carry the name of a packaged curve whose rows were scored in another way.
            key = (table.protocol, entry.curve, table.training, table.scoring, entry.votes, entry.samples)
            curves[key].append((cost, entry.score))
    lines = []
    for (protocol, *_), found in curves.items():
        if len(found) > 1:
            name, class_ = _PROTOCOLS[str(protocol)]
            path = polyline([(x.at(cost), y.at(score)) for cost, score in sorted(found)], "depth-line")
            lines.append(tag("g", path, class_=class_, data_group=name))
    return lines


def _dot(table: Table, entry: Entry, at: float, y: Scale, axis: Axis) -> Markup:
    name, class_ = _PROTOCOLS[table.protocol]
    words = ", ".join(filter(None, [describe(entry), axis.shown(entry), name, table.training]))
    style = "mean open" if table.training else "mean"
    place = {"cx": percent(at), "cy": percent(100 - y.at(entry.score))}
    return tag(
        "g",
        tag("circle", tag("title", f"{entry.system}: {words}"), r="4.5", class_=style, **place),
        class_=class_,
        data_group=name,
    )
