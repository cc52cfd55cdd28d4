"""Write one HTML page of records and published results that needs no network and opens from file://."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from orchestrator.records.schema import TrialRecord
from orchestrator.results.ablation import Ablation, compare_with_control
from orchestrator.results.baselines import Baseline, load_baselines
from orchestrator.results.baselines.like_for_like import like_for_like
from orchestrator.results.leaderboard import Entry, Table, build_leaderboard, refusals, tell_apart
from orchestrator.results.leaderboard.cost import WORLD_GRID, Grid, describe_cost
from orchestrator.results.llm_results import Measured
from orchestrator.results.report import explorer, markup
from orchestrator.results.report.figures import (
    ROWS_SHOWN,
    Figure,
    ablation_figure,
    arrange,
    dots_figure,
    effort_figures,
    published_figures,
    study_figures,
)
from orchestrator.results.report.formats import amounts
from orchestrator.results.report.gallery import Gallery, GallerySource, galleries, no_gallery
from orchestrator.results.report.importance import importances
from orchestrator.results.report.summary import summarise
from orchestrator.results.report.views import Study, studies
from orchestrator.sweep.text import readable
from trm_data.files import write_output

SCRIPTS = {
    "page.js": "templates",
    "tools.js": "templates",
    "gallery.js": "templates",
    "d3.min.js": "vendor",
    "explorer.js": "templates",
    "curves.js": "templates",
    "parallel.js": "templates",
    "items.js": "templates",
    "live.js": "templates",
    "figures.js": "templates",
}
"""Scripts of the page in their order, with the folder of each."""
_FOLDER = Path(__file__).parent


class Live(NamedTuple):
    """Name where the server of `trm ui` keeps the figures of a study up to date."""

    address: str
    version: str
    """Of the records that the page shows."""


LiveSource = Callable[[Study], Live]


def script_text(name: str) -> Markup:
    """Return one of the scripts of the page."""
    return Markup((_FOLDER / SCRIPTS[name] / name).read_text())


@dataclass(frozen=True, slots=True)
class Section:
    """Hold everything shown about one dataset."""

    study: Study
    summary: str
    tables: tuple[Table, ...]
    dots: Figure
    ablation: Figure | None
    figures: tuple[Figure, ...]
    galleries: tuple[Gallery, ...]
    refused: dict[str, int]
    document: str
    """JSON of the interactive figures."""
    has_items: bool
    """Whether it says which trial solves which puzzle."""
    live: Live | None
    """Where they are kept up to date; None in a file."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Hold everything that the page shows."""

    records: Sequence[TrialRecord]
    now: datetime
    """Shown as the date of the page."""
    title: str = ""
    """The names of the sweeps if empty."""
    control: str | None = None
    """Configuration that the others are compared with."""
    baselines: Sequence[Baseline] | None = None
    """Published results; the packaged ones if None."""
    measured: Sequence[Measured] = ()
    """Language models scored on the same puzzles."""
    gallery: GallerySource = no_gallery
    """Where example puzzles come from."""
    grid: Grid | None = WORLD_GRID
    """What turns energy into CO2; None leaves CO2 out."""
    live: LiveSource | None = None
    """None: the page holds all that its figures show."""
    is_served: bool = False
    """Whether the page is served by `trm ui`: its scripts are then files of the server, as its policy demands."""

    def write(self, path: Path) -> None:
        """Write the page to `path` atomically.

        Raises:
            UserError: the page cannot be written there, or nothing is confirmed by the name of the control.
            DataError: a malformed published result.
        """
        write_output(path, self.html().encode())

    def html(self) -> str:
        """Render the page."""
        published = load_baselines() if self.baselines is None else list(self.baselines)
        ablation = None
        if self.control is not None:
            ablation = compare_with_control(self.records, self.control, baselines=published)
        sections = [
            _section(study, published, self.measured, ablation, self.gallery, self.live and self.live(study))
            for study in studies(self.records)
        ]
        told = iter(tell_apart([table for section in sections for table in section.tables], self.records))
        sections = [replace(section, tables=tuple(next(told) for _ in section.tables)) for section in sections]
        own = {table.benchmark for section in sections for table in section.tables}
        shown = {section.study.fingerprint for section in sections}
        tables = build_leaderboard(None, [], published, [m for m in self.measured if m.plan.fingerprint not in shown])
        others = [table for table in tables if table.has_measured or table.benchmark not in own]
        sweeps = list(dict.fromkeys(record.sweep for record in self.records))
        return (
            environment()
            .get_template("report.html.j2")
            .render(
                title=self.title or _title(sweeps),
                sections=sections,
                published=_related_first(others, sections),
                baselines=published,
                grid=self.grid,
                generated=self.now.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
                num_trials=len(self.records),
                sweeps=sweeps,
                is_served=self.is_served,
                scripts=_scripts(sections),
            )
        )


def _title(sweeps: list[str]) -> str:
    if not sweeps:
        return "Published results"
    return sweeps[0] if len(sweeps) == 1 else f"{len(sweeps)} sweeps"


def _scripts(sections: Sequence[Section]) -> list[str]:
    """Return the scripts that a page needs."""
    if not sections:
        return ["page.js", "tools.js", "figures.js"]
    return [name for name in SCRIPTS if name != "gallery.js" or any(section.galleries for section in sections)]


def _related_first(tables: list[Table], sections: Sequence[Section]) -> list[tuple[str, list[Table], bool]]:
    """Group tables by benchmark as (title, tables, open at first); those related to own sweeps come first, and open."""
    kinds = {section.study.benchmark.split("-")[0] for section in sections}
    groups: dict[str, list[Table]] = {}
    for table in sorted(tables, key=lambda table: table.benchmark.split("-")[0] not in kinds):
        groups.setdefault(table.title, []).append(table)
    return [(title, group, group[0].benchmark.split("-")[0] in kinds) for title, group in groups.items()]


