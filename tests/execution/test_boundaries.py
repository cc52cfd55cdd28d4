"""What a driver needs from outside and does not get: file systems, clusters, a Ray that starts."""

from __future__ import annotations

import http.server
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from orchestrator.errors import ClusterError
from orchestrator.execution import ray_cluster, scratch
from orchestrator.execution.ray_cluster import RayCluster, check_cluster
from orchestrator.resources import nodes
from orchestrator.storage import StorageError
from orchestrator.storage.mounts import file_system, refuse_network_database
from tests.support.commands import call
from tests.support.sweeps import TINY, set_options

MOUNTS = """
/dev/sda1 / ext4 rw 0 0
server:/export /shared nfs4 rw 0 0
server:/with\\040space /shared/my\\040data nfs rw 0 0
/dev/sdb1 /shared/scratch xfs rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/home/me", "ext4"), ("/shared/runs/new", "nfs4"), ("/shared/scratch/x", "xfs"), ("/shared/my data/x", "nfs")],
)
def test_the_file_system_of_a_path_is_that_of_its_nearest_mount(path: str, kind: str) -> None:
    assert file_system(Path(path), MOUNTS) == kind


@pytest.mark.parametrize(
    "uri", ["sqlite:////shared/runs/mlflow.db", "journal:////shared/study.log", "/shared/study.log"]
)
def test_a_database_file_on_nfs_is_refused(uri: str) -> None:
    with pytest.raises(StorageError, match=r"lies on a network file system \(nfs4\).*--tracking"):
        refuse_network_database(uri, MOUNTS)


@pytest.mark.parametrize(
    "uri", ["sqlite:////shared/scratch/mlflow.db", "http://tracker:5000", "postgresql://h/shared", "sqlite:///here.db"]
)
def test_a_local_file_and_a_server_are_not(uri: str) -> None:
    refuse_network_database(uri, MOUNTS)


def test_a_sweep_whose_tracker_would_lie_on_nfs_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/export {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr("orchestrator.storage.mounts.MOUNTS", mounts)
    sets = set_options(TINY)
    command = ["sweep", "run", "--recipe", "sudoku-mini", "--vary", "T=1", *sets, "--storage", str(tmp_path / "runs")]
    code, _, err = call(capsys, *command)
    assert code == 2 and "network file system" in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("version", "python"), [("2.50.0", platform.python_version()), ("", "3.8.1")])
def test_another_version_on_the_cluster_is_named_with_both_and_the_remedy(
    version: str, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "describe_cluster", lambda address: nodes.Cluster([], version, python))
    with pytest.raises(ClusterError, match=r"at h:1 runs (Ray 2\.50\.0|Python 3\.8\.1), this machine .*Install"):
        check_cluster("h:1")


@pytest.mark.parametrize("metadata", [None, b'{"ray_version": "2.60.0", "python_version": "3.12.1"}'])
def test_a_cluster_is_described_whether_or_not_it_has_written_its_versions(
    metadata: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head writes them a moment after it answers."""

    class Gcs:
        def __init__(self, address: str) -> None: ...

        def get_all_node_info(self, timeout: float) -> dict[str, Any]:
            return {}

        def internal_kv_get(self, *key: bytes, timeout: float) -> bytes | None:
            return metadata

    monkeypatch.setattr("ray._raylet.GcsClient", Gcs)
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = nodes.describe_cluster(f"127.0.0.1:{server.getsockname()[1]}")
    assert found == nodes.Cluster([], *(("2.60.0", "3.12.1") if metadata else ("", "")))


