"""Machines that are rented from moto's EC2 and are real Ray nodes on this machine: an account that `up` can use.

`tests.support.rented_nodes` is the node provider of the head's autoscaler: every node that Ray's stand-in for a cloud
starts has an instance of EC2. `Hypervisor` plays the part of AWS: the nodes of an instance that was terminated, by
whomever, die at once. Stand-ins for `ssh` and `rsync` run on this machine what Ray's launcher runs on the head.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, reduce
from pathlib import Path
from typing import Any

import boto3
import psutil
from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.cloud.launch_file import LAUNCH_FILE
from orchestrator.cloud.ray_node import own_address
from tests.support.cluster import HEAD_ID, OBJECT_STORE_BYTES, autoscaling
from tests.support.infra import free_port

NODES = "nodes.jsonl"
"""File in the machines' folder with one line for every node: instance, Ray's node id, processes, start."""
INSTANCES = {"L40S": ("g6e.2xlarge", "spot"), "H100": ("p5.4xlarge", "on-demand")}
"""Instance type and market of the machines with a GPU."""
POLL_S = 0.25
PROGRAM = """#!{python}
import sys
from tests.support.rented import {name}
sys.exit({name}(sys.argv[1:]))
"""


@cache
def _client(endpoint: str) -> Any:
    return boto3.client("ec2", endpoint_url=endpoint)


def ec2() -> Any:
    """Return a client of EC2 that is made once: making one takes seconds on a busy computer."""
    return _client(os.environ["AWS_ENDPOINT_URL"])


def rent(cluster: str, instance: str, market: str) -> str:
    """Start a worker with the tags of a cluster, ours and Ray's, and return its identifier."""
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}} if market == "spot" else {}
    tags = {"trm-cluster": cluster, "ray-cluster-name": cluster, "ray-node-type": "worker"}
    tagged = [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]
    answer = ec2().run_instances(
        ImageId="ami-12c6146b", InstanceType=instance, MinCount=1, MaxCount=1, TagSpecifications=tagged, **spot
    )
    return str(answer["Instances"][0]["InstanceId"])


def running(instances: Any) -> set[str]:
    """Return those of the instances that have not been terminated."""
    wanted = sorted(instances)
    if not wanted:
        return set()
    found = ec2().describe_instances(InstanceIds=wanted)["Reservations"]
    states = {each["InstanceId"]: each["State"]["Name"] for one in found for each in one["Instances"]}
    return {name for name, state in states.items() if state in ("pending", "running")}


def note(folder: Path, instance: str, node_id: str, pids: list[int], up_s: float) -> None:
    """Write down since when an instance is up, and which processes die with it."""
    entry = {"instance": instance, "node_id": node_id, "pids": pids, "up_s": up_s}
    with (folder / NODES).open("a") as file:
        file.write(json.dumps(entry) + "\n")


class Hypervisor(threading.Thread):
    """End the processes of every instance that was terminated, and note when its last process was gone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(name="hypervisor", daemon=True)
        self.folder = folder
        self.down_s: dict[str, float] = {}
        self._ends = threading.Event()

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return what is known of every node, by instance."""
        file = self.folder / NODES
        entries = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
        return {each["instance"]: each for each in entries}

    def run(self) -> None:
        """Look until `stop` is called."""
        while not self._ends.wait(POLL_S):
            found = {name: each for name, each in self.nodes().items() if name not in self.down_s}
            try:
                ended = found.keys() - running(found)
            except (BotoCoreError, ClientError):  # a busy computer answers late; AWS itself would not stop either
                continue
            power_off([pid for name in ended for pid in found[name]["pids"]])
            self.down_s.update(dict.fromkeys(ended, time.time()))

    def stop(self) -> None:
        """End this thread."""
        self._ends.set()
        self.join()

    def up_s(self) -> dict[str, tuple[float, float]]:
        """Return from when to when every machine was up, in seconds since the epoch."""
        now_s = time.time()
        return {name: (float(each["up_s"]), self.down_s.get(name, now_s)) for name, each in self.nodes().items()}


def power_off(pids: list[int]) -> list[psutil.Process]:
    """Kill processes and all below them, and return them: a busy computer takes a while to remove what was killed."""
    found: list[psutil.Process] = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(pid)
            found += [top, *top.children(recursive=True)]
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return found


def kill(pids: list[int]) -> None:
    """Kill processes and all below them, as a power cut would, and wait until they are gone."""
    psutil.wait_procs(power_off(pids), timeout=30)


def ssh(words: list[str]) -> int:
    """Stand in for `ssh`: run the command on this machine, in the head's home folder and on its ports."""
    host = next(index for index, word in enumerate(words) if word.startswith("ubuntu@"))
    command = " ".join(words[host + 1 :])
    folder = Path(os.environ["RENTED"])
    with (folder / "ssh.log").open("a") as log:
        log.write(f"{time.time()} {command}\n")
    environment = {**os.environ, "HOME": str(folder / "home")}
    skipped = ("shutdown -h +", "ray stop", "apt-get", "pip install", "cloud-init")
    if any(text in command for text in skipped):
        return 0  # `ray stop` would end every Ray of this user; the environment is there
    if "ray start --head" in command:
        return _start_head(folder, environment)
    ports = json.loads((folder / "ports.json").read_text())
    for fixed, free in ports.items():
        command = command.replace(fixed, free)
    return subprocess.run(["sh", "-c", command], env=environment, check=False).returncode


