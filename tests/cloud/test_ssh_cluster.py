"""A launch on two machines: one Ray cluster with a token, trials on both, and nothing left at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status
from orchestrator.storage import open_storage
from tests.cloud.conftest import Box
from tests.cloud.test_ssh_story import processes_of
from tests.support.sweeps import TINY, set_options

CREDENTIALS = "[default]\naws_access_key_id = testing\naws_secret_access_key = testing\n"
DESCRIBE = "import sys; from orchestrator.resources.nodes import describe_cluster; print(describe_cluster(sys.argv[1]))"


def give_credentials(box: Box) -> None:
    folder = box.home / ".aws"
    folder.mkdir(exist_ok=True)
    (folder / "credentials").write_text(CREDENTIALS)
    (folder / "config").write_text("[default]\nregion = us-east-1\n")


def both(box: Box, other: Box, folder: Path) -> tuple[str, ...]:
    """The words that name two machines."""
    config = folder / "ssh_config"
    config.write_text(Path(box.config).read_text() + Path(other.config).read_text())
    return ("box,other", "--ssh-config", str(config), "--environment", sys.prefix)


def trm(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def answer_of_cluster(address: str, token: str | None) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own |= {"HOME": "/nonexistent"} | ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {})
    command = [sys.executable, "-c", DESCRIBE, address]
    return subprocess.run(command, env=own, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_trials_run_on_both_machines_and_nothing_is_left(box: Box, other: Box, s3_bucket: str, tmp_path: Path) -> None:
    plan = ["sweep", "plan", "--recipe", "sudoku-mini", "--name", "pair", "--seeds", "6", *set_options(TINY)]
    done = trm(tmp_path, *plan, "--out", "pair.jsonl", "--storage", s3_bucket)
    assert done.returncode == 0, done.stderr
    where = ("--storage", s3_bucket)
    launch = (
        *("pair.jsonl", *both(box, other, tmp_path), "--on", "ssh", "--yes"),
        *("--usd-per-hour", "6", "--max-usd", "90", *where),
    )
    give_credentials(box)
    refused = trm(tmp_path, "cloud", "up", *launch)
    assert refused.returncode == 2 and "other: this machine cannot use the storage" in refused.stderr
    assert "aws/credentials" in refused.stderr.splitlines()[-1]
    give_credentials(other)

    up = trm(tmp_path, "cloud", "up", *launch, "--json")
    try:
        assert up.returncode == 0, up.stderr
        assert "$12.00 an hour" in up.stderr
        deployment = json.loads(up.stdout)
        place, [worker] = Path(deployment["place"]), deployment["workers"]
        assert Path(worker["place"]) == other.home / ".trm-cloud/deployments/pair/worker-1"
        token_file, address = place / "ray-token", (place / "ray-address").read_text()
        token = token_file.read_text()
        assert token == (Path(worker["place"]) / "ray-token").read_text()
        assert token_file.stat().st_mode & 0o077 == 0
        assert (Path(worker["place"]) / "ray-token").stat().st_mode & 0o077 == 0
        assert token not in open_storage(s3_bucket).read("deployments/pair.json").decode()
        assert token not in "".join(processes_of("")) and token not in up.stderr
        assert "name='other'" in answer_of_cluster(address, token).stdout
        for wrong in (None, "0" * 64):
            answer = answer_of_cluster(address, wrong)
            assert answer.returncode != 0 and "does not answer as a Ray head" in answer.stderr

        submitted = trm(tmp_path, "cloud", "submit", "pair.jsonl", "--max-concurrent", "4", *where)
        assert submitted.returncode == 0, submitted.stderr
        while True:
            state = json.loads(trm(tmp_path, "cloud", "status", "pair", "--json", *where).stdout)
            if state["sweep"] and state["sweep"]["driver"] is None and state["sweep"]["counts"].get("finished") == 6:
                break
            assert not (place / "driver.log").read_text().count("error"), (place / "driver.log").read_text()
            time.sleep(1)
        records = read_trials(open_storage(s3_bucket), "pair")
        assert [record.status for record in records] == [Status.FINISHED] * 6
        assert len({record.attempts[0].start.node_id for record in records}) == 2
        receipt = state["cost"]
        assert receipt["trials"] == 6 and receipt["assumed_usd_per_hour"] == 12
        assert receipt["usd"] == pytest.approx(6 * receipt["machine_hours"])
    finally:
        down = trm(tmp_path, "cloud", "down", "pair", "--json", *where)
    assert down.returncode == 0, down.stderr
    closing = json.loads(down.stdout)
    assert [text for text in closing["left"] if "bills" not in text] == []
    assert sum("bills" in text for text in closing["left"]) == 2
    for machine in (box, other):
        assert not processes_of(str(machine.home))
        assert {Path(path).relative_to(machine.home).parts[0] for path in machine.left()} == {".aws"}