def test_address_of_another_server_is_refused_at_once_and_names_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's client would try for 40 s, and then ask for a token."""
    monkeypatch.setattr("ray._raylet.GcsClient", lambda address: pytest.fail("Ray's client is asked"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ClusterError, match=r"is not the port of a Ray head.*dashboard's \(8265\)"):
            nodes.describe_cluster(f"127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--storage", "s3://bucket/x?endpoint_override=http://127.0.0.1:1"], "cannot be reached"),
        (["--max-usd", "0"], "error: --max-usd 0: input should be greater than 0. Leave it out for no limit"),
        (["--max-trials", "0"], "max-trials"),
        (["--prefer", "speed"], "input should be 'cost' or 'time'"),
        (["--max-hours", "1e-12"], "too small for one trial"),
    ],
)
def test_a_sweep_that_cannot_run_here_says_why_in_one_line(
    options: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "testing")
    where = [] if "--storage" in options else ["--storage", str(tmp_path / "runs")]
    sets = set_options(TINY)
    code, _, err = call(
        capsys,
        "sweep",
        "run",
        "--recipe",
        "sudoku-mini",
        "--vary",
        "T=1",
        *sets,
        "--tracking",
        "none",
        *where,
        *options,
    )
    assert code == (3 if words == "cannot be reached" else 2) and words in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("failures", "is_started"), [(ray_cluster.START_ATTEMPTS - 1, True), (ray_cluster.START_ATTEMPTS, False)]
)
def test_a_private_ray_that_does_not_start_in_time_is_tried_again_twice(
    failures: int, is_started: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[Any] = []

    def init(*arguments: Any, **options: Any) -> None:
        starts.append(options)
        if len(starts) <= failures:
            raise Exception("The current node timed out during startup")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    cluster = RayCluster(None)
    if is_started:
        cluster.start()
        cluster.shutdown()
    else:
        with pytest.raises(ClusterError, match="does not start on this machine after"):
            cluster.start()
    assert len(starts) == ray_cluster.START_ATTEMPTS
    assert "RAY_AUTH_TOKEN" not in os.environ, "what a failed start has set is taken back"


def test_every_private_ray_has_another_token(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: list[str] = []
    monkeypatch.setattr(ray, "init", lambda *_, **__: tokens.append(os.environ["RAY_AUTH_TOKEN"]))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    for _ in range(2):
        cluster = RayCluster(None)
        cluster.start()
        cluster.shutdown()
    assert len(tokens[0]) == 64 and tokens[0] != tokens[1]


def test_stopped_processes_of_a_private_ray_are_found_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", lambda *_, **__: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    other = subprocess.Popen(["sleep", "600"])
    cluster = RayCluster(None)
    cluster.start()
    own = subprocess.Popen(["sleep", "600"])  # it inherits the token, as Ray and all trials do
    try:
        assert cluster.stopped() == {}
        for process in (own, other):
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert cluster.stopped() == {own.pid: "sleep"}
        own.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, own.pid, os.WCONTINUED)
        assert cluster.stopped() == {}
    finally:
        cluster.shutdown()
        for process in (own, other):
            process.kill()
            process.wait()


def test_a_driver_that_ends_with_its_ray_leaves_other_children_of_its_program_alone() -> None:
    code = """
import os, subprocess, ray
from orchestrator.execution.ray_processes import end_at_once
raylet = os.path.join(os.path.dirname(ray.__file__), "core", "raylet")
for name in (raylet, "sleep"):  # a stand-in with the command line of a raylet, which has a child of its own
    shell = 'sleep 600 & echo $!; wait' if name == raylet else 'exec sleep 600'
    child = subprocess.Popen([name, "-c", shell], executable="/bin/sh", stdout=subprocess.PIPE, text=True)
    print(child.pid, child.stdout.readline().strip() if name == raylet else "", flush=True)
end_at_once()
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    raylet, its_child, other = map(int, done.stdout.split())
    try:
        assert done.returncode == 3 and psutil.pid_exists(other)
        psutil.wait_procs([psutil.Process(pid) for pid in (raylet, its_child) if psutil.pid_exists(pid)], timeout=60)
        assert not any(_runs(pid) for pid in (raylet, its_child))
    finally:
        os.kill(other, signal.SIGKILL)


AFTER_ANOTHER_RAY = """
import logging, subprocess, sys, time
import psutil, ray
from orchestrator.execution import ray_cluster
logging.basicConfig()
ray_cluster.NOTICE_S = 0.5
def start():
    return subprocess.Popen([sys.argv[1], "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
def init(*_, **__):
    earlier.kill()
    own = start()
    time.sleep(0.6 + 2 * ray_cluster.POLL_S)
    if sys.argv[2] == "dies":
        own.kill()
        time.sleep(30)
ray.init, ray.shutdown = init, lambda: None
earlier = start()
cluster = ray_cluster.RayCluster(None)
cluster.start()
print(repr(cluster.failure()), flush=True)
[process.kill() for process in psutil.Process().children()]
"""


@pytest.mark.parametrize("fate", ["lives", "dies"])
def test_end_of_an_earlier_ray_of_a_program_is_not_taken_for_that_of_the_new_one(fate: str, tmp_path: Path) -> None:
    raylet = tmp_path / "raylet"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", raylet)
    command = [sys.executable, "-c", AFTER_ANOTHER_RAY, str(raylet), fate]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == ((0, "''\n") if fate == "lives" else (3, "")), done.stderr
    assert ("Ray's raylet on this machine has died while it started" in done.stderr) == (fate == "dies")


def test_head_that_is_away_for_a_moment_while_a_driver_joins_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]

    def join(_: str) -> None:
        server.close()
        time.sleep((ray_cluster.MISSED_ANSWERS + 1) * ray_cluster.POLL_S)
        back.append(socket.create_server(("127.0.0.1", port)))
        time.sleep(ray_cluster.JOIN_NOTICE_S + 1)

    back: list[socket.socket] = []
    monkeypatch.setattr(ray_cluster, "JOIN_NOTICE_S", 2.0)
    monkeypatch.setattr(ray_cluster, "check_cluster", lambda _: None)
    monkeypatch.setattr(ray_cluster, "_join", join)
    monkeypatch.setattr(ray_cluster, "end_at_once", lambda: ended.append(True))
    ended: list[bool] = []
    cluster = RayCluster(f"127.0.0.1:{port}")
    cluster.start()
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    cluster.shutdown()
    back[0].close()
    assert not ended


def test_process_whose_ray_was_abandoned_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by a further call, nor by a thread of Tune that calls Ray: it would be one with default settings."""
    from ray._private import auto_init_hook

    starts: list[Any] = []
    monkeypatch.setattr(ray, "init", lambda *words, **_: starts.append(words))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_cluster, "_parts_left", False)
    monkeypatch.setattr(auto_init_hook, "enable_auto_connect", True)
    cluster = RayCluster(None)
    cluster.start()
    auto_init_hook.auto_init_ray()
    cluster.shutdown()
    assert starts == [("local",)] and auto_init_hook.enable_auto_connect, "it is the user's own again"
    cluster.start()
    cluster.shutdown(is_abandoned=True)
    auto_init_hook.auto_init_ray()
    with pytest.raises(ClusterError, match=r"has died in this process.*restart the kernel"):
        RayCluster(None).start()
    assert starts == [("local",)] * 2


def test_ray_that_has_died_is_not_left_while_tune_may_still_call_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray ends the process of a thread that calls it after its shutdown, with exit code 1."""
    is_left, is_over = threading.Event(), threading.Event()
    monkeypatch.setattr(ray, "init", lambda *_, **__: None)
    monkeypatch.setattr(ray, "shutdown", is_left.set)
    monkeypatch.setattr(ray_cluster, "_parts_left", False)
    cluster = RayCluster(None)
    cluster.start()
    thread = threading.Thread(target=is_over.wait, name=ray_cluster.TUNE_THREAD, daemon=True)
    thread.start()
    assert not cluster.shutdown(0.5, is_abandoned=True) and not is_left.is_set()
    is_over.set()
    assert is_left.wait(60)


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_private_ray_is_started_on_loopback_in_a_folder_of_the_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`test_private_sweep.py` looks at the sockets of a real one. Ray sets the mode of its own folder to 0777."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    modes: list[int] = []

    def init(*_: Any, **options: Any) -> None:
        assert ray_constants.ENABLE_RAY_CLUSTER is False, "Ray replaces 127.0.0.1 by the address of the machine"
        modes.append(Path(options["_temp_dir"]).parent.stat().st_mode & 0o777)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    cluster = RayCluster(None)
    cluster.start()
    cluster.shutdown()
    assert modes == [0o700] and before == ray_constants.ENABLE_RAY_CLUSTER


def test_tune_copies_no_secret_to_the_command_lines_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.tune.execution import class_cache

    before = set(class_cache.ENV_VARS_TO_PROPAGATE)
    copied: list[set[str]] = []
    monkeypatch.setattr(ray, "init", lambda *_, **__: copied.append(set(class_cache.ENV_VARS_TO_PROPAGATE)))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    cluster = RayCluster(None)
    cluster.start()
    cluster.shutdown()
    assert "AWS_SECRET_ACCESS_KEY" in before and copied[0] and "AWS_SECRET_ACCESS_KEY" not in copied[0]
    assert set(class_cache.ENV_VARS_TO_PROPAGATE) == before


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
@pytest.mark.parametrize("is_reaped", [True, False])
def test_the_death_of_a_process_of_a_private_ray_is_noticed(
    name: str, is_reaped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: dict[str, subprocess.Popen[bytes]] = {}

    def init(*_: Any, **__: Any) -> None:
        for each in ("raylet", "gcs_server"):
            program = tmp_path / each
            shutil.copy2(Path("/bin/sleep").resolve(), program)
            children[each] = subprocess.Popen([program, "600"])

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    cluster = RayCluster(None)
    cluster.start()
    try:
        assert cluster.failure() == ""
        children[name].kill()
        if is_reaped:
            children[name].wait()
        else:
            while psutil.Process(children[name].pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
        assert cluster.failure() == f"Ray's {name} on this machine has died"
    finally:
        cluster.shutdown()
        for child in children.values():
            child.kill()
            child.wait()


def test_a_cluster_is_lost_after_three_answers_are_missing_in_a_row() -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        cluster = RayCluster(f"127.0.0.1:{head.getsockname()[1]}")
        assert cluster.failure() == ""
    assert [bool(cluster.failure()) for _ in range(3)] == [False, False, True]
    assert "no longer answers" in cluster.failure()


def test_a_token_file_that_others_may_read_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(ray_cluster, "describe_cluster", lambda address: nodes.Cluster([], "", ""))
    (tmp_path / ".ray").mkdir()
    token = tmp_path / ".ray" / "auth_token"
    token.write_text("secret")
    token.chmod(0o644)
    check_cluster("h:1")
    assert token.stat().st_mode & 0o777 == 0o600
    assert "RAY_AUTH_MODE" not in os.environ


def test_temporary_files_lie_in_a_private_folder_and_those_of_dead_processes_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where tmp_path is too long for the sockets of Ray, all processes of the user share the parent folder.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = scratch.scratch_folder()
    assert own.stat().st_mode & 0o777 == own.parents[1].stat().st_mode & 0o777 == 0o700
    left = [own.parent / "999999999-1", own.parent / f"{os.getpid()}-1"]  # the second: another process had this PID
    other = own.parent / f"another-{os.getpid()}"
    try:
        for folder in (*left, other):
            folder.mkdir(exist_ok=True)
        assert scratch.scratch_folder() == own
        assert not any(folder.exists() for folder in left)
        assert other.exists()
    finally:
        for folder in (*left, other):
            shutil.rmtree(folder, ignore_errors=True)
    assert own.exists()
    scratch.remove_scratch_folder()
    assert not own.exists()
