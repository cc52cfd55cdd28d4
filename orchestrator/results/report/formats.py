"""Write leaderboard tables for the terminal and as Markdown, CSV, JSON and LaTeX, all with the same columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.box import HEAVY_HEAD
from rich.text import Text

from orchestrator.resources.usage import Cost
from orchestrator.results.leaderboard import Entry, Table
from orchestrator.results.leaderboard.cost import WORLD_GRID, Grid
from orchestrator.results.report import escape
from orchestrator.results.report.markup import compact, dollars, duration, flops, points
from orchestrator.results.stats import Interval
from orchestrator.sweep.fitted_table import LEAST, Column, FittedTable
from trm_data.settings import strict_json

COLUMNS = (
    "Rank", "System", "Score %", "95 % puzzles", "95 % seeds", "Seeds", "Params", "$/task", "Training", "Per run",
    "Per solved", "Source",
)  # fmt: skip
_RIGHT = set(COLUMNS) - {"System", "Source"}
_DROPPED = {
    name: rank
    for rank, name in enumerate(
        (
            "95 % puzzles",
            "95 % seeds",
            "Rank",
            "Seeds",
            "Params",
            "Source",
            "$/task",
            "Per run",
            "Training",
            "Per solved",
        ),
        start=1,
    )
}
"""The columns that a narrow terminal does without: the last first. System and score are always shown."""
_LEAST = {"System": 24, "Source": 20}
"""Characters of a column below which others are left out instead."""
SHARED = ("benchmark", "split", "metric", "protocol", "compute", "training", "scoring", "fingerprint")
_STYLES = {"trm": "blue", "hrm": "dark_orange3", "direct": "green4"}


def amounts(cost: Cost | None, grid: Grid | None = WORLD_GRID, solved: float = 1.0) -> str:
    """Format the cost of a run, or of each puzzle that it solved, as `$0.44, 80 Wh, 35 g CO2`; empty if unknown."""
    if cost is None or solved <= 0:
        return ""
    texts = [] if cost.usd is None else [dollars(cost.usd / solved)]
    if cost.kwh is not None:
        texts.append(_metric(1000 * cost.kwh / solved, "Wh", "kWh"))
        if grid is not None:
            texts.append(_metric(cost.kwh * grid.g_per_kwh / solved, "g CO2", "kg CO2"))
    return ", ".join(texts)


def _metric(value: float, unit: str, thousand: str) -> str:
    number, name = (value / 1000, thousand) if value >= 1000 else (value, unit)
    return f"{number:,.0f} {name}" if number >= 10 else f"{number:.2g} {name}"


def cells(entry: Entry) -> list[str]:
    """Return the texts of one row, in the order of `COLUMNS`; empty for unknown values."""
    own = entry.own
    seeds = "" if entry.seeds is None else str(entry.seeds)
    if own and own.spread is not None:
        seeds += f" (sd {own.spread:.1f})"
    training = f"{duration(own.train_s)}, {flops(own.train_flops)}" if own and own.train_s is not None else ""
    return [
        _rank(entry.ranks),
        entry.system,
        f"{entry.score:.1f}" if own else points(entry.score),
        _interval(entry.item_interval),
        _interval(own.seed_interval if own else None),
        seeds,
        "" if entry.params is None else compact(entry.params),
        "" if entry.cost_per_task_usd is None else dollars(entry.cost_per_task_usd),
        training,
        amounts(own.cost if own else None),
        amounts(own.cost if own else None, solved=entry.solved),
        f"{entry.source} ({entry.date}, {entry.evidence})" if entry.date else entry.source,
    ]


def shorten(table: Table, most: int) -> Table:
    """Keep the best `most` rows and those that stand out (see `Entry.stands_out`); ranks are unchanged."""
    kept = [entry for index, entry in enumerate(table.entries) if index < most or entry.stands_out]
    return replace(table, entries=tuple(kept))


def to_rich(table: Table) -> FittedTable:
    """Return a table for the terminal, without empty columns; a narrow terminal gets the more important ones."""
    used = _used(table)
    drawn = FittedTable(
        [Column(name, name in _RIGHT, _DROPPED.get(name, 0), _LEAST.get(name, LEAST)) for name in used],
        title=escape.one_line(table.heading),
        caption=escape.one_line(" ".join(table.notes)),
        box=HEAVY_HEAD,
    )
    for entry in table.entries:
        row = [terminal(text) for name, text in zip(COLUMNS, cells(entry), strict=True) if name in used]
        drawn.add_row(*row, style=f"bold {_STYLES.get(entry.kind, '')}".strip() if entry.own else None)
    return drawn


def to_markdown(tables: Sequence[Table]) -> str:
    """Format pipe tables under headings."""
    return "\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    used = _used(table)
    lines = [f"### {escape.markdown(table.heading)}", "", pipe(used)]
    lines.append(f"| {' | '.join('---:' if name in _RIGHT else ':---' for name in used)} |")
    for entry in table.entries:
        texts = [escape.markdown(text) for name, text in zip(COLUMNS, cells(entry), strict=True) if name in used]
        lines.append(f"| {' | '.join(f'**{text}**' if entry.own and text else text for text in texts)} |")
    return "\n".join([*lines, "", escape.markdown(" ".join(table.notes)), ""])


def to_csv(tables: Sequence[Table]) -> str:
    """Format one line per row of every table, with plain numbers; see `escape.csv_cell` for text."""
    text = io.StringIO(newline="")
    rows = [row for table in tables for row in _flat(table)]
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["benchmark"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: escape.csv_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def to_json(tables: Sequence[Table]) -> str:
    """Serialize everything that the tables hold, provenance included."""
    return strict_json([asdict(table) | {"notes": table.notes} for table in tables], indent=2) + "\n"


def to_latex(tables: Sequence[Table]) -> str:
    """Format `tabular` environments for the booktabs package."""
    return "\n".join(_latex(table) for table in tables)


def _latex(table: Table) -> str:
    used = [name for name in _used(table) if name != "Source"]
    layout = "".join("r" if name in _RIGHT else "l" for name in used)
    lines = [
        f"% {escape.one_line(table.heading)}",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        ampersands(used),
        r"\midrule",
    ]
    for entry in table.entries:
        texts = [text for name, text in zip(COLUMNS, cells(entry), strict=True) if name in used]
        lines.append(ampersands(texts))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _flat(table: Table) -> list[dict[str, Any]]:
    shared = {name: getattr(table, name) for name in SHARED}
    return [shared | plain_row(entry) for entry in table.entries]


def plain_row(entry: Entry) -> dict[str, Any]:
    """Return a row as plain numbers and text, for CSV."""
    own = entry.own
    item_low, item_high = entry.item_interval or (None, None)
    seed_low, seed_high = (own and own.seed_interval) or (None, None)
    first, last = entry.ranks or (None, None)
    return {
        "rank_first": first,
        "rank_last": last,
        "system": entry.system,
        "kind": entry.kind,
        "role": entry.role,
        "score": round(entry.score, 4),
        "items": entry.items,
        "items_low": rounded(item_low),
        "items_high": rounded(item_high),
        "seeds": entry.seeds,
        "seeds_sd": rounded(own.spread if own else None),
        "seeds_low": rounded(seed_low),
        "seeds_high": rounded(seed_high),
        "params": entry.params,
        "cost_per_task_usd": entry.cost_per_task_usd,
        "train_flops": own.train_flops if own else None,
        "train_s": own.train_s if own else None,
        "gpu_hours": entry.gpu_hours,
        "gpu": entry.gpu,
        "passes": entry.passes,
        "votes": entry.votes,
        "samples": entry.samples,
        "curve": entry.curve,
        "first_step_score": rounded(entry.first_step_score),
        "train_puzzles": entry.train_puzzles,
        "usd_at_most": own.cost.usd if own and own.cost else None,
        "kwh_at_most": own.cost.kwh if own and own.cost else None,
        "puzzles_solved": round(entry.solved, 1) if own else None,
        "source": entry.source,
        "detail": entry.detail,
        "date": entry.date,
        "evidence": entry.evidence,
        "trial_ids": " ".join(own.trial_ids) if own else "",
    }


def rounded(value: float | None) -> float | None:
    """Round to four decimals, which hide no difference of scores."""
    return None if value is None else round(value, 4)


def _used(table: Table) -> list[str]:
    rows = [cells(entry) for entry in table.entries]
    return [name for index, name in enumerate(COLUMNS) if any(row[index] for row in rows)]


def _rank(ranks: tuple[int, int] | None) -> str:
    if ranks is None:
        return ""
    return str(ranks[0]) if ranks[0] == ranks[1] else f"{ranks[0]}-{ranks[1]}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.1f}-{interval.high:.1f}"


def pipe(texts: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(escape.markdown, texts))} |"


def ampersands(texts: Sequence[str]) -> str:
    """Return a row of a LaTeX table."""
    return " & ".join(map(escape.latex, texts)) + r" \\"


def terminal(text: str) -> Text:
    """Return text that every console prints literally, not as markup."""
    return Text(escape.one_line(text))
