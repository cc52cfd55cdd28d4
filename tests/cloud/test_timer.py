"""The timer on the head: when it ends a deployment, and that it ends driver and machine."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cloud import deployments, head, launch_file, processes
from orchestrator.cloud.backend import Deployment, Limits, Machine
from orchestrator.cloud.launch_file import LaunchFile
from orchestrator.cloud.timer import END_AGAIN_S, Timer
from orchestrator.records.index import sweep_folder
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.lease import LOCK


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "runs"))


def deployment(
    storage: Storage, folder: Path, usd_per_hour: float | None = 6.0, end_command: str | None = None, **values: object
) -> Deployment:
    """A record, and the file that the user's command has written onto the machine."""
    machine = Machine(name="box", usd_per_hour=usd_per_hour, up_s=1000.0)
    plain = {"name": "s", "backend": "ssh", "storage": storage.url, "created_s": 1000.0, "state": "submitted"}
    found = deployments.save(storage, Deployment(**{**plain, "machines": (machine,), **values}))
    launch_file.save(folder, LaunchFile.of(found, end_command))
    return found


def wait_for_end(folder: Path, name: str) -> None:
    """Return when a process has ended: after SIGKILL it may still take a while to do so."""
    until = time.monotonic() + 120
    while processes.is_alive(folder, name):
        assert time.monotonic() < until, f"{name} has not ended"
        time.sleep(0.05)


