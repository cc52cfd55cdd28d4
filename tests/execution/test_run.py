"""Real sweeps on a private Ray of this machine, as a user starts them: run, run again, kill, stop, resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.storage import open_storage
from tests.support.infra import wait_until_ended
from tests.support.sweeps import TINY, set_options

TRM = [sys.executable, "-c", "from orchestrator.cli import main; main()"]


def trm(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    done = subprocess.run([*TRM, *arguments], capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr + done.stdout
    return done


def grid(storage: Path, *more: str, **settings: Any) -> list[str]:
    """A study of 2 x 2 tiny cells."""
    values = {**TINY, "runtime.evaluate_every": 10, **settings}
    sets = set_options(values, "model.cycles")
    cells = ["--vary", "T=1,2", "--vary", "n=1,2"]
    return [
        "sweep",
        "run",
        "--recipe",
        "sudoku-mini",
        *cells,
        *sets,
        "--name",
        "grid",
        "--storage",
        str(storage),
        *more,
    ]


def records(storage: Path) -> dict[str, TrialRecord]:
    return {record.trial_id: record for record in read_trials(open_storage(str(storage)), "grid")}


def scores(storage: Path) -> dict[str, Any]:
    return {key: r.result and (r.result.metrics, r.result.per_item) for key, r in records(storage).items()}


def wait_for(condition: Callable[[], bool], what: str, driver: subprocess.Popen[Any] | None = None) -> None:
    """Wait as long as it takes, or until the driver has ended: how long depends on what else the machine does."""
    while not condition():
        assert driver is None or driver.poll() is None, f"the driver ended before {what}"
        time.sleep(0.05)


def named(processes: list[psutil.Process], *names: str) -> dict[str, psutil.Process]:
    """The processes of these names, by name; others may have ended meanwhile."""
    found = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found[process.name()] = process
    return {name: found[name] for name in names}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("undisturbed") / "runs"
    trm(*grid(storage, **{"train.max_steps": 60}))
    return storage


def test_study_runs_every_cell_and_the_same_command_again_runs_nothing(undisturbed: Path) -> None:
    before = records(undisturbed)
    assert [record.status for record in before.values()] == [Status.FINISHED] * 4
    assert {record.attempts[0].start.num_threads for record in before.values()} == {1}
    again = trm(*grid(undisturbed, **{"train.max_steps": 60}))
    assert "complete: 4 finished" in again.stdout
    assert records(undisturbed) == before


def test_mlflow_on_sqlite_has_one_run_per_trial_with_parameters_curves_and_provenance(undisturbed: Path) -> None:
    found = records(undisturbed)  # the sweep has been run twice by now: nothing was added
    client = mlflow.MlflowClient(f"sqlite:///{undisturbed}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    children = {run.data.tags["trial_id"]: run for run in runs if "trial_id" in run.data.tags}
    assert set(children) == set(found) and len(runs) == 1 + len(found)
    for trial_id, record in found.items():
        run = children[trial_id]
        assert run.info.status == "FINISHED"
        assert run.data.params["model.cycles"] == str(record.config.model.cycles)
        curve = client.get_metric_history(run.info.run_id, "validation/exact_accuracy")
        assert [(point.step, point.value) for point in curve] == record.curve("exact_accuracy")
        assert run.inputs.dataset_inputs[0].dataset.digest in record.dataset.fingerprint
        assert any("commit" in tag for tag in run.data.tags) and any("host" in tag for tag in run.data.tags)


def test_another_definition_under_the_same_name_is_refused_in_one_line(undisturbed: Path) -> None:
    done = trm(*grid(undisturbed, **{"train.max_steps": 61}), check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "train.max_steps: 60 -> 61" in done.stderr
    assert "trm sweep extend grid --max-steps 61" in done.stderr


KILLED = """
import json, os, signal, sys
import psutil
from orchestrator.execution.driver import fit_with_tune
from orchestrator.execution.run import run_sweep
from orchestrator.storage import open_storage
from orchestrator.sweep import Sweep

