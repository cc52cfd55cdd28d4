"""Shell completion: recipes, sweeps and trials, without heavy imports, and silent whatever is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import typer.main

from orchestrator.cli import completion
from orchestrator.cli.app import build_app

CODE = """
import sys
sys.argv[0] = "trm"
from orchestrator.cli import main
try:
    main()
finally:
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert not loaded & {"torch", "ray", "optuna", "mlflow", "pyarrow", "pandas"}, loaded
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for sweep, trials in (("depth", ("3f9a01", "77aa02")), ("train", ("aa11",))):
        for trial in trials:
            (tmp_path / "runs/sweeps" / sweep / "trials" / trial).mkdir(parents=True)
    (tmp_path / "runs/sweeps/depth/sweep.json").write_text("{}")
    (tmp_path / "mine.yaml").write_text("")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/one.py").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complete(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """What a shell receives for a line whose last word is being typed."""
    env = {**os.environ, "_TRM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    return subprocess.run([sys.executable, "-c", CODE], cwd=folder, env=env, capture_output=True, text=True)


def test_shell_receives_names_without_heavy_imports(folder: Path) -> None:
    found = complete(folder, "trm train --recipe sudoku-min")
    assert found.stdout.split() == ["sudoku-mini", "sudoku-mini.direct", "sudoku-mini.hrm"] and not found.stderr


def test_shell_receives_trials_and_nothing_where_nothing_can_be_read(folder: Path) -> None:
    assert complete(folder, "trm trial show depth/3").stdout.split() == ["depth/3f9a01"]
    elsewhere = complete(folder, "trm sweep status --storage /proc/1/nothing ")
    assert not elsewhere.stdout.strip() and not elsewhere.stderr


CASES = [
    (completion.sweep_names, {}, "", ["depth"]),
    (completion.sweep_names, {"storage": "elsewhere"}, "", []),
    (completion.sweep_names, {"storage": "s3://bucket/prefix"}, "", []),
    (completion.sweeps_to_run, {}, "dep", ["depth", "depth_6x6"]),
    (completion.sweeps_to_run, {}, "mi", ["mine.yaml"]),
    (completion.sweeps_to_run, {}, "st", ["studies/"]),
    (completion.sweeps_to_run, {}, "studies/", ["studies/one.py"]),
    (completion.sweeps_to_run, {}, "reproduce/maze", ["reproduce/maze_attention", "reproduce/maze_mlp"]),
    (completion.sweeps_to_run, {}, "notes", []),
    (completion.trial_addresses, {}, "", ["train/last", "train/best", "depth/last", "depth/best"]),
    (completion.trial_addresses, {}, "depth/", ["depth/last", "depth/best", "depth/3f9a01", "depth/77aa02"]),
    (completion.trial_addresses, {}, "nowhere/", []),
    (completion.trial_ids, {"name": "depth"}, "", ["last", "best", "3f9a01", "77aa02"]),
    (completion.trial_ids, {"name": None}, "", []),
    (completion.recipe_names, {}, "hrm.sud", ["hrm.sudoku"]),
]


@pytest.mark.parametrize(("complete_with", "params", "typed", "expected"), CASES)
def test_candidates(
    complete_with: completion.Completer, params: dict[str, str], typed: str, expected: list[str], folder: Path
) -> None:
    context = typer.Context(typer.main.get_command(build_app()))
    context.params = dict(params)
    assert complete_with(context, typed) == expected


def test_an_error_offers_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(Path, "glob", fail)
    context = typer.Context(typer.main.get_command(build_app()))
    assert completion.sweep_names(context, "") == completion.sweeps_to_run(context, "d") == []
