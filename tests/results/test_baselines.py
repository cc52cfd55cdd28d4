"""Published results: the packaged rows are the facts of their sources, and a bad row is refused by file and line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.results.baselines import benchmarks, load_baselines, read_baselines, write_baselines
from orchestrator.results.baselines.like_for_like import like_for_like
from orchestrator.results.baselines.own import OwnBaselines
from orchestrator.storage import LocalStorage
from tests.support.commands import call
from trm_data.errors import DataError


def scores(benchmark: str, split: str) -> dict[str, float]:
    return {row.system: row.score for row in load_baselines(benchmark) if row.split == split}


def test_baselines_hold_the_tables_of_the_trm_paper() -> None:
    published = ["arc-agi-1", "arc-agi-2", "maze-hard", "maze-unique", "n-queens-10", "n-queens-8", "ppbench"]
    assert benchmarks() == [*published, "sudoku-extreme"]
    sudoku, maze = scores("sudoku-extreme", "test"), scores("maze-hard", "test")
    assert (sudoku["TRM-MLP"], sudoku["TRM-Att"], sudoku["HRM"], sudoku["Direct prediction"]) == (87.4, 74.7, 55.0, 0.0)
    assert (maze["TRM-Att"], maze["HRM"], maze["TRM-MLP"]) == (85.3, 74.5, 0.0)
    language_models = {"DeepSeek R1", "Claude 3.7 8K", "o3-mini-high", "Claude Opus 4.6", "GPT-5.4"}
    assert scores("sudoku-extreme", "unstated-subset") == dict.fromkeys(language_models, 0)
    assert (scores("arc-agi-1", "public-eval")["TRM-Att"], scores("arc-agi-2", "public-eval")["TRM-Att"]) == (44.6, 7.8)


def test_baselines_language_models_of_the_paper_are_not_public_evaluation_rows() -> None:
    public = [row.system for row in load_baselines("arc-agi-1") if row.split == "public-eval" and "2510" in row.source]
    assert set(public) == {"TRM-Att", "TRM-MLP", "HRM", "Direct prediction"}
    printed = scores("arc-agi-1", "as-printed")
    assert (printed["o3-mini-high"], printed["Gemini 2.5 Pro 32K"]) == (34.5, 37.0)


def test_baselines_hold_the_figures_of_2026() -> None:
    sudoku, unique = scores("sudoku-extreme", "test"), scores("maze-unique", "test")
    assert sudoku["priml exp010"] == round(100 * 406_892 / 422_786, 2)
    assert sudoku["priml exp011"] == round(100 * 422_447 / 422_786, 2)
    assert scores("sudoku-extreme", "sotaku-25k-of-test")["Sotaku, 1024 iterations, full training set"] == 98.9
    assert (unique["HRM, EqR authors' run"], unique["TRM, EqR authors' run"]) == (0.3, 44.9)
    assert scores("n-queens-8", "test")["GRAM"] == 99.7
    assert scores("n-queens-10", "test")["TRM, GRAM authors' run"] == 17.5
    assert scores("arc-agi-1", "public-eval")["URM with repair, rekursiv exp008"] == 71.375
    assert (scores("ppbench", "five-types")["PTRM"], len(load_baselines("ppbench"))) == (91.2, 9)


def test_baselines_that_search_say_so() -> None:
    searching = {(row.benchmark, row.system.split(" ")[0]) for row in load_baselines() if row.protocol == "search"}
    assert searching == {
        *(("sudoku-extreme", system) for system in ("priml", "LDT", "W4M")),
        *(("ppbench", system) for system in ("Claude", "GPT-5.2")),
        ("maze-hard", "LDT"),
    }


def test_baselines_are_of_puzzles_that_their_split_names() -> None:
    """A part of a test set that one author drew is no part of another's table."""
    sizes = {"frm-1k-of-test": 1_000, "heim-1k-of-test": 1_000, "sotaku-25k-of-test": 25_000, "w4m-13k-of-test": 13_000}
    rows = [row for row in load_baselines("sudoku-extreme") if row.split.endswith("-of-test") and row.items]
    assert {row.split: row.items for row in rows} == sizes
    assert all(row.items in (None, 422_786) for row in load_baselines("sudoku-extreme") if row.split == "test")


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


HEAD = (
    "system,kind,role,params,split,metric,protocol,score,items,seeds,passes,votes,samples,train_puzzles,"
    "cost_per_task_usd,source,detail,date,evidence"
)
GOOD = 'A,llm,headline,,test,exact_accuracy,single,50,100,,,,,,,"Some paper, 2025",,2025,claimed'