class Killing:
    def __init__(self, controller):
        self.controller, self.ended_once = controller, False
    def __getattr__(self, name):
        return getattr(self.controller, name)
    def ended(self, trial_id, lost, why=""):
        self.controller.ended(trial_id, lost, why)
        self.ended_once = True
    def result(self, trial_id, result):
        if self.ended_once and result["kind"] == "rung" and result["trial_step"] >= 20:
            print(json.dumps([child.pid for child in psutil.Process().children(recursive=True)]), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.controller.result(trial_id, result)

sweep = Sweep.parse(json.loads(sys.argv[1]))
run_sweep(sweep, open_storage(sys.argv[2]), execute=lambda controller, slots: fit_with_tune(Killing(controller), slots))
"""
"""A driver that is killed once a trial has ended and another one, which waits for an answer, is at step 20 or later."""


def test_killed_driver_resumes_without_running_anything_twice(undisturbed: Path, tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    definition = json.loads((undisturbed / "sweeps" / "grid" / "sweep.json").read_text())
    definition["base"]["runtime"]["checkpoint_every_s"] = 0.01
    driver = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(definition), str(storage)], stdout=subprocess.PIPE, text=True
    )
    assert driver.returncode == -signal.SIGKILL
    started = set(json.loads(driver.stdout))
    wait_until_ended([process for process in psutil.process_iter() if process.pid in started])
    cut = records(storage)
    finished = {key for key, record in cut.items() if record.status is Status.FINISHED}
    assert 0 < len(finished) < 4
    status = json.loads(trm("sweep", "status", "grid", "--storage", str(storage), "--json").stdout)
    assert status["driver"] is None and "interrupted" in status["counts"]

    trm("sweep", "resume", "grid", "--storage", str(storage), "--tracking", "none")
    after = records(storage)
    assert len(after) == 4 and all(record.status is Status.FINISHED for record in after.values())
    assert {key for key, record in after.items() if record.attempts == cut.get(key, record).attempts} >= finished
    assert any(r.attempts[1].start.from_step > 0 for r in after.values() if len(r.attempts) > 1)
    for record in after.values():
        steps = [row.step for row in record.rows if row.split == "validation"]
        assert steps == sorted(set(steps)), "an evaluation is counted twice"
    assert scores(storage) == scores(undisturbed)


@pytest.mark.slow
def test_extended_study_runs_only_what_is_new_and_longer_trials_go_on_as_if_never_cut(
    undisturbed: Path, tmp_path: Path
) -> None:
    storage = tmp_path / "runs"
    where = ["--storage", str(storage), "--tracking", "none"]
    short = [
        part if part != "n=1,2" else "n=1" for part in grid(storage, "--tracking", "none", **{"train.max_steps": 30})
    ]
    trm(*short)
    before = records(storage)
    changed = trm(*grid(storage, **{"train.max_steps": 60}), check=False)
    assert changed.returncode == 2 and "trm sweep extend grid --max-steps 60 --vary n=2" in changed.stderr
    trm("sweep", "extend", "grid", "--max-steps", "60", "--vary", "n=2", "--storage", str(storage))
    done = trm("sweep", "resume", "grid", *where)
    assert "complete: 4 finished" in done.stdout

    after = records(storage)
    assert len(before) == 2 and all(after[key] == record for key, record in before.items())
    new = {key: record for key, record in after.items() if key not in before}
    longer = [record for record in new.values() if record.origin]
    assert [record.attempts[0].start.from_step for record in longer] == [30, 30]
    for record in longer:
        assert record.origin and before[record.origin.trial_id].config.train.max_steps == 30
        assert [row.step for row in record.rows if row.split == "validation"] == [10, 20, 30, 40, 50, 60]
    # At 30 steps the short trial had an evaluation and a checkpoint of its own; nothing of that changes a weight.
    assert {key: scores(storage)[key] for key in new} == scores(undisturbed)
    assert "complete: 4 finished" in trm(*grid(storage, "--tracking", "none", **{"train.max_steps": 60})).stdout


def test_trial_is_shown_and_reproduced_to_the_last_bit(undisturbed: Path) -> None:
    where = ["--storage", str(undisturbed)]
    trial_id = next(iter(records(undisturbed)))
    shown = json.loads(trm("trial", "show", trial_id[:8], *where, "--json").stdout)
    assert shown["status"] == "finished" and len(shown["curve"]) == 6 and len(shown["attempts"]) == 1
    again = trm("trial", "reproduce", f"grid/{trial_id}", *where)
    assert "the same, to the last bit" in again.stdout
    assert len(records(undisturbed)) == 4, "a reproduction lies outside the sweep"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_cleanly_and_says_how_to_resume(number: signal.Signals, tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    command = grid(storage, "--tracking", "none", **{"train.max_steps": 100_000, "runtime.checkpoint_every_s": 60})
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    driver = subprocess.Popen([*TRM, *command], start_new_session=True, **pipes)
    wait_for(lambda: any(record.step >= 10 for record in records(storage).values()), "a trial at work", driver)
    descendants = psutil.Process(driver.pid).children(recursive=True)
    groups = {os.getpgid(child.pid) for child in named(descendants, "raylet", "gcs_server").values()}
    assert driver.pid not in groups, "a signal to the driver's group would end Ray too"
    second = trm(*command, check=False)
    assert second.returncode == 2 and f"process {driver.pid}" in second.stderr
    os.killpg(driver.pid, number)  # as a terminal and `timeout` do
    out, err = driver.communicate()
    assert driver.returncode == 3, err
    assert "stopped: " in out and "trm sweep resume grid" in out and "Traceback" not in err
    wait_until_ended(descendants)
    stopped = records(storage)
    assert {record.status for record in stopped.values()} <= {Status.INTERRUPTED, Status.PENDING}
    assert all("with a checkpoint" in record.reason for record in stopped.values() if record.attempts)
    saved = list((storage / "sweeps" / "grid" / "trials").glob("*/checkpoints/*.safetensors"))
    assert saved, "a clean stop writes a last checkpoint"


@pytest.mark.parametrize("name", ["raylet", pytest.param("gcs_server", marks=pytest.mark.slow)])
def test_ray_that_is_killed_ends_the_driver_with_the_command_that_resumes(name: str, tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    command = grid(storage, "--tracking", "none", **{"train.max_steps": 100_000, "runtime.checkpoint_every_s": 60})
    driver = subprocess.Popen([*TRM, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any(record.step >= 10 for record in records(storage).values()), "a trial at work", driver)
    children = psutil.Process(driver.pid).children(recursive=True)
    named(children, name)[name].kill()
    out, err = driver.communicate()
    assert driver.returncode == 3, err
    assert f"Ray's {name} on this machine has died" in out and "trm sweep resume grid" in out
    assert "Traceback" not in err
    # Two lines of ours, without Ray's own reports: these are in the log of the driver.
    assert len(out.split("\n")) <= 4 and "(raylet)" not in out + err and "auth-token" not in out + err, out + err
    said = (storage / "sweeps" / "grid" / "driver.log").read_text()
    assert name != "raylet" or said.count("Ray reports: Raylet is terminated") == 1
    wait_until_ended(children)
    assert not (storage / "sweeps" / "grid" / "lock.json").exists()


@pytest.mark.parametrize("first", [pytest.param("gcs_server", marks=pytest.mark.slow), "raylet"])
def test_ray_that_is_killed_while_it_starts_is_started_again_or_named(first: str, tmp_path: Path) -> None:
    """`ray.init` would raise an error of its own, or wait for a minute and then end the process without a word."""
    storage = tmp_path / "runs"
    command = grid(storage, "--tracking", "none", **{"train.max_steps": 100_000})
    driver = subprocess.Popen([*TRM, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    found: dict[str, psutil.Process] = {}

    def has_begun() -> bool:
        with suppress(psutil.NoSuchProcess, KeyError):
            found.update(named(psutil.Process(driver.pid).children(recursive=True), first, "gcs_server"))
        return bool(found)

    wait_for(has_begun, "the start of Ray", driver)
    found["gcs_server"].kill()
    while driver.poll() is None and not any(record.step >= 1 for record in records(storage).values()):
        time.sleep(0.1)
    is_stopped = driver.poll() is None
    driver.terminate()
    out, err = driver.communicate()
    assert driver.returncode == 3 and "Traceback" not in err, err
    assert is_stopped or ("Ray's gcs_server on this machine has died" in out + err and "to continue" in out + err)


def test_failing_trial_is_a_result_and_the_others_go_on(tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    retry_command = ["sweep", "retry", "grid", "--storage", str(storage)]
    # A rate of 1e30 overflows within a few steps: the trial diverges, its neighbour does not.
    sets = set_options(TINY, "optimizer.lr")
    command = [
        "sweep",
        "run",
        "--recipe",
        "sudoku-mini",
        "--vary",
        "lr=1e-3,1e30",
        *sets,
        "--set",
        "optimizer.warmup_steps=0",
    ]
    done = trm(*command, "--name", "grid", "--storage", str(storage), "--tracking", "none", check=False)
    assert done.returncode == 1 and "Try the failed trials again: trm sweep retry grid" in done.stdout
    statuses = {record.config.optimizer.lr: record.status for record in records(storage).values()}
    assert statuses[1e-3] is Status.FINISHED and statuses[1e30] is Status.DIVERGED
    assert "not finite" in done.stderr
    assert "not finite" in trm("sweep", "logs", "grid", "--storage", str(storage)).stdout

    assert "1 trial will run again: trm sweep resume grid" in trm(*retry_command).stdout
    trm("sweep", "resume", "grid", "--storage", str(storage), "--tracking", "none", check=False)
    tries = {record.config.optimizer.lr: len(record.attempts) for record in records(storage).values()}
    assert tries == {1e-3: 1, 1e30: 2}
