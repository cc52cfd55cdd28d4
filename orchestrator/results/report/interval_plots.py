"""Draw dots with intervals: own results, and the effects of an ablation."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from orchestrator.results.ablation import Ablation, Effect
from orchestrator.results.leaderboard import Entry
from orchestrator.results.report.markup import Scale, compact, kind_class, percent, signed, tag
from orchestrator.results.stats import Interval


def dots_and_intervals(entries: Sequence[Entry]) -> Markup:
    """Draw own rows: mean as a dot, seeds as rings, interval over seeds as a bar, that over items as a hairline."""
    own = [entry for entry in entries if entry.own]
    if not own:
        return Markup("")
    ends = [end for entry in own for end in _ends(entry)]
    scale = Scale.over([max(0.0, min(ends)), min(100.0, max(ends))])
    rows = [_dot_row(entry, scale) for entry in own]
    return tag("div", *rows, _axis(scale, "g"), class_="dots")


def _axis(scale: Scale, style: str) -> Markup:
    ticks = [tag("span", signed(tick, style), style=f"left:{percent(scale.at(tick))}") for tick in scale.ticks(6)]
    return tag("div", tag("div", *ticks, class_="dot-axis"), class_="dot-row axis", aria_hidden="true")


def _ends(entry: Entry) -> list[float]:
    intervals = [entry.item_interval, entry.own.seed_interval if entry.own else None]
    return [end for interval in intervals if interval for end in interval] + list(entry.own.scores if entry.own else ())


def _dot_row(entry: Entry, scale: Scale) -> Markup:
    own = entry.own
    assert own is not None
    marks = [tag("line", x1="0", x2="100%", y1="50%", y2="50%", class_="grid")]
    if entry.item_interval:
        marks.append(_bar(entry.item_interval, scale, "hair"))
    if own.seed_interval and entry.interval:
        marks.append(_bar(entry.interval, scale, "thick"))
    places = dict.fromkeys(percent(scale.at(score)) for score in own.scores)  # equal ones would hide each other
    marks += [tag("circle", cx=place, cy="50%", r="3.2", class_="seed") for place in places]
    marks.append(tag("circle", cx=percent(scale.at(entry.score)), cy="50%", r="5.5", class_="mean"))
    label = f"{entry.system}: {describe(entry)}"
    svg = tag("svg", tag("title", label), *marks, width="100%", height="36", role="img", aria_label=label)
    name = tag("div", entry.system, tag("small", f"{compact(entry.params)} parameters"), class_="dot-name")
    value = tag(
        "div",
        f"{entry.score:.1f}",
        tag("small", f"{len(own.scores)} seed{'s' if len(own.scores) > 1 else ''}"),
        class_="dot-value",
    )
    return tag("div", name, tag("div", svg, class_="dot-track"), value, class_=f"dot-row {kind_class(entry.kind)}")


def _bar(interval: Interval, scale: Scale, class_: str) -> Markup:
    low, high = percent(scale.at(interval.low)), percent(scale.at(interval.high))
    return tag("line", x1=low, x2=high, y1="50%", y2="50%", class_=class_)


def describe(entry: Entry) -> str:
    """Describe a score with what is known of its error."""
    words = f"{entry.score:.1f} %"
    if entry.own and entry.own.seed_interval:
        low, high = entry.own.seed_interval
        words += f" mean of {len(entry.own.scores)} seeds, 95 % interval over seeds {low:.1f} to {high:.1f}"
    if entry.item_interval:
        low, high = entry.item_interval
        words += f", over {entry.items:,} items {low:.1f} to {high:.1f}"
    return words


def forest(ablation: Ablation) -> Markup:
    """Draw differences from the control with intervals and verdicts; the TRM paper's own difference is a diamond."""
    effects = ablation.effects
    shown = [end for effect in effects for end in (effect.interval or (effect.difference,))]
    shown += [effect.published.difference for effect in effects if effect.published]
    scale = Scale.over([*shown, 0.0], margin=0.06)
    zero = percent(scale.at(0.0))
    return tag("div", *(_forest_row(e, scale, zero) for e in effects), _axis(scale, "+g"), class_="dots forest")


def _forest_row(effect: Effect, scale: Scale, zero: str) -> Markup:
    marks = [tag("line", x1=zero, x2=zero, y1="0", y2="100%", class_="zero")]
    if effect.interval:
        marks.append(_bar(effect.interval, scale, "thick"))
    if effect.published:
        words = f"TRM paper, {effect.published.system}: {effect.published.difference:+.1f} points"
        at = percent(scale.at(effect.published.difference))
        diamond = tag("path", tag("title", words), d="M0-5L5 0L0 5L-5 0Z", class_="paper")
        marks.append(tag("svg", diamond, x=at, y="50%"))
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
