"""`trm sweep` on recorded sweeps, and the options before every command, without a cluster."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.api import run as api_run
from orchestrator.api.status import status as read_status
from orchestrator.cli.views.console import err as error_console
from orchestrator.execution.options import RunOptions, SweepOutcome, SweepSnapshot, SweepStatus
from orchestrator.records.datasets import cache_root
from orchestrator.records.index import last_address, load_definition, note_address, sweep_folder, sweep_names
from orchestrator.records.progress import SweepProgress
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status
from orchestrator.resources.usage import Budget
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.lease import Lease
from orchestrator.sweep import Sweep
from orchestrator.tracking.mlflow import MlflowSync
from tests.records.test_extend import recorded_study
from tests.support.commands import call
from tests.support.sweeps import search


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A storage in a folder whose name a shell would split."""
    return open_storage(str(tmp_path / "my runs"))


def test_status_says_how_many_of_the_planned_trials_are_done(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded_study(storage, Status.FINISHED, Status.FAILED, Status.RUNNING)
    code, out, _ = call(capsys, "sweep", "status", "study", "--storage", storage.url)
    assert code == 0 and "2 of 8 trials done, 1 failed (1 interrupted, 1 finished, 1 failed)" in out
    assert f"trm sweep resume study --storage '{storage.url}'" in out
    code, out, _ = call(capsys, "sweep", "status", "study", "--storage", storage.url, "--json")
    found = json.loads(out)
    assert (found["planned"], found["done"], found["failed"], found["left"]) == (8, 2, 1, 6)
    code, out, _ = call(capsys, "sweep", "status", "--storage", storage.url)
    assert "not running" in out and "2 of 8 trials done, 1 failed" in out and "complete" not in out


def test_a_sweep_of_which_every_recorded_trial_has_ended_is_not_complete(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded_study(storage, Status.FINISHED, Status.FINISHED)
    _, out, _ = call(capsys, "sweep", "status", "--storage", storage.url)
    assert "not running" in out and "2 of 8 trials done" in out and "complete" not in out


def test_status_of_a_complete_sweep_names_how_to_try_the_failed_again(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded_study(storage, *[Status.FINISHED] * 7, Status.DIVERGED)
    _, out, _ = call(capsys, "sweep", "status", "study", "--storage", storage.url)
    assert "8 of 8 trials done, 1 failed" in out
    at = f"--storage '{storage.url}'"
    assert f"again: trm sweep retry study {at} && trm sweep resume study {at}" in out and "Resume it" not in out


def test_status_names_why_trials_failed_and_how_to_try_them_again_where_the_sweep_ran(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    failed, diverged, *_ = recorded_study(storage, Status.FAILED, Status.DIVERGED, Status.FINISHED)
    note_address(storage, "study", "head.example:6379")
    _, out, _ = call(capsys, "sweep", "status", "study", "--storage", storage.url)
    assert f"failed: T=1 n=1 seed 0 ({failed}): r\n" in out and f"diverged: T=1 n=2 seed 0 ({diverged}): r\n" in out
    resume = f"trm sweep resume study --address head.example:6379 --storage '{storage.url}'"
    assert f"Resume it: {resume}\n" in out
    assert f"Try the failed trials again: trm sweep retry study --storage '{storage.url}' && {resume}\n" in out
    for words in (("extend", "study", "--seeds", "3"), ("retry", "study")):
        assert resume in call(capsys, "sweep", *words, "--storage", storage.url)[1]


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'{"address": 3}',
        b'{"address": "127.0.0.1:6379", "machine": "another"}',
        b'{"address": "\\u001b[2J"}',
    ],
)
def test_an_address_that_means_nothing_here_is_in_no_command(storage: Storage, content: bytes) -> None:
    storage.write("sweeps/study/address.json", content)
    assert last_address(storage, "study") is None


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_device_that_this_machine_lacks_is_refused_before_anything_is_written(
    verb: str, storage: Storage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ("sweep", verb, "--recipe", "sudoku-mini", "--vary", "T=1", "--set", "runtime.device=cuda")
    code, _, err = call(capsys, *words, "--storage", storage.url)
    assert code == 2 and "runtime.device='cuda', but this machine has no usable CUDA device. Set it to auto" in err
    assert storage.list() == []


def test_plan_of_a_recorded_sweep_says_what_is_left(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    recorded_study(storage, *[Status.FINISHED] * 5, Status.FAILED)
    code, out, _ = call(capsys, "sweep", "plan", "study", "--storage", storage.url)
    assert code == 0 and "\n6 of 8 trials done, 2 left\n" in out and "of that for the 2 trials left: " in out
    assert "Run it: trm sweep run study" in out
    recorded_study(storage, *[Status.FINISHED] * 8)
    code, out, _ = call(capsys, "sweep", "plan", "study", "--storage", storage.url)
    assert code == 0 and "\n8 of 8 trials done, 0 left\n" in out and "nothing is left to run" in out
    assert "Run it" not in out and "of that for" not in out
    _, out, _ = call(capsys, "sweep", "plan", "study", "--set", "lr=0.5", "--storage", storage.url)
    assert "left" not in out, "another definition of that name"


def test_extending_by_what_is_there_says_that_nothing_is_new(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded_study(storage, Status.FINISHED)
    before = storage.list()
    code, out, _ = call(capsys, "sweep", "extend", "study", "--vary", "T=1", "--storage", storage.url)
    assert code == 0 and "nothing new" in out and "is extended" not in out
    assert storage.list() == before, "no history is written either"
    code, out, _ = call(capsys, "sweep", "extend", "study", "--vary", "T=3", "--storage", storage.url)
    assert code == 0 and "is extended" in out and f"trm sweep resume study --storage '{storage.url}'" in out


@pytest.mark.parametrize("verb", ["run", "resume"])
def test_run_takes_a_recorded_sweep_by_name_and_passes_every_option_on(
    verb: str, storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded_study(storage, Status.FINISHED)
    made: list[tuple[Sweep, RunOptions]] = []

    def run_sweep(
        sweep: Sweep, _: Storage, options: RunOptions, callbacks: Sequence[Any], *, is_stored: bool
    ) -> SweepOutcome:
        assert is_stored
        made.append((sweep, options))
        snapshot = SweepSnapshot(sweep.name, sweep.metric, SweepProgress(planned=8, done=8, failed=1), ())
        return SweepOutcome(SweepStatus.COMPLETE, snapshot)

    monkeypatch.setattr(api_run, "run_sweep", run_sweep)
    options = "--max-concurrent 2 --max-gpus 1 --prefer time --share-gpus --no-canary --reuse --max-failures 0"
    limits = "--retries 2 --max-trials 3 --max-gpu-hours 4 --max-usd 5 --max-hours 6 --tracking none"
    code, out, err = call(capsys, "sweep", verb, "study", *options.split(), *limits.split(), "--storage", storage.url)
    assert code == 1 and "complete, but 1 failed: " in out and "again: trm sweep retry study" in out, err
    ((sweep, passed),) = made
    assert sweep == load_definition(storage, "study")
    assert passed == RunOptions(
        max_concurrent=2,
        max_gpus=1,
        prefer="time",
        share_gpus=True,
        canary=False,
        reuse=True,
        max_failures=None,
        retries=2,
        budget=Budget(trials=3, gpu_hours=4, usd=5, wall_hours=6),
    )


@pytest.mark.parametrize("option", ["--prefer=speed", "--max-gpus=nan", "--max-usd=nan", "--retries=-1"])
def test_option_that_is_not_allowed_is_one_line(
    option: str, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded_study(storage, Status.FINISHED)
    code, _, err = call(capsys, "sweep", "run", "study", option, "--storage", storage.url, "--tracking", "none")
    assert code == 2 and "input should be" in err.lower() and len(err.splitlines()) == 1, err


def test_range_that_help_shows_of_a_limit_is_the_one_that_is_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("sweep run", "sweep resume", "sweep watchdog", "cloud up"):
        _, out, _ = call(capsys, *command.split(), "--help")
        rows = [row for row in out.splitlines() if re.search(r"--(max-usd|max-hours|max-gpu-hours|idle-minutes) ", row)]
        limits = [row for row in rows if "<float>" in row or "float range" in row]
        assert len(limits) == 3 and all("<float> [x>0]" in row for row in limits), (command, limits)
    for option in ("--max-usd", "--max-hours", "--max-gpu-hours"):
        for limit in ("0", "-1"):
            code, _, err = call(capsys, "sweep", "run", "demo", option, limit, "--storage", str(tmp_path))
            assert code == 2 and f"{option} {limit}: input should be greater than 0" in err


def test_status_of_a_trial_is_in_words_in_rows_and_totals(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    _, trial = recorded_study(storage, Status.FINISHED, Status.OUT_OF_MEMORY)
    _, out, _ = call(capsys, "sweep", "status", "study", "--storage", storage.url)
    assert out.count("out of memory") == 3 and "out_of_memory" not in out, "a row, the totals, the reason"
    assert "out_of_memory" not in str(read_status("study", storage))
    _, out, _ = call(capsys, "trial", "show", f"study/{trial}", "--storage", storage.url)
    assert "out of memory at step" in out and "out_of_memory" not in out
    code, _, err = call(capsys, "trial", "reproduce", f"study/{trial}", "--storage", storage.url)
    assert code == 2 and "is out of memory" in err, err
    _, out, _ = call(capsys, "sweep", "retry", "study", "--storage", storage.url)
    assert "was out of memory" in out


def test_retry_names_the_trials_and_the_command_that_runs_them(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded_study(storage, Status.FINISHED, Status.FAILED)
    code, out, err = call(capsys, "sweep", "retry", "study", "--storage", storage.url)
    assert code == 0 and "was failed" in out, err
    assert f"1 trial will run again: trm sweep resume study --storage '{storage.url}'" in out


def test_delete_asks_first_and_takes_records_and_runs(
    storage: Storage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded_study(storage, Status.FINISHED, Status.FAILED)
    storage.write("datasets/d/manifest.json", b"{}")
    before = storage.list()
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, _, err = call(capsys, "sweep", "delete", "study", "--storage", storage.url)
    assert code == 2 and "was not deleted" in err and storage.list() == before
    uri = f"sqlite:///{storage.url}/mlflow.db"
    assert call(capsys, "track", "sync", "study", "--storage", storage.url)[0] == 0
    code, out, err = call(capsys, "sweep", "delete", "study", "--yes", "--storage", storage.url)
    assert code == 0 and "3 runs in MLflow" in out, err
    assert [key for key in storage.list() if key.startswith("sweeps/study/")] == []
    assert "datasets/d/manifest.json" in storage.list()
    assert MlflowSync(uri).delete("study") == 0, "nothing is left there"
    code, _, err = call(capsys, "sweep", "delete", "study", "--yes", "--storage", storage.url)
    assert code == 2 and "no sweep 'study'" in err


def test_delete_names_the_searches_that_start_from_the_sweep(
    storage: Storage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded_study(storage, Status.FINISHED)
    storage.write("sweeps/later/sweep.json", to_json_bytes(search(name="later", warm_start=("study",)).plain()))
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, out, _ = call(capsys, "sweep", "delete", "study", "--storage", storage.url)
    assert code == 2 and "warm_start of later names it: a search that has not begun cannot run without it" in out


def test_rename_asks_first_and_moves_records_and_runs(
    storage: Storage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded_study(storage, Status.FINISHED, Status.FAILED)
    assert call(capsys, "track", "sync", "study", "--storage", storage.url)[0] == 0
    before = storage.list()
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, out, err = call(capsys, "sweep", "rename", "study", "depth", "--storage", storage.url)
    assert code == 2 and "was not renamed" in err and "its runs in MLflow" in out and storage.list() == before
    trials = [(trial.trial_id, trial.status, list(trial.rows)) for trial in read_trials(storage, "study")]
    code, out, err = call(capsys, "sweep", "rename", "study", "depth", "--yes", "--storage", storage.url)
    assert code == 0 and "renamed sweep study to depth, with its runs in MLflow" in out, err
    assert [(trial.trial_id, trial.status, list(trial.rows)) for trial in read_trials(storage, "depth")] == trials
    assert sweep_names(storage) == ["depth"] and not storage.list("sweeps/study")
    mlflow = MlflowSync(f"sqlite:///{storage.url}/mlflow.db")
    assert (mlflow.count_runs("study"), mlflow.count_runs("depth")) == (0, 3)
    code, out, err = call(capsys, "track", "sync", "depth", "--storage", storage.url)
    assert code == 0 and mlflow.count_runs("depth") == 3, "the next synchronisation adds no second run"
    assert call(capsys, "track", "verify", "depth", "--storage", storage.url)[0] == 0
    for new in ("train", "no name"):
        code, _, err = call(capsys, "sweep", "rename", "depth", new, "--yes", "--storage", storage.url)
        assert code == 2 and repr(new) in err and err.count("\n") == 1
    code, _, err = call(capsys, "sweep", "rename", "study", "other", "--yes", "--storage", storage.url)
    assert code == 2 and "no sweep 'study'" in err


def test_sweep_that_runs_is_neither_deleted_nor_unlocked(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    recorded_study(storage, Status.RUNNING)
    with Lease(sweep_folder(storage, "study"), "study"):
        for verb in (["delete", "study", "--yes", "--tracking", "none"], ["unlock", "study"]):
            code, _, err = call(capsys, "sweep", *verb, "--storage", storage.url)
            assert code == 2 and "study" in err and err.count("\n") == 1
    assert storage.exists("sweeps/study/sweep.json")
    code, out, _ = call(capsys, "sweep", "unlock", "study", "--storage", storage.url)
    assert code == 0 and "is not locked" in out


def test_lock_of_a_dead_driver_is_removed(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    recorded_study(storage, Status.RUNNING)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    claim = {"host": socket.gethostname(), "pid": dead.pid, "started_s": 0.0, "beat_s": time.time()}
    storage.write("sweeps/study/lock.json", to_json_bytes(claim))
    code, out, err = call(capsys, "sweep", "unlock", "study", "--storage", storage.url)
    assert code == 0 and f"process {dead.pid}" in out, err
    assert f"trm sweep resume study --storage '{storage.url}'" in out
    assert not storage.exists("sweeps/study/lock.json")


def test_version_and_short_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--version")
    assert code == 0 and out.startswith("trm ")
    code, out, _ = call(capsys, "sweep", "run", "-h")
    assert code == 0 and "--recipe" in out


@pytest.mark.parametrize(
    ("flags", "level", "is_quiet"),
    [([], logging.WARNING, False), (["-v"], logging.INFO, False), (["-vv"], logging.DEBUG, False), (["-q"], 40, True)],
)
def test_verbosity_sets_the_level_of_the_libraries(
    flags: list[str], level: int, is_quiet: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, *flags, "sweep", "status", "--storage", str(tmp_path))
    assert {logging.getLogger(name).level for name in ("orchestrator", "trm_model", "trm_data")} == {level}
    assert error_console.quiet == is_quiet
    call(capsys, "sweep", "status", "--storage", str(tmp_path))
    assert error_console.quiet is False and logging.getLogger("orchestrator").level == logging.WARNING


def test_warning_of_a_library_is_one_line_without_its_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    call(capsys, "sweep", "status", "--storage", str(tmp_path))
    try:
        raise KeyError("[/x]\x1b[2J")
    except KeyError:
        logging.getLogger("orchestrator.test").warning("a display failed", exc_info=True)
    assert capsys.readouterr().err == "warning: a display failed: KeyError: '[/x]\\x1b[2J'\n"


def test_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRM_CACHE", str(tmp_path))
    assert cache_root() == tmp_path / "datasets"
    monkeypatch.delenv("TRM_CACHE")
    assert cache_root() == Path.home() / ".cache" / "trm" / "datasets"


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        ("sweep plan --recipe sudoku-mini --vary T=1,2", {"torch", "ray", "mlflow", "optuna", "numba"}),
        ("sweep status", {"torch", "ray", "mlflow", "optuna", "numba"}),
        ("leaderboard", {"torch", "ray", "mlflow", "optuna", "numba"}),
    ],
)
def test_reading_commands_load_no_library_for_running(command: str, absent: set[str], tmp_path: Path) -> None:
    code = "import sys\nfrom orchestrator.cli import main\n"
    code += f"try: main({[*command.split(), '--storage', str(tmp_path)]!r})\n"
    code += "except SystemExit as end: print(end.code)\n"
    code += f"print('LOADED', sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["0", "LOADED []"], done.stdout + done.stderr


def test_code_that_resumes_a_sweep_loads_no_library_for_running() -> None:
    """A resume with nothing left calls nothing of it."""
    code = "import sys, orchestrator.execution.run; "
    code += "print(sorted({'torch', 'ray', 'mlflow', 'numba'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_message_about_another_definition_is_short(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    recorded_study(storage, Status.FINISHED)
    values = "--vary", f"lr={','.join(f'0.0{number}1' for number in range(10, 90))}"
    words = ["--recipe", "sudoku-mini", "--name", "study", *values, "--tracking", "none", "--storage", storage.url]
    code, _, err = call(capsys, "sweep", "run", *words)
    assert code == 2 and err.count("\n") == 1
    what = err.removeprefix("error: sweep 'study' exists with another definition (").partition("). ")[0]
    assert what.count(" -> ") == 3 and len(what) < 400 and re.search(r", and \d+ more$", what)
