"""Write an ablation as a table for the terminal, Markdown, CSV, JSON and LaTeX, with a caption that says what was
compared and how."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.box import HEAVY_HEAD

from orchestrator.results.ablation import SIGNIFICANT, Ablation, Effect, show_p
from orchestrator.results.leaderboard import METRIC_TITLES, SPLIT_TITLES, Entry
from orchestrator.results.report import escape
from orchestrator.results.report.formats import SHARED, ampersands, pipe, plain_row, rounded, terminal
from orchestrator.results.report.markup import flops
from orchestrator.results.stats import Interval
from orchestrator.sweep.fitted_table import Column, FittedTable
from orchestrator.sweep.text import plural
from trm_data.settings import strict_json

CHANGE, SCORE, SEED_INTERVAL, SEEDS, POINTS, INTERVAL = (
    "Change",
    "Score %",
    "95 % seeds",
    "Seeds",
    "Points",
    "Interval",
)
COLUMNS = ("Configuration", CHANGE, SCORE, SEED_INTERVAL, SEEDS, POINTS, INTERVAL, "p (Holm)", "Compute", "Paper")
_LEFT = ("Configuration", CHANGE)
_DROPPED_FIRST = (CHANGE, "Paper", SEED_INTERVAL, "Compute", SEEDS, INTERVAL)
"""Columns that a terminal leaves out where it is too narrow, the least important first."""
_DIFFERENCES = (POINTS, INTERVAL, "Paper")
_SIGNED = re.compile(r"[+-][\d.]+")
"""Numbers that LaTeX sets as math, because it shows a minus as a hyphen elsewhere."""


def caption(ablation: Ablation) -> str:
    """Return what was compared, with which test, correction and number of seeds, in plain sentences."""
    table, control, effects = ablation.table, ablation.control, ablation.effects
    counts = sorted({effect.seeds[0] for effect in effects} | {effect.seeds[1] for effect in effects})
    seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else plural(counts[0], "seed") + " each"
    place = [table.title, SPLIT_TITLES.get(table.split, table.split), table.compute, table.training, table.scoring]
    items = f" ({table.items:,} scored)" if table.items else ""
    metric = METRIC_TITLES.get(table.metric, table.metric)
    sentences = [
        f"{metric[:1].upper()}{metric[1:]} in % on {', '.join(filter(None, place))}{items}: means over training runs, "
        f"{seeds}, with 95 % intervals over seeds.",
        *_tests(ablation),
    ]
    if any(effect.compute_ratio is not None for effect in effects) and control.own:
        amount = flops(control.own.train_flops)
        sentences.append(f"Compute: training FLOPs relative to {control.system} ({amount} per run).")
    if any(effect.published for effect in effects):
        sentences.append("Paper: difference of the same change in the TRM paper, from single runs.")
    sentences.append(f"Own trials were scored on this test set {plural(table.test_scorings, 'time')}.")
    return " ".join(sentences)


def _tests(ablation: Ablation) -> list[str]:
    """Return the sentences about tests and their correction."""
    control = ablation.control.system
    tested = [effect for effect in ablation.effects if effect.p_adjusted is not None]
    untested = [effect.name for effect in ablation.effects if effect.p_adjusted is None]
    single = f"{', '.join(untested)}: not tested, because a side has a single run." if untested else ""
    if not tested:
        return [f"Differences are from {control}, in points.", single]
    paired = [effect.name for effect in tested if effect.method == "paired by seed"]
    if len(paired) == len(tested):
        test = "by the paired t test over seeds"
    else:
        test = "by Welch's t test over seeds"
        test += f" ({', '.join(paired)}: by the paired t test)" if paired else ""
    sentences = [f"Points: difference from {control}, tested {test}."]
    if len(tested) == 1:
        sentences.append("One comparison was made, so its p value and its 95 % interval are not corrected.")
    else:
        sentences.append(
            f"P values are adjusted for {len(tested)} comparisons by Holm's procedure, and each interval of a "
            "difference has the level at which that procedure tested it, so that it excludes zero exactly if the "
            "difference is significant."
        )
    sentences.append(f"*: significant at {SIGNIFICANT} after the correction.")
    return [*sentences, *([single] if single else [])]


def to_rich(ablation: Ablation) -> FittedTable:
    """Return a table for the terminal, without empty columns; a narrow terminal gets the more important ones."""
    rows = _rows(ablation, _plain_range)
    shown = _used(rows)
    drops = {name: len(_DROPPED_FIRST) - index for index, name in enumerate(_DROPPED_FIRST)}
    columns = [Column(name, name not in _LEFT, drops.get(name, 0), 24) for name in shown]
    drawn = FittedTable(columns, caption=escape.one_line(caption(ablation)), box=HEAVY_HEAD)
    styles = ["dim", *("bold" if effect.is_separated else None for effect in ablation.effects)]
    for row, style in zip(rows, styles, strict=True):
        drawn.add_row(*(terminal(row[name]) for name in shown), style=style)
    return drawn


def to_markdown(ablation: Ablation) -> str:
    """Format the caption, a pipe table and a verdict per configuration."""
    rows = _rows(ablation, _plain_range)
    used = _used(rows)
    lines = [escape.markdown(caption(ablation)), "", pipe(used)]
    lines.append(f"| {' | '.join(':---' if name in _LEFT else '---:' for name in used)} |")
    lines += [pipe([row[name] for name in used]) for row in rows]
    lines += ["", *(f"- {escape.markdown(sentence)}" for sentence in verdicts(ablation)), ""]
    return "\n".join(lines)


def verdicts(ablation: Ablation) -> list[str]:
    """Return a sentence per configuration that begins with its name and what was changed."""
    return [f"{_described(effect)}: {effect.verdict}" for effect in ablation.effects]


def _described(effect: Effect) -> str:
    return f"{effect.name} ({effect.change})" if effect.change else effect.name


def to_latex(ablation: Ablation) -> str:
    """Format a `table` environment for the booktabs package, with its caption."""
    rows = _rows(ablation, lambda low, high: f"{low} to {high}")
    used = _used(rows)
    layout = "".join("l" if name in _LEFT else "r" for name in used)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape.latex(caption(ablation))}}}",
        r"\label{tab:ablation}",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        ampersands(used),
        r"\midrule",
        *(_latex_row(row, used) for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _latex_row(row: dict[str, str], used: list[str]) -> str:
    texts = [escape.latex(row[name]) for name in used]
    pairs = zip(used, texts, strict=True)
    return " & ".join(_SIGNED.sub(r"$\g<0>$", text) if name in _DIFFERENCES else text for name, text in pairs) + r" \\"


def to_csv(ablation: Ablation) -> str:
    """Format one line per configuration, the control first, with plain numbers; see `escape.csv_cell` for text."""
    shared = {name: getattr(ablation.table, name) for name in SHARED}
    control = ablation.control
    rows = [shared | _flat(control, None, control.system)]
    rows += [shared | _flat(effect.entry, effect, control.system) for effect in ablation.effects]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: escape.csv_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def to_json(ablation: Ablation) -> str:
    """Serialize the caption, the control and every effect, with their rows, provenance included."""
    table = ablation.table
    effects = [
        asdict(effect)
        | {
            "change": effect.change,
            "compute_ratio": effect.compute_ratio,
            "is_separated": effect.is_separated,
            "verdict": effect.verdict,
        }
        for effect in ablation.effects
    ]
    value = {name: getattr(table, name) for name in (*SHARED, "items", "test_scorings")}
    value |= {"caption": caption(ablation), "control": asdict(ablation.control), "effects": effects}
    return strict_json(value, indent=2) + "\n"


TEXT_FORMATS: dict[str, Callable[[Ablation], str]] = {
    "markdown": to_markdown,
    "csv": to_csv,
    "json": to_json,
    "latex": to_latex,
}


def _rows(ablation: Ablation, in_range: Callable[[str, str], str]) -> list[dict[str, str]]:
    """Return the texts of all rows by column, the control first; `in_range` writes an interval."""
    control = dict.fromkeys(COLUMNS, "") | _scores(ablation.control, in_range)
    has_compute = any(effect.compute_ratio is not None for effect in ablation.effects)
    rows = [control | {CHANGE: "control", "Compute": "1" if has_compute else ""}]
    for effect in ablation.effects:
        low, high = effect.interval or (None, None)
        ratio, star = effect.compute_ratio, "*" if effect.is_separated else ""
        rows.append(
            {
                **_scores(effect.entry, in_range),
                CHANGE: effect.change,
                POINTS: f"{effect.difference:+.1f}{star}",
                INTERVAL: "" if low is None or high is None else in_range(f"{low:+.1f}", f"{high:+.1f}"),
                "p (Holm)": "" if effect.p_adjusted is None else show_p(effect.p_adjusted),
                "Compute": "" if ratio is None else f"{ratio:.2g}" if ratio < 0.1 else f"{ratio:,.2f}",
                "Paper": "" if effect.published is None else f"{effect.published.difference:+.1f}",
            }
        )
    return rows


def _scores(entry: Entry, in_range: Callable[[str, str], str]) -> dict[str, str]:
    interval = entry.own.seed_interval if entry.own else None
    return {
        "Configuration": entry.system,
        SCORE: f"{entry.score:.1f}",
        SEED_INTERVAL: "" if interval is None else in_range(f"{interval.low:.1f}", f"{interval.high:.1f}"),
        SEEDS: str(entry.seeds),
    }


def _plain_range(low: str, high: str) -> str:
    return f"{low} to {high}" if low.startswith(("+", "-")) else f"{low}-{high}"


def _used(rows: list[dict[str, str]]) -> list[str]:
    return [name for name in COLUMNS if any(row[name] not in ("", "control") for row in rows)]


def _flat(entry: Entry, effect: Effect | None, control: str) -> dict[str, Any]:
    """Return one row as plain numbers; fields of the comparison are empty for the control itself."""
    interval = (effect and effect.interval) or Interval(float("nan"), float("nan"))
    has_interval = effect is not None and effect.interval is not None
    compared = {
        "control": control,
        "change": effect.change if effect else "",
        "difference": rounded(effect.difference) if effect else None,
        "difference_low": rounded(interval.low) if has_interval else None,
        "difference_high": rounded(interval.high) if has_interval else None,
        "difference_confidence": 1 - effect.level if effect and effect.level else None,
        "test": effect.method if effect else "",
        "p_value": effect.p_value if effect else None,
        "p_adjusted": effect.p_adjusted if effect else None,
        "correction": "Holm" if effect and effect.comparisons > 1 else "",
        "comparisons": effect.comparisons if effect else None,
        "detectable": rounded(effect.detectable) if effect else None,
        "seeds_needed": effect.seeds_needed if effect else None,
        "compute_ratio": rounded(effect.compute_ratio) if effect else None,
        "paper_difference": rounded(effect.published.difference) if effect and effect.published else None,
        "verdict": effect.verdict if effect else "",
    }
    return {name: value for name, value in plain_row(entry).items() if not name.startswith("rank_")} | compared
