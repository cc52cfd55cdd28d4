"""`trm init`: every file that it writes is planned and trained, and nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.storage import open_storage
from orchestrator.sweep import configure
from orchestrator.sweep.loader import load_sweep
from orchestrator.sweep.trials import cells, confirm_trials
from tests.support.commands import call
from tests.support.sweeps import attempted
from trm_data import fingerprint
from trm_data.own_code import distrust_all

STARTS = {
    "demo": {"sweep.yaml"},
    "own-puzzles": {"sweep.yaml", "puzzles.txt"},
    "own-recursion": {"sweep.py", "my_recursion.py"},
}


@pytest.mark.parametrize("start", STARTS)
def test_what_is_written_is_planned_as_the_command_says(
    start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "init", start, "mine")
    assert code == 0 and {path.name for path in (tmp_path / "mine").iterdir()} == STARTS[start]
    plan = next(line.partition(": trm ")[2] for line in out.splitlines() if "sweep plan" in line)
    code, out, err = call(capsys, *plan.split())
    assert code == 0 and "would not fit: nothing" in out, err


@pytest.mark.parametrize("start", STARTS)
def test_what_is_written_trains(
    start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    distrust_all()
    monkeypatch.chdir(tmp_path)
    assert call(capsys, "init", start)[0] == 0
    [file] = tmp_path.glob("sweep.*")
    sweep = load_sweep(file)
    tiny = {"train.max_steps": 2, "train.batch_size": 8, "runtime.evaluate_every": 2, "runtime.evaluate_puzzles": 4}
    if sweep.base.data.source is None:
        tiny |= {"data.num_train": 16, "data.num_validation": 8, "data.num_test": 8}
    base = configure(sweep.base, {**tiny, "evaluation.max_puzzles": 4})
    for _, settings in list(cells(sweep))[-1:]:
        [trial, *_] = confirm_trials(sweep, fingerprint, "", configure(base, settings))
        record = attempted(open_storage(str(tmp_path / "runs")), trial.config, {})
        assert record.result is not None and record.result.items == 4


def test_existing_files_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.yaml").write_text("mine")
    code, _, err = call(capsys, "init", "own-puzzles")
    assert code == 2 and err == (
        "error: sweep.yaml exists, and nothing is overwritten. Name a new folder: trm init own-puzzles my-sweep\n"
    )
    assert call(capsys, "init", "own-recursion")[0] == 2, "two sweeps of one folder would have one name"
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"] and Path("sweep.yaml").read_text() == "mine"
    code, _, err = call(capsys, "init", "own-puzles")
    assert code == 2 and "Did you mean 'own-puzzles'?" in err
    (tmp_path / "file").write_text("")
    assert call(capsys, "init", "demo", "file")[0] == 2


@pytest.mark.parametrize("start", STARTS)
def test_sweep_is_named_after_its_folder_and_a_new_folder_is_suggested(
    start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    distrust_all()
    monkeypatch.chdir(tmp_path)
    folder = "depth"
    names = []
    for _ in range(3):
        code, out, _ = call(capsys, "init", start, folder)
        [file] = (tmp_path / folder).glob("sweep.*")
        names.append(load_sweep(file).name)
        assert code == 0 and f"the sweep is named {names[-1]}\n" in out
        code, _, err = call(capsys, "init", start, folder)
        assert code == 2
        folder = err.strip().rpartition(f"trm init {start} ")[2]
    assert names == ["depth", "depth-2", "depth-3"]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("2026", "2026"),
        ("1e5", "1e5"),
        ("no", "no"),
        ("null", "null"),
        ("2026-11-29", "2026-11-29"),
        ("my study (ü)", "my-study"),
        ("ü", "first"),
        ("train", "train-sweep"),
        ("x" * 200, "x" * 60),
    ],
)
def test_any_folder_gives_a_name_that_a_sweep_may_have(
    folder: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "init", "demo", str(tmp_path / folder))[0] == 0
    assert load_sweep(tmp_path / folder / "sweep.yaml").name == name


def test_a_folder_in_place_of_a_starting_point_is_one_line_with_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "init", "mine")
    assert code == 2 and err.count("\n") == 1 and "trm init demo mine" in err and "own-puzzles" in err
    assert not list(tmp_path.iterdir())
