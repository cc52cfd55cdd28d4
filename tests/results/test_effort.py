"""Sudoku-Extreme against the cost of training and against test-time passes: what is drawn, and what is counted."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from orchestrator.results.baselines import load_baselines
from orchestrator.results.leaderboard import Entry, Table, build_leaderboard
from orchestrator.results.report import Report
from orchestrator.results.report.figures import Figure, effort_figures
from tests.results.test_comparable import own_run

NOW = datetime(2026, 11, 30, tzinfo=UTC)
GROUPS = {"single": "one answer", "ensemble": "ensembles", "search": "search"}


def figures(*tables: Table) -> tuple[Figure, Figure]:
    cost, passes = effort_figures(tables or build_leaderboard("sudoku-extreme", [], load_baselines()))
    assert (cost.title, passes.title) == (
        "Sudoku-Extreme, accuracy against training cost",
        "Sudoku-Extreme, accuracy against test-time passes",
    )
    return cost, passes


def dots(figure: Figure) -> dict[str, str]:
    """What each dot says, with its group in the legend."""
    drawing = ET.fromstring(str(figure.body).partition('<p class="note">')[0])
    found = {}
    for group in drawing.iter("g"):
        for title in group.iter("title"):
            found[str(title.text)] = group.get("data-group") or ""
    return found


@pytest.mark.parametrize(("number", "column"), [(0, "train_gpu_hours"), (1, "passes_per_answer")])
def test_every_row_of_the_test_split_is_drawn_once_or_counted_below(number: int, column: str) -> None:
    figure = figures()[number]
    assert column in figure.rows[0]
    rows = [
        row for row in load_baselines("sudoku-extreme")
        if (row.split, row.metric) == ("test", "exact_accuracy") and row.role != "ablation"
    ]  # fmt: skip
    stated = {
        row.system: row for row in rows
        if (row.train_gpu_hours if number == 0 else row.passes and row.samples) is not None
    }  # fmt: skip
    assert {str(line[0]) for line in figure.rows[1:]} == set(stated) and len(stated) >= 10
    drawn = dots(figure)
    assert len(drawn) == len(stated)
    for words, group in drawn.items():
        row = next(row for name, row in stated.items() if words.startswith(f"{name}: "))
        assert group == GROUPS[row.protocol]
    left = len(rows) - len(stated)
    assert f'<p class="note">{left} of the {len(rows)} rows on this test split do not state' in str(figure.body)


def test_costs_are_those_of_the_sources() -> None:
    cost, passes = figures()
    hours = {row[0]: row[4:6] for row in cost.rows[1:]}
    assert hours["priml exp010"] == (1.0, "H100") and hours["CGAR"] == (6.38, "A100")
    assert hours["LDT"] == (0.25, "B200") and hours["GRAM"] == (16.0, "RTX 4090")
    steps = {row[0]: row[4] for row in passes.rows[1:]}
    assert steps["TRM-MLP"] == 16 and steps["EqR, 64 steps x 128 starts"] == 64 * 128 and steps["PTRM"] == 64 * 100
    assert not {"priml exp011", "LDT", "FPRM"} & set(steps), "the passes of a search are not known"


def test_own_runs_are_drawn_with_the_published_rows_on_the_page() -> None:
    record = own_run(supervision_steps=64)
    _, passes = figures(*build_leaderboard("sudoku-extreme", [record], load_baselines()))
    assert next(row for row in passes.rows if row[0] == "own")[4] == 64
    page = Report(records=[record], now=NOW).html()
    headings = re.findall(r'<a class="anchor" href="#study-1-[^"]*">([^<]*)', page)
    assert headings[-2:] == [figure.title for figure in figures()]
    assert 'href="#published-' in Report(records=[], now=NOW).html()


def test_nothing_is_drawn_where_no_two_rows_state_a_cost_or_the_benchmark_has_no_such_figure() -> None:
    (table, *_) = build_leaderboard("sudoku-extreme", [], load_baselines())
    bare = tuple(replace(entry, gpu_hours=None, passes=None) for entry in table.entries)
    assert effort_figures([replace(table, entries=bare)]) == []
    assert effort_figures(build_leaderboard("maze-hard", [], load_baselines())) == []


@pytest.mark.parametrize(
    ("passes", "votes", "samples", "expected"),
    [(16, None, 1, 16), (16, 10, 1, 160), (64, None, 128, 8192), (None, 1, 1, None), (16, 1, None, None)],
)
def test_passes_of_an_answer_count_all_views_and_samples(
    passes: int | None, votes: int | None, samples: int | None, expected: int | None
) -> None:
    entry = Entry("a", "trm", 50.0, None, None, None, None, passes=passes, votes=votes, samples=samples)
    assert entry.answer_passes == expected


def test_a_contradicted_figure_is_marked_in_its_row() -> None:
    page = Report(records=[], now=NOW).html()
    marked = [row for row in load_baselines() if "contradicted" in row.detail and row.role != "ablation"]
    assert {"Pathway BDH", "EqR, 64 steps x 128 starts", "LDT"} <= {row.system for row in marked}
    assert page.count(">contradicted</small>") == len(marked)
