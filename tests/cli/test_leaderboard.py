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
