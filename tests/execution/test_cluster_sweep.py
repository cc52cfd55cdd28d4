"""The same command on a running cluster: labelled nodes with stand-in GPUs, records and checkpoints on S3."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status
from orchestrator.storage import open_storage
from tests.support.cluster import RayCluster
from tests.support.sweeps import TINY, set_options

TRM = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
SWEEP_FILE = """
from orchestrator.sweep import ResourceRule, Resources, Sweep, choice
from tests.support.sweeps import tiny_config

def on(gpu_type, gpus=1):
    return Resources(gpus=gpus, gpu_type=gpu_type)

sweep = Sweep(
    name="placed",
    base=tiny_config(),
    space={"T": choice(1, 2, 3), "n": choice(1, 2)},
    resources=on("any"),
    resource_rules=(
        ResourceRule(when={"T": 1}, resources=on("L40S", gpus=0.5)),
        ResourceRule(when={"T": 2}, resources=on("H100")),
        ResourceRule(when={"T": 3}, resources=on("L40S|H100")),
    ),
)
"""


def test_every_trial_runs_on_the_gpu_it_asks_for_with_records_on_s3(
    heterogeneous_cluster: RayCluster, s3_bucket: str, tmp_path: Path
) -> None:
    file = tmp_path / "placed.py"
    file.write_text(SWEEP_FILE)
    command = [*TRM, "sweep", "run", str(file), "--address", heterogeneous_cluster.address, "--storage", s3_bucket]
    home = {"HOME": str(tmp_path)}  # datasets are fetched from the storage into a cache of this test's own
    environment = {**heterogeneous_cluster.environment, **home}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    records = read_trials(open_storage(s3_bucket), "placed")
    assert [record.status for record in records] == [Status.FINISHED] * 6
    where = {(r.config.model.cycles, r.config.model.latent_steps): r.attempts[0].start for r in records}
    for (cycles, _), start in where.items():
        allowed = {1: {"L40S"}, 2: {"H100"}, 3: {"L40S", "H100"}}[cycles]
        assert start.gpu_type in allowed
        assert len(start.gpu_ids) == 1
    assert len({start.node_id for start in where.values()}) == 2
    assert all(len(record.attempts) == 1 for record in records)
    keys = open_storage(s3_bucket).list("sweeps/placed")
    assert sum(key.endswith(".safetensors") for key in keys) >= 6

    status = subprocess.run(
        [*TRM, "sweep", "status", "placed", "--storage", s3_bucket, "--json"], capture_output=True, text=True
    )
    assert json.loads(status.stdout)["counts"] == {"finished": 6}
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "complete: 6 finished" in again.stdout


def test_cluster_without_the_token_is_refused_in_one_line(heterogeneous_cluster: RayCluster, tmp_path: Path) -> None:
    command = [
        *TRM,
        "sweep",
        "run",
        "--recipe",
        "sudoku-mini",
        "--vary",
        "T=1",
        "--address",
        heterogeneous_cluster.address,
    ]
    sets = set_options(TINY)
    environment = {k: v for k, v in heterogeneous_cluster.environment.items() if not k.startswith("RAY_AUTH")}
    environment["HOME"] = str(tmp_path)
    done = subprocess.run(
        [*command, *sets, "--storage", str(tmp_path / "runs")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {heterogeneous_cluster.address} does not answer") and "token" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists(), "nothing is built for a cluster that refuses"


def test_doctor_and_plan_join_a_cluster_with_the_token_file_as_a_run_does(
    heterogeneous_cluster: RayCluster, tmp_path: Path
) -> None:
    environment = {k: v for k, v in heterogeneous_cluster.environment.items() if not k.startswith("RAY_AUTH")}
    token = Path(heterogeneous_cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(token)
    environment["HOME"] = str(tmp_path)
    where = ["--address", heterogeneous_cluster.address, "--storage", str(tmp_path / "runs")]
    doctor = subprocess.run([*TRM, "doctor", *where, "--json"], env=environment, capture_output=True, text=True)
    [cluster] = [check for check in json.loads(doctor.stdout) if check["name"] == "cluster"]
    assert cluster["status"] == "ok" and "3 nodes, 4 CPUs, 1 H100, 2 L40S" in cluster["found"], cluster

    command = [*TRM, "sweep", "plan", "--recipe", "sudoku-mini", "--vary", "T=1,2", "--seeds", "9", *where]
    plan = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert plan.returncode == 0 and "concurrent trials: 4 on the cluster" in plan.stdout, plan.stdout + plan.stderr


def test_sweep_without_an_address_starts_a_ray_of_its_own_beside_one_that_runs(
    heterogeneous_cluster: RayCluster, tmp_path: Path
) -> None:
    sets = set_options(TINY, "model.cycles")
    where = ["--storage", str(tmp_path / "runs"), "--tracking", "none", "--name", "private"]
    environment = {**heterogeneous_cluster.environment, "RAY_ADDRESS": heterogeneous_cluster.address}
    command = [*TRM, "sweep", "run", "--recipe", "sudoku-mini", "--vary", "T=1", "--seeds", "1", *sets, *where]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (record,) = read_trials(open_storage(str(tmp_path / "runs")), "private")
    assert record.status is Status.FINISHED and record.attempts[0].start.gpu_type is None
    heterogeneous_cluster.wait_for_nodes(3)
