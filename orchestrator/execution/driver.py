"""Drive a sweep: start Ray, let Ray Tune run the trials, and supervise both until the end.

The driver owns Ray, the thread in which Tune runs, signals, the lease and requests to stop. The controller decides
which trials start, continue and end. Each start of a driver creates a new Tuner that continues from the records.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from orchestrator.errors import ClusterError, SweepError
from orchestrator.execution.allocator import Machine
from orchestrator.execution.callbacks import CallbackList
from orchestrator.execution.controller import Controller
from orchestrator.execution.failures import OUTAGE_S
from orchestrator.execution.options import RunOptions, SweepStatus
from orchestrator.execution.ray_cluster import TUNE_THREAD
from orchestrator.records.index import stop_reason, stop_requested
from orchestrator.resources.gpu_choice import GpuChoice
from orchestrator.resources.memory import memory_bytes
from orchestrator.resources.nodes import GPU_LABEL
from orchestrator.resources.placement import Candidate, bundle, candidates, describe_bundle, fits
from orchestrator.resources.runtime import RuntimeModel
from orchestrator.storage import Storage
from orchestrator.storage.base import StorageError
from orchestrator.storage.lease import Lease
from orchestrator.sweep.definition import Resources, Sweep
from orchestrator.sweep.trials import PlannedTrial
from trm_data.errors import first_line

logger = logging.getLogger(__name__)

POLL_S = 0.2
CHECK_S = 2.0
"""Time between two checks of the budget, of Ray, and for requests to stop."""
STOPPED_CHECK_S = 5.0
"""Seconds between two checks for stopped processes. One that two checks in a row find stopped is reported: a debugger
stops a process for a moment."""
STOP_LIMIT_S = 45.0
"""Longest wait for a clean stop, in addition to the time that trials get for a last checkpoint. If Ray was ended
together with the driver, a clean stop never happens."""
MAX_UNBOUNDED_SLOTS = 64
"""Trials that run at once at most where neither the user nor the machines at the start limit them."""
MACHINES_S = 1.0
"""How long Ray's list of nodes is cached, and how long a decision waits for a newer one."""

Executor = Callable[[Controller, int], None]
"""Runs what a controller suggests, up to a number of trials at once, until it is finished."""


class Cluster(Protocol):
    """Define what a driver needs of Ray: see `orchestrator.execution.ray_cluster.RayCluster`."""

    @property
    def address(self) -> str | None: ...
    def start(self) -> None: ...
    def shutdown(self, limit_s: float, *, is_abandoned: bool = False) -> bool: ...
    def nodes(self) -> list[dict[str, Any]]: ...
    def resources(self) -> dict[str, float]: ...
    def scales(self) -> bool: ...
    def preloaded(self) -> AbstractContextManager[Any]: ...
    def failure(self) -> str: ...
    def stopped(self) -> dict[int, str]: ...


def fit_with_tune(controller: Controller, slots: int) -> None:
    """Run the trials with Ray Tune."""
    from orchestrator.execution.tune import fit  # imports ray.tune, which takes a second

    fit(controller, slots)


class ClusterPlacement:
    """Return where the trials of a sweep may run on a cluster."""

    def __init__(self, choice: GpuChoice, cluster: Cluster, options: RunOptions, costs: RuntimeModel) -> None:
        self._choice = choice
        self._cluster = cluster
        self._options = options
        self._costs = costs
        self._machines = Machine.of_ray(cluster.nodes())
        self._read_s = time.monotonic()
        self._reader: threading.Thread | None = None

    def machines(self) -> list[Machine]:
        """Return the nodes of the cluster as they were a second ago, or before while Ray does not answer.

        Ray waits for a minute for a GCS that has died. Whoever decides about trials must not: the thread that would
        notice the death waits for the decision.
        """
        if self._reader is None or not self._reader.is_alive():
            if time.monotonic() - self._read_s <= MACHINES_S:
                return self._machines
            self._reader = threading.Thread(target=self._read, name="nodes", daemon=True)
            self._reader.start()
        self._reader.join(MACHINES_S)
        return self._machines

    def _read(self) -> None:
        try:
            self._machines = Machine.of_ray(self._cluster.nodes())
        except Exception as error:  # where Ray has died, its processes tell
            logger.warning("the nodes of the cluster cannot be read: %s", first_line(error))
        self._read_s = time.monotonic()

    def candidates(self, trial: PlannedTrial) -> list[Candidate]:
        """Return the bundles with which a trial may run, the preferred one first; empty if it fits on no GPU."""
        if not trial.resources.gpus:
            return candidates(trial.resources, ())
        need = memory_bytes(trial.config, "cuda")
        return self._on_gpus(trial.resources, need, self._costs.speed_of(trial.config))

    def smallest(self) -> list[Candidate]:
        """Return the bundles of a trial that needs almost no memory."""
        resources = self._choice.sweep.resources
        return self._on_gpus(resources, 0, None) if resources.gpus else candidates(resources, ())

    def _on_gpus(self, resources: Resources, need_bytes: int, speed: Callable[[str], float] | None) -> list[Candidate]:
        return candidates(
            resources,
            [machine.gpu_type for machine in self.machines() if machine.gpu_type],
            need_bytes=need_bytes,
            is_shared=self._choice.is_shared,
            prefer=self._options.prefer,
            speed=speed,
            memory=self._choice.memory,
        )


