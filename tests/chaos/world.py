"""What a chaos run breaks: a Ray cluster, an S3 server behind an endpoint, a tracker, a small disk, a clock."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from orchestrator.storage import Storage, open_storage
from tests.chaos.clock import StandInClock
from tests.chaos.endpoint import LOG, SHARES
from tests.support.cluster import Node, RayCluster, empty_cluster
from tests.support.infra import free_port, wait_for_http
from tests.support.tracking import MlflowServer

MARKER = "TRM_CHAOS_RUN"
"""Environment variable that every process of a run has, by which those that are left are found."""
GPUS = {"L40S": 1, "H100": 1}
KEEP_UP_S = 3.0
DISK_BYTES = 128 * 2**20
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}


class Endpoint:
    """The S3 endpoint: a process before moto, which can be killed and started again at the same address."""

    def __init__(self, target: str, folder: Path, seed: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._target, self._folder, self._seed = target, folder, seed
        self._shares: dict[str, float] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def start(self) -> None:
        """Start it, and return when it listens."""
        command = [sys.executable, "-m", "tests.chaos.endpoint", str(self.port), self._target, str(self._folder)]
        self._process = subprocess.Popen([*command, str(self._seed + self._starts)])
        self._starts += 1
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
                break
            if self._process.poll() is not None:
                raise RuntimeError("the S3 endpoint did not start")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it, without an answer to the requests that it holds."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def disturb(self, **shares: float) -> None:
        """Set the shares of the requests that are `refused` or `cut`, or one of them."""
        self._shares |= shares
        (self._folder / SHARES).write_text(json.dumps(self._shares))

    @property
    def requests(self) -> Path:
        """The log of what was disturbed, and of the writes of attempts that were tried and that arrived."""
        return self._folder / LOG


class ClusterNodes:
    """The nodes of a cluster, each of which can be killed and started again."""

    def __init__(self, cluster: RayCluster) -> None:
        self.cluster = cluster
        self.lock = threading.Lock()
        """Held while nodes start or end."""
        self.workers: dict[str, Node] = {}
        self.is_down = False
        """Whether the head was killed on purpose."""

    def start(self) -> None:
        """Start the head and all workers."""
        self.cluster.nodes.clear()
        self.cluster.start_head()
        self.cluster.wait_for_port()
        self.workers = {gpu: self.cluster.add_node(gpu, count) for gpu, count in GPUS.items()}
        self.is_down = False

    def restart(self) -> None:
        """Kill what is left, and start all nodes; if they do not come up, `keep_up` starts them again."""
        with self.lock:
            self.stop()
            try:
                self.start()
            except OSError:  # the head's port is not open after a minute: the machine is busy
                self.stop()
                self.is_down = False

    def keep_up(self, end: threading.Event) -> None:
        """Start nodes again that have ended by themselves, as on a busy machine, on which Ray may not start in time."""
        while not end.wait(KEEP_UP_S):
            with self.lock:
                if self.is_down:
                    continue
                has_head = bool(self.cluster.nodes) and self.cluster.nodes[0].process.poll() is None
                for gpu, node in self.workers.items() if has_head else ():
                    if node.process.poll() is not None and not node.was_killed:
                        self.restart_worker(gpu)
            if not has_head:
                self.restart()

    def restart_worker(self, gpu: str) -> None:
        """Start the worker of a GPU type again."""
        self.workers[gpu] = self.cluster.add_node(gpu, GPUS[gpu])

    def stop(self) -> None:
        """Kill all nodes."""
        for node in reversed(self.cluster.nodes):
            node.kill()

    def processes(self) -> list[psutil.Process]:
        """Everything below the nodes."""
        return [process for node in self.cluster.nodes for process in node.processes()]


class Disk:
    """A small filesystem that can be filled."""

    def __init__(self, folder: Path, is_small: bool) -> None:
        self.folder = folder
        self.is_small = is_small

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def fill(self) -> None:
        """Leave no space."""
        with self._filler.open("wb", buffering=0) as file:
            for size in (2**20, 4096, 1):
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def free(self) -> None:
        """Free the space again."""
        self._filler.unlink(missing_ok=True)


class World:
    """Everything that a run uses, in one temporary folder."""

    def __init__(self, folder: Path, moto: str, endpoint: Endpoint, nodes: ClusterNodes, disk: Disk) -> None:
        self.folder = folder
        self.endpoint, self.nodes, self.disk = endpoint, nodes, disk
        self.clock = StandInClock(folder / "clock", endpoint.requests)
        self.tracker = MlflowServer(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"))
        self.s3_url = f"s3://chaos/runs?endpoint_override={endpoint.url}"
        self.s3: Storage = open_storage(f"s3://chaos/runs?endpoint_override={moto}")
        """The same as `s3_url`, without what is done to it."""
        self.local: Storage = open_storage(str(disk.folder / "runs"))

    def environment(self, lane: str) -> dict[str, str]:
        """The variables of drivers, trials and nodes: a home, a clock, and a mark."""
        home = self.folder / f"home-{lane}"
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        clock = self.clock.environment(os.environ.get("PYTHONPATH", ""))
        return {**os.environ, **clock, "HOME": str(home), "TMPDIR": str(home / "tmp"), MARKER: self.folder.name}

    def processes(self) -> list[psutil.Process]:
        """The processes of the run that are alive, by the mark, the working folder or the open files."""
        marked = f"{MARKER}={self.folder.name}".encode()
        roots = (str(self.folder), str(self.nodes.cluster.folder))
        return [each for each in psutil.process_iter() if each.pid != os.getpid() and _belongs(each, marked, roots)]

    def end_processes(self) -> list[str]:
        """Kill what is left, and return what it was."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                found.append(f"{process.pid}: {' '.join(process.cmdline())[:150]}")
                process.kill()
        return found


