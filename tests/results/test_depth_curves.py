"""Depth curves as data: the scores of one trained model at several numbers of passes, published and own."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.schema import TrialRecord
from orchestrator.results.baselines import (
    Baseline,
    benchmarks,
    check_point,
    load_baselines,
    read_baselines,
    write_baselines,
)
from orchestrator.results.leaderboard import Entry, Table, build_leaderboard
from orchestrator.results.report.figures import Figure, effort_figures
from orchestrator.results.report.formats import to_csv, to_json
from tests.results.test_baselines import added
from tests.results.test_comparable import own_run
from tests.support.commands import call
from trm_data.errors import DataError

POINTS = {
    ("maze-unique", "EqR"): {16: 82.2, 64: 88.9},
    ("sudoku-extreme", "EqR"): {16: 86.4, 64: 93.0},
    ("sudoku-extreme", "Sotaku"): {16: 81.8, 1024: 98.9},
    ("sudoku-extreme", "TRM-MLP, A. Ritter"): {16: 87.0, 1024: 96.0},
}


def point(passes: int | None, **changes: Any) -> Baseline:
    """A row of a curve that no packaged row names."""
    values = {"benchmark": "maze-hard", "system": f"Mine at {passes}", "kind": "trm", "role": "headline"}
    values |= {"split": "test", "metric": "exact_accuracy", "protocol": "single", "score": 50.0, "samples": 1}
    values |= {"source": "Some paper", "date": "2026", "evidence": "claimed", "curve": "Mine"}
    return Baseline.parse(values | {"passes": passes} | changes)


def published_curves() -> dict[tuple[str, str], dict[int, float]]:
    found: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for row in load_baselines():
        if row.curve:
            assert row.passes is not None
            found[row.benchmark, row.curve][row.passes] = row.score
    return found


def test_published_rows_of_one_model_name_their_curve_and_can_be_its_points() -> None:
    assert published_curves() == POINTS
    for benchmark in benchmarks():
        rows = load_baselines(benchmark)
        for row in rows:
            check_point(row, rows, least=2)


DIFFERENT = [
    ({"split": "test-2"}, "differ in split"),
    ({"metric": "pass@1"}, "differ in metric"),
    ({"protocol": "ensemble"}, "differ in protocol"),
    ({"votes": 8}, "differ in votes"),
    ({"samples": 4}, "differ in samples"),
    ({"params": 5}, "differ in params"),
    ({"train_puzzles": 5}, "differ in train_puzzles"),
    ({"correct": "valid"}, "differ in correct"),
    ({"passes": 16}, "have the same passes, 16"),
    ({"passes": None}, "but has no passes"),
]


@pytest.mark.parametrize(("changes", "words"), DIFFERENT)
def test_rows_that_are_no_points_of_one_curve_are_refused_by_line_when_they_are_read(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "maze-hard.csv"
    path.write_bytes(write_baselines([point(16), point(64)]))
    assert [row.curve for row in read_baselines(path)] == ["Mine", "Mine"]
    path.write_bytes(write_baselines([point(16), point(64).model_copy(update=changes)]))
    with pytest.raises(DataError, match=rf"maze-hard\.csv, line 3: .*{words}"):
        read_baselines(path)


def test_curves_of_two_benchmarks_share_a_name_and_other_rows_have_none() -> None:
    elsewhere = point(64, benchmark="sudoku-extreme", votes=8)
    check_point(point(16), [point(16), elsewhere, point(16, curve="", system="alone", votes=2)])
    check_point(point(None, curve=""), [], least=2)


def test_check_wants_two_points_of_a_curve_packaged_ones_included(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "maze-hard.csv"
    path.write_bytes(write_baselines([point(16)]))
    code, _, err = call(capsys, "baselines", "check", str(path))
    assert code == 2 and "'Mine at 16' is the only row of curve 'Mine'" in err and err.count("\n") == 1
    path.write_bytes(write_baselines([point(16), point(64)]))
    assert call(capsys, "baselines", "check", str(path))[0] == 0
    (packaged, *_) = (row for row in load_baselines("sudoku-extreme") if row.curve == "EqR")
    deeper = packaged.model_copy(update={"system": "EqR, 256 steps", "passes": 256})
    path = tmp_path / "sudoku-extreme.csv"
    path.write_bytes(write_baselines([deeper]))
    assert call(capsys, "baselines", "check", str(path))[0] == 0
    path.write_bytes(write_baselines([deeper.model_copy(update={"votes": 8})]))
    code, _, err = call(capsys, "baselines", "check", str(path))
    assert code == 2 and "differ in votes" in err


def test_points_are_added_one_by_one_and_only_to_the_curve_of_their_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--storage", str(tmp_path)]
    assert call(capsys, *added(curve="Ours"), *where)[0] == 0
    code, _, err = call(capsys, *added(curve="Ours", system="Deeper", passes="64", samples="4"), *where)
    assert code == 2 and "'Deeper' and 'Our TRM' of curve 'Ours' differ in samples" in err
    assert call(capsys, *added(curve="Ours", system="Deeper", passes="64", score="90"), *where)[0] == 0
    assert call(capsys, *added(curve="Ours", score="88.4"), "--replace", *where)[0] == 0
    listed = csv.DictReader(io.StringIO(call(capsys, "baselines", "list", "maze-hard", *where)[1]))
    curve = {row["passes"]: row["score"] for row in listed if row["curve"] == "Ours"}
    assert curve == {"16": "88.4", "64": "90.0"}
    assert call(capsys, "leaderboard", "maze-hard", *where)[0] == 0


def entries(tables: list[Table]) -> list[Entry]:
    return [entry for table in tables for entry in table.entries]


def own(steps: int | None, score: float = 0.9, first: float | None = 0.2, **evaluation: Any) -> TrialRecord:
    """A run on Sudoku-Extreme that was trained with D = 16 and scored with another D."""
    record = own_run(**({} if steps is None else {"supervision_steps": steps}), **evaluation)
    assert record.result is not None
    metrics = {"exact_accuracy": score} | ({} if first is None else {"first_step_accuracy": first})
    family = "T=2" if steps is None else f"T=2 D={steps}"
    return replace(record, family=family, result=record.result.model_copy(update={"metrics": metrics}))


def test_json_and_csv_of_a_leaderboard_hold_the_curves() -> None:
    tables = build_leaderboard("sudoku-extreme", [own(16), own(64, 0.95)], load_baselines())
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for table in json.loads(to_json(tables)):
        for entry in table["entries"]:
            if entry["curve"]:
                found[entry["curve"]][entry["passes"]] = entry["score"]
                if entry["first_step_score"] is not None:
                    found[entry["curve"]][1] = entry["first_step_score"]
    mine = found.pop(next(name for name in found if name.startswith("T=2 (")))
    assert mine == pytest.approx({1: 20.0, 16: 90.0, 64: 95.0})
    assert found == {name: points for (benchmark, name), points in POINTS.items() if benchmark == "sudoku-extreme"}
    rows = list(csv.DictReader(io.StringIO(to_csv(tables))))
    assert {row["curve"] for row in rows} == {"", *found, entries(tables)[0].curve}
    assert {row["first_step_score"] for row in rows if row["curve"].startswith("T=2 (")} == {"20.0"}


def test_own_runs_that_differ_in_more_than_d_are_on_other_curves() -> None:
    runs = [own(None), own(64), own(64, votes=8), own(64, max_puzzles=100)]
    seeded = [replace(run, config=run.config.model_copy(update={"seed": 1}), trial_id="other") for run in runs[:1]]
    curves: dict[str, set[tuple[int, int, int]]] = defaultdict(set)
    for entry in entries(build_leaderboard("sudoku-extreme", [*runs, *seeded], [])):
        curves[entry.curve].add((entry.passes or 0, entry.votes or 0, entry.seeds or 0))
    assert sorted(map(sorted, curves.values())) == [[(16, 1, 2), (64, 1, 1)], [(64, 1, 1)], [(64, 8, 1)]]


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (own(16), 20.0),
        (own(16, first=None), None),
        (own(1), None),
        (own(16, votes=8), None),
        (own(16, rollouts=4, noise=0.1), None),
    ],
)
def test_score_after_the_first_step_is_that_of_the_same_kind_of_answer(
    run: TrialRecord, expected: float | None
) -> None:
    (entry,) = entries(build_leaderboard("sudoku-extreme", [run], []))
    assert entry.first_step_score == (None if expected is None else pytest.approx(expected))


def test_score_after_the_first_step_is_a_mean_over_all_seeds_or_none() -> None:
    first, second = own(16, first=0.2), own(16, first=0.4)
    second = replace(second, config=second.config.model_copy(update={"seed": 1}), trial_id="other")
    (entry,) = entries(build_leaderboard("sudoku-extreme", [first, second], []))
    assert entry.first_step_score == pytest.approx(30.0)
    unknown = replace(own(16, first=None), config=second.config, trial_id="other")
    (entry,) = entries(build_leaderboard("sudoku-extreme", [first, unknown], []))
    assert entry.first_step_score is None


def lines(figure: Figure) -> list[tuple[str, int]]:
    """Group in the legend and number of points of each line of a drawing."""
    drawing = ET.fromstring(str(figure.body).partition('<p class="note">')[0])
    groups = [group for group in drawing.iter("g") if group.find("path") is not None]
    paths = [(group.get("data-group") or "", group.find("path")) for group in groups]
    return sorted((name, len((path.get("d") or "").split("L"))) for name, path in paths if path is not None)


def test_passes_figure_joins_the_points_of_each_curve_and_nothing_else() -> None:
    cost, passes = effort_figures(build_leaderboard("sudoku-extreme", [], load_baselines()))
    assert lines(passes) == [("one answer", 2), ("one answer", 2)], "EqR and Ritter's model; Sotaku has its own puzzles"
    assert lines(cost) == []
    assert "curve" not in cost.rows[0] and passes.rows[0][-1] == "curve"
    assert {row[0]: row[-1] for row in passes.rows[1:]}["EqR, 64 steps"] == "EqR"


def test_passes_figure_joins_own_runs_and_not_rows_that_were_scored_in_another_way() -> None:
    rows = load_baselines()
    (known,) = (row for row in rows if row.benchmark == "sudoku-extreme" and row.system == "EqR, 64 steps")
    other = known.model_copy(update={"system": "EqR, 10 votes", "votes": 10})
    tables = build_leaderboard("sudoku-extreme", [own(4), own(16), own(64)], [*rows, other])
    (_, passes) = effort_figures(tables)
    assert lines(passes) == [("one answer", 2), ("one answer", 2), ("one answer", 3)]
