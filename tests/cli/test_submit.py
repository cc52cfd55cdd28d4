"""`trm submit`: from Kaggle's file of unseen tasks and a checkpoint to a submission, scored by held-back answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.api.submit import score_submission
from orchestrator.cli import main
from orchestrator.records.reader import read_trials
from orchestrator.storage import open_storage
from tests.support.arc_tasks import SMALL as SETTINGS
from tests.support.arc_tasks import task, write_tasks
from tests.support.commands import call
from tests.support.sweeps import set_options
from trm_data.config import DataConfig
from trm_data.errors import DataError
from trm_model.checkpoints.store import pack, unpack

TASKS = {"new1": task(11, tests=2), "new2": task(12, tests=1)}
SOLUTIONS = {name: [one["output"] for one in found["test"]] for name, found in TASKS.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of other tasks."""
    folder = tmp_path_factory.mktemp("trained")
    write_tasks(folder / "in", {"training/a": task(1), "training/b": task(2), "evaluation/c": task(3)})
    options = set_options({"data.source": folder / "in", **SETTINGS, "evaluation.split": "test"})
    words = ["train", "--recipe", "arc-agi-1", *options, "--max-steps", "2", "--storage", str(folder / "runs")]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    (found,) = folder.glob("runs/sweeps/train/trials/*/checkpoints/step-00000002.safetensors")
    return found


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a checkpoint, and tasks whose answers lie elsewhere."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(trained, tmp_path / "arc.safetensors")
    unanswered = {
        name: {"train": found["train"], "test": [{"input": one["input"]} for one in found["test"]]}
        for name, found in TASKS.items()
    }
    Path("arc-agi_test_challenges.json").write_text(json.dumps(unanswered))
    Path("held_back.json").write_text(json.dumps(SOLUTIONS))
    Path("arc-agi_test_solutions.json").write_text(json.dumps({"new1": "of other tasks: not read"}))
    return tmp_path


SUBMIT = ["submit", "arc-agi_test_challenges.json", "--from", "arc.safetensors", "--max-steps", "2"]


def require_valid(content: Any) -> None:
    """Check the form that Kaggle asks for: two grids for every test input, of numbers 0 to 9 in rows of one length."""
    assert content.keys() == TASKS.keys()
    for name, found in TASKS.items():
        assert len(content[name]) == len(found["test"])
        for attempts in content[name]:
            assert attempts.keys() == {"attempt_1", "attempt_2"}
            for grid in attempts.values():
                assert grid and grid[0] and {len(row) for row in grid} == {len(grid[0])}
                assert all(isinstance(cell, int) and 0 <= cell <= 9 for row in grid for cell in row)


def test_challenges_without_answers_become_a_submission_that_held_back_answers_score(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capfd, *SUBMIT, "--solutions", "held_back.json", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["tasks"], facts["test_inputs"], facts["score"]["items"]) == (2, 3, 3)
    require_valid(json.loads(Path("submission.json").read_bytes()))
    (record,) = read_trials(open_storage("runs"), "train")
    assert record.config.train.freeze == "network" and record.attempts[0].start.started_from.endswith("at the mean")
    assert record.config.model.hidden_size == 16, "the model is the checkpoint's"
    first = Path("submission.json").read_bytes()
    code, out, err = call(capfd, *SUBMIT, "-o", "again.json")
    assert code == 0 and "nothing was run" in err
    assert "again.json: two attempts at 3 test inputs of 2 tasks" in out
    assert Path("again.json").read_bytes() == first
    more = ["--set", "train.freeze=none", "--set", "aug=1", "--votes", "1", "-o", "other.json"]
    assert call(capfd, *SUBMIT, *more)[0] == 0
    require_valid(json.loads(Path("other.json").read_bytes()))


