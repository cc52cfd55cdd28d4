"""The whole story of a launch by ssh: submit, the laptop dies, another one watches, the budget ends it, down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchestrator.cloud import launch_file
from orchestrator.cloud.backend import Limits
from tests.cloud.conftest import Box


def trm(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator.cli", "cloud", *words, "--storage", str(folder / "runs")]


def called(folder: Path, *words: str) -> str:
    done = subprocess.run(trm(folder, *words), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(holds: Callable[[], bool], what: str) -> None:
    for _ in range(1200):
        if holds():
            return
        time.sleep(1)
    raise AssertionError(f"{what} did not happen")


def processes_of(place: str) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        text = " ".join(process.info["cmdline"] or []) + str(process.info["cwd"])
        if place in text and process.pid != os.getpid():
            found.append(text)
    return found


def spend_all(place: Path) -> None:
    """Lower the budget to what is spent by now, where only the user of the machine can do so."""
    owner = (place / "launch.json").stat().st_uid
    launch_file.save(place, launch_file.load(place).model_copy(update={"limits": Limits(max_usd=0.01)}))
    os.chown(place / "launch.json", owner, -1)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("whose", ["box", "strangers_box"])
def test_sweep_survives_its_laptop_and_ends_at_its_budget(
    whose: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    box: Box = request.getfixturevalue(whose)
    laptop, elsewhere = tmp_path / "laptop", tmp_path / "elsewhere"
    for folder in (laptop, elsewhere):
        folder.mkdir()
    plan = [sys.executable, "-m", "orchestrator.cli", "sweep", "plan", "--recipe", "sudoku-mini", "--name", "story"]
    subprocess.run([*plan, "--max-steps", "100000", "--seeds", "2", "--out", "story.jsonl"], cwd=laptop, check=True)
    reach = ("box", "--ssh-config", box.config)
    price = ("--usd-per-hour", "60", "--max-usd", "900", "--environment", box.environment)
    called(laptop, "submit", "story.jsonl", *reach, "--on", "ssh", *price, "--yes")
    following = subprocess.Popen(
        trm(laptop, "logs", "story", "-f"), cwd=laptop, stdout=subprocess.DEVNULL, start_new_session=True
    )
    os.killpg(following.pid, signal.SIGKILL)  # the laptop dies, with its ssh
    following.wait()

    state = json.loads(called(elsewhere, "status", "story", *reach, "--json"))
    place = state["deployment"]["place"]
    began_s = (Path(place) / "project").stat().st_mtime  # the upload is the first thing that happens there
    assert state["deployment"]["state"] == "submitted" and state["cost"]["usd"] > 0
    with subprocess.Popen(
        trm(elsewhere, "logs", "story", "-f"), cwd=elsewhere, stdout=subprocess.PIPE, text=True
    ) as log:
        assert log.stdout is not None
        assert any("started" in line for line in log.stdout)  # however long a busy machine takes until then
        spend_all(Path(place))
        told = log.stdout.read()  # until the budget has ended the driver

    def is_ended() -> bool:
        return json.loads(called(elsewhere, "status", "story", "--json"))["deployment"]["state"] == "ended"

    wait_for(is_ended, "the end by the budget")
    state = json.loads(called(elsewhere, "status", "story", "--json"))
    assert state["deployment"]["ended_why"].startswith("budget: $")
    assert state["sweep"]["driver"] is None and state["sweep"]["counts"].get("interrupted", 0) >= 1, told
    wait_for(lambda: not processes_of(place), "the end of the processes")

    closing = json.loads(called(laptop, "down", "story", "--json"))
    hours = (time.time() - began_s) / 3600
    receipt = closing["receipt"]
    assert receipt["machine_hours"] == pytest.approx(hours, rel=0.05, abs=20 / 3600)
    assert receipt["usd"] == pytest.approx(60 * receipt["machine_hours"])
    assert 0 < receipt["busy_hours"] <= receipt["machine_hours"] and receipt["trials"] >= 1
    assert [text for text in closing["left"] if "bills" not in text] == []
    assert box.left() == [] and not processes_of(place)
    assert (laptop / "runs/sweeps/story/sweep.json").is_file()
