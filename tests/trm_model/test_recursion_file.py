"""Recursion files: code that a stored thing names runs only where this command names it, and counts by its content."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.storage import open_storage
from tests.support.commands import call
from tests.support.sweeps import TINY, set_options
from trm_data.errors import ConfigError
from trm_data.own_code import accept, distrust_all
from trm_model.checkpoints.store import LocalCheckpoints, checkpoint_names, pack, read
from trm_model.model.recursion import load_recursion

CODE = """
from pathlib import Path

from trm_model.recursion import Recursion

Path({marker!r}).write_text("executed")


class Mine(Recursion):
    def cycle(self, states, input_BLD, rotary, steps_without_gradient):
        answer, latent = states
        return self.refine_answer({factor} * answer + latent + input_BLD, rotary), latent
"""
PUZZLE = "1..4.2..3..1...."
TRM = [sys.executable, "-c", "from orchestrator.cli import main; main()"]


def write_code(path: Path, factor: float = 1.0, marker: Path = Path(os.devnull)) -> Path:
    """A recursion file that leaves a marker where it is executed."""
    path.write_text(CODE.format(marker=str(marker), factor=factor))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def train(capsys: pytest.CaptureFixture[str], storage: Path, recursion: str, *more: str) -> dict[str, Any]:
    """The result of `trm train` with a recursion of its own."""
    options = [*set_options(TINY), "--set", f"model.recursion={recursion}", "--storage", str(storage), "--json"]
    code, out, err = call(capsys, "train", *options, *more)
    assert code == 0, err
    return json.loads(out)


def sweep_records(storage: Path, name: str) -> list[TrialRecord]:
    return read_trials(open_storage(str(storage)), name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_code(tmp_path / "mine.py", marker=tmp_path / "marker")


@pytest.fixture
def checkpoint(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The checkpoint of a model with a recursion of its own, as somebody else hands it over; no marker is left."""
    identity = train(capsys, tmp_path / "runs", f"{file}:Mine")["trial_id"]
    store = LocalCheckpoints(tmp_path / "runs/sweeps/train/trials" / identity / "checkpoints")
    (tmp_path / "marker").unlink()
    return store.path / checkpoint_names(store)[-1]


def openers(checkpoint: Path, folder: Path) -> dict[str, list[str]]:
    """Every command that makes a model out of a checkpoint file."""
    storage = ["--storage", str(folder / "runs")]
    return {
        "solve": ["solve", str(checkpoint), PUZZLE, *storage],
        "eval": ["eval", str(checkpoint), *storage],
        "export": ["export", str(checkpoint), "--format", "torch", "-o", str(folder / "model.pt2"), *storage],
        "checkpoint export": ["checkpoint", "export", str(checkpoint), "-o", str(folder / "step_1"), *storage],
    }


