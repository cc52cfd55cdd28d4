"""The driver is killed at random moments and resumed until the sweep is complete: as if it never had been.


Minutes long. The seed is printed; the moments of the kills follow from it, what they hit does not.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.storage import open_storage
from tests.support.commands import call
from tests.support.sweeps import TINY

TRM = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
KILLS = {
    "grid": [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL],
    "random": [signal.SIGKILL] * 3,
    "qmc": [signal.SIGKILL] * 2,
    "tpe": [signal.SIGKILL] * 2,
}
"""Ten times SIGKILL, and SIGTERM and SIGINT once each."""
SWEEP_FILE = """
from orchestrator.sweep import Confirm, Stopping, Sweep, choice
from tests.support.sweeps import tiny_config

base = tiny_config(**{SETTINGS})
space = {"T": choice(1, 2, 3), "n": choice(1, 2)}
if KIND == "grid":
    sweep = Sweep(name="chaos", base=base, space=space)
else:
    rule = "halving" if KIND == "tpe" else "none"
    sweep = Sweep(
        name="chaos", kind="search", base=base, space=space, trials=TRIALS, sampler=KIND,
        stopping=Stopping(rule=rule, grace=0.3), confirm=Confirm(top=1, seeds=2),
    )
"""
SETTINGS = {
    **TINY, "train.max_steps": 240, "runtime.evaluate_every": 40, "runtime.num_threads": 1,
    "runtime.checkpoint_every_s": 0.05,
}  # fmt: skip


@pytest.fixture(scope="module")
def seed() -> int:
    chosen = random.SystemRandom().randrange(10**6)
    print(f"seed of the kills: {chosen}")
    return chosen


def write(folder: Path, kind: str) -> list[str]:
    file = folder / f"{kind}.py"
    text = SWEEP_FILE.replace("{SETTINGS}", repr(SETTINGS)).replace("KIND", repr(kind))
    file.write_text(text.replace("TRIALS", "8" if kind == "tpe" else "5"))
    return [*TRM, "sweep", "run", str(file), "--storage", str(folder / "runs"), "--tracking", "none"]


def records(folder: Path) -> list[TrialRecord]:
    return read_trials(open_storage(str(folder / "runs")), "chaos")


def progress(folder: Path) -> int:
    """Evaluations on record: the clock of the kills, since seconds mean little on a loaded machine."""
    return sum(len(record.rows) for record in records(folder)) if (folder / "runs" / "sweeps").is_dir() else 0


def run_through(command: list[str], folder: Path, kills: list[signal.Signals], rng: random.Random) -> Counter[str]:
    """Start, kill when a random amount of work has been done, start again; until it ends by itself."""
    done: Counter[str] = Counter()
    for number in [*kills, None]:
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if number is not None:
            until = progress(folder) + rng.randrange(1, 25)
            while driver.poll() is None and progress(folder) < until:
                time.sleep(0.05)
        if number is not None and driver.poll() is None:
            children = psutil.Process(driver.pid).children(recursive=True)
            driver.send_signal(number)
            done[number.name] += 1
            driver.communicate()
            psutil.wait_procs(children, timeout=60)
            continue
        _, err = driver.communicate(timeout=900)
        assert driver.returncode == 0, err[-2000:]
        break
    return done


def outcome(found: list[TrialRecord]) -> dict[str, Any]:
    return {r.trial_id: r.result and (r.stage, r.result.metrics, r.result.per_item) for r in found}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", ["grid", "random", "qmc"])
def test_trials_and_scores_are_those_of_an_undisturbed_run(kind: str, seed: int, tmp_path: Path) -> None:
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    calm.mkdir()
    wild.mkdir()
    run_through(write(calm, kind), calm, [], random.Random(0))
    killed = run_through(write(wild, kind), wild, KILLS[kind], random.Random(seed))
    print(f"{kind}: {dict(killed)}")
    found = records(wild)
    assert killed["SIGKILL"] >= 1
    assert all(record.status is Status.FINISHED for record in found)
    assert outcome(found) == outcome(records(calm))
    for record in found:
        steps = [row.step for row in record.rows if row.split == "validation"]
        assert steps == sorted(set(steps)), "an evaluation is counted twice"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_tpe_with_halving_runs_what_was_asked_for_and_its_curves_are_those_of_solo_runs(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = run_through(write(tmp_path, "tpe"), tmp_path, KILLS["tpe"], random.Random(seed))
    found = records(tmp_path)
    stages = Counter(record.stage for record in found)
    cells = {(r.config.model.cycles, r.config.model.latent_steps) for r in found if r.stage == "explore"}
    assert killed["SIGKILL"] >= 1
    assert stages["explore"] == len(cells) == 6, "the space has six cells, and eight trials were asked for"
    assert stages["confirm"] == 2
    assert all(record.status in (Status.FINISHED, Status.STOPPED) for record in found)
    for record in found:
        if record.status is Status.FINISHED:
            where = ["--storage", str(tmp_path / "runs")]
            assert call(capsys, "trial", "reproduce", f"chaos/{record.trial_id}", *where)[0] == 0
            (solo,) = read_trials(open_storage(str(tmp_path / "runs")), "reproduced/chaos", only=record.trial_id)
            for metric in ("exact_accuracy", "cell_accuracy", "raw_cell_accuracy"):
                assert record.curve(metric) == solo.curve(metric)