def _section(
    study: Study,
    published: Sequence[Baseline],
    measured: Sequence[Measured],
    ablation: Ablation | None,
    gallery: GallerySource,
    live: Live | None,
) -> Section:
    models = [measurement for measurement in measured if measurement.plan.fingerprint == study.fingerprint]
    tables = tuple(build_leaderboard(study.benchmark, study.records, published, models))
    main = next((table for table in tables if table.has_own), None)
    entries = [entry for entry in main.entries if entry.own] if main else []
    compared = ablation if ablation and main and _same_puzzles(main, ablation.table) else None
    importance = importances(study.compared, study.varied)
    document = explorer.document(study, live and live.address)
    return Section(
        study=study,
        summary=summarise(study, main),
        tables=tables,
        dots=dots_figure(entries),
        ablation=ablation_figure(compared) if compared else None,
        figures=arrange([each for each in study_figures(study, entries, importance) if each.body])
        + tuple(effort_figures(tables)),
        galleries=tuple(galleries(entries, study.records, gallery)),
        refused=refusals(study.records),
        document=explorer.as_script(document),
        has_items=document["items"] is not None,
        live=live,
    )


def _same_puzzles(one: Table, other: Table) -> bool:
    return (one.benchmark, one.split, one.fingerprint) == (other.benchmark, other.split, other.fingerprint)


def shown_first(table: Table) -> set[str]:
    """Return the systems shown before "show all": the best, the best own ones, TRM, HRM and the paper's competitors."""
    own = [entry for entry in table.entries if entry.own][:ROWS_SHOWN]
    others = [entry for entry in table.entries if entry.stands_out and not entry.own]
    return {entry.system for entry in (*table.entries[:ROWS_SHOWN], *own, *others)}


def interval_cell(entry: Entry) -> Markup:
    """Draw a small dot and interval on 0..100 for a table row."""
    if entry.interval is None:
        return Markup("")
    low, high = map(markup.percent, entry.interval)
    bar = markup.tag("line", x1=low, x2=high, y1="50%", y2="50%")
    dot = markup.tag("circle", cx=markup.percent(entry.score), cy="50%", r="2.6")
    base = markup.tag("line", x1="0", x2="100%", y1="50%", y2="50%", class_="grid")
    return markup.tag("svg", base, bar, dot, class_="mini", width="88", height="14", aria_hidden="true")


def source_link(source: str) -> str:
    """Return the address of an arXiv or GitHub source, or an empty string."""
    first, *others = source.split() or [""]
    if first == "arXiv" and others:
        return f"https://arxiv.org/abs/{others[0]}"
    return f"https://{first}" if first.startswith(("github.com/", "arcprize.org/")) else ""


def remark(detail: str) -> str:
    """Return a row's detail without the identifier at its source."""
    return "; ".join(part for part in detail.split("; ") if not part.startswith("id "))


def provenance_rows(entry: Entry, study: Study, grid: Grid | None = None) -> list[tuple[str, Any]]:
    """Return (name, value) of everything needed to find the records of a result again."""
    own = entry.own
    if own is None:
        return []
    runs = ", ".join(f"{score:.2f} (seed {seed})" for score, seed in zip(own.scores, own.seeds, strict=True))
    return [
        ("Scores, %", runs),
        ("Trials", ", ".join(own.trial_ids)),
        ("Sweep, stage", f"{', '.join(own.sweeps)}; {', '.join(own.stages)}"),
        ("Dataset", f"{own.fingerprint} ({study.records[0].dataset.source or 'own source'})"),
        ("Commit", ", ".join(own.commits) or "not recorded"),
        ("Machine", ", ".join(own.machines) or "not recorded"),
        *([("Caution", own.warning)] if own.warning else []),
        ("Training", f"{markup.duration(own.train_s)}, {markup.flops(own.train_flops)} per run"),
        ("Cost per run", describe_cost(own.cost, grid)),
        ("Puzzles presented", markup.compact(own.puzzles_presented)),
    ]


def environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator.results.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "compact": markup.compact,
        "dollars": markup.dollars,
        "duration": markup.duration,
        "flops": markup.flops,
        "number": markup.number,
        "points": markup.points,
        "readable": readable,
        "pretty_json": lambda value: json.dumps(value, indent=1, sort_keys=True),
    }
    environment.globals |= {
        "amounts": amounts,
        "interval_cell": interval_cell,
        "like_for_like": like_for_like,
        "kind_class": markup.kind_class,
        "provenance_rows": provenance_rows,
        "effort_figures": effort_figures,
        "published_figures": published_figures,
        "remark": remark,
        "script_text": script_text,
        "shown_first": shown_first,
        "source_link": source_link,
    }
    return environment


def leaderboard_html(table: Table, id_: str) -> Markup:
    """Render one table without provenance details.

    Args:
        id_: of its element, unique in the document.
    """
    macros: Any = environment().get_template("parts.html.j2").module
    return Markup(macros.leaderboard(table, None, id_, WORLD_GRID))


def fragment(body: Markup) -> str:
    """Return a part of the page with its style sheet, which is limited to it, for display inside another document."""
    style = environment().get_template("style.css").render()
    scoped = re.sub(r":root|(?<![\w-])body(?= \{)", ":scope", style)
    return f'<div class="fragment"><style>@scope (.fragment) {{{scoped}}}</style>{body}</div>'