class StopRequests:
    """Look for requests to stop from a thread: supervision must not wait for a storage that hangs."""

    def __init__(self, controller: Controller, folder: Storage) -> None:
        self._controller = controller
        self._folder = folder.brief()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="stop-requests", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()

    def _follow(self) -> None:
        unreachable_since_s: float | None = None
        while not self._end.wait(CHECK_S):
            try:
                if stop_requested(self._folder):
                    self._controller.stop(SweepStatus.STOPPED, stop_reason(self._folder))
                unreachable_since_s = None
            except StorageError as error:
                # An outage is survived. The sweep ends when its records cannot be written for too long.
                now_s = time.monotonic()
                if unreachable_since_s is None:
                    unreachable_since_s = now_s
                    logger.warning("storage is unavailable, no request to stop can be read: %s", error)
                elif now_s - unreachable_since_s > OUTAGE_S:
                    self._controller.fail(error)
            except Exception:
                logger.exception("a look for a request to stop failed")


class Driver:
    """Run one sweep on a cluster. The cluster must have been started."""

    def __init__(
        self,
        controller: Controller,
        cluster: Cluster,
        folder: Storage,
        lease: Lease,
        callbacks: CallbackList,
        execute: Executor = fit_with_tune,
    ) -> None:
        self._controller = controller
        self._cluster = cluster
        self._requests = StopRequests(controller, folder)
        self._lease = lease
        self._callbacks = callbacks
        self._execute = execute
        self._stopped: dict[int, int] = {}
        """Checks in a row that found a process stopped, by PID."""
        self._stopped_checked_s = 0.0

    def run(self, slots: int) -> tuple[SweepStatus, str]:
        """Run until the sweep ends or is stopped by a user, the budget or a failure. Return the status and its reason.

        Raises:
            SweepError: another driver took over, the budget is too small for the next trial, or a canary failed.
        """
        self._callbacks.call("on_sweep_start", self._controller.snapshot(slots))
        thread = threading.Thread(target=self._run_trials, args=(slots,), name=TUNE_THREAD, daemon=True)
        thread.start()
        with self._requests:
            abandoned = self._supervise(thread)
        self._callbacks.deliver()
        if abandoned:
            error = self._controller.error
            return SweepStatus.ABANDONED, f"{error}" if error is not None else abandoned
        return self._controller.result_of_run()

    def _run_trials(self, slots: int) -> None:
        try:
            with self._cluster.preloaded():
                self._execute(self._controller, slots)
        except BaseException as error:  # handed to the main thread, which raises it
            self._controller.fail(error)

    def _supervise(self, thread: threading.Thread) -> str:
        """Wait for the thread. Return why it was abandoned, or an empty string if it ended."""
        checked_s = stopping_s = time.monotonic()
        is_announced = False
        while thread.is_alive():
            thread.join(POLL_S)
            self._callbacks.deliver()
            self._callbacks.call("on_progress", self._controller.snapshot())
            if not self._controller.is_stopping:
                stopping_s = time.monotonic()
            elif not is_announced:
                is_announced = True
                logger.info("stopping: running trials write a last checkpoint")
                self._callbacks.call(
                    "on_message", "stopping: running trials write a last checkpoint; a second signal ends at once"
                )
            elif time.monotonic() - stopping_s > STOP_LIMIT_S + self._controller.grace_s:
                return f"trials did not stop within {time.monotonic() - stopping_s:.0f} s"
            if self._lease.lost.is_set():
                self._controller.fail(self._loss())
            if time.monotonic() - checked_s > CHECK_S:
                checked_s = time.monotonic()
                if failure := self._cluster.failure():
                    # Tune would wait for its actors forever: none of them can answer any more.
                    self._controller.fail(ClusterError(failure, "Run the same command again to continue"))
                    return failure
                if not self._controller.is_stopping and (reason := self._controller.budget_exceeded()):
                    self._controller.stop(SweepStatus.OUT_OF_BUDGET, reason)
                self._check_stopped()
        return ""

    def _loss(self) -> SweepError:
        """Return the error that ends the sweep once it no longer owns its records."""
        if self._lease.is_deleted:
            return SweepError("the folder of this sweep was deleted while it ran", "Run it again from its definition")
        return SweepError("another driver took over this sweep", "This one's trials were ended")

    def _check_stopped(self) -> None:
        """Report processes that were stopped: they can go on, so nothing is ended."""
        if time.monotonic() - self._stopped_checked_s < STOPPED_CHECK_S:
            return
        self._stopped_checked_s = time.monotonic()
        found = self._cluster.stopped()
        self._stopped = {pid: self._stopped.get(pid, 0) + 1 for pid in found}
        for pid, checks in self._stopped.items():
            if checks == 2:
                text = f"process {pid} ({found[pid]}) of this sweep is stopped: `kill -CONT {pid}` lets it go on"
                logger.info("%s", text)
                self._callbacks.call("on_message", text)


def count_slots(sweep: Sweep, options: RunOptions, cluster: Cluster) -> int:
    """Return how many trials may run at once.

    Raises:
        ClusterError: this machine cannot hold a single trial.
    """
    demand = bundle(sweep.resources)
    total = cluster.resources()
    room = min(int(total.get(name, 0) // amount) for name, amount in demand.resources.items())
    if options.address is None and not fits(demand, cluster.nodes()):
        has = ", ".join(f"{total.get(name, 0):g} {name}" for name in demand.resources)
        types = {node.get("Labels", {}).get(GPU_LABEL) for node in cluster.nodes()} - {None}
        raise ClusterError(
            f"this machine cannot hold one trial: it needs {describe_bundle(demand)}, and there is "
            f"{', '.join([has, *sorted(types)])}",
            "Ask for less with --cpus, take what there is with --gpu auto, or name a cluster with --address",
        )
    wanted = options.max_concurrent or sweep.max_concurrent
    if wanted or sweep.resources.gpus or sweep.resource_rules or cluster.scales():
        return wanted or MAX_UNBOUNDED_SLOTS
    return max(1, min(room or 8, MAX_UNBOUNDED_SLOTS))
