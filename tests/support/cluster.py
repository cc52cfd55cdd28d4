"""A real Ray cluster on this machine: a head, and raylets that carry labels and stand-in GPUs.

    with ray_cluster({"L40S": 2, "H100": 1}) as cluster:
        subprocess.run([..., "--address", cluster.address], env=cluster.environment)

Everything lies in one temporary folder, on free ports, and demands a token. At the end exactly the processes that were
started here are ended, found by their ancestry: another Ray on the machine is left alone (`ray stop` would end it too).
Drivers belong into child processes: Ray keeps the token and the cluster of a process for good. Nodes take the
environment of the moment: ask for the fixture `s3_endpoint` first where trials write to it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.cloud.ray_node import own_address
from tests.support.infra import free_port, wait_until_ended

OBJECT_STORE_BYTES = 80_000_000  # Ray's minimum is 75 MB; trials hand over small dictionaries only
HEAD_ID = "f" * 51 + "00000"
WAIT = """
import sys, time
from orchestrator.resources.nodes import describe_cluster
address, wanted, deadline = sys.argv[1], int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
while True:
    try:
        found = len(describe_cluster(address).nodes)
        problem = f"{found} of {wanted} nodes are alive"
    except Exception as error:
        found, problem = None, str(error)
    if found == wanted:
        sys.exit()
    if time.monotonic() > deadline:
        sys.exit(problem)
    time.sleep(0.1)
"""


@dataclass(slots=True)
class Node:
    """One machine of the cluster: a `ray start` in the foreground, and what it started."""

    process: subprocess.Popen[bytes]
    was_killed: bool = False

    def processes(self) -> list[psutil.Process]:
        """The foreground process and everything below it."""
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        return []

    def kill(self) -> None:
        """End it as a power cut would: every process at once, by SIGKILL."""
        self.was_killed = True
        self._kill(self.processes())

    def stop(self) -> None:
        """End it in an orderly way; what does not go within 10 s is killed."""
        self.was_killed = True
        processes = self.processes()
        self.process.terminate()
        _, left = psutil.wait_procs(processes, timeout=10)
        self._kill(left)

    def _kill(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        wait_until_ended(processes)


@dataclass(slots=True)
class RayCluster:
    """A running cluster, and the environment with which a process may join it."""

    address: str
    folder: Path
    environment: dict[str, str]
    nodes: list[Node] = field(default_factory=list)

    def start_head(self, *options: str) -> Node:
        """Start the head, which has no CPUs and so runs no trials."""
        host, _, port = self.address.rpartition(":")
        where = [f"--node-ip-address={host}", f"--port={port}", f"--temp-dir={self.folder / 'ray'}"]
        return self._start("--head", *where, "--include-dashboard=false", *options, num_cpus=0, num_gpus=0)

    def add_node(self, gpu: str | None = None, num_gpus: int = 0, num_cpus: int = 2, market: str = "on-demand") -> Node:
        """Start a raylet and return at once; `wait_for_nodes` returns when it has joined."""
        labels = {"ray.io/market-type": market} | ({"ray.io/accelerator-type": gpu} if gpu else {})
        labelled = "--labels=" + ",".join(f"{name}={value}" for name, value in labels.items())
        return self._start(f"--address={self.address}", labelled, num_cpus=num_cpus, num_gpus=num_gpus)

    def wait_for_port(self, timeout_s: float = 300) -> None:
        """Return when the head's port is open."""
        host, _, port = self.address.rpartition(":")
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def wait_for_nodes(self, count: int, timeout_s: float = 600) -> None:
        """Return when exactly so many nodes, the head included, are alive."""
        command = [sys.executable, "-c", WAIT, self.address, str(count), str(timeout_s)]
        with subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, text=True) as waiting:
            while waiting.poll() is None:
                time.sleep(0.2)
                self._start_again()
            assert waiting.stderr is not None
            problem = waiting.stderr.read()
        if waiting.returncode:
            logs = "".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log")))
            raise TimeoutError(f"{problem.strip()}\n{logs}")

    def _start_again(self) -> None:
        """Ray gives a node 30 s to start, too little where other tests hold the cores: try those that gave up again."""
        for index, node in enumerate(self.nodes):
            if node.process.poll() is not None and not node.was_killed:
                with (self.folder / f"node-{index}-again.log").open("ab") as log:
                    arguments: list[str] = list(node.process.args)  # type: ignore[arg-type]
                    again = subprocess.Popen(arguments, env=self.environment, stdout=log, stderr=log)
                self.nodes[index] = Node(again)

    def stop(self) -> None:
        """End all nodes, the head last."""
        for node in reversed(self.nodes):
            node.stop()

    def _start(self, *options: str, num_cpus: int, num_gpus: int) -> Node:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", *options]
        command += [f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}", "--disable-usage-stats"]
        command += [f"--object-store-memory={OBJECT_STORE_BYTES}"]
        with (self.folder / f"node-{len(self.nodes)}.log").open("wb") as log:
            node = Node(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))
        self.nodes.append(node)
        return node


