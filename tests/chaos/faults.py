"""Break one thing of a chaos run, and say what was done and how it is repaired."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

import psutil

from orchestrator.records.schema import TrialRecord
from orchestrator.storage import Storage
from tests.chaos.lanes import Lane
from tests.chaos.plan import Fault, Planned
from tests.chaos.world import World
from trm_data.errors import UserError

T = TypeVar("T")

STORM_S, OUTAGE_S, FULL_S, DOWN_S = 30.0, 6.0, 8.0, 3.0
"""How long requests fail, the endpoint is gone, the disk is full, and a node is gone."""
GCS_NOTICED_S = 10.0
SHARE = 0.2
"""Of the requests that fail."""
HOUR_S = 3600.0
RECORD_FILES = ("trial.json", "result.json", "start.json", "end.json")


class Injected(NamedTuple):
    """What was broken, and what repairs it after how many seconds; nothing where it repairs itself."""

    what: str
    repair: Callable[[], object] | None = None
    after_s: float = 0.0


class Injector:
    """Breaks things. What cannot be broken at the moment, because there is none of it, is None."""

    def __init__(self, world: World, lanes: Sequence[Lane], seed: int) -> None:
        self._world, self._lanes = world, lanes
        self._offsets = random.Random(seed).sample([hours for hours in range(-48, 49) if hours], 96)
        """A clock never returns to an offset, so that every stamp belongs to one of them."""

    def inject(self, planned: Planned) -> Injected | None:
        """Break what is planned."""
        methods: dict[Fault, Callable[[float], Injected | None]] = {
            Fault.DRIVER_KILLED: lambda pick: self._signal(pick, signal.SIGKILL),
            Fault.DRIVER_TERMINATED: lambda pick: self._signal(pick, signal.SIGTERM),
            Fault.DRIVER_INTERRUPTED: lambda pick: self._signal(pick, signal.SIGINT),
            Fault.RAYLET_KILLED: self._raylet,
            Fault.GCS_KILLED: self._gcs,
            Fault.FORK_SERVER_KILLED: self._fork_server,
            Fault.TRIAL_KILLED: self._trial,
            Fault.TRACKER_KILLED: self._tracker,
            Fault.ENDPOINT_KILLED: self._endpoint,
            Fault.REQUESTS_FAIL: lambda pick: self._storm(refused=SHARE),
            Fault.BODIES_CUT: lambda pick: self._storm(cut=SHARE),
            Fault.DISK_FULL: self._disk,
            Fault.CLOCK_STEPPED: self._clock,
            Fault.CHECKPOINT_CORRUPTED: self._checkpoint,
            Fault.RECORD_CORRUPTED: self._record,
        }
        try:
            return methods[planned.fault](planned.pick)
        except (psutil.Error, ProcessLookupError, UserError):  # it ended, or the disk is full, at the same moment
            return None

    def _signal(self, pick: float, number: signal.Signals) -> Injected | None:
        lane = _choose(self._lanes, pick)
        driver = lane.driver
        if driver is None:
            return None
        if number is signal.SIGKILL:
            driver.kill()
        else:
            os.killpg(driver.pid, number)
        return Injected(f"{lane.sweep}: process {driver.pid}")

    def _raylet(self, pick: float) -> Injected | None:
        nodes = self._world.nodes
        if pick < 0.6:
            with nodes.lock:
                gpu = _choose(sorted(nodes.workers), pick / 0.6)
                if nodes.is_down or nodes.workers[gpu].was_killed:
                    return None
                nodes.workers[gpu].kill()
            return Injected(f"cluster: the node with {gpu}", lambda: self._restart_worker(gpu), DOWN_S)
        return self._private("raylet")

    def _restart_worker(self, gpu: str) -> None:
        with self._world.nodes.lock:
            if self._world.nodes.workers[gpu].was_killed:
                self._world.nodes.restart_worker(gpu)

    def _gcs(self, pick: float) -> Injected | None:
        nodes = self._world.nodes
        if pick < 0.6:
            with nodes.lock:
                found = [process for process in nodes.processes() if process.name() == "gcs_server"]
                for process in found:
                    nodes.is_down = True
                    process.kill()
            return Injected("cluster: its head", nodes.restart, GCS_NOTICED_S) if found else None
        return self._private("gcs_server")

    def _private(self, name: str) -> Injected | None:
        """Kill a part of the private Ray of a driver."""
        for lane in self._lanes:
            driver = lane.driver
            children = psutil.Process(driver.pid).children() if driver else []
            for child in children:
                if child.name() == name:
                    child.kill()
                    return Injected(f"{lane.sweep}: the driver's own {name}")
        return None

    def _fork_server(self, pick: float) -> Injected | None:
        servers = [each for each in self._world.processes() if _is_fork_server(each)]
        tops = [each for each in servers if not _is_fork_server(each.parent())]
        if not tops:
            return None
        server = _choose(tops, pick)
        server.kill()
        return Injected(f"process {server.pid}, with {len(servers) - len(tops)} processes of trials on the machine")

    def _running(self, pick: float) -> tuple[Lane, TrialRecord, psutil.Process] | None:
        """Return a trial that runs, with its process."""
        ours = {process.pid: process for process in self._world.processes()}
        found = [
            (lane, record, ours[pid])
            for lane in self._lanes
            for record in lane.running()
            if (pid := record.attempts[-1].start.pid) in ours
        ]
        return _choose(found, pick) if found else None

    def _trial(self, pick: float) -> Injected | None:
        found = self._running(pick)
        if found is None:
            return None
        lane, record, process = found
        process.kill()
        return Injected(f"{lane.sweep}/{record.trial_id}: process {process.pid} at step {record.step}")

    def _tracker(self, pick: float) -> Injected | None:
        self._world.tracker.kill()
        return Injected("the MLflow server", self._world.tracker.start, OUTAGE_S)

    def _endpoint(self, pick: float) -> Injected | None:
        self._world.endpoint.kill()
        return Injected(f"for {OUTAGE_S:.0f} s", self._world.endpoint.start, OUTAGE_S)

    def _storm(self, **shares: float) -> Injected | None:
        endpoint, calm = self._world.endpoint, dict.fromkeys(shares, 0.0)
        endpoint.disturb(**shares)
        return Injected(f"for {STORM_S:.0f} s", lambda: endpoint.disturb(**calm), STORM_S)

    def _disk(self, pick: float) -> Injected | None:
        if not self._world.disk.is_small:
            return None
        self._world.disk.fill()
        return Injected(f"for {FULL_S:.0f} s", self._world.disk.free, FULL_S)

    def _clock(self, pick: float) -> Injected | None:
        offset_h = self._offsets.pop()
        self._world.clock.step(offset_h * HOUR_S)
        return Injected(f"to {offset_h:+d} h")

    def _checkpoint(self, pick: float) -> Injected | None:
        """Kill a trial, and damage its newest checkpoint before the next attempt reads it."""
        found = self._running(pick)
        if found is None:
            return None
        lane, record, process = found
        folder = f"sweeps/{lane.sweep}/trials/{record.trial_id}/checkpoints"
        process.kill()
        psutil.wait_procs([process], timeout=5)
        names = [key for key in lane.storage.list(folder) if "/step-" in key]
        if not names:
            return None
        data = lane.storage.read(names[-1])
        lane.storage.write(names[-1], _damaged(data, pick))
        return Injected(f"{lane.sweep}/{record.trial_id}: {names[-1].rpartition('/')[2]}, one of {len(names)}")

    def _record(self, pick: float) -> Injected | None:
        lane = _choose(self._lanes, pick)
        with lane.lock:
            keys = [key for key in _record_keys(lane.storage, lane.sweep) if key not in lane.damaged]
            if not keys:
                return None
            key = _choose(keys, pick * 31 % 1)
            data = lane.storage.read(key)
            lane.storage.write(key, data[: len(data) // 2])
            lane.damaged[key] = data
        return Injected(key)


def run_repairs(repairs: list[tuple[float, Callable[[], object]]], now_s: float) -> list[threading.Thread]:
    """Start the repairs that are due, each in a thread, and remove them from the list."""
    due = [each for each in repairs if each[0] <= now_s]
    repairs[:] = [each for each in repairs if each[0] > now_s]
    threads = [threading.Thread(target=repair, name="repair") for _, repair in due]
    for thread in threads:
        thread.start()
    return threads


def wait_until(at_s: float, repairs: list[tuple[float, Callable[[], object]]]) -> list[threading.Thread]:
    """Wait, by the monotonic clock, and run the repairs that become due meanwhile."""
    threads = []
    while (now_s := time.monotonic()) < at_s:
        threads += run_repairs(repairs, now_s)
        time.sleep(min(0.2, max(0.0, at_s - now_s)))
    return threads


def _choose(options: Sequence[T], pick: float) -> T:
    return options[min(len(options) - 1, int(pick * len(options)))]


def _is_fork_server(process: psutil.Process | None) -> bool:
    with suppress(psutil.Error):
        return process is not None and any("orchestrator.worker.fork_server" in part for part in process.cmdline())
    return False


def _damaged(data: bytes, pick: float) -> bytes:
    """Half of the data, or the whole with a part of the header or of the tensors overwritten."""
    if pick < 0.3:
        return data[: len(data) // 2]
    at = 8 if pick < 0.6 else len(data) - 64
    return data[:at] + b"\xff" * 64 + data[at + 64 :]


def _record_keys(storage: Storage, sweep: str) -> list[str]:
    return [key for key in storage.list(f"sweeps/{sweep}/trials") if key.rpartition("/")[2] in RECORD_FILES]
