"""Joining Ray: a private one on this machine, or a running cluster by its address."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from orchestrator.errors import ClusterError
from trm_data.errors import first_line

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # records are the truth: no CSV, JSON or TensorBoard beside them
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own snapshots cost O(trials) each and are never read
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a lost machine is no news: the driver places its trial anew
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver stops by itself, on SIGTERM too
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_enable_worker_prestart": "0",  # a process per core that no slot would use, at the busiest moment
    "RAY_prestart_worker_first_driver": "0",  # the same once more
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # it turns SIGTERM into an abort
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}
"""Read by Ray when it starts in this process; set here because it has no other interface for them."""

LOCAL: dict[str, Any] = {
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": "ERROR",
    "object_store_memory": 128 * 2**20,  # trials hand over small dictionaries; Ray's default is a third of the memory
}
"""Of `ray.init`, for a private Ray."""


def connect(address: str | None) -> None:
    """Start a private Ray on this machine (None) or join the cluster at HOST:PORT.

    Raises:
        ClusterError: nothing answers there, it refuses the token, or its versions differ.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if address is None:
        _start_local()
    else:
        _join(address)


def _start_local() -> None:
    import ray

    try:
        ray.init("local", **LOCAL)  # never an address that another Ray left behind on this machine
    except Exception as error:  # a bare Exception, where the machine is too busy for the 30 s that Ray gives itself
        if "timed out" not in str(error):
            raise
        raise ClusterError(
            f"Ray does not start on this machine: {first_line(error)}", "Try again when it has less to do"
        ) from error
    _end_autoscaler()


def _end_autoscaler() -> None:
    """A private Ray has nothing to scale, and `ray.shutdown` waits for that process for a second in vain: it is asked
    to end when what it wants to tell its end has gone already."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any("ray/autoscaler/" in part and part.endswith("monitor.py") for part in child.cmdline()):
                child.kill()


def check_cluster(address: str) -> None:
    """Ask the head who it is, before anything is built for it.

    Raises:
        ClusterError: nobody listens at HOST:PORT, the token is refused, or the versions differ.
    """
    if "RAY_AUTH_MODE" not in os.environ and _has_token():
        # Since 2.59 a head with a token file asks for it, but ray.init with an explicit address sends none by default.
        os.environ["RAY_AUTH_MODE"] = "token"
    from orchestrator.resources.nodes import describe_cluster

    cluster = describe_cluster(address)
    here = {"Ray": importlib.metadata.version("ray"), "Python": platform.python_version()}
    there = {"Ray": cluster.ray_version, "Python": cluster.python_version}
    for name, version in here.items():
        if there[name] and there[name] != version:
            raise ClusterError(
                f"the cluster at {address} runs {name} {there[name]}, this machine {version}",
                f"Install {name} {there[name]} here, or start the driver on the cluster's head",
            )


def _join(address: str) -> None:
    check_cluster(address)
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises many types here, each for something that only the user can mend
        raise ClusterError(
            f"cannot join the Ray cluster at {address}: {first_line(error)}", "Look at `trm doctor --address`"
        ) from error


def _has_token() -> bool:
    named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    return named or (Path.home() / ".ray" / "auth_token").is_file()
