"""Two commands that launch the same sweep at once: one starts machines, the other is told."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cloud import deployments, launch
from orchestrator.cloud.backend import CloudError, Deployment, Limits, Machine, Offer, Options
from orchestrator.errors import SweepError
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.settings import configure
from trm_data.files import machine_id
from trm_model.recipes import get_recipe


class Place:
    """A backend that notes how many times it has started machines and drivers."""

    name = "aws"
    has_timer = True

    def __init__(self) -> None:
        self.started: list[str] = []
        self.may_end = threading.Event()
        self.may_end.set()
        self.is_starting = threading.Event()

    def offers(self, sweep: Sweep) -> list[Offer]:
        return [Offer(machine="m", usd_per_hour=1.0)]

    def limited(self, limits: Limits) -> Limits:
        return limits

    def shortages(self) -> list[str]:
        return ["quota of spot g machines: 0"]

    def up(self, deployment: Deployment) -> Deployment:
        self.started.append("machines")
        self.is_starting.set()
        assert self.may_end.wait(60)
        return deployment.model_copy(update={"state": "up", "machines": (Machine(name="m", up_s=time.time()),)})

    def submit(self, deployment: Deployment, plan: Path, words: object) -> Deployment:
        self.started.append("driver")
        self.is_starting.set()
        assert self.may_end.wait(60)
        return deployment.model_copy(update={"state": "submitted"})

    def read(self, deployment: Deployment) -> Deployment:
        return deployment


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Place:
    found = Place()
    monkeypatch.setattr(launch, "open_backend", lambda *_: found)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return found


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "runs"))


def prepared(storage: Storage) -> launch.Launch:
    base = configure(get_recipe("sudoku-mini"), {"train.max_steps": 2})
    return launch.prepare(Sweep(name="small", base=base, seeds=1), "aws", Options(), Limits(max_usd=5), storage)


@pytest.mark.parametrize("step", ["machines", "driver"])
def test_second_command_starts_nothing_while_the_first_does(step: str, place: Place, storage: Storage) -> None:
    first, second = prepared(storage), prepared(storage)
    if step == "driver":
        launch.up(first, storage, "small.yaml")

    def start(one: launch.Launch) -> None:
        if step == "driver":
            launch.submit(one, storage, [])
        else:
            launch.up(one, storage, "small.yaml")

    place.started.clear()
    place.is_starting.clear()
    place.may_end.clear()
    starting = threading.Thread(target=start, args=(first,))
    starting.start()
    try:
        assert place.is_starting.wait(60)
        with pytest.raises(SweepError, match=r"'small' is being launched by process \d+ on .*trm cloud status small"):
            start(second)
    finally:
        place.may_end.set()
        starting.join()
    assert place.started == [step]


def test_command_that_was_prepared_before_another_launched_starts_nothing(place: Place, storage: Storage) -> None:
    first, second = prepared(storage), prepared(storage)
    launch.up(first, storage, "small.yaml")
    with pytest.raises(CloudError, match=r"another command has launched 'small' meanwhile: it is up"):
        launch.up(second, storage, "small.yaml")
    assert place.started == ["machines"]
    assert prepared(storage).is_up


def test_launch_whose_computer_died_is_taken_over(place: Place, storage: Storage) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    holder = {"host": "laptop", "pid": gone.pid, "machine": machine_id(), "process_start": 1, "started_s": 1.0}
    deployments.launches(storage, "small").write("lock.json", to_json_bytes(holder))
    begun = prepared(storage).deployment.model_copy(update={"state": "starting", "created_s": 1000.0})
    deployments.save(storage, begun)
    up = launch.up(prepared(storage), storage, "small.yaml")
    assert up.state == "up" and up.created_s == 1000.0
    assert storage.list("launches") == [] and deployments.names(storage) == ["small"]


def test_driver_is_not_started_after_the_timer_has_closed_the_record(place: Place, storage: Storage) -> None:
    first = prepared(storage)
    assert "quota of spot g machines: 0" in first.quote.unknown
    launch.up(first, storage, "small.yaml")
    closed = {"state": "ended", "ended_why": "budget: $5.00 of $5.00"}
    deployments.change(storage, "small", lambda each: each.model_copy(update=closed))
    with pytest.raises(CloudError, match=r"'small' has ended: budget: .*trm cloud down small"):
        launch.submit(first, storage, [])
    assert place.started == ["machines"] and deployments.load(storage, "small").state == "ended"


def test_end_by_the_timer_during_a_command_is_not_overwritten(
    place: Place, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(storage)
    up, submit = place.up, place.submit

    def close() -> None:
        deployments.change(storage, "small", lambda each: each.model_copy(update={"state": "ended"}))

    def up_and_close(deployment: Deployment) -> Deployment:
        found = up(deployment)
        close()
        return found

    def submit_and_close(*arguments: Any) -> Deployment:
        found = submit(*arguments)
        close()
        return found

    monkeypatch.setattr(place, "up", up_and_close)
    launch.up(first, storage, "small.yaml")
    assert deployments.load(storage, "small").state == "ended"
    deployments.change(storage, "small", lambda each: each.model_copy(update={"state": "up"}))
    monkeypatch.setattr(place, "submit", submit_and_close)
    launch.submit(first, storage, [])
    assert deployments.load(storage, "small").state == "ended"
