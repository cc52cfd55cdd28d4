"""Trials of several kinds on a real cluster of L40S and H100 nodes (stand-in GPUs) that loses a node and gains one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.records.reader import read_trials
from orchestrator.records.schema import AttemptStart, Status, TrialRecord
from orchestrator.storage import open_storage
from tests.support.cluster import RayCluster, autoscaling_cluster, ray_cluster

TRM = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
SWEEP_FILE = """
from orchestrator.sweep import ResourceRule, Resources, Sweep, choice
from tests.support.sweeps import tiny_config

def on(gpu_type, gpus=1):
    return Resources(cpus=0.25, gpus=gpus, gpu_type=gpu_type)

sweep = Sweep(
    name="placed",
    base=tiny_config(**{"train.max_steps": STEPS, "runtime.evaluate_every": STEPS // 4, "runtime.num_threads": 1}),
    space={"T": choice(1, 2, 3), "n": choice(1, 2)},
    seeds=2,
    resources=on("L40S|H100"),
    resource_rules=(
        ResourceRule(when={"T": 1}, resources=on("H100")),
        ResourceRule(when={"T": 2, "n": 1}, resources=on("L40S", 0.5)),
        ResourceRule(when={"T": 2, "n": 2}, resources=on("L40S", 2)),
    ),
)
"""
ALLOWED = {(1, 1): {"H100"}, (1, 2): {"H100"}, (2, 1): {"L40S"}, (2, 2): {"L40S"}}


@contextmanager
def driven(cluster: RayCluster, folder: Path, steps: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A driver of the sweep, from its start until the block is left."""
    file = folder / "placed.py"
    file.write_text(SWEEP_FILE.replace("STEPS", str(steps)))
    command = [*TRM, "sweep", "run", str(file), "--address", cluster.address, "--storage", str(folder / "runs")]
    with (folder / "driver.log").open("w") as log:
        driver = subprocess.Popen(
            [*command, "--tracking", "none", *options], env=cluster.environment, stdout=log, stderr=log, text=True
        )
        try:
            yield driver
        finally:
            driver.kill()
            driver.wait()


def records(folder: Path) -> list[TrialRecord]:
    return read_trials(open_storage(str(folder / "runs")), "placed")


def wait_for(condition: Callable[[], bool], driver: subprocess.Popen[str], folder: Path) -> None:
    until = time.monotonic() + 1200
    while not condition():
        assert driver.poll() is None and time.monotonic() < until, (folder / "driver.log").read_text()[-3000:]
        time.sleep(0.1)


def nodes_at_work(found: list[TrialRecord], gpu_type: str) -> set[str]:
    """The nodes of a type that run a trial now."""
    starts = [record.attempts[-1].start for record in found if record.status is Status.RUNNING]
    return {str(start.node_id) for start in starts if start.gpu_type == gpu_type}


def check(found: list[TrialRecord]) -> list[AttemptStart]:
    """Every trial finished once, where it may run; returns the starts of all attempts."""
    assert len(found) == 12 and {record.status for record in found} == {Status.FINISHED}
    for record in found:
        cell = record.config.model.cycles, record.config.model.latent_steps
        for attempt in record.attempts:
            assert attempt.start.gpu_type in ALLOWED.get(cell, {"L40S", "H100"})
            assert len(attempt.start.gpu_ids) == (2 if cell == (2, 2) else 1)
        ends = [attempt.end.status for attempt in record.attempts if attempt.end]
        assert ends.count("finished") == 1, "a trial ran twice"
        steps = [row.step for row in record.rows if row.split == "validation"]
        assert steps == sorted(set(steps)) and len(steps) == 4, "an evaluation is counted twice"
    return [attempt.start for record in found for attempt in record.attempts]


@pytest.mark.slow
def test_trials_run_where_they_may_while_a_node_is_killed_and_another_joins(tmp_path: Path) -> None:
    with ray_cluster({"L40S": 2, "H100": 1}) as cluster:
        cluster.add_node("L40S", num_gpus=2)
        cluster.wait_for_nodes(4)
        with driven(cluster, tmp_path, 800) as driver:
            wait_for(lambda: len(nodes_at_work(records(tmp_path), "L40S")) == 2, driver, tmp_path)
            cluster.nodes[1].kill()  # one of the two
            cluster.add_node("L40S", num_gpus=2)
            assert driver.wait() == 0, (tmp_path / "driver.log").read_text()[-3000:]
        starts = check(records(tmp_path))
        assert len(starts) > 12, "no trial was lost with its node"
        assert len({one.node_id for one in starts if one.gpu_type == "L40S"}) >= 2


@pytest.mark.slow
def test_machines_come_from_zero_and_no_l40s_idles_because_a_trial_waits_for_an_h100(tmp_path: Path) -> None:
    with autoscaling_cluster({"L40S": 2, "H100": 1}, max_nodes=1) as cluster:
        with driven(cluster, tmp_path, 400, "--no-canary") as driver:
            assert driver.wait() == 0, (tmp_path / "driver.log").read_text()[-3000:]
        starts = check(records(tmp_path))
        begun = {kind: [one.started_s for one in starts if one.gpu_type == kind] for kind in ("L40S", "H100")}
        assert len(begun["H100"]) >= 4
        assert min(begun["L40S"]) < max(begun["H100"]), "L40S trials waited for the H100 to be free"
        cluster.wait_for_nodes(1)


@pytest.mark.slow
def test_a_canary_that_fails_ends_the_sweep_before_others_are_sent(tmp_path: Path) -> None:
    with ray_cluster({"L40S": 2}) as cluster:
        file = tmp_path / "canary.py"
        file.write_text(
            "from orchestrator.sweep import Resources, Sweep\n"
            "from tests.support.sweeps import tiny_config\n"
            'base = tiny_config(**{"runtime.device": "cuda"})\n'  # there is no GPU behind the stand-in
            'sweep = Sweep(name="placed", base=base, seeds=4, resources=Resources(cpus=0.5, gpus=1, gpu_type="L40S"))\n'
        )
        command = [*TRM, "sweep", "run", str(file), "--address", cluster.address, "--storage", str(tmp_path / "runs")]
        done = subprocess.run([*command, "--tracking", "none"], env=cluster.environment, capture_output=True, text=True)
        assert done.returncode == 2 and "first trial on L40S failed" in done.stderr and "no usable CUDA" in done.stderr
        assert [record.status for record in records(tmp_path)] == [Status.FAILED]
