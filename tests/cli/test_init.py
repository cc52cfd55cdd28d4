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
from trm_model.recursion_file import distrust_all

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
        "error: sweep.yaml exists, and nothing is overwritten. Name another folder: trm init own-puzzles my-sweep\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"] and Path("sweep.yaml").read_text() == "mine"
    code, _, err = call(capsys, "init", "own-puzles")
    assert code == 2 and "'own-puzzles'" in err
    (tmp_path / "file").write_text("")
    assert call(capsys, "init", "demo", "file")[0] == 2