@pytest.mark.parametrize("command", ["solve", "eval", "export", "checkpoint export"])
def test_code_that_a_checkpoint_names_is_not_run_by(
    command: str, checkpoint: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, *openers(checkpoint, tmp_path)[command])
    assert code == 2 and len(err.splitlines()) == 1
    assert digest(file)[:12] in err and f"--trust {file}" in err
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("command", ["solve", "eval", "export", "checkpoint export"])
def test_path_without_a_hash_in_a_header_is_not_run_even_if_trusted(
    command: str, checkpoint: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody can tell whether it is the code that the weights were trained with."""
    loaded = read(LocalCheckpoints(checkpoint.parent), checkpoint.name)
    loaded.header["config"]["model"]["recursion"] = f"{file}:Mine"
    forged = tmp_path / "forged.safetensors"
    forged.write_bytes(pack(loaded.tensors, loaded.header))
    code, _, err = call(capsys, *openers(forged, tmp_path)[command], "--trust", str(file))
    assert code == 2 and "no hash of the file's content" in err
    assert not (tmp_path / "marker").exists()


def test_named_file_is_run_if_it_has_the_recorded_content_wherever_it_lies(
    checkpoint: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = read(LocalCheckpoints(checkpoint.parent), checkpoint.name).header
    assert header["config"]["model"]["recursion"] == f"{file}:Mine#sha256={digest(file)}"
    kept = checkpoint.parents[1] / "recursion.py"
    assert kept.read_text() == file.read_text()
    file.unlink()
    commands = openers(checkpoint, tmp_path)
    code, _, err = call(capsys, *commands["solve"], "--trust", str(kept))
    assert code in (0, 1) and not err
    code, out, err = call(capsys, *commands["eval"], "--trust", str(kept), "--json")
    assert code == 0, err
    result = json.loads((checkpoint.parents[1] / "result.json").read_text())
    [row] = json.loads(out)
    assert row["metrics"]["exact_accuracy"] == result["metrics"]["exact_accuracy"]
    code, _, err = call(capsys, *commands["export"], "--trust", str(kept))
    assert code == 0, err
    code, _, err = call(capsys, *commands["solve"])
    assert code == 2, "what one command trusts the next one does not"


@pytest.mark.parametrize("command", ["solve", "eval", "export", "checkpoint export"])
def test_weights_are_not_opened_with_edited_code(
    command: str, checkpoint: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digest(file)
    write_code(file, factor=0.0, marker=tmp_path / "marker")
    code, _, err = call(capsys, *openers(checkpoint, tmp_path)[command], "--trust", str(file))
    assert code == 2 and len(err.splitlines()) == 1
    assert before[:12] in err and digest(file)[:12] in err
    assert not (tmp_path / "marker").exists()


def test_edited_class_is_trained_again_and_a_moved_file_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, file = tmp_path / "runs", write_code(tmp_path / "mine.py")
    first = train(capsys, storage, f"{file}:Mine")
    write_code(file, factor=0.0)
    second = train(capsys, storage, f"{file}:Mine")
    assert second["trial_id"] != first["trial_id"]
    write_code(file)
    moved = file.rename(tmp_path / "elsewhere.py")
    again = train(capsys, storage, f"{moved}:Mine")
    assert again["trial_id"] == first["trial_id"] and again["ended_s"] == first["ended_s"]
    attempts = storage / "sweeps/train/trials" / first["trial_id"] / "attempts"
    assert [path.name for path in attempts.iterdir()] == ["001"]


def test_job_with_another_source_than_the_pinned_one_is_refused(file: Path) -> None:
    """Whoever can change a job on its way could run any code on its machine."""
    address = f"{file}:Mine#sha256={digest(file)}"
    distrust_all()
    with pytest.raises(ConfigError, match="Start the sweep again"):
        accept(address, file.read_text() + "# changed")
    with pytest.raises(ConfigError, match="does not trust"):
        load_recursion(address)
    accept(address, file.read_text())
    assert load_recursion(address).__name__ == "Mine"


@pytest.mark.parametrize(
    ("recursion", "words"),
    [
        ("nowhere.py:Mine", "no Python file"),
        ("mine.py:Mien", "Did you mean 'Mine'"),
        ("mine.py", "path/to/file.py:ClassName"),
        ("broken.py:Mine", "is not Python"),
        ("deep.py:Mine", "deep.py"),
        ("mine.py:Mine#sha256=" + 64 * "0", "000000000000"),
    ],
)
def test_bad_recursion_is_refused_before_anything_runs(
    recursion: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_code(tmp_path / "mine.py")
    (tmp_path / "broken.py").write_text("class Mine(:\n")
    (tmp_path / "deep.py").write_text("x = " + "-" * 200_000 + "1\n")
    setting = f"model.recursion={recursion}"
    sweep = tmp_path / "sweep.py"
    sweep.write_text(sweep_file(recursion))
    for command in (
        ["train", "--set", setting],
        ["sweep", "plan", "--recipe", "sudoku-mini", "--vary", setting],
        ["sweep", "plan", str(sweep)],
        ["sweep", "run", str(sweep)],
    ):
        code, _, err = call(capsys, *command)
        assert code == 2 and words in err and len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [("class Mine:\n    pass\n", "defines no Recursion named 'Mine'"), ("class Mine(X): ...", "NameError")],
)
def test_file_that_fails_is_one_line(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    storage = tmp_path / "runs"
    code, _, err = call(capsys, "train", "--set", f"model.recursion={file}:Mine", "--storage", str(storage))
    assert code == 2 and words in err and len(err.splitlines()) == 1
    assert not storage.exists()


def sweep_file(recursion: str, **settings: Any) -> str:
    """A study that compares the variant's recursion with one from a file."""
    base = {**TINY, **settings}
    return (
        "from orchestrator.sweep import Sweep, choice, configure\n"
        "from trm_model.recipes import get_recipe\n"
        f"base = configure(get_recipe('sudoku-mini'), {base!r})\n"
        f"space = {{'model.recursion': choice(None, {recursion!r})}}\n"
        "sweep = Sweep(name='own', base=base, space=space)\n"
    )


def test_relative_path_begins_at_the_sweep_file_and_the_content_decides_the_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweeps"
    folder.mkdir()
    (folder / "own.py").write_text(sweep_file("mine.py:Mine"))
    ids = []
    for factor in (1.0, 0.0):
        file = write_code(folder / "mine.py", factor, marker=tmp_path / "marker")
        monkeypatch.chdir(tmp_path)
        plan = tmp_path / f"plan-{factor}.jsonl"
        code, _, err = call(capsys, "sweep", "plan", "sweeps/own.py", "--out", str(plan))
        assert code == 0, err
        trials = [json.loads(line) for line in plan.read_text().splitlines()[1:]]
        ids.append({trial["family"]: trial["trial_id"] for trial in trials})
        assert f"recursion=Mine@{digest(file)[:8]}" in ids[-1]
        own = next(t["config"]["model"]["recursion"] for t in trials if t["config"]["model"]["recursion"])
        assert own == f"{file.resolve()}:Mine#sha256={digest(file)}"
    assert not (tmp_path / "marker").exists()  # a plan reads the file and does not run it
    first, second = ids
    assert len(first.keys() & second.keys()) == 1, "the variant's own recursion is the same cell"
    assert len({*first.values(), *second.values()}) == 3
    code, _, err = call(capsys, "sweep", "run", str(tmp_path / "plan-1.0.jsonl"))
    assert code == 2 and "--trust" in err


@pytest.mark.slow
def test_real_sweep_needs_the_file_only_when_it_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A relative path, the file deleted while trials run, a driver that is stopped, a resume that has to name it."""
    folder, storage = tmp_path / "sweeps", tmp_path / "runs"
    folder.mkdir()
    file = write_code(folder / "mine.py")
    (folder / "own.py").write_text(sweep_file("mine.py:Mine", **{"train.max_steps": 400}))
    where = ["--storage", str(storage), "--tracking", "none"]
    command = [*TRM, "sweep", "run", "sweeps/own.py", *where, "--max-concurrent", "1"]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
        until = time.monotonic() + 1200
        while not list(storage.glob("sweeps/own/trials/*/attempts/001/start.json")):
            assert time.monotonic() < until and running.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        file.unlink()
        running.send_signal(signal.SIGINT)
        running.wait()
    records = sweep_records(storage, "own")
    if any(record.status is not Status.FINISHED for record in records) or len(records) < 2:
        code, _, err = call(capsys, "sweep", "resume", "own", *where)
        assert code == 2 and "--trust" in err and len(err.splitlines()) == 1
    copy = write_code(tmp_path / "copy.py")
    done = subprocess.run(
        [*TRM, "sweep", "resume", "own", *where, "--trust", str(copy)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = sweep_records(storage, "own")
    assert [record.status for record in records] == 2 * [Status.FINISHED]
    scored = [record.result.metrics for record in records if record.result]
    assert scored[0] != scored[1], "the two cells are different models"
    [kept] = storage.glob("sweeps/own/trials/*/recursion.py")
    assert kept.read_text() == copy.read_text()


def test_run_in_two_processes_gets_the_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_code(tmp_path / "mine.py")
    assert train(capsys, tmp_path / "runs", f"{file}:Mine", "--processes", "2")["steps"] == TINY["train.max_steps"]


def test_vary_on_the_command_line_names_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files with one class name are two cells."""
    monkeypatch.chdir(tmp_path)
    write_code(tmp_path / "a.py")
    write_code(tmp_path / "b.py", factor=0.0)
    vary = "model.recursion=a.py:Mine,b.py:Mine"
    code, _, err = call(capsys, "sweep", "plan", "--recipe", "sudoku-mini", "--vary", vary, "--out", "plan.jsonl")
    assert code == 0, err
    _, *trials = map(json.loads, Path("plan.jsonl").read_text().splitlines())
    assert len({trial["trial_id"] for trial in trials}) == len({trial["family"] for trial in trials}) == 2
