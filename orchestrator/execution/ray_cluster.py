"""Start a private Ray on this machine, or join a running cluster by its address, and notice when it goes down."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil

from orchestrator.errors import ClusterError
from orchestrator.execution.ray_interfaces import (
    in_sessions_of_their_own,
    keep_reports_in_the_log,
    keep_secrets_off_command_lines,
    leave_sigterm_alone,
    listen_on_loopback,
    reload_token,
    start_no_other_ray,
)
from orchestrator.execution.ray_processes import RayProcesses, end_at_once, end_autoscaler
from orchestrator.execution.scratch import remove_scratch_folder, scratch_folder
from orchestrator.resources.local_gpus import LocalGpu, label_of
from orchestrator.resources.nodes import GPU_LABEL, Cluster, describe_cluster, require_answer, scales
from orchestrator.worker.processes import next_process
from trm_data.errors import first_line

logger = logging.getLogger(__name__)

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # records hold the results: no CSV, JSON or TensorBoard as well
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own snapshots cost O(trials) each and are never read
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a lost node need not be printed: the driver requeues its trials
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver stops by itself, on SIGTERM too
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # the folder is deleted with Ray's session, which a trial may outlive by a moment
    "RAY_enable_worker_prestart": "0",  # a process per core that no actor would use, at the busiest moment
    "RAY_prestart_worker_first_driver": "0",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # it turns SIGTERM into an abort
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}
"""Environment variables that Ray reads in this process; it has no other interface for them."""

LOCAL: dict[str, Any] = {
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": "ERROR",
    "object_store_memory": 128 * 2**20,  # trials hand over small dictionaries; Ray's default is a third of the memory
}
"""Arguments of `ray.init` for a private Ray."""

START_ATTEMPTS = 5
"""Ray gives itself 30 s to start, which a busy machine may exceed; the next attempt finds its files cached."""
MISSED_ANSWERS = 3
"""Times in a row that a cluster's head may leave unanswered before it counts as lost."""
SHUTDOWN_S = 30.0
POLL_S = 0.5
NOTICE_S = 5.0
"""Seconds that Ray has to report a death during its start, before this process ends."""
JOIN_NOTICE_S = 30.0
"""The same for a cluster, whose head may be back within this time."""
TUNE_THREAD = "tune"
"""Name of the thread in which Ray Tune runs."""
TUNE_END_S = 30.0
"""Longest wait for it once Ray has died."""
TOKEN_FILE = Path(".ray") / "auth_token"
"""Below the home folder: where Ray looks for the token of a cluster."""


_parts_left = False
"""Whether a Ray has died in this process while threads of Ray Tune waited for it."""