def write(folder: Path, *lines: str, head: str = HEAD) -> Path:
    path = folder / "maze-hard.csv"
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_baselines_read_gives_back_what_was_written(tmp_path: Path) -> None:
    rows = load_baselines("maze-hard")
    path = tmp_path / "maze-hard.csv"
    path.write_bytes(write_baselines(rows))
    assert read_baselines(path) == rows


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    """Spreadsheets write one."""
    path = write(tmp_path, GOOD)
    rows = read_baselines(path)
    path.write_text("\ufeff" + path.read_text())
    assert read_baselines(path) == rows


def test_baselines_without_the_columns_of_test_time_compute_are_read_as_not_stated(tmp_path: Path) -> None:
    """Files of users that an earlier version wrote."""
    head = HEAD.replace("passes,votes,samples,train_puzzles,", "")
    (row,) = read_baselines(write(tmp_path, GOOD.replace(",,,,,,,", ",,,"), head=head))
    assert (row.passes, row.votes, row.samples, row.train_puzzles) == (None, None, None, None)
    assert row.source == "Some paper, 2025"


def test_what_counts_as_correct_and_the_cost_of_training_are_read_where_a_file_has_them(tmp_path: Path) -> None:
    columns = ",correct,train_gpu_hours,train_gpu"
    path = write(tmp_path, GOOD + ",valid,1.5,H100", GOOD.replace("A,llm", "B,llm") + ",,,", head=HEAD + columns)
    stated, not_stated = read_baselines(path)
    assert (stated.correct, stated.train_gpu_hours, stated.train_gpu) == ("valid", 1.5, "H100")
    assert (not_stated.correct, not_stated.train_gpu_hours, not_stated.train_gpu) == (None, None, "")
    for bad in (",any,1,H100", ",label,0,H100", ",label,1,H\x1b100"):
        with pytest.raises(DataError, match=r"maze-hard\.csv, line 2: "):
            read_baselines(write(tmp_path, GOOD + bad, head=HEAD + columns))


