"""A real cluster with labelled nodes: who is there, and does work land where its label says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import ClusterError
from orchestrator.resources.nodes import Cluster, Node, describe_cluster
from tests.support.cluster import RayCluster, autoscaling_cluster, ray_cluster
from tests.worker.test_spot import announcing

SWEEP = """
import json, os, sys
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
import ray
from ray import tune

def trial(config):
    labels = {node["NodeID"]: node["Labels"] for node in ray.nodes()}
    mine = labels[ray.get_runtime_context().get_node_id()]
    tune.report({"gpu": mine["ray.io/accelerator-type"], "devices": os.environ["CUDA_VISIBLE_DEVICES"]})

def place(config):
    selector = {"ray.io/accelerator-type": config["wish"]}
    return tune.PlacementGroupFactory([{"CPU": 1, "GPU": 1}], bundle_label_selector=[selector])

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
wishes = ["L40S", "H100", "in(L40S,H100)"] * 2
results = tune.Tuner(
    tune.with_resources(trial, place),
    param_space={"wish": tune.grid_search(wishes)},
    tune_config=tune.TuneConfig(max_concurrent_trials=3),
    run_config=tune.RunConfig(storage_path=sys.argv[2], verbose=0),
).fit()
print("RESULT", json.dumps([[r.config["wish"], r.metrics["gpu"], r.metrics["devices"]] for r in results]))
"""
REACH = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
task = ray.remote(num_gpus=1, label_selector={"ray.io/accelerator-type": sys.argv[2]})(lambda: "ran")
ready, _ = ray.wait([task.remote()], timeout=float(sys.argv[3]))
print(ray.get(ready))
"""
LEAVING = "import sys; from orchestrator.worker.spot import is_leaving; print(is_leaving(sys.argv[2]))"
DESCRIBE = """
import dataclasses, json, sys
from orchestrator.resources.nodes import describe_cluster
print(json.dumps(dataclasses.asdict(describe_cluster(sys.argv[1]))))
"""


def run(cluster: RayCluster, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, cluster.address, *arguments]
    return subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=1500)


def node(gpu: str | None, num_gpus: int) -> Node:
    return Node("", "", gpu is None, 4, num_gpus, gpu, None)


def test_a_summary_counts_gpus_by_type() -> None:
    cluster = Cluster([node(None, 0), node("L40S", 4), node("L40S", 1), node("H100", 8)], "2.60.0", "3.11.7")
    assert cluster.summary() == "4 nodes, 16 CPUs, 8 H100, 5 L40S"


def test_an_address_where_nothing_answers_is_one_line() -> None:
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at 127.0.0.1:1 .*ray start --head"):
        describe_cluster("127.0.0.1:1")
    with pytest.raises(ClusterError, match="not HOST:PORT"):
        describe_cluster("auto")


@pytest.mark.slow
def test_a_real_cluster_runs_trials_by_label_loses_a_node_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with ray_cluster({"L40S": 2, "H100": 1}) as cluster:
        found = json.loads(run(cluster, DESCRIBE).stdout)
        assert (found["nodes"][0]["is_head"], found["nodes"][0]["num_gpus"]) == (True, 0)
        assert {(one["gpu_type"], one["num_gpus"]) for one in found["nodes"][1:]} == {("L40S", 2), ("H100", 1)}

        done = run(cluster, SWEEP, str(tmp_path))
        results = json.loads(done.stdout.partition("RESULT ")[2])
        assert len(results) == 6
        for wish, gpu, devices in results:
            assert gpu in wish and devices in ("0", "1")

        without_token = {**cluster.environment, "RAY_AUTH_MODE": "disabled"}
        refused = subprocess.run(
            [sys.executable, "-c", DESCRIBE, cluster.address], env=without_token, capture_output=True, text=True
        )
        assert "does not answer as a Ray head" in refused.stderr and "token" in refused.stderr

        h100 = next(one["node_id"] for one in found["nodes"] if one["gpu_type"] == "H100")
        assert run(cluster, REACH, "H100", "600").stdout == "['ran']\n"
        with announcing() as url:
            watcher = [sys.executable, "-m", "orchestrator.worker.spot", cluster.address, "--node-id", h100]
            heard = subprocess.run(
                [*watcher, "--metadata-url", url], env=cluster.environment, capture_output=True, text=True
            )
        assert heard.stdout.startswith("terminate announced"), heard.stderr
        assert run(cluster, LEAVING, h100).stdout == "True\n"
        assert run(cluster, REACH, "H100", "4").stdout == "[]\n"  # drained: nothing more is placed there
        assert run(cluster, REACH, "L40S", "600").stdout == "['ran']\n"

        cluster.nodes[1].kill()
        cluster.wait_for_nodes(2)
        cluster.add_node("L40S", num_gpus=4)
        cluster.wait_for_nodes(3)
        started = [process for one in cluster.nodes for process in one.processes()]
    assert [process for process in started if psutil.pid_exists(process.pid) and process.is_running()] == []
    assert not cluster.folder.exists()


@pytest.mark.slow
def test_machines_come_from_zero_by_label_and_go_again(tmp_path: Path) -> None:
    with autoscaling_cluster({"L40S": 1, "H100": 1}) as cluster:
        done = run(cluster, SWEEP, str(tmp_path))
        results = json.loads(done.stdout.partition("RESULT ")[2])
        assert len(results) == 6
        assert all(gpu in wish for wish, gpu, _ in results)
        cluster.wait_for_nodes(1)  # the head alone
