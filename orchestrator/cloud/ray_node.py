"""Run Ray on one machine of a deployment that has several, until the deployment is over. Runs on that machine.

    python -m orchestrator.cloud.ray_node FOLDER STORAGE NAME head|worker MACHINE

Ray's head announces its address in a file of the folder; on a worker the client has written that file. Both read the
cluster's token from another file there. A worker that has lost its head tries to join again. The record tells when the
deployment is over: a worker then ends by itself, and runs the user's command that ends the machine.
"""

from __future__ import annotations

import ctypes
import ipaddress
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import psutil

from orchestrator.cloud import deployments, launch_file, processes
from orchestrator.cloud.backend import CloudError, Deployment
from orchestrator.errors import ClusterError
from orchestrator.execution.ray_cluster import LOCAL, START_ATTEMPTS
from orchestrator.execution.scratch import remove_scratch_folder, scratch_folder
from orchestrator.resources.local_gpus import label_of, local_gpus
from orchestrator.resources.nodes import GPU_LABEL, MARKET_LABEL, parse_address, require_answer
from orchestrator.storage import Storage, StorageError, open_storage
from trm_data.files import write_atomic

logger = logging.getLogger(__name__)

ADDRESS_FILE, TOKEN_FILE = "ray-address", "ray-token"
WORKER_PORTS = range(10000, 20001)
"""Ports that Ray keeps for its worker processes, and that its head cannot listen on."""
POLL_S = 10.0
RETRY_S = 3.0
"""Seconds between attempts to start Ray."""
JOINED_S = 90.0
"""Time after which a process of Ray that still runs has joined the cluster: an attempt to join takes up to 60 s."""
END_S = 15.0
"""Seconds that Ray has to end by itself."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def make_token(folder: Path) -> None:
    """Write a new token that only this user can read, unless the folder has one."""
    with suppress(FileExistsError):
        descriptor = os.open(folder / TOKEN_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))


def environment(folder: Path) -> dict[str, str]:
    """Return the variables with which a process may use the cluster. They name the token's file, not the token."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / TOKEN_FILE)}


def read_address(folder: Path) -> str | None:
    """Return HOST:PORT of Ray's head; None as long as it is not known."""
    try:
        return (folder / ADDRESS_FILE).read_text().strip() or None
    except FileNotFoundError:
        return None


def own_address(network: str | None = None) -> str:
    """Return the address of this machine on the interface that leads outwards; the loopback's without one.

    Args:
        network: that the address must be in, instead: 10.0.0.0/24.

    Raises:
        CloudError: no address of this machine is in that network.
    """
    if network is not None:
        return _address_in(network)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: this only asks for the route
            address: str = probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"
    return address


def _address_in(network: str) -> str:
    entries = [entry for found in psutil.net_if_addrs().values() for entry in found]
    known = [str(each.address) for each in entries if each.family in (socket.AF_INET, socket.AF_INET6)]
    known = [address for address in known if "%" not in address]  # only valid on one interface
    wanted = ipaddress.ip_network(network, strict=False)
    for address in known:
        if ipaddress.ip_address(address) in wanted:
            return address
    raise CloudError(f"no address of this machine is in {network}: it has {', '.join(known)}", "Change --network")


def free_port() -> int:
    """Return a port that nothing listens on and that Ray does not keep for its workers."""
    while True:
        with socket.socket() as probe:
            probe.bind(("", 0))
            port: int = probe.getsockname()[1]
        if port not in WORKER_PORTS:
            return port


