"""Published results: the packaged rows are the facts of their sources, and a bad row is refused by file and line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from orchestrator.baselines import benchmarks, load_baselines, read_baselines, write_baselines
from orchestrator.baselines.like_for_like import like_for_like
from trm_data.errors import DataError


def scores(benchmark: str, split: str) -> dict[str, float]:
    return {row.system: row.score for row in load_baselines(benchmark) if row.split == split}


def test_baselines_hold_the_tables_of_the_trm_paper() -> None:
    assert benchmarks() == ["arc-agi-1", "arc-agi-2", "maze-hard", "sudoku-extreme"]
    sudoku, maze = scores("sudoku-extreme", "test"), scores("maze-hard", "test")
    assert (sudoku["TRM-MLP"], sudoku["TRM-Att"], sudoku["HRM"], sudoku["Direct prediction"]) == (87.4, 74.7, 55.0, 0.0)
    assert (maze["TRM-Att"], maze["HRM"], maze["TRM-MLP"]) == (85.3, 74.5, 0.0)
    assert scores("sudoku-extreme", "unstated-subset") == {"DeepSeek R1": 0, "Claude 3.7 8K": 0, "o3-mini-high": 0}
    assert (scores("arc-agi-1", "public-eval")["TRM-Att"], scores("arc-agi-2", "public-eval")["TRM-Att"]) == (44.6, 7.8)


def test_baselines_language_models_of_the_paper_are_not_public_evaluation_rows() -> None:
    public = [row.system for row in load_baselines("arc-agi-1") if row.split == "public-eval" and "2510" in row.source]
    assert set(public) == {"TRM-Att", "TRM-MLP", "HRM", "Direct prediction"}
    printed = scores("arc-agi-1", "as-printed")
    assert (printed["o3-mini-high"], printed["Gemini 2.5 Pro 32K"]) == (34.5, 37.0)


def test_baselines_equal_the_reference_facts(shared: Path) -> None:
    with (shared / "research" / "baselines.csv").open(newline="") as file:
        facts = [row for row in csv.DictReader(file) if row["source"].startswith("ARC Prize")]
    rows = {
        (row.benchmark, row.split, row.detail.split("; ")[0]): row
        for row in load_baselines()
        if row.source == "ARC Prize leaderboard"
    }
    splits = {"public": "public-eval", "semi-p": "semi-private", "privat": "private"}
    for fact in facts:
        key = "id " + fact["source_detail"].split("modelId=")[1].removesuffix(" (display=false on site)")
        row = rows[fact["benchmark"].lower(), splits[fact["split/eval set"][:6]], key]
        assert row.score == float(fact["score"])
        assert row.cost_per_task_usd == (float(fact["cost_per_task_usd"]) if fact["cost_per_task_usd"] else None)
    assert len(facts) == 292


def test_baselines_hold_every_entry_of_the_captured_day(shared: Path) -> None:
    with (shared / "research" / "arc_leaderboard_2026-05-07.csv").open(newline="") as file:
        entries = {(r["modelId"], r["datasetId"]) for r in csv.DictReader(file) if not r["datasetId"].startswith("v3")}
    assert sum(row.source == "ARC Prize leaderboard" for row in load_baselines()) == len(entries) == 566


def test_baselines_unknown_benchmark_names_the_nearest() -> None:
    with pytest.raises(DataError, match="Did you mean 'maze-hard'"):
        load_baselines("maze-hrad")


HEAD = "system,kind,role,params,split,metric,protocol,score,items,seeds,cost_per_task_usd,source,detail,date,evidence"
GOOD = 'A,llm,headline,,test,exact_accuracy,single,50,100,,,"Some paper, 2025",,2025,claimed'


def write(folder: Path, *lines: str, head: str = HEAD) -> Path:
    path = folder / "maze-hard.csv"
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_baselines_read_gives_back_what_was_written(tmp_path: Path) -> None:
    rows = load_baselines("maze-hard")
    path = tmp_path / "maze-hard.csv"
    path.write_bytes(write_baselines(rows))
    assert read_baselines(path) == rows


def test_baselines_of_the_user_join_and_replace_the_packaged_ones(tmp_path: Path) -> None:
    packaged = load_baselines("maze-hard")
    changed = packaged[0].model_copy(update={"cost_per_task_usd": 0.5})
    path = tmp_path / "maze-hard.csv"
    path.write_bytes(write_baselines([changed, changed.model_copy(update={"system": "Mine"})]))
    new = tmp_path / "my-puzzles.csv"
    new.write_bytes(write_baselines([changed]))
    rows = load_baselines("maze-hard", extra=[path, new])
    assert len(rows) == len(packaged) + 1 and rows[0] == changed and rows[-1].system == "Mine"
    assert [row.benchmark for row in load_baselines("my-puzzles", extra=[path, new])] == ["my-puzzles"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (GOOD.replace('"Some paper, 2025"', ""), r"maze-hard.csv, line 3: source=''"),
        (GOOD.replace('"Some paper, 2025"', '" - "'), r"line 3: source=' - ': names no source"),
        (GOOD.replace(",50,", ",150,"), r"line 3: score='150': input should be less than or equal to 100"),
        (GOOD.replace(",50,", ",nan,"), r"line 3: score='nan'"),
        (GOOD.replace("llm", "robot"), r"line 3: kind='robot'"),
        (GOOD.replace("2025,claimed", "May,claimed"), r"line 3: date='May'"),
        (GOOD.replace("test", "Test Set"), r"line 3: split='Test Set'"),
        (GOOD.replace('"Some paper, 2025"', "Some paper, 2025"), r"line 3: has not 15 columns"),
        ("A,llm", r"line 3: has not 15 columns"),
        (GOOD, r"line 3: repeats line 2 \('A'\)"),
    ],
)
def test_baselines_bad_row_is_refused_by_file_and_line(tmp_path: Path, bad: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_baselines(write(tmp_path, GOOD, bad))
    assert "\n" not in str(caught.value)


def test_baselines_bad_columns_and_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown column 'scores'\. Did you mean 'score'"):
        read_baselines(write(tmp_path, GOOD, head=HEAD.replace("score", "scores")))
    with pytest.raises(DataError, match="no column 'source'"):
        read_baselines(write(tmp_path, head=HEAD.replace(",source", "")))
    with pytest.raises(DataError, match="cannot read baselines"):
        read_baselines(tmp_path / "none.csv")


def test_like_for_like_shows_both_splits_of_the_papers_table() -> None:
    rows = {row.printed.system: row for row in like_for_like("arc-agi-1", load_baselines())}
    scores = {name: [found and found.score for found in row.measured.values()] for name, row in rows.items()}
    assert scores["o3-mini-high"] == [46.58, 34.5] and rows["o3-mini-high"].printed_split == "semi-private"
    assert scores["Gemini 2.5 Pro 32K"] == [55.88, 37.0] and scores["Grok-4-thinking"] == [73.74, 66.67]
    assert scores["TRM-Att"] == [44.0, 40.0] and rows["TRM-Att"].printed_split == "public-eval"
    assert scores["HRM"] == [40.3, 32.0] and scores["DeepSeek R1"] == [None, 15.8]
    assert len(rows) == 10 and like_for_like("sudoku-extreme", load_baselines()) == []