def test_baselines_of_the_user_join_and_replace_the_packaged_ones(tmp_path: Path) -> None:
    packaged = load_baselines("maze-hard")
    changed = packaged[0].model_copy(update={"cost_per_task_usd": 0.5})
    path = tmp_path / "maze-hard.csv"
    path.write_bytes(write_baselines([changed, changed.model_copy(update={"system": "Mine"})]))
    new = tmp_path / "my-puzzles.csv"
    new.write_bytes(write_baselines([changed]))
    own = [*read_baselines(path), *read_baselines(new)]
    rows = load_baselines("maze-hard", own)
    assert len(rows) == len(packaged) + 1 and rows[0] == changed and rows[-1].system == "Mine"
    assert [row.benchmark for row in load_baselines("my-puzzles", own)] == ["my-puzzles"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (GOOD.replace('"Some paper, 2025"', ""), r"maze-hard.csv, line 3: source=''"),
        (GOOD.replace('"Some paper, 2025"', '" - "'), r"line 3: source=' - ': names no source"),
        (GOOD.replace('"Some paper, 2025"', '"arXiv "'), r"line 3: source='arXiv ': names no source"),
        (GOOD.replace('"Some paper, 2025"', '"  "'), r"line 3: source="),
        (GOOD.replace("A,llm", "\x1b[2JA,llm"), r"line 3: system=.*: contains a character that cannot be printed"),
        (GOOD.replace('2025",,', '2025","a\u202eb",'), r"line 3: detail=.*: contains a character that cannot be"),
        (GOOD.replace(",50,", ",150,"), r"line 3: score='150': input should be less than or equal to 100"),
        (GOOD.replace(",50,", ",nan,"), r"line 3: score='nan'"),
        (GOOD.replace("llm", "robot"), r"line 3: kind='robot'"),
        (GOOD.replace("2025,claimed", "May,claimed"), r"line 3: date='May'"),
        (GOOD.replace("test", "Test Set"), r"line 3: split='Test Set'"),
        (GOOD.replace('"Some paper, 2025"', "Some paper, 2025"), r"line 3: has not 19 columns"),
        ("A,llm", r"line 3: has not 19 columns"),
        (GOOD, r"line 3: repeats line 2 \('A'\)"),
        pytest.param("x" * 200_000, r"maze-hard.csv, line 3: field larger than field limit", id="long field"),
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


# Rows of one's own.


ROW = {
    "benchmark": "maze-hard",
    "system": "Our TRM",
    "kind": "trm",
    "split": "test",
    "metric": "exact_accuracy",
    "score": "88.1",
    "items": "1000",
    "passes": "16",
    "samples": "1",
    "train-puzzles": "1000",
    "correct": "label",
    "train-gpu-hours": "3.5",
    "train-gpu": "L40S",
    "source": "arXiv 2601.00001",
    "date": "2026-01",
}


def added(**changes: str) -> list[str]:
    return ["baselines", "add", *(part for name, value in (ROW | changes).items() for part in (f"--{name}", value))]


@pytest.mark.parametrize("own_file", [False, True], ids=["storage", "file"])
def test_added_row_joins_the_leaderboard_of_its_split(
    own_file: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--storage", str(tmp_path), *(["--baselines", str(tmp_path / "mine.csv")] if own_file else [])]
    assert call(capsys, *added(), *where)[0] == 0
    assert call(capsys, *added(benchmark="sudoku-extreme", score="88.2"), *where)[0] == 0
    code, out, _ = call(capsys, "leaderboard", "maze-hard", "--format", "json", "--split", "test", *where)
    (table,) = [t for t in json.loads(out) if (t["protocol"], t["compute"], t["training"]) == ("single", "", "")]
    scores = {entry["system"]: entry["score"] for entry in table["entries"]}
    assert code == 0 and scores["Our TRM"] == 88.1 and scores["TRM-Att"] == 85.3
    (mine,) = [entry for entry in table["entries"] if entry["system"] == "Our TRM"]
    assert (mine["passes"], mine["train_puzzles"], mine["gpu_hours"], mine["gpu"]) == (16, 1000, 3.5, "L40S")
    listed = call(capsys, "baselines", "list", "maze-hard", *where)[1]
    assert len(listed.splitlines()) == len(load_baselines("maze-hard")) + 2 and "Our TRM" in listed
    code, _, err = call(capsys, *added(score="90"), *where)
    assert code == 2 and "'Our TRM' has this row of maze-hard already. Add --replace" in err
    assert call(capsys, *added(score="90"), "--replace", *where)[0] == 0
    assert ",90.0," in call(capsys, "baselines", "list", "maze-hard", *where)[1]
    assert len(load_baselines("maze-hard")) + 2 == len(listed.splitlines())  # the packaged rows are as they were


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": ""}, "source=''"),
        ({"source": " - "}, "names no source"),
        ({"score": "100.5"}, "score=100.5: input should be less than or equal to 100"),
        ({"score": "-1"}, "score=-1.0"),
        ({"score": "nan"}, "score=nan"),
        ({"metric": "accuracy"}, "metric='accuracy'"),
        ({"kind": "robot"}, "kind='robot'"),
        ({"split": "Test Set"}, "split='Test Set'"),
        ({"date": "May"}, "date='May'"),
        ({"date": "2026-02-30"}, "date='2026-02-30': there is no such date"),
        ({"date": "2026-13"}, "date='2026-13': there is no such date"),
        ({"system": " "}, "system=' '"),
        ({"usd-per-task": "inf"}, "cost_per_task_usd=inf"),
        ({"train-gpu-hours": "inf"}, "train_gpu_hours=inf"),
        ({"items": "0"}, "items=0"),
        ({"correct": "any"}, "correct='any'"),
        ({"protocol": "both"}, "protocol='both'"),
        ({"benchmark": "maze-hrad"}, "Did you mean 'maze-hard'"),
    ],
)
def test_row_that_cannot_be_believed_is_not_added(
    changes: dict[str, str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, *added(**changes), "--storage", str(tmp_path))
    assert (code, out, err.count("\n")) == (2, "", 1) and words in err
    assert list(tmp_path.iterdir()) == []


def test_bad_row_in_the_users_file_is_refused_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, GOOD, GOOD.replace(",50,", ",150,"))
    code, _, err = call(capsys, "leaderboard", "maze-hard", "--storage", str(tmp_path), "--baselines", str(path))
    assert code == 2 and "maze-hard.csv, line 3: score='150'" in err


# A newer export of the ARC Prize leaderboard.


