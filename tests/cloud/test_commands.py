"""`trm cloud`: what it prints before a launch, and one line with the remedy for what cannot be launched."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.cloud import deployments, own
from orchestrator.cloud.backend import Deployment, Machine, Options
from orchestrator.cloud.deployments import save
from orchestrator.cloud.progress import waiting_for
from orchestrator.storage import open_storage
from tests.cloud.conftest import Box
from tests.support.commands import call


@pytest.fixture
def plan_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    words = ("--recipe", "sudoku-mini", "--max-steps", "2", "--seeds", "2", "--name", "small")
    assert call(capsys, "sweep", "plan", *words, "--out", str(tmp_path / "p.jsonl"), "--storage", str(tmp_path))[0] == 0
    return str(tmp_path / "p.jsonl")


def test_plan_shows_machine_price_hours_and_dollars(
    box: Box, plan_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reach = ("box", "--ssh-config", box.config, "--storage", str(tmp_path))
    code, out, _ = call(capsys, "cloud", "plan", plan_file, *reach, "--usd-per-hour", "0.5")
    assert code == 0
    assert "small on ssh: 2 trials" in out and "$0.50 an hour" in out and "your price" in out
    assert "tracked files of" in out and "cost: $" in out
    code, out, _ = call(capsys, "cloud", "plan", plan_file, *reach)
    assert "cost: unknown; unknown an hour" in out and "price of box: unknown" in out
    found = json.loads(call(capsys, "cloud", "plan", plan_file, *reach, "--json")[1])
    assert found["usd"] is None and found["num_trials"] == 2 and found["hours"][0] < found["hours"][1]
    assert box.left() == [] and not (tmp_path / "deployments").exists()


def test_plan_without_a_machine_names_the_cheapest_of_the_catalogue(
    plan_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("cloud", "plan", plan_file, "--gpu", "H100", "--storage", str(tmp_path))
    assert "vast" in call(capsys, *words)[1]
    out = call(capsys, *words, "--provider", "lambda")[1]
    assert "lambda" in out and "2026-" in out and "vast" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("box",), "no limit is given for what the machines may cost. Give --max-usd"),
        (("box", "--max-usd", "5", "--no-limit"), "both --max-usd and --no-limit are given"),
        (("box", "--max-usd", "0"), "--max-usd is 0. Give a number greater than 0"),
        (("box", "--no-limit", "--max-hours", "inf"), "--max-hours is inf. Give a number greater than 0"),
        (("box", "--max-usd", "5", "--single"), "--on ssh takes no --single. It belongs to --on aws"),
        (("box", "--max-usd", "5", "--on", "aws"), "--on aws takes no machines. It belongs to --on ssh"),
        (
            ("--max-usd", "5", "--on", "aws", "--usd-per-hour", "1"),
            "--on aws takes no --ssh-config. It belongs to --on ssh",
        ),
        (("--max-usd", "5"), "--on ssh needs a machine. Name it after the sweep: user@host"),
        (("box", "--max-usd", "5"), "price of the machines is unknown, so that --max-usd cannot be enforced"),
        (("box", "--no-limit", "--on", "shh"), "unknown backend 'shh'. Did you mean 'ssh'?"),
        (("a,b", "--no-limit"), "2 machines need a storage that all of them reach"),
        (("box", "--no-limit", "--python", "python9"), "box has no python9. Install Python 3.11 or newer there"),
    ],
)
def test_launch_that_cannot_be_is_one_line(
    words: tuple[str, ...],
    message: str,
    box: Box,
    plan_file: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reach = ("--ssh-config", box.config, "--storage", str(tmp_path))
    code, out, err = call(capsys, "cloud", "up", plan_file, *words, *reach)
    assert code == 2 and out == "" and message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "deployments").exists()


def test_nothing_is_launched_without_a_yes(
    box: Box, plan_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    words = ("box", "--no-limit", "--ssh-config", box.config, "--storage", str(tmp_path))
    code, _, err = call(capsys, "cloud", "up", plan_file, *words)
    assert code == 2 and "Proceed?" in err and "'small' was not launched" in err
    assert box.left() == [] and not (tmp_path / "deployments").exists()


@pytest.mark.parametrize("closed", ["<&-", "</dev/null"])
def test_question_without_a_standard_input_is_a_no(closed: str, box: Box, plan_file: str, tmp_path: Path) -> None:
    words = ["cloud", "up", plan_file, "box", "--no-limit", "--ssh-config", box.config, "--storage", str(tmp_path)]
    command = shlex.join([sys.executable, "-m", "orchestrator.cli", *words])
    done = subprocess.run(["sh", "-c", f"{command} {closed}"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "'small' was not launched. Answer y, or add --yes" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr
    assert box.left() == [] and not (tmp_path / "deployments").exists()


def test_command_without_a_standard_output_ends_well(tmp_path: Path) -> None:
    command = shlex.join([sys.executable, "-m", "orchestrator.cli", "cloud", "status", "--storage", str(tmp_path)])
    done = subprocess.run(["sh", "-c", f"{command} >&-"], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("verb", ["status", "logs", "cost", "stop", "down"])
def test_unknown_deployment_is_one_line(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "cloud", verb, "nothing", "--storage", str(tmp_path))
    assert code == 2 and "no deployment 'nothing'" in err and "trm cloud up" in err


def test_deployment_that_is_not_on_the_machine_is_one_line(
    box: Box, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reach = ("box", "--ssh-config", box.config, "--storage", str(tmp_path))
    code, _, err = call(capsys, "cloud", "status", "nothing", *reach)
    assert code == 2 and "no deployment 'nothing' on box" in err


def test_status_without_a_name_lists_all_launches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("cloud", "status", "--storage", str(tmp_path))
    assert "no launch in" in call(capsys, *words)[1]
    url, hour_ago = str(tmp_path), time.time() - 3600
    storage = open_storage(url)
    for name, price, down_s in (("old", 2.0, hour_ago + 1800), ("running", None, None)):
        machine = Machine(name="box", usd_per_hour=price, up_s=hour_ago, down_s=down_s)
        state = "down" if down_s else "submitted"
        save(
            storage,
            Deployment(name=name, machines=(machine,), state=state, backend="ssh", storage=url, created_s=hour_ago),
        )
    storage.write("deployments/damaged.json", b"{")
    code, out, err = call(capsys, *words)
    rows = [line.split() for line in out.splitlines() if "ssh" in line]
    assert code == 0 and [row[0] for row in rows] == ["running", "old"]
    assert "unknown" in rows[0] and "1.00" in rows[1] and "damaged.json" in err
    listed = json.loads(call(capsys, *words, "--json")[1])
    assert [(one["name"], one["usd"]) for one in listed] == [("running", None), ("old", pytest.approx(1.0))]


def test_finished_trials_are_not_launched_again(
    box: Box, plan_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "sweep", "run", plan_file, "--storage", str(tmp_path), "--tracking", "none")[0] == 0
    reach = ("box", "--ssh-config", box.config, "--storage", str(tmp_path), "--usd-per-hour", "1")
    assert "2 trials, of which 2 have finished" in call(capsys, "cloud", "plan", plan_file, *reach)[1]
    code, _, err = call(capsys, "cloud", "submit", plan_file, *reach, "--max-usd", "5", "--yes")
    assert code == 2 and "all 2 trials of small have finished: there is nothing to launch" in err
    assert box.left() == [] and not (tmp_path / "deployments").exists()


@pytest.mark.parametrize("verb", ["logs", "stop"])
def test_verbs_during_the_set_up_say_that_nothing_runs_yet(
    verb: str, box: Box, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    storage = open_storage(str(tmp_path / "runs"))
    options = Options(hosts=("box",), ssh_config=box.config)
    plain = {"name": "small", "backend": "ssh", "storage": "/home/x/runs", "created_s": time.time(), "is_remote": True}
    machine = Machine(name="box", usd_per_hour=1.0, up_s=time.time() - 60)
    new = save(storage, Deployment(**plain, options=options, commands=("trm cloud stop small", "trm cloud down small")))
    own.remember(storage, new)
    out = call(capsys, "cloud", "status", "small", "--storage", str(tmp_path / "runs"))[1]
    assert "being set up since" in out and "trm cloud down small" in out and "trm cloud stop small" not in out
    starting = save(storage, Deployment(**plain, options=options, machines=(machine,), state="starting"))
    own.remember(storage, starting)
    where = ("--storage", str(tmp_path / "runs"))
    code, _, err = call(capsys, "cloud", verb, "small", *where)
    assert code == 2 and "small is not running yet: its machines are being set up" in err
    code, out, _ = call(capsys, "cloud", "status", "small", *where)
    assert code == 0 and "being set up since" in out and "spent $0.02" in out
    assert "spent $0.02" in call(capsys, "cloud", "cost", "small", *where)[1]


@pytest.mark.parametrize(
    ("age_s", "message"),
    [(None, "the timer on the head has not been seen yet"), (1200, "was last seen 20 min ago: if it does not run")],
)
def test_status_warns_where_the_timer_on_the_head_is_not_seen(
    age_s: float | None,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    storage = open_storage(str(tmp_path / "runs"))
    machine = Machine(name="box", usd_per_hour=1.0, up_s=time.time() - 60)
    record = Deployment(  # its records are in the storage, as with S3
        name="small", backend="ssh", storage=storage.url, created_s=time.time(), machines=(machine,), state="submitted"
    )
    save(storage, record)
    own.remember(storage, record)
    if age_s is not None:
        deployments.beat(storage, "small", time.time())
        then_s = time.time() - age_s
        os.utime(tmp_path / "runs/launches/small/timer.json", (then_s, then_s))
    words = ("cloud", "status", "small", "--storage", str(tmp_path / "runs"))
    code, out, _ = call(capsys, *words)
    assert code == 0 and message in out and "machines go on billing" in out
    assert f"`trm cloud down small --storage {tmp_path / 'runs'}` ends the machines" in out

    deployments.beat(storage, "small", time.time())
    out = call(capsys, *words)[1]
    assert "timer on the head: last seen" in out and "billing" not in out
    assert json.loads(call(capsys, *words, "--json")[1])["cost"]["timer_age_s"] < 60


def test_following_waits_for_the_driver_until_the_launch_is_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    storage = open_storage(str(tmp_path / "runs"))
    record = Deployment(name="small", backend="ssh", storage=storage.url, created_s=time.time(), state="submitted")
    save(storage, record)
    own.remember(storage, record)

    def end(_: float) -> None:
        save(storage, record.model_copy(update={"state": "ended"}))

    monkeypatch.setattr("orchestrator.cli.views.cloud.time.sleep", end)
    code, _, err = call(capsys, "cloud", "logs", "small", "-f", "--storage", str(tmp_path / "runs"))
    assert code == 0 and err.startswith("the driver of small starts ...")


def test_waiting_is_told_at_once_and_again_with_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    told = ""
    with waiting_for("packages are installed on box", every_s=0.02):
        while told.count("\n") < 3:
            told += capsys.readouterr().err
            time.sleep(0.01)
    first, *more = told.splitlines()
    assert first == "packages are installed on box ..."
    assert all(re.fullmatch(r"  \d+ s: packages are installed on box", line) for line in more)


@pytest.mark.parametrize(("on", "words"), [("slurm", ()), ("sky", ()), ("k8s", ())])
def test_rendered_drivers_use_the_gpus_that_are_rented(
    on: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    rendered = ("cloud", "render", "demo", "--on", on, "--config", "infra/cloud.toml")
    assert "demo --gpu any" in call(capsys, *rendered)[1]
    assert "demo --gpu H100" in call(capsys, *rendered, "--", "--gpu", "H100")[1]


def test_a_file_that_cannot_be_rendered_leaves_the_old_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old.sbatch"
    old.write_text("old")
    for sweep in ("no-such-sweep", "x\udcff.py"):
        assert call(capsys, "cloud", "render", sweep, "--on", "slurm", "-o", str(old))[0] == 2
        for on in ("slurm", "k8s", "sky", "aws"):
            words = ("cloud", "render", sweep, "--on", on, "--config", "infra/cloud.toml", "-o", str(old))
            assert call(capsys, *words, "--", "--gpu", "any")[0] == 2
        assert old.read_text() == "old"
    words = ("cloud", "render", "demo", "--on", "slurm", "-o", str(old))
    code, _, err = call(capsys, *words, "--config", str(tmp_path / "none.toml"))
    assert code == 2 and "none.toml does not exist" in err and old.read_text() == "old"


@pytest.mark.parametrize("backend", ["ssh", "aws", "sky"])
def test_launch_that_is_down_is_read_from_its_record_alone(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    machine = Machine(name="box", usd_per_hour=2.0, up_s=1000.0, down_s=1000.0 + 1800)
    plain = {"name": "small", "backend": backend, "storage": "/x", "created_s": 1000.0, "is_remote": True}
    options = Options(hosts=("box",), config="/gone/cloud.toml")
    save(open_storage("runs"), Deployment(**plain, options=options, machines=(machine,), state="down", place="/p"))
    for verb in ("status", "cost"):
        code, out, err = call(capsys, "cloud", verb, "small")
        assert code == 0 and "spent $1.00 in 0.5 machine hours" in out and err == ""
    assert json.loads(call(capsys, "cloud", "cost", "small", "--json")[1])["usd"] == 1.0
    assert "is down: nothing runs" in call(capsys, "cloud", "stop", "small")[2]
    assert "is down already" in call(capsys, "cloud", "down", "small")[2]


@pytest.mark.parametrize(("backend", "has_timer"), [("aws", True), ("sky", False)])
def test_launch_from_elsewhere_is_read_from_its_record_without_a_configuration(
    backend: str, has_timer: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    machine = Machine(name="i-1", usd_per_hour=2.0, up_s=time.time() - 1800)
    plain = {"name": "small", "backend": backend, "storage": "s3://b/p", "created_s": time.time() - 1800}
    save(open_storage("runs"), Deployment(**plain, machines=(machine,), state="submitted"))
    for verb in ("status", "cost"):
        code, out, _ = call(capsys, "cloud", verb, "small")
        assert code == 0 and "spent $1.00 in 0.5 machine hours" in out
        assert ("the timer on the head has not been seen" in out) is has_timer
    code, _, err = call(capsys, "cloud", "down", "small")
    assert code == 2 and "was launched from another computer" in err and "End it there" in err


def test_damaged_record_is_not_called_no_launch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_storage(str(tmp_path)).write("deployments/small.json", b"{")
    code, out, err = call(capsys, "cloud", "status", "--storage", str(tmp_path))
    assert code == 0 and "no launch" not in out and "small.json" in err
    code, _, err = call(capsys, "cloud", "down", "small", "--storage", str(tmp_path))
    assert code == 2 and "move it away, then `trm cloud down NAME USER@HOST`" in err