def _belongs(process: psutil.Process, marked: bytes, roots: tuple[str, ...]) -> bool:
    """Whether a process is of the run. Ray's workers overwrite their environment with a title, so files count too."""
    place = Path(f"/proc/{process.pid}")
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if marked in (place / "environ").read_bytes():
            return True
        links = [place / "cwd", *(place / "fd").iterdir()]
    except (OSError, psutil.Error):
        return False
    for link in links:
        with suppress(OSError):
            if str(link.readlink()).startswith(roots):
                return True
    return False


@contextmanager
def world(seed: int) -> Iterator[World]:
    """Start everything, and end it."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        moto = stack.enter_context(_moto())
        endpoint = Endpoint(moto, folder, seed)
        stack.callback(endpoint.kill)
        disk = stack.enter_context(_disk(folder / "disk"))
        cluster = stack.enter_context(empty_cluster())
        made = World(folder, moto, endpoint, ClusterNodes(cluster), disk)
        stack.callback(made.end_processes)
        cluster.environment = made.environment("s3") | _cluster_only(cluster.environment)
        endpoint.start()
        stack.callback(made.tracker.kill)
        made.tracker.start()
        made.nodes.start()
        end = threading.Event()
        keeper = threading.Thread(target=made.nodes.keep_up, args=[end], name="keep-up")
        keeper.start()
        stack.callback(keeper.join)
        stack.callback(end.set)
        yield made


def _cluster_only(environment: Mapping[str, str]) -> dict[str, str]:
    names = ("RAY_", "TMPDIR", "OMP_")
    return {name: value for name, value in environment.items() if name.startswith(names)}


@contextmanager
def _moto() -> Iterator[str]:
    """A moto server with an empty bucket, which is never disturbed: it keeps its objects in memory."""
    import boto3

    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_REGION"):
        os.environ.pop(name, None)
    os.environ |= CREDENTIALS
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_http(f"{url}/moto-api/", process, timeout_s=300)
        client = boto3.client("s3", endpoint_url=url)
        client.create_bucket(Bucket="chaos")
        client.close()
        yield url
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _disk(folder: Path) -> Iterator[Disk]:
    """A small filesystem in memory, where mounting is allowed; else a plain folder that is never filled."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", f"chaos-{uuid.uuid4().hex[:8]}", str(folder)]
    is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield Disk(folder, is_mounted)
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