def rsync(words: list[str]) -> int:
    """Stand in for `rsync`: copy a file into the head's home folder. The project need not be copied."""
    source, target = words[-2:]
    path = Path(source)
    if path.is_file() and ":" in target:
        copy = Path(os.environ["RENTED"], "home", target.partition(":")[2].removeprefix("~/"))
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        if path.name == LAUNCH_FILE:  # it names the fixed ports of a head that has a machine of its own
            ports = json.loads(Path(os.environ["RENTED"], "ports.json").read_text())
            copy.write_text(reduce(lambda text, port: text.replace(*port), ports.items(), copy.read_text()))
        copy.chmod(0o600)
    return 0


def sudo(words: list[str]) -> int:
    """Stand in for `sudo shutdown`: AWS terminates the head's instance when it shuts down."""
    folder = Path(os.environ["RENTED"])
    head = (folder / "head").read_text()
    ec2().terminate_instances(InstanceIds=[head])
    return 0


def _start_head(folder: Path, environment: Mapping[str, str]) -> int:
    """Start the head, once, with the options of the rendered file but with free ports, and note its processes."""
    ports = json.loads((folder / "ports.json").read_text())
    address, dashboard = ports["127.0.0.1:6379"], ports["127.0.0.1:8265"].rpartition(":")[2]
    host, _, port = address.rpartition(":")
    command = [f"{sys.prefix}/bin/ray", "start", "--head", "--block", f"--node-ip-address={host}", f"--port={port}"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", f"--temp-dir={folder / 'ray'}"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    command += [f"--autoscaling-config={folder / 'autoscaling.json'}", "--num-cpus=0", "--num-gpus=0"]
    command += [f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats"]
    own = {"RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID}
    with (folder / "head.log").open("ab") as log:
        head = subprocess.Popen(
            command,
            env={**environment, **own},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (instance,) = _heads(os.environ["RENTED_CLUSTER"])
    (folder / "head").write_text(instance)
    first = (folder / "ssh.log").read_text().partition(" ")[0]  # Ray's launcher asks whether the machine is there
    note(folder, instance, HEAD_ID, [head.pid], float(first))
    return 0


def _heads(cluster: str) -> list[str]:
    filters = [
        {"Name": "tag:trm-cluster", "Values": [cluster]},
        {"Name": "tag:ray-node-type", "Values": ["head"]},
        {"Name": "instance-state-name", "Values": ["pending", "running"]},
    ]
    found = ec2().describe_instances(Filters=filters)["Reservations"]
    return [str(each["InstanceId"]) for one in found for each in one["Instances"]]


@contextmanager
def rented_machines(folder: Path, cluster: str, max_nodes: int = 3) -> Iterator[tuple[Hypervisor, dict[str, str]]]:
    """Prepare machines, and end what is left of them.

    Args:
        folder: short, since it holds Ray's sockets.
        cluster: name in the configuration.

    Yields:
        What knows when machines were up, and the variables of the client's environment.
    """
    (folder / "home").mkdir()
    (folder / "home" / "venv").symlink_to(sys.prefix)
    for name in ("bin", "tmp"):
        (folder / name).mkdir()
    for program in (ssh, rsync, sudo):
        file = folder / "bin" / program.__name__
        file.write_text(PROGRAM.format(python=sys.executable, name=program.__name__))
        file.chmod(0o755)
    profile = folder / "home" / ".bashrc"
    profile.write_text(f"export PATH={folder / 'bin'}:$PATH\n")  # login shells set the variable themselves
    found = ["bash", "--login", "-c", f"source {profile}; command -v sudo"]
    program = subprocess.run(found, capture_output=True, text=True, check=True).stdout.strip()
    if program != str(folder / "bin" / "sudo"):  # it would shut this machine down
        raise RuntimeError(f"{program} would be used instead of the stand-in")
    address = f"{own_address()}:{free_port()}"
    ports = {"127.0.0.1:6379": address, "127.0.0.1:8265": f"127.0.0.1:{free_port()}"}
    (folder / "ports.json").write_text(json.dumps(ports))
    scaling = autoscaling(address, dict.fromkeys(INSTANCES, 1), num_cpus=1, max_nodes=max_nodes)
    scaling["provider"] |= {"module": "tests.support.rented_nodes.RentedMachines", "rented_for": cluster}
    scaling["provider"]["folder"] = str(folder)
    scaling["idle_timeout_minutes"] = 5  # as in the rendered file: a trial on a busy machine takes a while to come back
    for gpu, (_, market) in INSTANCES.items():
        scaling["available_node_types"][gpu]["labels"]["ray.io/market-type"] = market
    (folder / "autoscaling.json").write_text(json.dumps(scaling))
    environment = {
        "RENTED": str(folder),
        "RENTED_CLUSTER": cluster,
        "TMPDIR": str(folder / "tmp"),  # the stand-in's nodes have the same ids in every run, and so have their notices
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
        "RAY_AUTH_MODE": "token",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_worker_prestart": "0",
        "OMP_NUM_THREADS": "1",
    }
    hypervisor = Hypervisor(folder)
    hypervisor.start()
    try:
        yield hypervisor, environment
    finally:
        hypervisor.stop()
        kill([pid for each in hypervisor.nodes().values() for pid in each["pids"]])
        kill([process.pid for process in processes_below(folder)])


def processes_below(folder: Path) -> list[psutil.Process]:
    """Return the processes that name a folder in their command, or work in it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(folder) in shlex.join(process.cmdline()) or process.cwd().startswith(str(folder)):
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]
