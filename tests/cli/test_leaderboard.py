"""What `trm leaderboard` prints after one's own sweeps, and without any."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.api.inputs import as_sweep
from orchestrator.storage import open_storage
from orchestrator.storage.base import to_json_bytes
from tests.support.commands import call
from tests.support.results import ablation_records, demo_records
from tests.support.sweeps import study
from tests.support.tracking import write_record

PUBLISHED = "TRM-Att"


def test_own_results_stand_alone_and_the_last_lines_say_where_they_can_be_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = open_storage(str(tmp_path))
    storage.write("sweeps/demo/sweep.json", to_json_bytes(study(name="demo").plain()))
    for record in demo_records():
        if record.stage == "confirm":
            write_record(storage, replace(record, sweep="demo"))
    code, out, err = call(capsys, "leaderboard", "--storage", str(tmp_path))
    assert code == 0, err
    assert "this project" in out and PUBLISHED not in out
    page, served = out.splitlines()[-2:]
    assert page == f"page: {(tmp_path / 'leaderboard.html').as_uri()}"
    assert served == f"next: serve it with MLflow and Optuna: trm ui --storage {tmp_path}"
    assert "trm leaderboard BENCHMARK" in out


def test_ablate_without_a_control_names_the_configurations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = open_storage(str(tmp_path))
    storage.write("sweeps/ablation/sweep.json", to_json_bytes(study(name="ablation").plain()))
    words = ("ablate", "ablation", "--storage", str(tmp_path))
    missing = "error: --control is missing: the configuration that the others are compared with. "
    assert call(capsys, *words)[2] == f"{missing}No configuration has a confirmed result yet\n"
    for record in ablation_records():
        write_record(storage, record)
    known = "Known: T=2 n=4, base, no EMA, one-step gradient, single latent\n"
    assert call(capsys, *words) == (2, "", missing + known)
    code, out, err = call(capsys, *words, "--control", "base", "--json")
    assert code == 0, err
    assert json.loads(out)["control"]["system"] == "base"
    assert call(capsys, *words, "--control", "base", "--format", "json")[1] == out


def test_storage_without_results_shows_published_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "leaderboard", "--storage", str(tmp_path))
    assert code == 0 and PUBLISHED in out
    assert out.startswith("no confirmed results in this storage yet. Run a sweep, for example: trm sweep run demo")
    assert "trm ui" not in out
    assert "each table shows its best 8 rows, TRM, HRM and the models" in out and "ranks count the rows left out" in out
    assert "rows left out" not in call(capsys, "leaderboard", "arc-agi-1", "--storage", str(tmp_path))[1]


@pytest.mark.parametrize("benchmark", ["sudoku-extreme", "maze-hard", "arc-agi-1", "arc-agi-2"])
def test_benchmark_without_own_results_names_a_sweep_that_is_scored_on_it(
    benchmark: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = call(capsys, "leaderboard", benchmark, "--storage", str(tmp_path))
    example = out.splitlines()[0].partition("trm sweep plan ")[2].split()[0]
    assert as_sweep(example, open_storage(str(tmp_path))).base.data.benchmark == benchmark


@pytest.mark.parametrize(
    ("benchmark", "verb"),
    [
        ("n-queens-8", "run"),
        ("n-queens-9", "run"),
        ("sudoku-6x6", "run"),
        ("sudoku-6x6-generated", "run"),
        ("maze-9x9", "run"),
        ("maze-unique-9x9", "run"),
        ("maze-unique", "plan"),
    ],
)
def test_benchmark_without_results_yet_names_a_command_that_makes_some(
    benchmark: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(tmp_path)]
    code, out, _ = call(capsys, "leaderboard", benchmark, *storage)
    first, _, command = out.splitlines()[0].partition(", for example: trm ")
    assert (
        code == 0
        and first == f"no confirmed results on this benchmark in this storage yet. {verb.capitalize()} a sweep"
    )
    words = command.split()
    assert words[:2] == ["sweep", verb]
    code, out, err = call(capsys, "sweep", "plan", *words[2:])
    name = benchmark.removesuffix("-generated")
    assert code == 0 and "(study): 1 trial" in out and f"\ndataset {name} (not built yet" in out, err
    assert "evaluation.split=test" in words


def test_benchmark_that_cannot_be_built_has_no_such_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "leaderboard", "ppbench", "--storage", str(tmp_path))
    assert code == 0 and out.splitlines()[0] == "no confirmed results on this benchmark in this storage yet"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("n-queens", "Name one of n-queens-10, n-queens-10-generated, n-queens-8, n-queens-8-generated, n-queens-9"),
        ("sudoku", "Name one of sudoku-4x4, sudoku-4x4-generated, sudoku-6x6"),
        ("maze-hrad", "Did you mean 'maze-hard'?"),
    ],
)
def test_part_of_a_name_lists_all_benchmarks_that_have_it(
    name: str, remedy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "leaderboard", name, "--storage", str(tmp_path))
    assert (code, out, err.count("\n")) == (2, "", 1) and f"no leaderboard for benchmark {name!r}. {remedy}" in err


def test_a_leaderboard_of_one_sweep_leaves_the_others_on_its_dataset_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = open_storage(str(tmp_path))
    for name, family in (("demo", "best"), ("other", "direct")):
        storage.write(f"sweeps/{name}/sweep.json", to_json_bytes(study(name=name).plain()))
        for record in demo_records():
            if record.family == family:
                write_record(storage, replace(record, sweep=name))
    page = tmp_path / "page.html"
    shown = {}
    for chosen in (("demo",), ("other",), ("demo", "other")):
        words = [word for name in chosen for word in ("--sweep", name)]
        code, out, err = call(capsys, "leaderboard", *words, "--html", str(page), "--storage", str(tmp_path))
        assert code == 0, err
        shown[chosen] = {family for family in ("best", "direct") if f" {family} " in out}
        assert page.read_text().count('data-trial="') == 3 * len(chosen)
    assert shown == {("demo",): {"best"}, ("other",): {"direct"}, ("demo", "other"): {"best", "direct"}}
    code, _, err = call(capsys, "leaderboard", "--sweep", "dem", "--storage", str(tmp_path))
    assert code == 2 and "demo" in err