@contextmanager
def ray_cluster(gpus: Mapping[str, int], num_cpus: int = 2) -> Iterator[RayCluster]:
    """A head and one raylet for every GPU type, with so many stand-in GPUs and CPUs each."""
    with empty_cluster() as cluster:
        cluster.start_head()
        cluster.wait_for_port()  # the others join while the head still starts: 10 s sooner
        for gpu, count in gpus.items():
            cluster.add_node(gpu, count, num_cpus)
        cluster.wait_for_nodes(1 + len(gpus))
        yield cluster


@contextmanager
def autoscaling_cluster(gpus: Mapping[str, int], num_cpus: int = 2, max_nodes: int = 4) -> Iterator[RayCluster]:
    """A head that starts machines with a GPU type's label and so many stand-in GPUs while trials wait for them.

    Ray's own stand-in for a cloud starts raylets on this machine. It is named as an external provider, because the
    defaults that its short name would read are not in Ray's wheel.
    """
    with empty_cluster() as cluster:
        scaling = cluster.folder / "autoscaling.json"
        scaling.write_text(json.dumps(autoscaling(cluster.address, gpus, num_cpus, max_nodes)))
        cluster.environment |= {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
        cluster.start_head(f"--autoscaling-config={scaling}")
        for name in ("RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING"):
            del cluster.environment[name]  # they are the head's
        cluster.wait_for_nodes(1)
        yield cluster


_NOTHING = (  # what a provider's own defaults would say
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


def autoscaling(address: str, gpus: Mapping[str, int], num_cpus: int, max_nodes: int) -> dict[str, Any]:
    """Return what a head is told about machines of Ray's own stand-in for a cloud."""
    machines = {
        gpu: {
            "resources": {"CPU": num_cpus, "GPU": count, "object_store_memory": OBJECT_STORE_BYTES},
            "labels": {"ray.io/accelerator-type": gpu},
            "node_config": {},
            "min_workers": 0,
            "max_workers": max_nodes,
        }
        for gpu, count in gpus.items()
    }
    return {
        "cluster_name": "tests",
        "max_workers": max_nodes * len(gpus),
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 100,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "gcs_address": address,
            "head_node_id": HEAD_ID,
        },
        **{name: [] for name in _NOTHING},
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **machines,
        },
    }


@contextmanager
def empty_cluster() -> Iterator[RayCluster]:
    """A folder, a port and a token; whatever is started in it is ended and removed."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: socket names end at 107 characters
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(folder),
        "TMPDIR": str(folder),
        "RAY_enable_worker_prestart": "0",  # idle workers would only take memory and start-up time
        "OMP_NUM_THREADS": "1",
    }
    cluster = RayCluster(f"{own_address()}:{free_port()}", folder, environment)
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def heterogeneous_cluster() -> Iterator[RayCluster]:
    """A head, a machine with two L40S and one with an H100."""
    with ray_cluster({"L40S": 2, "H100": 1}) as cluster:
        yield cluster
