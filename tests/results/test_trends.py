"""Accuracy over supervision steps at test time, and the best published score over time."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from orchestrator.results.baselines import load_baselines
from orchestrator.results.leaderboard import Entry, build_leaderboard
from orchestrator.results.report import trends
from orchestrator.results.report.figures import published_figures, study_figures
from orchestrator.results.report.markup import Scale
from orchestrator.results.report.scatter import cost_scatter
from orchestrator.results.report.views import studies
from tests.support.results import scored_at


def test_trials_that_differ_in_d_alone_are_points_of_one_curve_with_their_first_steps() -> None:
    records = [scored_at(4, 0.6, 0.1), scored_at(4, 0.8, 0.3, seed=1), scored_at(16, 0.9, 0.2)]
    (curve,) = trends.depth_curves(studies(records)[0].trials)
    assert curve.name == "T=2" and curve.means == pytest.approx({1: 20.0, 4: 70.0, 16: 90.0})
    assert {steps: len(trials) for steps, trials in curve.trials.items()} == {1: 3, 4: 2, 16: 1}
    drawing = trends.depth_plot([curve])
    root = ET.fromstring(str(drawing))
    assert len(list(root.iter("circle"))) == 3 and "70.0 at 4" in str(drawing)
    assert trends.depth_rows([curve])[1] == ("T=2", 1, 20.0, 3)


def test_explored_trials_share_no_curve_with_confirmed_ones() -> None:
    explored = scored_at(4, 0.9, 0.5, stage="explore", family="T=2")
    confirmed = scored_at(4, 0.6, 0.1, seed=1, stage="confirm", family="best T=2")
    for records, name in (([explored, confirmed], "best T=2"), ([explored], "T=2")):
        assert [curve.name for curve in trends.depth_curves(studies(records)[0].trials)] == [name]


def test_scores_at_one_d_alone_draw_no_figure() -> None:
    (study,) = studies([scored_at(4, 0.6, None), scored_at(1, 0.5, 0.5, seed=1, family="T=3 D=1")])
    assert not trends.depth_curves(study.trials)
    titles = {figure.title for figure in study_figures(study, (), None) if figure.body}
    assert not any("test time" in title for title in titles)
    (study,) = studies([scored_at(4, 0.6, 0.2)])
    assert any("test time" in figure.title for figure in study_figures(study, (), None) if figure.body)


def published(system: str, score: float, date: str, source: str = "arXiv 1") -> Entry:
    return Entry(system, "system", score, 1000, (score - 1, score + 1), None, None, date=date, source=source)


def test_best_published_score_rises_over_the_dates_of_the_sources() -> None:
    rows = [
        published("late and worse", 50.0, "2026-02-01"),
        published("first", 40.0, "2025-10"),
        published("record", 60.0, "2025-12-16"),
        published("only a year", 99.0, "2026"),
        published("an export's date", 98.0, "2026-05-07", trends.EXPORTED),
    ]
    assert [row[1:4] for row in trends.time_rows(rows)[1:]] == [
        ("first", 40.0, 40.0),
        ("record", 60.0, 60.0),
        ("late and worse", 50.0, 60.0),
    ]
    drawing = str(trends.best_over_time(rows, "exact accuracy"))
    root = ET.fromstring(drawing)
    down = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", next(p.get("d") or "" for p in root.iter("path")))]
    assert down == sorted(down, reverse=True), "a best score never falls"
    assert "2025-11" in "".join(root.itertext()) and "an export" not in drawing and "only a year" not in drawing


def test_published_tables_are_drawn_over_time_where_their_sources_have_dates() -> None:
    tables = build_leaderboard("sudoku-extreme", [], load_baselines())
    figure = next(figure for figure in published_figures(tables[0]) if "over time" in figure.title)
    assert "TRM" in str(figure.body) and len(figure.rows) > 5 and figure.rows[0][0] == "date"
    assert not trends.best_over_time([published("a", 1.0, "2026-01"), published("b", 2.0, "2026-02")], "x")


@pytest.mark.parametrize(
    ("scores", "low", "high"),
    [((92, 98), 80, 100), ((0, 3), 0, 20), ((0, 100), 0, 100), ((97,), 80, 100), ((), 0, 100), ((45, 50), 37.5, 57.5)],
)
def test_scale_of_scores_holds_them_and_does_not_magnify_noise(
    scores: tuple[float, ...], low: float, high: float
) -> None:
    scale = Scale.of_scores(scores)
    assert (scale.low, scale.high) == pytest.approx((low, high))


def test_scores_against_equal_costs_are_not_drawn() -> None:
    rows = [replace(published(name, score, "2026-01"), params=7e6) for name, score in (("a", 40.0), ("b", 50.0))]
    assert not cost_scatter(rows, "params", named=("a", "b"), y_title="score")
    rows[1] = replace(rows[1], params=9e6)
    assert cost_scatter(rows, "params", named=("a", "b"), y_title="score")