def export(folder: Path, **changes: Any) -> Path:
    """The known rows as the leaderboard exports them, with changes of (model, set) -> entry or None."""
    sets = {("arc-agi-1", "public-eval"): "v1_Public_Eval", ("arc-agi-1", "semi-private"): "v1_Semi_Private"}
    sets |= {("arc-agi-2", split): f"v2_{name}" for split, name in (("public-eval", "Public_Eval"),)}
    sets |= {("arc-agi-2", "semi-private"): "v2_Semi_Private", ("arc-agi-2", "private"): "v2_Private_Eval"}
    rows = [row for row in load_baselines() if row.source == "ARC Prize leaderboard"]
    entries = {}
    for row in rows:
        model, dataset = row.detail.split("; ")[0].removeprefix("id "), sets[row.benchmark, row.split]
        entry = {"modelId": model, "datasetId": dataset, "score": row.score / 100, "costPerTask": row.cost_per_task_usd}
        entries[f"{model}/{dataset}"] = entry
    entries |= changes
    path = folder / "evaluations.json"
    models = [{"id": "next", "displayName": "Next Model", "modelType": "CoT", "providerId": "X"}]
    kept = [entry for entry in entries.values() if entry is not None]
    unnamed = [{"displayName": "A model without an id"}, "id"]
    path.write_text(json.dumps({"evaluations": kept, "models": [*models, *unnamed]}))
    return path


def test_update_from_the_same_export_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = export(tmp_path)
    line = ["baselines", "update", str(path), "--date", "2026-05-07", "--storage", str(tmp_path / "runs")]
    code, out, _ = call(capsys, *line, "--json")
    found = json.loads(out)
    assert code == 0 and found["new"] == found["changed"] == found["gone"] == [] and found["unchanged"] == 566


def test_update_says_what_is_new_changed_and_gone_and_writes_only_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {
        "next/v2_Semi_Private": {"modelId": "next", "datasetId": "v2_Semi_Private", "score": 0.5, "costPerTask": 2},
        "next/v3_X": {"modelId": "next", "datasetId": "v3_X", "score": 0.1},
        "o3-mini-2025-01-31-high/v1_Semi_Private": None,
        "R1/v1_Semi_Private": {"modelId": "R1", "datasetId": "v1_Semi_Private", "score": 0.2, "costPerTask": 0.06},
    }
    path, runs = export(tmp_path, **changes), tmp_path / "runs"
    line = ["baselines", "update", str(path), "--date", "2026-11-22", "--storage", str(runs)]
    code, out, _ = call(capsys, *line)
    words = " ".join(out.split())
    assert code == 0 and "1 new arc-agi-2 semi-private, Next Model: 50 %" in words
    assert "1 changed arc-agi-1 semi-private, Deepseek R1: 15.8 -> 20 %" in words
    assert "1 gone arc-agi-1 semi-private, o3-mini (High)" in words and "1 without a score or on test sets" in words
    assert "nothing is written without --write" in words and not runs.exists()
    assert call(capsys, *line, "--write")[0] == 0
    rows = OwnBaselines(LocalStorage(runs)).read()
    assert {(row.system, row.score, row.date) for row in rows} == {
        ("Next Model", 50.0, "2026-11-22"),
        ("Deepseek R1", 20.0, "2026-11-22"),
    }
    found = {row.system: row for row in load_baselines("arc-agi-1", rows) if row.split == "semi-private"}
    assert found["Deepseek R1"].score == 20.0 and len(found) == len(
        {row.system for row in load_baselines("arc-agi-1") if row.split == "semi-private"}
    )
    again = json.loads(call(capsys, *line, "--json")[1])
    assert again["new"] == again["changed"] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<html>", "is not JSON"),
        ("{}", "holds no evaluations"),
        ("[]", "holds no evaluations"),
        ('[{"modelId": "a"}]', "evaluation 1: has not modelId, datasetId and score"),
        ('[{"modelId": "a", "datasetId": "v1_Public_Eval", "score": 44.6}]', "score=44.6 is not in 0 to 1"),
        ('[{"modelId": "a", "datasetId": "v1_Public_Eval", "score": true}]', "score=True"),
        ('[{"modelId": "a", "datasetId": "v1_Public_Eval", "score": "0.1"}]', "score='0.1'"),
        ('[{"modelId": "a", "datasetId": "v1_Public_Eval", "score": -0.01}]', "score=-0.01"),
        ('[{"modelId": "a", "datasetId": "v1_Public_Eval", "score": 0.1, "costPerTask": -1}]', "costPerTask=-1"),
    ],
)
def test_export_that_is_none_is_refused(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evaluations.json"
    path.write_text(text)
    line = ["baselines", "update", str(path), "--date", "2026-11-22", "--write", "--storage", str(tmp_path / "runs")]
    code, out, err = call(capsys, *line)
    assert (code, out, err.count("\n")) == (2, "", 1) and words in err and not (tmp_path / "runs").exists()


def test_older_export_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["baselines", "update", str(export(tmp_path)), "--date", "2026-01-01", "--storage", str(tmp_path / "runs")]
    code, _, err = call(capsys, *line)
    assert code == 2 and "is older than the rows of 2026-05-07" in err