def test_repeated_command_writes_the_same_file(trained: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`train/last` is the run before, not what the first submission trained, which `trm eval` scores on all tasks."""
    shutil.copytree(trained.parents[5], "runs")
    words = ["submit", "arc-agi_test_challenges.json", "--from", "train/last", "--max-steps", "2"]
    assert call(capfd, *words)[0] == 0
    first = Path("submission.json").read_bytes()
    code, _, err = call(capfd, *words)
    assert code == 0 and "nothing was run" in err and Path("submission.json").read_bytes() == first
    for more, items in (([], 3), (["--max-puzzles", "1"], 2)):
        code, out, err = call(capfd, "eval", "train/last", "--split", "test", "--json", *more)
        (row,) = json.loads(out)
        assert code == 0 and row["items"] + row["unscored"] == items, (row, err)
    assert len(read_trials(open_storage("runs"), "train")) == 2


def test_score_counts_either_attempt_and_whole_tasks(folder: Path) -> None:
    wrong = [[1]]
    answers = {
        "new1": [
            {"attempt_1": SOLUTIONS["new1"][0], "attempt_2": wrong},
            {"attempt_1": wrong, "attempt_2": SOLUTIONS["new1"][1]},
        ],
        "new2": [{"attempt_1": wrong, "attempt_2": wrong}],
    }
    found = score_submission(answers, folder / "held_back.json")
    assert found == (3, 2, 1, 2, 1)
    for content, message in (
        ("[]", "holds no solutions"),
        ("{", "cannot read"),
        (json.dumps({"new1": SOLUTIONS["new1"]}), "lacks task 'new2'"),
        (json.dumps({**SOLUTIONS, "x": []}), "has task 'x'"),
        (json.dumps({**SOLUTIONS, "new2": []}), "has 0 solutions of task 'new2'"),
        (
            json.dumps({**SOLUTIONS, "new2": [{"output": [[1]]}]}),
            "new2: solution 1 is an object with output, not a grid",
        ),
        (json.dumps({**SOLUTIONS, "new2": answers["new2"]}), "an object with attempt_1, attempt_2, not a grid"),
        (json.dumps({**SOLUTIONS, "new2": [[[1], [2, 3]]]}), "new2: solution 1: the grid is ragged"),
    ):
        (folder / "bad.json").write_text(content)
        with pytest.raises(DataError, match=message):
            score_submission(answers, folder / "bad.json")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["held_back.json", "--from", "arc.safetensors"], "Name Kaggle's file of tasks, NAME_challenges.json"),
        (["arc-agi_test_challenges.json", "--from", "none.safetensors"], "none.safetensors"),
        (["arc-agi_test_challenges.json", "--from", "held_back.json"], "is not a checkpoint of this program"),
        ([*SUBMIT[1:], "--set", "model.hidden_size=32"], "model.hidden_size=16 and not 32"),
        (["bad_challenges.json", "--from", "arc.safetensors"], "not an ARC task"),
        (["empty_challenges.json", "--from", "arc.safetensors"], "empty_challenges.json holds no tasks"),
        (["untrained_challenges.json", "--from", "arc.safetensors"], "holds no tasks with demonstrations"),
        (["untested_challenges.json", "--from", "arc.safetensors"], "holds no tasks with test inputs"),
        ([*SUBMIT[1:], "--votes", "50"], "votes=50, but 3 views of each task are trained"),
        ([*SUBMIT[1:], "--solutions", "arc-agi_test_challenges.json"], "holds no solutions"),
        ([*SUBMIT[1:], "--solutions", "few.json"], "lacks task 'new2', unlike the submission"),
        ([*SUBMIT[1:], "--set", "data.source=held_back.json"], "data.source follows from the challenges file"),
        ([*SUBMIT[1:], "--set", "train.start_from=null"], "train.start_from follows from the challenges file"),
        ([*SUBMIT[1:], "--set", "start_from=null"], "train.start_from follows from the challenges file"),
        (["arc-agi_test_challenges.json", "--from", "sudoku.safetensors"], "an official dataset of sudoku puzzles"),
    ],
)
def test_mistake_is_one_line(words: list[str], message: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files: dict[str, Any] = {"bad": {"x": 3}, "empty": {}, "untrained": {"x": {**TASKS["new1"], "train": []}}}
    for name, content in (files | {"untested": {"x": {**TASKS["new1"], "test": []}}}).items():
        Path(f"{name}_challenges.json").write_text(json.dumps(content))
    Path("few.json").write_text(json.dumps({"new1": SOLUTIONS["new1"]}))
    write_official("sudoku.safetensors", vocab_size=11, seq_len=81)
    code, out, err = call(capfd, "submit", *words)
    assert code == 2 and not out and message in err and err.splitlines()[-1].startswith("error: "), err
    assert not Path("submission.json").exists() and not Path("runs").exists()


def write_official(name: str, **sizes: int) -> None:
    """Write the checkpoint as `trm checkpoint import` does for an official dataset."""
    found = unpack(Path("arc.safetensors").read_bytes())
    data = DataConfig(benchmark="official", source="/official", num_augmentations=2).plain()
    header = found.header | {"config": found.header["config"] | {"data": data}} | sizes
    kept = {key: value for key, value in header.items() if key not in ("crc32", "fingerprint")}
    Path(name).write_bytes(pack(found.tensors, kept))


def test_model_of_an_official_dataset_reads_tasks_as_arc(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A task without test inputs is named, and needs no solution."""
    write_official("official.safetensors")
    tasks = json.loads(Path("arc-agi_test_challenges.json").read_bytes())
    Path("more_challenges.json").write_text(json.dumps({**tasks, "idle": {**tasks["new1"], "test": []}}))
    words = ["submit", "more_challenges.json", "--from", "official.safetensors", "--max-steps", "1"]
    code, _, err = call(capfd, *words, "--solutions", "held_back.json")
    assert code == 0 and "left out, without test inputs: idle" in err, err
    require_valid(json.loads(Path("submission.json").read_bytes()))
