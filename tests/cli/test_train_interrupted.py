"""`trm train` on a storage that fails or is full: the reason, and an exit code that says that the command resumes."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.cli.views.train import TrainView
from orchestrator.records.index import sweep_folder
from orchestrator.records.reader import read_trial
from orchestrator.records.schema import Status
from orchestrator.storage import LocalStorage, StorageError
from orchestrator.storage.base import to_json_bytes
from orchestrator.worker.job import TrialReport
from tests.support.commands import call
from tests.support.sweeps import TINY, set_options, study
from trm_model.training.launch import ProcessLostError


def train(storage: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code and the last line of standard error."""
    with pytest.raises(SystemExit) as ended:
        main(["train", "--recipe", "sudoku-mini", *set_options(TINY), "--storage", str(storage)])
    assert isinstance(ended.value.code, int)
    return ended.value.code, " ".join(capsys.readouterr().err.split("interrupted")[-1].split())


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.EACCES, "Permission denied"), (errno.ENOSPC, "No space left on device")]
)
def test_attempt_that_the_storage_interrupts_says_the_reason_and_resumes(
    code: int, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = LocalStorage.write

    def fails(self: LocalStorage, key: str, data: bytes) -> None:
        if "rows-" in key or key.endswith("end.json"):
            raise StorageError(f"cannot write {key}: {os.strerror(code)}") from OSError(code, os.strerror(code))
        write(self, key, data)

    with monkeypatch.context() as failing:
        failing.setattr(LocalStorage, "write", fails)
        failing.setattr("orchestrator.records.writer.SPACE_WAIT_S", 0.5)
        ended, line = train(tmp_path, capsys)
    assert ended == 3 and "storage failure" in line and reason in line and line.endswith("; the same command resumes")
    assert train(tmp_path, capsys)[0] == 0


def test_process_that_is_killed_interrupts_the_run_and_the_same_command_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any, **__: Any) -> Any:
        raise ProcessLostError("process 1 of 2 died with signal 9")

    with monkeypatch.context() as killed:
        killed.setattr("orchestrator.worker.attempt.train_in_processes", dies)
        code, line = train(tmp_path, capsys)
    assert code == 3 and "process 1 of 2 died with signal 9" in line
    (trial,) = LocalStorage(tmp_path).folders("sweeps/train/trials")
    record = read_trial(LocalStorage(tmp_path), "train", trial)
    assert record.status is Status.INTERRUPTED and record.attempts[0].end is not None
    assert train(tmp_path, capsys)[0] == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 3),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), 2),
    ],
)
def test_definition_that_cannot_be_written_is_a_full_disk_or_wrong_input(
    error: OSError, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path)
    sweep = study(name="a")
    sweep_folder(storage, "a").write("sweep.json", to_json_bytes(sweep.plain()))

    def fails(self: LocalStorage, key: str, data: bytes) -> None:
        raise StorageError(f"cannot write {key}") from error

    monkeypatch.setattr(LocalStorage, "write", fails)
    ended, _, err = call(capsys, "sweep", "extend", "a", "--seeds", "3", "--storage", str(tmp_path))
    assert ended == code and "cannot write" in err


def test_repeated_command_of_a_finished_run_says_that_nothing_ran(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (
        call(capsys, "train", "--recipe", "sudoku-mini", *set_options(TINY), "--seed", "3", "--storage", str(tmp_path))
        for _ in range(2)
    )
    assert first[:2] == second[:2] and first[0] == 0
    assert "nothing was run" not in first[2]
    said = " ".join(second[2].split())
    assert "nothing was run: this configuration with seed 3 finished on 20" in said and "step 12" not in said


def test_training_says_at_once_what_it_does_and_goes_on_saying_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.cli.views.train.PLAIN_EVERY_S", 1.0)  # a line as soon as the thread looks
    command = ("train", "--recipe", "sudoku-mini", *set_options(TINY), "--seed", "4", "--storage", str(tmp_path))
    code, _, err = call(capsys, *command)
    lines = err.splitlines()
    assert code == 0 and lines[0].startswith("starting sudoku-mini: ")
    assert any(line.startswith("building the dataset: ") for line in lines)
    assert any(line.startswith("step ") for line in lines)


def test_a_step_that_takes_long_is_not_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.cli.views.train.PLAIN_EVERY_S", 0.1)
    view = TrainView()
    view.on_train_report(TrialReport(3, {"loss": 0.5}, "progress"), 10)
    said: list[str] = []
    deadline_s = time.monotonic() + 300
    while len(said) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.05)
        said += capsys.readouterr().err.splitlines()
    view.close()
    assert len(said) > 1 and set(said) == {"step 3/10  loss 0.500"}


def test_an_accuracy_is_said_with_the_puzzles_that_it_is_of(capsys: pytest.CaptureFixture[str]) -> None:
    view = TrainView()
    view.on_train_report(TrialReport(190, {"loss": 0.289, "exact_accuracy": 0.867}, "progress"), 200)
    view.on_train_report(TrialReport(200, {"exact_accuracy": 0.825}, "rung"), 200)
    view.close()
    assert capsys.readouterr().err.splitlines() == [
        "step 190/200  loss 0.289  86.7 % exact on the batch",
        "step 200/200  82.5 % exact on validation",
    ]
