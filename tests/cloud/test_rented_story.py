"""A sweep on rented machines that are real Ray nodes: from `up` over a spot notice and a killed node to the timer.

Ray's launcher, its autoscaler, the Jobs API, the driver, the trials, the timer and the record of machines are real, and
so are EC2 and S3 as far as moto is; the machines are nodes of Ray on this machine (`tests.support.rented`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import boto3
import pytest

from orchestrator.cloud import deployments, launch, launch_file
from orchestrator.cloud.aws.setup import set_up
from orchestrator.cloud.backend import Limits, Options
from orchestrator.cloud.config import load_config
from orchestrator.cloud.receipt import receipt
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Attempt, Status, TrialRecord
from orchestrator.storage import Storage, open_storage
from orchestrator.sweep import ResourceRule, Resources, Sweep, choice
from tests.support.rented import Hypervisor, kill, rented_machines
from tests.support.sweeps import tiny_config
from tests.worker.test_spot import announcing

T = TypeVar("T")
WAIT_S = 900.0
TOLERANCE = 0.05
"""Of the hours for which machines were up."""
CLUSTER_SETTINGS = """
name = "{name}"
max_hours = 6
[aws]
region = "us-east-1"
bucket = "{name}"
ssh_from = ["203.0.113.7/32"]
[[aws.workers]]
instance = "g6e.2xlarge"
max_machines = 2
[[aws.workers]]
instance = "p5.4xlarge"
markets = ["on-demand"]
max_machines = 2
"""


def sweep() -> Sweep:
    """Two trials, each on a GPU of its own, that do not end by themselves while the test runs."""
    steps = {"train.max_steps": 100_000, "runtime.evaluate_every": 50, "runtime.num_threads": 1}
    base = tiny_config(**steps, **{"runtime.checkpoint_every_s": 2.0})
    rules = (
        ResourceRule(when={"T": 1}, resources=Resources(gpus=1, gpu_type="L40S")),
        ResourceRule(when={"T": 2}, resources=Resources(gpus=1, gpu_type="H100")),
    )
    return Sweep(name="rented", base=base, space={"T": choice(1, 2)}, seeds=1, max_concurrent=2, resource_rules=rules)


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="rent-", dir="/tmp"))  # short: names of sockets end at 107 characters
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def name() -> str:
    return f"trm-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def storage(name: str, s3_endpoint: str) -> Storage:
    return open_storage(f"s3://{name}/trm?region=us-east-1&endpoint_override={s3_endpoint}")


@pytest.fixture
def options(name: str, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """An account that `init` has set up."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    file = tmp_path / "cloud.toml"
    file.write_text(CLUSTER_SETTINGS.format(name=name))
    list(set_up(load_config(file)))
    return Options(config=str(file))


@pytest.fixture
def machines(folder: Path, name: str, options: Options, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hypervisor]:
    with rented_machines(folder, name) as (hypervisor, environment):
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        yield hypervisor


def wait_for(look: Callable[[], T | None], what: str, folder: Path) -> T:
    """Return what `look` finds as soon as it is true."""
    deadline_s = time.monotonic() + WAIT_S
    while not (found := look()):
        if time.monotonic() > deadline_s:
            logs = [path for path in folder.rglob("*.log") if "/ray/" not in str(path) or "job-driver" in path.name]
            text = "\n".join(f"{path}: {path.read_text()[-1500:]}" for path in logs)
            raise TimeoutError(f"{what} within {WAIT_S:.0f} s\n{text}")
        time.sleep(0.5)
    return found


def trial_on(storage: Storage, gpu: str) -> TrialRecord | None:
    """Return the trial that asks for a GPU type, once it has started."""
    found = [each for each in read_trials(storage, "rented") if each.attempts]
    return next((each for each in found if each.attempts[0].start.gpu_type == gpu), None)


def running(storage: Storage, gpu: str, attempt: int) -> Attempt | None:
    """Return an attempt, by its number, once it has recorded a point and a checkpoint may exist."""
    record = trial_on(storage, gpu)
    if record is None or len(record.attempts) < attempt:
        return None
    found = record.attempts[attempt - 1]
    has_points = any(row.step > (found.start.from_step or 0) for row in record.rows)
    return found if has_points else None


