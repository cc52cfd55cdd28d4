"""The expanded plan as a file, and that running it runs exactly what it lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.errors import SweepError
from orchestrator.search.planner import Planner
from orchestrator.sweep.plan_file import dump_plan, load_plan
from orchestrator.sweep.trials import study_trials
from tests.support.sweeps import TINY, fingerprint, search, set_options, study


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    file = tmp_path / "plan.jsonl"
    file.write_bytes(dump_plan(study(), fingerprint))
    return file


def test_plan_file_runs_exactly_what_was_planned(plan: Path) -> None:
    sweep = load_plan(plan, fingerprint)
    assert sweep == study()
    ids = [json.loads(line)["trial_id"] for line in plan.read_text().splitlines()[1:]]
    assert [trial.trial_id for trial in iter(Planner(sweep, fingerprint, []).next, None)] == ids


def test_line_that_is_deleted_is_not_run(plan: Path) -> None:
    lines = plan.read_text().splitlines()
    plan.write_text("\n".join([*lines[:3], lines[5]]) + "\n")
    sweep = load_plan(plan, fingerprint)
    left = [json.loads(line)["trial_id"] for line in [*lines[1:3], lines[5]]]
    planner = Planner(sweep, fingerprint, [])
    assert planner.total == 3
    assert [trial.trial_id for trial in iter(planner.next, None)] == left


def test_search_lists_its_controls(tmp_path: Path) -> None:
    file = tmp_path / "plan.jsonl"
    file.write_bytes(dump_plan(search(), fingerprint))
    assert load_plan(file, fingerprint) == search()
    assert len(file.read_text().splitlines()) == 1 + 2


def test_line_that_would_be_another_trial_now_runs_nothing(plan: Path) -> None:
    with pytest.raises(SweepError, match="would now be another trial"):
        load_plan(plan, lambda request: "other puzzles")
    lines = plan.read_text().splitlines()
    changed = json.loads(lines[1])
    changed["config"]["optimizer"]["lr"] = 1.0
    plan.write_text("\n".join([lines[0], json.dumps(changed)]) + "\n")
    with pytest.raises(SweepError, match="would now be another trial"):
        load_plan(plan, fingerprint)


@pytest.mark.parametrize("content", ["", "{", "[]\n", '{"sweep": {}}\n', '{"sweep": {"nmae": "x"}}\n', "\x00\n"])
def test_file_that_is_no_plan_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.jsonl").write_text(content)
    with pytest.raises(SweepError) as caught:
        load_plan(tmp_path / "plan.jsonl", fingerprint)
    assert "\n" not in str(caught.value)


def test_command_line_writes_a_plan_that_the_command_line_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.jsonl"
    sets = set_options(TINY)
    assert call("sweep", "plan", "--recipe", "sudoku-mini", *sets, "--vary", "n=1,2", "--name", "p", "--out", f"{file}",
                "--storage", f"{tmp_path}/runs") == 0  # fmt: skip
    capsys.readouterr()
    assert call("sweep", "plan", str(file), "--json", "--storage", f"{tmp_path}/runs") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["num_trials"]) == ("p", 2)
    assert call("sweep", "plan", str(file), "--set", "T=2", "--storage", f"{tmp_path}/runs") == 2
    assert "run as it is" in capsys.readouterr().err
    assert call("sweep", "run", str(tmp_path / "nowhere.jsonl"), "--storage", f"{tmp_path}/runs") == 2
    assert not list(study_trials(study(only=()), fingerprint))
