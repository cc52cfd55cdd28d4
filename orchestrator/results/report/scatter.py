"""Draw score against cost, on a log axis, with the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from markupsafe import Markup

from orchestrator.results.leaderboard import Entry
from orchestrator.results.report.interval_plots import describe
from orchestrator.results.report.markup import (
    Scale,
    axes,
    compact,
    dollars,
    duration,
    flops,
    kind_class,
    percent,
    plot,
    polyline,
    stretched,
    tag,
)
from orchestrator.sweep.pareto import pareto_front

_COSTS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "train_flops": ("training compute, FLOP", flops),
    "train_s": ("training time, s", duration),
    "params": ("parameters", compact),
    "cost_per_task_usd": ("dollars per task", dollars),
}


LEAST_RATIO = 1.05
"""Of the highest cost to the lowest: below this, all points would lie above each other."""


def cost_scatter(entries: Sequence[Entry], axis: str, *, named: Container[str], y_title: str) -> Markup:
    """Draw score against cost on a log axis, with the Pareto front; only rows in `named` are labelled.

    Empty if the costs are equal: then there is no relation to see.
    """
    points = [(cost, entry) for entry in entries if (cost := _cost(entry, axis))]
    costs = [cost for cost, _ in points]
    if len(points) < 2 or max(costs) < LEAST_RATIO * min(costs):
        return Markup("")
    title, show = _COSTS[axis]
    x = Scale.over(costs, log=True, margin=0.12)
    y = Scale.over([end for _, entry in points for end in entry.interval or (entry.score,)], margin=0.06)
    front = pareto([(cost, entry.score) for cost, entry in points])
    line = polyline([(x.at(cost), y.at(score)) for cost, score in front], "front")
    marks = [
        _scatter_dot(x.at(cost), entry, y, f"{entry.system}: {describe(entry)}, {show(cost)}") for cost, entry in points
    ]
    kept = [(x.at(cost), 100 - y.at(entry.score), entry) for cost, entry in points if entry.system in named]
    marks += [_scatter_named(at, entry, y) for at, _, entry in kept] + place_names(kept)
    label = f"{y_title} against {title} for {len(points)} systems; {len(front)} of them on the Pareto front."
    drawing = (
        axes(x, y, x_format="si" if axis == "train_flops" else "compact") + stretched(line) + Markup("").join(marks)
    )
    return plot(drawing, label=label, height=260, x_title=title, y_title=f"{y_title}, %")


def _scatter_dot(at: float, entry: Entry, y: Scale, words: str) -> Markup:
    down = percent(100 - y.at(entry.score))
    return tag("circle", tag("title", words), cx=percent(at), cy=down, r="3", class_="minor")


def _scatter_named(at: float, entry: Entry, y: Scale) -> Markup:
    x = percent(at)
    low, high = entry.interval or (entry.score, entry.score)
    whisker = tag("line", x1=x, x2=x, y1=percent(100 - y.at(low)), y2=percent(100 - y.at(high)))
    dot = tag("circle", cx=x, cy=percent(100 - y.at(entry.score)), r="5", class_="mean pass")
    return tag("g", whisker, dot, class_=f"point {kind_class(entry.kind)}")


def place_names(points: Sequence[tuple[float, float, Entry]], dots: Sequence[tuple[float, float]] = ()) -> list[Markup]:
    """Place names right of their dots, else left, else omit them; TRM and HRM are placed first.

    Args:
        dots: positions that no name may cover.
    """
    taken = [(at - 0.6, down, 1.2) for at, down in dots]
    names = []
    for at, down, entry in sorted(points, key=lambda point: point[2].kind not in ("trm", "hrm", "direct")):
        width = 0.85 * len(entry.system)
        for side, shift, left in (("start", "10", at + 1), ("end", "-10", at - 1 - width)):
            free = all(abs(down - y) > 6 or left > x + w or left + width < x for x, y, w in taken)
            if free and left >= 0 and left + width <= 104:
                taken.append((left, down, width))
                place = {"x": percent(at), "y": percent(down), "dx": shift, "dy": "0.32em"}
                names.append(tag("text", entry.system, class_=f"name {side}", **place))
                break
    return names


def _cost(entry: Entry, axis: str) -> float | None:
    value = getattr(entry, axis, None) if axis in ("params", "cost_per_task_usd") else getattr(entry.own, axis, None)
    return None if value is None else float(value)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other point beats at lower or equal cost, by rising cost."""
    front = pareto_front([(cost, -score) for cost, score in points])
    return sorted({points[index] for index in front})