def answer(url: str, token: str | None) -> int:
    """Return the status with which the Jobs API answers; 0 if it does not answer yet."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/api/jobs/", headers=headers), timeout=30) as found:
            return int(found.status)
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return 0


def spend_all(place: Path) -> None:
    """Lower the budget to what is spent by now, where only the user of the head can do so."""
    limits = Limits(max_usd=0.01, idle_minutes=60)
    while launch_file.load(place).limits != limits:  # what lists the machines may write at the same moment
        launch_file.save(place, launch_file.load(place).model_copy(update={"limits": limits}))
        time.sleep(1)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_sweep_on_rented_machines_survives_what_happens_to_them_and_ends_at_its_budget(
    options: Options, storage: Storage, folder: Path, machines: Hypervisor, tmp_path: Path
) -> None:
    prepared = launch.prepare(sweep(), "aws", options, Limits(max_usd=500), storage)
    launch.up(prepared, storage, "rented.yaml")
    ports = json.loads((folder / "ports.json").read_text())
    jobs = f"http://{ports['127.0.0.1:8265']}"
    token = (tmp_path / ".local/state/trm/aws/rented/ray-token").read_text()
    wait_for(lambda: answer(jobs, token) == 200, "the Jobs API answers", folder)
    assert answer(jobs, None) in (401, 403) and answer(jobs, "0" * 64) in (401, 403)

    launch.submit(prepared, storage, ["--tracking", "none"])
    first = wait_for(lambda: running(storage, "L40S", 1), "the trial on spot runs", folder)
    wait_for(lambda: running(storage, "H100", 1), "the trial on demand runs", folder)
    assert first.start.market == "spot"

    spot = next(each for each in machines.nodes().values() if each["node_id"] == first.start.node_id)
    with announcing() as url:
        command = [sys.executable, "-m", "orchestrator.worker.spot", ports["127.0.0.1:6379"]]
        command += ["--node-id", spot["node_id"], "--metadata-url", url]
        environment = os.environ | {"HOME": str(folder / "home")}
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert told.stdout.startswith("terminate announced"), told.stderr
    moved = wait_for(lambda: running(storage, "L40S", 2), "the trial has moved to another machine", folder)
    record = trial_on(storage, "L40S")
    assert record is not None and record.attempts[0].end is not None
    assert record.attempts[0].end.status is Status.INTERRUPTED
    assert moved.start.node_id != first.start.node_id
    assert moved.start.from_step == record.attempts[0].end.step > 0, "not a step is lost"
    boto3.client("ec2").terminate_instances(InstanceIds=[spot["instance"]])  # what AWS has announced

    lost = running(storage, "H100", 1)
    assert lost is not None
    kill(next(each["pids"] for each in machines.nodes().values() if each["node_id"] == lost.start.node_id))
    again = wait_for(lambda: running(storage, "H100", 2), "the trial of the killed node resumes", folder)
    assert again.start.from_step and again.start.node_id != lost.start.node_id

    _, seen = launch.reopen("rented", storage)
    spend_all(folder / "home" / "trm-deployment")
    wait_for(lambda: deployments.load(storage, "rented").state == "ended", "the timer fires", folder)
    wait_for(lambda: len(machines.down_s) == len(machines.nodes()), "all machines are gone", folder)
    ended = deployments.load(storage, "rented")
    assert ended.ended_why.startswith("budget: $") and len(seen.machines) >= 3
    assert sorted(each.name for each in ended.machines) == sorted(machines.nodes())
    records = read_trials(storage, "rented")
    assert {each.attempts[-1].end is not None for each in records} == {True}, "the driver was stopped cleanly"

    ended, closing = launch.down("rented", storage, keep=False)
    assert closing.left == []
    account = receipt(ended, records, time.time())
    up_s = machines.up_s()
    hours = sum(end_s - start_s for start_s, end_s in up_s.values()) / 3600
    billed = {each.name: (each.up_s, each.down_s) for each in ended.machines}
    assert account.machine_hours == pytest.approx(hours, rel=TOLERANCE), f"{up_s}\n{billed}"
    assert account.lost_hours > 0 and account.usd is not None
