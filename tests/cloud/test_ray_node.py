"""The process that runs Ray on one machine of several: when it ends, what it tries again, and what it runs last."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchestrator.cloud import deployments, head, launch_file, processes, ray_node
from orchestrator.cloud.backend import Deployment, Limits, Machine, Options
from orchestrator.cloud.launch_file import LaunchFile
from orchestrator.cloud.ray_node import RayNode
from orchestrator.storage import Storage, open_storage
from trm_data.errors import ConfigError

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A storage with the record of a deployment; time between polls is short."""
    monkeypatch.setattr(ray_node, "POLL_S", 0.1)
    monkeypatch.setattr(ray_node, "RETRY_S", 0.1)
    storage = open_storage(str(tmp_path / "runs"))
    machine = Machine(name="b", gpu=None, market="spot", up_s=1.0)
    plain = {"name": "s", "backend": "ssh", "storage": storage.url, "created_s": 1.0, "state": "submitted"}
    record = Deployment(**plain, machines=(machine,), limits=Limits(idle_minutes=0.001))
    deployments.save(storage, record)
    launch_file.save(tmp_path, LaunchFile.of(record, "echo off > ended"))
    return storage


def tell(folder: Path, **changes: object) -> None:
    """Change what the user's command has written onto the machine."""
    launch_file.save(folder, launch_file.load(folder).model_copy(update=changes))


def node(storage: Storage, folder: Path, *, is_head: bool = False) -> RayNode:
    return RayNode(folder, storage, "s", is_head, "b", launch_file.load(folder))


def starts(monkeypatch: pytest.MonkeyPatch, *commands: list[str]) -> list[list[str]]:
    """Let a node start these commands in turn in place of Ray, the last one ever after. Return what it started."""
    left, started = list(commands), []

    def words(_: RayNode) -> list[str]:
        started.append(left.pop(0) if len(left) > 1 else left[0])
        return started[-1]

    monkeypatch.setattr(RayNode, "words", words)
    monkeypatch.setattr(ray_node, "require_answer", lambda address: None)
    return started


def close(storage: Storage, state: str) -> None:
    deployments.change(storage, "s", lambda record: record.model_copy(update={"state": state}))


@pytest.mark.parametrize(("state", "is_ended"), [("ended", True), ("down", False)])
def test_worker_ends_with_the_record_and_then_its_machine_unless_somebody_ended_it(
    state: str, is_ended: bool, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(tmp_path, limits=Limits(idle_minutes=60))  # the machine may be busy until the record is closed
    started = starts(monkeypatch, SLEEP)
    before = psutil.Process().children()  # servers of other tests
    closing = threading.Timer(0.5, close, (storage, state))
    closing.start()
    assert "deployment is over" in node(storage, tmp_path).run()
    closing.join()
    assert started == [SLEEP] and set(psutil.Process().children()) <= set(before)
    assert (tmp_path / "ended").exists() == is_ended


def test_worker_that_loses_its_head_tries_again_until_the_idle_time_is_over(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_node, "JOINED_S", 0.0)
    started = starts(monkeypatch, ["true"], ["true"], SLEEP)
    closing = threading.Thread(target=lambda: (_wait_for(lambda: len(started) == 3), close(storage, "down")))
    closing.start()
    assert "deployment is over" in node(storage, tmp_path).run()
    closing.join()
    assert len(started) == 3

    monkeypatch.setattr(ray_node, "JOINED_S", 90.0)
    close(storage, "submitted")
    starts(monkeypatch, ["false"])
    assert "has not been reached" in node(storage, tmp_path).run()
    assert (tmp_path / "ended").exists()


def test_worker_starts_no_ray_while_its_head_does_not_answer(
    storage: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        (tmp_path / ray_node.ADDRESS_FILE).write_text(address)
        assert "has not been reached" in node(storage, tmp_path).run()
    assert f"no Ray cluster answers at {address}" in caplog.text


def _wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)


def test_head_that_does_not_start_is_tried_a_few_times(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = starts(monkeypatch, ["false"])
    assert node(storage, tmp_path, is_head=True).run() == "Ray's head has ended"
    assert len(started) == ray_node.START_ATTEMPTS
    assert not (tmp_path / "ended").exists(), "the timer ends the machine of the head"


def test_head_announces_one_address_and_keeps_it(storage: Storage, tmp_path: Path) -> None:
    first = node(storage, tmp_path, is_head=True).words()
    address = ray_node.read_address(tmp_path)
    assert address is not None
    host, _, port = address.rpartition(":")
    assert f"--port={port}" in first and f"--node-ip-address={host}" in first
    assert int(port) not in ray_node.WORKER_PORTS
    node(storage, tmp_path, is_head=True).words()
    assert ray_node.read_address(tmp_path) == address
    worker = node(storage, tmp_path).words()
    assert f"--address={address}" in worker and "--node-name=b" in worker
    assert any(word.startswith("--labels=") and "ray.io/market-type=spot" in word for word in worker)
    sockets = next(word for word in worker if word.startswith("--temp-dir="))
    assert len(sockets) - len("--temp-dir=") < 45


def test_named_network_decides_by_which_address_machines_reach_each_other(storage: Storage, tmp_path: Path) -> None:
    tell(tmp_path, network="127.0.0.0/8")
    assert "--node-ip-address=127.0.0.1" in node(storage, tmp_path, is_head=True).words()
    assert (ray_node.read_address(tmp_path) or "").startswith("127.0.0.1:")
    assert "--node-ip-address=127.0.0.1" in node(storage, tmp_path).words()


@pytest.mark.parametrize("verb", ["token", "reach"])
def test_machine_without_an_address_in_the_network_is_one_line(
    verb: str, storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tell(tmp_path, network="203.0.113.0/24")
    assert head.main([verb, str(tmp_path), storage.url, "s"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "no address of this machine is in 203.0.113.0/24: it has " in line and "--network" in line
    with pytest.raises(ConfigError, match=r"network.*write it like 10\.0\.0\.0/24"):
        Options.parse({"network": "here"}, where="options")


def test_token_is_made_once_and_readable_by_its_user_alone(storage: Storage, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert head.main(["token", str(tmp_path), storage.url, "s"]) == 0
    finally:
        os.umask(before)
    file = tmp_path / ray_node.TOKEN_FILE
    token = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600 and len(token) == 64
    assert head.main(["token", str(tmp_path), storage.url, "s"]) == 0 and file.read_text() == token
    assert token not in str(ray_node.environment(tmp_path))


def test_process_that_is_killed_takes_its_children_along(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    )
    processes.start(tmp_path, processes.RAY, [sys.executable, "-c", code])
    log = tmp_path / "ray.log"
    while not log.read_text().endswith("\n"):
        time.sleep(0.05)
    child = psutil.Process(int(log.read_text()))
    assert processes.end(tmp_path, processes.RAY, 0.5)
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_ray_ends_with_the_process_that_runs_it_even_if_that_is_killed(storage: Storage, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from orchestrator.cloud import ray_node\n"
        "from orchestrator.storage import open_storage\n"
        "ray_node.RayNode.words = lambda node: ['sh', '-c', 'echo $$ > child; exec sleep 600']\n"
        "ray_node.require_answer = lambda address: None\n"
        "ray_node.main([sys.argv[1], sys.argv[2], 's', 'worker', 'b'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path), storage.url]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        file = tmp_path / "child"
        while not (file.exists() and file.read_text().endswith("\n")):
            assert process.poll() is None
            time.sleep(0.05)
        child = psutil.Process(int(file.read_text()))
        process.kill()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
