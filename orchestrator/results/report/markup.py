"""Build small pieces of SVG and HTML, scales with round ticks, and readable numbers.

A plot is an SVG as wide as its column: positions are percentages of the drawing area, so a plot keeps its letter size
on any screen, and labels hang over the edge into the padding of the surrounding box. Only lines are drawn in an inner
SVG that stretches, with strokes that do not.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from orchestrator.sweep.text import readable

_MISSING = "\N{EN DASH}"


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """Build one element. `class_` becomes class, `aria_label` aria-label; children that are not markup are escaped."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{Markup('').join(children)}</{name}>")


def percent(value: float) -> str:
    """Format a position to a hundredth of a per cent."""
    return f"{value:.2f}".rstrip("0").rstrip(".") + "%"


@dataclass(frozen=True, slots=True)
class Scale:
    """Map low..high to 0..100 per cent of a drawing area, linearly or in the logarithm."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def over(cls, values: Iterable[float], *, log: bool = False, margin: float = 0.04) -> Scale:
        """Return a scale that holds the values with a margin at both ends."""
        kept = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        low, high = (min(kept), max(kept)) if kept else (1.0, 2.0)
        if log:
            low, high = math.log10(low), math.log10(high)
        pad = (high - low) * margin or (0.5 if log else abs(high) * 0.1 or 1.0)
        low, high = low - pad, high + pad
        return cls(10**low, 10**high, log=True) if log else cls(low, high)

    @classmethod
    def of_scores(cls, scores: Sequence[float]) -> Scale:
        """Return a scale inside 0..100 that holds the scores, at least 20 points long: noise must not look large."""
        low, high = (min(scores), max(scores)) if scores else (0.0, 100.0)
        pad = max(0.08 * (high - low), (20 - (high - low)) / 2)
        return cls(min(max(0.0, low - pad), 80.0), max(min(100.0, high + pad), 20.0))

    def at(self, value: float) -> float:
        """Return the position in per cent, clipped to the area."""
        share = (self._inner(value) - self._inner(self.low)) / (self._inner(self.high) - self._inner(self.low))
        return 100 * min(max(share, 0.0), 1.0)

    def ticks(self, count: int = 5) -> list[float]:
        """Return about `count` round values inside the scale."""
        return _log_ticks(self.low, self.high, count) if self.log else _linear_ticks(self.low, self.high, count)

    def _inner(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    raw = (high - low) / max(count, 1)
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= min(count - 2, 3):
            return inside[:: max(1, round(len(inside) / count))]
    return _linear_ticks(low, high, 3)


def number(value: float | None, digits: int = 1) -> str:
    """Format a number; a dash for None."""
    return _MISSING if value is None else f"{value:.{digits}f}"


def points(score: float) -> str:
    """Format a score with one decimal, or with two if its source gives two."""
    return f"{score:.1f}" if abs(score - round(score, 1)) < 1e-9 else f"{score:.2f}"


def signed(value: float, style: str = "+.1f") -> str:
    """Format a difference with a typographic sign; zero has none."""
    return f"{value:{style}}".replace("-", "\N{MINUS SIGN}") if value else "0"


def compact(value: float | None) -> str:
    """Format a count as `148 K`, `7 M` or `1.7 T`."""
    if value is None:
        return _MISSING
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(value) >= size * 0.9995:
            return f"{readable(value / size)} {unit}"
    return readable(value)


def flops(value: float | None) -> str:
    """Format FLOPs as `5.2 PFLOP`."""
    if value is None:
        return _MISSING
    units = ("FLOP", "KFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP")
    index = min(max(int(math.log10(max(value, 1)) // 3), 0), len(units) - 1)
    return f"{readable(value / 1000**index)} {units[index]}"


def duration(seconds: float | None) -> str:
    """Format seconds as `48 s`, `3.2 min`, `5.1 h` or `2,800 h`."""
    if seconds is None:
        return _MISSING
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{readable(seconds / size)} {unit}"
    return f"{readable(seconds)} s"


def dollars(value: float | None) -> str:
    """Format dollars as `$0.39`, `$0.004` or `$12,345.00`."""
    if value is None:
        return _MISSING
    return f"${value:,.2f}" if value >= 0.1 else f"${value:.2g}"


def polyline(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """Draw a path through points in per cent of the drawing area, y upwards; for use inside `stretched`."""
    path = "".join(f"{'L' if i else 'M'}{x:.1f} {100 - y:.1f}" for i, (x, y) in enumerate(points))
    return tag("path", d=path, class_=class_)


def stretched(*children: str) -> Markup:
    """Wrap children in an inner drawing of 100 x 100 that fills the area."""
    view = {"viewBox": "0 0 100 100", "preserveAspectRatio": "none"}
    return tag("svg", *children, width="100%", height="100%", **view)


def axes(x: Scale | None, y: Scale | None, *, x_format: str = "g") -> Markup:
    """Draw hairlines and labels at the ticks of both scales."""
    parts = []
    for value in y.ticks() if y else []:
        at = percent(100 - y.at(value)) if y else ""
        parts.append(tag("line", x1="0", x2="100%", y1=at, y2=at, class_="grid"))
        parts.append(tag("text", _tick_label(value, "g"), x="-8", y=at, dy="0.32em", class_="tick end"))
    for value in x.ticks() if x else []:
        at = percent(x.at(value)) if x else ""
        parts.append(tag("line", x1=at, x2=at, y1="100%", y2="100%", class_="grid mark"))
        parts.append(tag("text", _tick_label(value, x_format), x=at, y="100%", dy="1.5em", class_="tick middle"))
    parts.append(tag("line", x1="0", x2="100%", y1="100%", y2="100%", class_="base"))
    return Markup("").join(parts)


def _tick_label(value: float, style: str) -> str:
    if style == "si":  # of FLOP: a billion is G, not B
        return compact(value).replace(" B", " G").replace(" K", " k")
    return compact(value) if style == "compact" else f"{value:{style}}"


def plot(
    body: str,
    *,
    label: str,
    height: int = 240,
    x_title: str = "",
    y_title: str = "",
    legend: Sequence[tuple[str, str]] = (),
) -> Markup:
    """Wrap a drawing in its box.

    Args:
        label: for screen readers.
        x_title: names the axis, with its unit.
        legend: name and class of each group; its button hides the elements with this `data-group`.
    """
    titles = Markup("")
    if y_title:
        titles += tag("text", y_title, x="0", y="-12", class_="axis-title")
    if x_title:
        titles += tag("text", x_title, x="100%", y="100%", dy="3.1em", class_="axis-title end")
    svg = tag("svg", body, titles, role="img", aria_label=label, width="100%", height=height)
    buttons = [
        tag("button", tag("i"), name, type="button", aria_pressed="true", data_group=name, class_=class_)
        for name, class_ in legend
    ]
    words = {"role": "group", "aria_label": "Legend: press to hide or show"}
    box = tag("div", svg, class_="plot")
    return tag("div", box, tag("div", *buttons, class_="legend", **words)) if buttons else box


def kind_class(kind: str) -> str:
    """Return the class that colours an architecture: TRM, HRM, direct prediction, or other."""
    return f"k-{kind if kind in ('trm', 'hrm', 'direct') else 'other'}"