class Clock:
    """A clock that only `sleep` moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def timer(storage: Storage, folder: Path, clock: Clock, name: str = "s") -> Timer:
    return Timer(folder, storage, name, grace_s=1.0, clock=clock, sleep=clock.sleep)


def test_budget_ends_the_driver_and_closes_the_record(storage: Storage, tmp_path: Path) -> None:
    deployment(storage, tmp_path, limits=Limits(max_usd=1.0))
    for process in (processes.DRIVER, processes.RAY):
        processes.start(tmp_path, process, [sys.executable, "-c", "import time; time.sleep(600)"])
    clock = Clock()
    assert "budget: $1.0" in timer(storage, tmp_path, clock).run()
    wait_for_end(tmp_path, processes.DRIVER)
    wait_for_end(tmp_path, processes.RAY)
    assert 0 <= clock.now_s - 1600 <= 30  # 10 minutes at 6 USD/h, one poll and the grace of the signal
    found = deployments.load(storage, "s")
    assert found.state == "ended" and found.ended_why.startswith("budget")
    assert found.machines[0].down_s is None  # the machine bills on until its owner returns it


def test_machine_is_ended_last_by_the_command_of_the_user(storage: Storage, tmp_path: Path) -> None:
    limits = Limits(max_hours=0.5, idle_minutes=60)
    deployment(storage, tmp_path, limits=limits, end_command="echo off > ended")
    assert "lifetime" in timer(storage, tmp_path, Clock()).run()
    assert (tmp_path / "ended").read_text() == "off\n"
    assert deployments.load(storage, "s").machines[0].down_s == pytest.approx(2800, abs=15)


def test_machines_that_only_the_record_has_stay_on_the_bill(storage: Storage, tmp_path: Path) -> None:
    """The machines of the launch file may have been listed before the last ones started."""
    found = deployment(storage, tmp_path, end_command="true")
    worker = Machine(name="worker", usd_per_hour=50.0, up_s=1500.0)
    deployments.save(storage, found.model_copy(update={"machines": (*found.machines, worker)}))
    clock = Clock()
    clock.now_s = 1500.0 + 3600.0
    timer(storage, tmp_path, clock).run()
    machines = {machine.name: machine for machine in deployments.load(storage, "s").machines}
    assert set(machines) == {"box", "worker"} and machines["worker"].down_s == pytest.approx(clock.now_s, abs=60)


def test_idle_time_counts_from_the_last_driver(storage: Storage, tmp_path: Path) -> None:
    deployment(storage, tmp_path, limits=Limits(idle_minutes=5))
    clock = Clock()
    assert "idle: no driver for 5 min" in timer(storage, tmp_path, clock).run()
    assert clock.now_s == pytest.approx(1300, abs=15)


def test_driver_that_died_without_releasing_its_sweep_is_lost(storage: Storage, tmp_path: Path) -> None:
    deployment(storage, tmp_path, limits=Limits(idle_minutes=600))
    processes.start(tmp_path, processes.DRIVER, [sys.executable, "-c", "pass"])
    wait_for_end(tmp_path, processes.DRIVER)
    gone = processes.find(tmp_path, processes.DRIVER)
    assert gone is not None
    holder = {"host": "box", "pid": gone.pid, "machine": gone.machine, "process_start": gone.start, "started_s": 1.0}
    sweep_folder(storage, "s").write(LOCK, to_json_bytes(holder))
    clock = Clock()
    assert "lost driver" in timer(storage, tmp_path, clock).run()
    assert clock.now_s == 1000.0  # at once, without the idle time


def test_unknown_price_is_no_budget_that_is_reached(storage: Storage, tmp_path: Path) -> None:
    deployment(storage, tmp_path, usd_per_hour=None, limits=Limits(max_usd=0.01, idle_minutes=1))
    assert "idle" in timer(storage, tmp_path, Clock()).run()


def test_limits_prices_and_the_last_command_are_not_those_of_the_record(storage: Storage, tmp_path: Path) -> None:
    deployment(storage, tmp_path, limits=Limits(max_usd=1.0), end_command="touch ended")
    record = json.loads(storage.read(deployments.key_of("s")))
    record["limits"] = {"max_usd": None, "max_hours": None, "idle_minutes": 1e6}
    record["machines"][0] |= {"usd_per_hour": 0.0, "up_s": 1e9}
    record["options"]["end_command"] = "touch executed"
    storage.write(deployments.key_of("s"), json.dumps(record).encode())
    processes.start(tmp_path, processes.DRIVER, [sys.executable, "-c", "import time; time.sleep(600)"])
    clock = Clock()
    assert "budget: $1.0" in timer(storage, tmp_path, clock).run()
    assert 0 <= clock.now_s - 1600 <= 30
    assert (tmp_path / "ended").exists() and not (tmp_path / "executed").exists()
    assert deployments.load(storage, "s").machines[0].usd_per_hour == 6.0


def test_no_timer_starts_without_limits(storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = (str(tmp_path), storage.url, "s")
    assert head.main(["start", *about, "timer", sys.executable, "-m", "orchestrator.cloud.timer", *about]) == 2
    assert "launch.json cannot be read" in capsys.readouterr().err
    assert not processes.is_alive(tmp_path, processes.TIMER)


def test_timer_gives_a_sign_of_life_every_minute(storage: Storage, tmp_path: Path) -> None:
    deployment(storage, tmp_path, limits=Limits(idle_minutes=3))
    clock, written = Clock(), []

    def sleep(seconds: float) -> None:
        clock.now_s += seconds
        [key] = storage.list("launches/s")
        written.append(json.loads(storage.read(key))["seen_s"])

    Timer(tmp_path, storage, "s", grace_s=1.0, clock=clock, sleep=sleep).run()
    assert sorted(set(written)) == [1000.0, 1060.0, 1120.0]
    assert deployments.names(storage) == ["s"], "a sign of life is no record"


def test_timer_that_is_told_of_no_new_machines_gives_no_sign_of_life(storage: Storage, tmp_path: Path) -> None:
    deployment(storage, tmp_path, limits=Limits(idle_minutes=10))
    launch_file.save(tmp_path, launch_file.load(tmp_path).model_copy(update={"listed_s": 1000.0}))
    timer(storage, tmp_path, Clock()).run()
    [key] = storage.list("launches/s")
    assert json.loads(storage.read(key))["seen_s"] == 1180.0, "it ran until 1600"


@pytest.mark.parametrize("how", ["ended", "closed", "removed"])
def test_machine_whose_record_is_closed_or_removed_is_ended(how: str, storage: Storage, tmp_path: Path) -> None:
    deployment(storage, tmp_path, end_command="touch ended")
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.now_s += seconds
        if how == "removed":
            storage.delete(deployments.key_of("s"))
        else:
            state = "down" if how == "closed" else "ended"
            deployments.change(storage, "s", lambda each: each.model_copy(update={"state": state}))

    assert "closed" in Timer(tmp_path, storage, "s", clock=clock, sleep=sleep).run()
    assert (tmp_path / "ended").exists()


def test_second_timer_keeps_why_the_first_has_closed_the_record(storage: Storage, tmp_path: Path) -> None:
    deployment(storage, tmp_path, state="ended", ended_s=1000.0, ended_why="budget: $1.00 of $1.00")
    assert "closed" in timer(storage, tmp_path, Clock()).run()
    assert deployments.load(storage, "s").ended_why == "budget: $1.00 of $1.00"


@pytest.mark.parametrize("damage", [b"{", b'{"version": 2, "new_field": 1}'])
def test_limits_hold_while_the_record_cannot_be_read(damage: bytes, storage: Storage, tmp_path: Path) -> None:
    deployment(storage, tmp_path, limits=Limits(max_hours=1, idle_minutes=600), end_command="touch ended")
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.now_s += seconds
        storage.write(deployments.key_of("s"), damage)

    watching = Timer(tmp_path, storage, "s", grace_s=1.0, clock=clock, sleep=sleep)
    assert "lifetime" in watching.run() and (tmp_path / "ended").exists()
    assert clock.now_s == pytest.approx(1000 + 3600, abs=15)


def test_machine_that_cannot_be_ended_is_still_billed_and_tried_again(storage: Storage, tmp_path: Path) -> None:
    limits = Limits(max_hours=0.5, idle_minutes=60)
    deployment(storage, tmp_path, limits=limits, end_command="test -e works")
    clock = Clock()
    states = []

    def sleep(seconds: float) -> None:
        clock.now_s += seconds
        found = deployments.load(storage, "s")
        states.append((found.machines[0].down_s, found.ended_why))
        if seconds == END_AGAIN_S:
            (tmp_path / "works").touch()

    Timer(tmp_path, storage, "s", grace_s=1.0, clock=clock, sleep=sleep).run()
    assert states[-1][0] is None and "still billed" in states[-1][1]


def test_process_that_ignores_a_signal_is_killed(tmp_path: Path) -> None:
    ignores = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    )
    processes.start(tmp_path, processes.DRIVER, [sys.executable, "-c", ignores])
    while not (tmp_path / "driver.log").read_text():
        time.sleep(0.05)
    assert processes.end(tmp_path, processes.DRIVER, 0.5)
    wait_for_end(tmp_path, processes.DRIVER)
    assert not processes.end(tmp_path, processes.DRIVER, 0.5)


@pytest.mark.parametrize(("verb", "ended"), [("end", ("driver", "timer", "ray")), ("end-ray", ("ray",))])
def test_verbs_end_what_they_name(verb: str, ended: tuple[str, ...], tmp_path: Path, storage: Storage) -> None:
    deployment(storage, tmp_path)
    names = ("driver", "timer", "ray")
    for process in names:
        processes.start(tmp_path, process, [sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        assert head.main([verb, str(tmp_path), storage.url, "s"]) == 0
        assert [name for name in names if not processes.is_alive(tmp_path, name)] == [n for n in names if n in ended]
    finally:
        for process in names:
            processes.end(tmp_path, process, 5.0)


def test_storage_that_a_machine_cannot_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert head.main(["check", str(tmp_path), str(tmp_path / "file"), "s"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: this machine cannot use the storage: ") and "credentials" in line
    assert head.main(["check", str(tmp_path), str(tmp_path / "runs"), "s"]) == 0
    assert [path for path in (tmp_path / "runs").rglob("*") if path.is_file()] == []


def test_second_driver_is_refused_and_the_first_stays_known(
    tmp_path: Path, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment(storage, tmp_path)
    about = (str(tmp_path), storage.url, "s")
    sleep = (sys.executable, "-c", "import time; time.sleep(600)")
    try:
        assert head.main(["start", *about, "driver", *sleep]) == 0
        first = processes.find(tmp_path, processes.DRIVER)
        assert head.main(["start", *about, "driver", *sleep]) == 2
        assert "running already" in capsys.readouterr().err
        assert processes.find(tmp_path, processes.DRIVER) == first
    finally:
        assert head.main(["end", *about]) == 0
    assert not processes.is_alive(tmp_path, processes.DRIVER)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_no_driver_starts_after_the_timer_has_ended_the_deployment(
    when: str, tmp_path: Path, storage: Storage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment(storage, tmp_path, state="up")
    start = processes.start

    def close() -> None:
        closed = {"state": "ended", "ended_why": "budget: $5.00 of $5.00"}
        deployments.change(storage, "s", lambda each: each.model_copy(update=closed))

    def start_and_close(folder: Path, name: str, words: Sequence[str]) -> int:
        pid = start(folder, name, words)
        close()
        return pid

    if when == "before":
        close()
    else:
        monkeypatch.setattr(processes, "start", start_and_close)
    sleep = (sys.executable, "-c", "import time; time.sleep(600)")
    try:
        assert head.main(["start", str(tmp_path), storage.url, "s", "driver", *sleep]) == 2
        assert "deployment 's' has ended: budget: $5.00 of $5.00" in capsys.readouterr().err
        assert not processes.is_alive(tmp_path, processes.DRIVER)
        assert deployments.load(storage, "s").state == "ended"
    finally:
        processes.end(tmp_path, processes.DRIVER, 5.0)


def test_driver_that_starts_while_the_timer_closes_the_record_is_ended(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment(storage, tmp_path, state="up", limits=Limits(max_usd=1.0, idle_minutes=600))
    change = deployments.change

    def start_and_change(*arguments: Any) -> Deployment:
        processes.start(tmp_path, processes.DRIVER, [sys.executable, "-c", "import time; time.sleep(600)"])
        return change(*arguments)

    monkeypatch.setattr(deployments, "change", start_and_change)
    try:
        assert "budget" in timer(storage, tmp_path, Clock()).run()
        assert processes.find(tmp_path, processes.DRIVER) is not None
        wait_for_end(tmp_path, processes.DRIVER)
    finally:
        processes.end(tmp_path, processes.DRIVER, 5.0)