class RayCluster:
    """Manage the Ray that a run uses: a running cluster, or a private Ray on this machine.

    Args:
        address: HOST:PORT of a running cluster; None for a private Ray.
        gpus: GPUs of this machine that a private Ray offers to trials; None for no GPU.
    """

    def __init__(self, address: str | None, gpus: Sequence[LocalGpu] | None = None) -> None:
        self.address = address
        self._gpus = gpus or ()
        self._stack = ExitStack()
        self._until_end = ExitStack()
        """What stays in force where a part of Ray lives on in this process."""
        self._processes = RayProcesses()
        self._token: dict[str, str] = {}
        self._missed = 0

    def start(self) -> None:
        """Start a private Ray, or join the cluster.

        Raises:
            ClusterError: Ray does not start, nothing answers there, it refuses the token, its versions differ, or a Ray
                has died in this process before.
        """
        if _parts_left:
            raise ClusterError(
                "Ray has died in this process, and parts of it still run",
                "Run the same call in a new process. In a notebook, restart the kernel",
            )
        self._until_end.enter_context(start_no_other_ray())
        self._stack.callback(remove_scratch_folder)
        self._stack.enter_context(environment(SETTINGS, override=False))
        self._stack.enter_context(keep_secrets_off_command_lines())
        self._stack.enter_context(leave_sigterm_alone())
        try:
            if self.address is None:
                self._start_private()
            else:
                self._stack.enter_context(environment(_authentication(), override=False))
                reload_token()
                check_cluster(self.address)
                with self._ending_if_it_dies():
                    _join(self.address)
        except BaseException:
            self._stack.close()
            self._until_end.close()
            raise

    def shutdown(self, limit_s: float = SHUTDOWN_S, *, is_abandoned: bool = False) -> bool:
        """Leave Ray, and end it if it is private. Return whether that succeeded within the limit, in seconds.

        Args:
            is_abandoned: Ray has died, and threads of Ray Tune may still wait for it. No further Ray is started in this
                process.
        """
        global _parts_left
        import ray

        def end() -> None:
            if is_abandoned:  # Ray ends the process of a thread that calls it after its shutdown
                _await_tune()
            ray.shutdown()

        # Without its raylet, ray.shutdown may wait forever.
        thread = threading.Thread(target=end, name="ray-shutdown", daemon=True)
        thread.start()
        thread.join(limit_s)
        self._stack.close()
        if is_abandoned:
            _parts_left = True
        else:
            self._until_end.close()
        return not thread.is_alive()

    def nodes(self) -> list[dict[str, Any]]:
        """Return `ray.nodes()`."""
        import ray

        found: list[dict[str, Any]] = ray.nodes()
        return found

    def resources(self) -> dict[str, float]:
        """Return `ray.cluster_resources()`."""
        import ray

        found: dict[str, float] = ray.cluster_resources()
        return found

    def scales(self) -> bool:
        """Return whether an autoscaler starts nodes on demand."""
        return self.address is not None and scales()

    def preloaded(self) -> AbstractContextManager[Any]:
        """Import torch for all trials of this machine while a private Ray starts its first workers."""
        return closing(next_process(is_quiet=True)) if self.address is None else nullcontext()

    def failure(self) -> str:
        """Return why Ray can no longer be used; an empty string while it works. Poll it every few seconds."""
        if self.address is None:
            dead = self._processes.dead()
            return f"Ray's {dead} on this machine has died" if dead else ""
        try:
            require_answer(self.address)
        except ClusterError:
            self._missed += 1
        else:
            self._missed = 0
        return f"the Ray cluster at {self.address} no longer answers" if self._missed >= MISSED_ANSWERS else ""

    def stopped(self) -> dict[int, str]:
        """Return the processes of a private Ray and its trials that a signal or a debugger has stopped: PID and name.

        Trials do not descend from this process. What all have is its token in their environment.
        """
        token, found = self._token["RAY_AUTH_TOKEN"] if self._token else None, {}
        for pid in psutil.pids() if token else ():
            with suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                is_stopped = process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
                if is_stopped and process.environ().get("RAY_AUTH_TOKEN") == token:
                    found[pid] = process.name()
        return found

    def _start_private(self) -> None:
        import ray

        folder = scratch_folder() / "ray"
        label = label_of(self._gpus)
        offered: dict[str, Any] = {"num_gpus": len(self._gpus), "labels": {GPU_LABEL: label} if label else None}
        self._token = _token()
        self._until_end.enter_context(keep_reports_in_the_log())
        # A part of Ray that lives on would print that it lacks a token, and how to make one.
        self._until_end.enter_context(environment(self._token, override=True))
        self._until_end.callback(reload_token)
        self._stack.enter_context(listen_on_loopback())
        self._stack.enter_context(in_sessions_of_their_own())
        reload_token()
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                # "local": never an address that another Ray left behind.
                with self._ending_if_it_dies():
                    ray.init("local", **LOCAL, **offered, _temp_dir=str(folder))
                break
            except Exception as error:  # a bare Exception, where Ray's own limit is exceeded
                if "timed out" not in str(error).lower():
                    raise
                with suppress(Exception):
                    ray.shutdown()
                if attempt == START_ATTEMPTS:
                    raise ClusterError(
                        f"Ray does not start on this machine after {attempt} attempts: {first_line(error)}",
                        "Try again when the machine is less busy",
                    ) from error
                logger.warning("Ray did not start, trying again: %s", first_line(error))
        end_autoscaler()
        self._processes.find()

    @contextmanager
    def _ending_if_it_dies(self) -> Iterator[None]:
        """End this process with one line if Ray dies while `ray.init` waits for it.

        `ray.init` does so for a minute, and then ends the process without saying what to do.
        """
        is_over, self._processes = threading.Event(), RayProcesses()
        notice_s = NOTICE_S if self.address is None else JOIN_NOTICE_S

        def watch() -> None:
            while not is_over.wait(POLL_S):
                if self.address is None:
                    self._processes.find()
                # Unless Ray notices it too, or its head answers again.
                if self.failure() and not is_over.wait(notice_s) and (reason := self.failure()):
                    logger.error("%s while it started. Run the same command again to continue", reason)
                    end_at_once()

        thread = threading.Thread(target=watch, name="ray-start", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            self._missed = 0


def _await_tune() -> None:
    """Wait for the threads of Ray Tune, which may call Ray once more, but not until a Ray without GCS ends the process
    by itself, after a minute."""
    deadline = time.monotonic() + TUNE_END_S
    for thread in threading.enumerate():
        if thread.name == TUNE_THREAD:
            thread.join(max(0.0, deadline - time.monotonic()))


@contextmanager
def environment(values: dict[str, str], *, override: bool) -> Iterator[None]:
    """Set environment variables while the block runs; without `override` those that are set stay as they are."""
    before = {name: os.environ.get(name) for name in values}
    for name, value in values.items():
        if override or before[name] is None:
            os.environ[name] = value
    try:
        yield
    finally:
        for name, old in before.items():
            if old is not None:
                os.environ[name] = old
            else:
                os.environ.pop(name, None)


def _token() -> dict[str, str]:
    """Return a new token for a private Ray. It is passed on in the environment and never written to a file."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def check_cluster(address: str) -> Cluster:
    """Describe a cluster and check its versions, before anything is built for it.

    Raises:
        ClusterError: nobody listens at HOST:PORT, the token is refused, or the versions differ.
    """
    _protect_token_file()
    with environment(_authentication(), override=False):
        reload_token()
        cluster = describe_cluster(address)
    own = {"Ray": importlib.metadata.version("ray"), "Python": platform.python_version()}
    theirs = {"Ray": cluster.ray_version, "Python": cluster.python_version}
    for name, version in own.items():
        if theirs[name] and theirs[name] != version:
            raise ClusterError(
                f"the cluster at {address} runs {name} {theirs[name]}, this machine {version}",
                f"Install {name} {theirs[name]} here, or start the driver on the cluster's head",
            )
    return cluster


def _join(address: str) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises many types here, each for something that only the user can fix
        raise ClusterError(
            f"cannot join the Ray cluster at {address}: {first_line(error)}", "See `trm doctor --address`"
        ) from error


def _authentication() -> dict[str, str]:
    """Return the settings that make Ray send the token of a cluster, if this user has one.

    Since 2.59 a head with a token file asks for it, but `ray.init` with an explicit address sends none by default.
    """
    named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    return {"RAY_AUTH_MODE": "token"} if named or _token_file().is_file() else {}


def _token_file() -> Path:
    """Return where Ray looks for the token; a relative path, as for Ray, if this user has no home folder."""
    with suppress(RuntimeError):
        return Path.home() / TOKEN_FILE
    return Path("~") / TOKEN_FILE


def _protect_token_file() -> None:
    """Make the token file readable by this user only: `ray get-auth-token --generate` leaves it readable by all."""
    file = _token_file()
    with suppress(OSError):
        status = file.stat()
        if status.st_uid == os.getuid() and status.st_mode & 0o077:
            file.chmod(0o600)
            logger.warning("%s was readable by other users: its mode is now 0600", file)
