"""A file server whose clock is wrong: what ends machines or frees a sweep watches the lease before it acts."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from orchestrator import prune_checkpoints, stop_sweep
from orchestrator.cloud.aws.end import stop_driver
from orchestrator.cloud.backend import Limits
from orchestrator.execution.watchdog import Watchdog
from orchestrator.records.index import load_definition, stop_requested, sweep_folder
from orchestrator.records.retention import prune_sweeps
from orchestrator.records.schema import Status
from orchestrator.storage import LocalStorage, Storage
from orchestrator.storage.lease import driver_of
from orchestrator.sweep.budget import Budget
from orchestrator.tracking.notifications import SweepWatcher
from tests.cloud.test_timer import Clock, deployment, timer
from tests.records.test_extend import recorded_study
from tests.support.leases import beating, claim


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A storage with a study, whose leases all seem to be old."""
    monkeypatch.setattr("orchestrator.storage.lease.HEARTBEAT_S", 0.2)
    monkeypatch.setattr("orchestrator.storage.lease.LEASE_S", 2.0)
    monkeypatch.setattr(LocalStorage, "age_s", lambda *_: 1000.0)
    storage = LocalStorage(tmp_path / "runs")
    recorded_study(storage, Status.FINISHED, Status.FINISHED)
    return storage


@pytest.fixture
def folder(storage: Storage) -> Storage:
    return sweep_folder(storage, "study")


def watchdog(storage: Storage, folder: Storage, ended: list[str]) -> Watchdog:
    return Watchdog(folder, load_definition(storage, "study"), Budget(), tuple, lambda: ended, grace_s=60.0)


def test_the_watchdog_asks_a_driver_before_it_ends_machines(storage: Storage, folder: Storage) -> None:
    with beating(folder, obeys=True):
        assert driver_of(folder) is None
        assert watchdog(storage, folder, ["i-1"]).stop() == "the driver stopped cleanly"
    assert stop_requested(folder)


def test_the_watchdog_ends_machines_once_nobody_renews_the_lease(storage: Storage, folder: Storage) -> None:
    with beating(folder):
        pass
    assert watchdog(storage, folder, ["i-1"]).stop() == "the driver has exited; 1 worker nodes terminated"


def test_the_end_of_a_cluster_waits_for_the_driver(storage: Storage, folder: Storage) -> None:
    with beating(folder):
        assert not stop_driver(storage, "study", "the user has ended it", 0.5)
    folder.delete("stop.json")
    with beating(folder, obeys=True):
        assert stop_driver(storage, "study", "the user has ended it", 60.0)
    assert stop_requested(folder)


def test_the_timer_does_not_find_a_driven_cluster_idle(storage: Storage, folder: Storage, tmp_path: Path) -> None:
    deployment(storage, tmp_path, name="study", limits=Limits(idle_minutes=5))
    clock = Clock()
    watching = timer(storage, tmp_path, clock, "study")
    clock.now_s += 600
    with beating(folder):
        assert watching.reason() == ""
    clock.now_s += 600
    assert watching.reason().startswith("idle")


def test_a_request_to_stop_is_always_written(storage: Storage, folder: Storage) -> None:
    with beating(folder):
        pass
    assert stop_sweep("study", storage)["host"] == "another-machine"
    assert stop_requested(folder)


def test_pruning_leaves_a_driven_sweep_alone(storage: Storage, folder: Storage) -> None:
    with beating(folder):
        assert not prune_checkpoints("study", storage, keep_bytes=0, dry_run=True).deleted
    folder.delete("lock.json")
    assert prune_checkpoints("study", storage, keep_bytes=0, dry_run=True).deleted


@pytest.mark.parametrize("dry_run", [True, False])
def test_leases_of_several_dead_drivers_are_watched_at_the_same_time(
    storage: Storage, dry_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["study", "depth", "width"]
    for name in names:
        storage.write(f"sweeps/{name}/lock.json", claim())
    sleep, watching = time.sleep, set[int]()
    together = threading.Barrier(len(names), timeout=30)

    def meet(seconds: float) -> None:
        if threading.get_ident() in watching:
            sleep(seconds)
        else:
            watching.add(threading.get_ident())
            together.wait()

    monkeypatch.setattr("orchestrator.storage.lease.time.sleep", meet)
    monkeypatch.setattr("orchestrator.records.unfinished.TAKE_OVER_S", 0.0)
    assert prune_sweeps(storage, names, 0, dry_run=dry_run).deleted
    assert len(watching) == len(names)


def test_no_end_is_told_of_a_driver_whose_heartbeat_is_late(
    storage: Storage, folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ages = [0.0]
    monkeypatch.setattr(LocalStorage, "age_s", lambda *_: ages[0])
    watcher = SweepWatcher(storage, "study", Budget())
    with beating(folder):
        assert watcher.snapshot().is_driven
        ages[0] = 1000.0
        assert watcher.snapshot().is_driven
    assert not watcher.snapshot().is_driven