@dataclass(slots=True)
class RayNode:
    """Run `ray start` and watch it. `folder` is that of the deployment on this machine."""

    folder: Path
    storage: Storage
    name: str
    is_head: bool
    machine: str
    """Name of this machine in the record, under which Ray announces it."""
    told: launch_file.LaunchFile
    """What the user has said; nothing of it comes from the record, which others may write."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _stopped: bool = field(default=False, init=False)

    def run(self) -> str:
        """Keep Ray running until the deployment is over, this process is told to end, or trying makes no more sense.

        Returns:
            Why it has ended.
        """
        try:
            why, is_own_end = self._keep_running()
        finally:
            remove_scratch_folder()
        if self.told.end_command and is_own_end and not self.is_head:  # the timer ends the head
            processes.run_command(self.told.end_command, self.folder)
        return why

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """End Ray soon; the handler of SIGTERM."""
        self._stopped = True

    def _keep_running(self) -> tuple[str, bool]:
        """Return why Ray ends, and whether this machine is of no use from then on."""
        alive_s, attempts = self.clock(), 0
        while True:
            began_s, attempts = self.clock(), attempts + 1
            ended = self._run_once()
            if self._stopped:
                return "told to end", False
            record = self._record()
            if ended:
                return ended, record is not None and record.state == "ended"
            now_s = self.clock()
            if now_s - began_s > JOINED_S:
                alive_s, attempts = now_s, 0
            if self.is_head and (attempts == 0 or attempts >= START_ATTEMPTS):
                return "Ray's head has ended", False
            idle_minutes = self.told.limits.idle_minutes
            if not self.is_head and now_s - alive_s > idle_minutes * 60:
                return f"Ray's head has not been reached for {idle_minutes:g} min", True
            self._wait(RETRY_S)

    def _run_once(self) -> str:
        """Run Ray until it ends by itself, or must end. Return why it must; an empty string in the first case."""
        try:
            if not self.is_head:  # Ray itself would try for minutes
                require_answer(read_address(self.folder) or "")
        except ClusterError as error:
            logger.warning("error: %s", error.what)
            return ""
        words = self.words()
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        own |= environment(self.folder) | {"RAY_enable_worker_prestart": "0"}
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, env=own, preexec_fn=_end_with_parent)
        try:
            polled_s = self.clock()
            while process.poll() is None:
                if self._stopped:
                    return "told to end"
                if self.clock() - polled_s >= POLL_S:
                    polled_s, record = self.clock(), self._record()
                    if record is not None and record.state in deployments.OVER:
                        return f"the deployment is over: {record.ended_why}"
                self._wait(0.5)
            logger.warning("Ray has ended with %d", process.returncode)
            return ""
        finally:
            _end_family(process)

    def words(self) -> list[str]:
        """Return the command that starts Ray. The head's address is chosen here and announced."""
        address = self._choose_address() if self.is_head else read_address(self.folder)
        if address is None:
            raise CloudError(f"{self.folder / ADDRESS_FILE} is missing", "Repeat `trm cloud submit`, which writes it")
        host, port = parse_address(address)
        role = [f"--address={address}"]
        if self.told.network is not None:
            role.append(f"--node-ip-address={own_address(self.told.network)}")
        if self.is_head:
            role = ["--head", f"--node-ip-address={host}", f"--port={port}", "--include-dashboard=false"]
            role.append(f"--ray-client-server-port={free_port()}")  # the default may belong to another Ray
        gpus = local_gpus()
        market = next((each.market for each in self.told.machines if each.name == self.machine), None)
        labels: dict[str, str] = {} if market is None else {MARKET_LABEL: market}
        if label := label_of(gpus):
            labels[GPU_LABEL] = label
        return [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--log-color=false", *role),
            *(f"--node-name={self.machine}", f"--num-gpus={len(gpus)}", "--disable-usage-stats"),
            *(f"--object-store-memory={LOCAL['object_store_memory']}", f"--temp-dir={scratch_folder() / 'ray'}"),
            *(["--labels=" + ",".join(f"{key}={value}" for key, value in labels.items())] if labels else []),
        ]

    def _choose_address(self) -> str:
        """Return the head's address: the one it had if that is free, so that its workers find it again."""
        known, host = read_address(self.folder), own_address(self.told.network)
        if known is not None and known.startswith(f"{host}:"):
            with socket.socket() as probe, suppress(OSError):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(parse_address(known))
                return known
        address = f"{host}:{free_port()}"
        write_atomic(self.folder / ADDRESS_FILE, address.encode())
        return address

    def _record(self) -> Deployment | None:
        """Return the record; None if it cannot be read now, which says nothing about the deployment."""
        try:
            return deployments.find(self.storage, self.name)
        except StorageError as error:
            logger.warning("storage is unavailable: %s", error)
            return None

    def _wait(self, seconds: float) -> None:
        """Sleep, in steps after which a signal is noticed."""
        until_s = self.clock() + seconds
        while not self._stopped and self.clock() < until_s:
            self.sleep(0.5)


def _end_family(process: subprocess.Popen[bytes]) -> None:
    """End a process and all below it; return when none is left. Some of Ray's end only a while after its raylet."""
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(family, timeout=END_S / 3)
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def _end_with_parent() -> None:
    """Request that the kernel ends this process when its parent dies, even by SIGKILL."""
    with suppress(AttributeError):  # only Linux can do this
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main(arguments: Sequence[str]) -> int:
    """Run Ray on the machine that the arguments name."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder, url, name, role, machine = arguments
    told = launch_file.load(Path(folder))
    storage = open_storage(url, attempts=1, patience_s=0)  # the next poll tries again, and a signal must not wait
    node = RayNode(Path(folder), storage, name, role == "head", machine, told)
    signal.signal(signal.SIGTERM, node.stop)
    logger.info("%s", node.run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
