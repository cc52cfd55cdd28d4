"""Leases: one holder at a time, judged without its clock, on a disk and on S3."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SweepError
from orchestrator.storage import LocalStorage, Storage, StorageError, Tagged, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.lease import DriverHours, Lease, driver_of, unlock
from tests.support.leases import beating, claim
from trm_data.files import ProcessIdentity, machine_id, start_of


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_bucket"))


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.storage.lease.HEARTBEAT_S", 0.2)
    monkeypatch.setattr("orchestrator.storage.lease.LEASE_S", 2.0)


def claim_of(pid: int, **changes: Any) -> bytes:
    """A claim of a process of this machine."""
    here = {"host": socket.gethostname(), "machine": machine_id(), "process_start": start_of(pid)}
    return claim(**{**here, "pid": pid, **changes})


@contextmanager
def sleeping_process() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _claim(url: str, barrier: Any, results: Any) -> None:
    barrier.wait()
    try:
        with Lease(open_storage(url), "s"):
            results.put("owner")
            barrier.wait()
    except SweepError:
        results.put("refused")
        barrier.wait()


def test_of_several_drivers_exactly_one_gets_the_sweep(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    drivers = [context.Process(target=_claim, args=(str(tmp_path), barrier, results)) for _ in range(4)]
    for driver in drivers:
        driver.start()
    said = sorted(results.get(timeout=600) for _ in drivers)
    for driver in drivers:
        driver.join()
    assert said == ["owner", "refused", "refused", "refused"]


def test_a_dead_holders_claim_is_taken_over_at_once_on_the_same_machine(storage: Storage) -> None:
    with sleeping_process() as pid:
        storage.write("lock.json", claim_of(pid))
    with Lease(storage, "s") as lease:
        assert lease.took_over
        assert driver_of(storage) is not None
        with pytest.raises(SweepError, match="is being run by process"), Lease(storage, "s"):
            raise AssertionError("two drivers")
    assert driver_of(storage) is None
    assert "lock.json" not in storage.list()


def test_a_living_process_keeps_its_claim_however_late_its_heartbeat_is(storage: Storage) -> None:
    with sleeping_process() as pid:
        storage.write("lock.json", claim_of(pid, beat_s=time.time() - 3600))
        assert driver_of(storage) is not None
        with (
            pytest.raises(SweepError, match=f"is being run by process {pid}.*sweep stop s --storage 's3://b/my runs'`"),
            Lease(storage, "s", "s3://b/my runs"),
        ):
            raise AssertionError("two drivers")


def test_age_of_a_lease_is_by_the_clock_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, now = open_storage(str(tmp_path)), time.time
    monkeypatch.setattr("orchestrator.storage.lease.LEASE_S", 30.0)
    storage.write("lock.json", claim())
    monkeypatch.setattr(time, "time", lambda: now() + 40)  # the file server's clock is behind this machine's
    assert -2 < storage.age_s("lock.json") < 30
    assert driver_of(storage) is not None


@pytest.mark.parametrize("use", ["look", "renewal"])
def test_a_lock_file_of_a_shared_folder_is_everybodys_whoever_looked_first(tmp_path: Path, use: str) -> None:
    folder, storage = tmp_path / "shared", LocalStorage(tmp_path / "shared")
    storage.write("lock.json", claim())
    folder.chmod(0o777)
    if use == "look":
        driver_of(storage)
    else:
        storage.replace_if("lock.json", b"{}", storage.read_tagged("lock.json").etag)
    assert (folder / ".lock").stat().st_mode & 0o777 == 0o666
    storage.sub("private").write("lock.json", claim())
    (folder / "private").chmod(0o755)
    driver_of(storage.sub("private"))
    assert not (folder / "private/.lock").stat().st_mode & 0o022


def test_a_late_lease_counts_as_what_the_caller_needs(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(storage), "age_s", lambda *_: 1000.0)
    for if_silent in ("dead", "watch", "alive"):
        assert driver_of(storage, if_silent=if_silent) is None, "no lease"
    with beating(storage):
        assert driver_of(storage) is None
        for if_silent in ("watch", "alive"):
            assert (driver_of(storage, if_silent=if_silent) or {}).get("host") == "another-machine"
    assert driver_of(storage, if_silent="watch") is None
    assert driver_of(storage, if_silent="alive") is not None
    with sleeping_process() as pid:
        storage.write("lock.json", claim_of(pid))
    assert driver_of(storage, if_silent="alive") is None, "on this machine it is proved dead"


@pytest.mark.parametrize("skew_s", [-50_000.0, 0.0, 50_000.0], ids=["behind", "equal", "ahead"])
def test_hours_of_a_driver_are_those_of_its_own_clock_and_then_of_this_machines_monotonic_one(skew_s: float) -> None:
    now_s = 100.0
    hours = DriverHours(lambda: now_s)
    began_s = time.time() + skew_s
    holder = json.loads(claim(started_s=began_s, beat_s=began_s + 7200))
    assert hours.of(None) == 0
    assert hours.of(holder) == 2
    now_s += 3600
    assert hours.of({**holder, "beat_s": began_s + 50_000}) == 3, "its clock may step meanwhile"
    assert hours.of(None) == 3, "without a driver, the hours of the last one continue"
    assert hours.of({**holder, "pid": 2, "beat_s": began_s}) == 0, "the next one has its own"
    for damaged in ({"beat_s": "x"}, {"started_s": 0.0}, {"started_s": None}):
        assert hours.of({**holder, "pid": 3, **damaged}) == 0


def test_the_time_of_a_heartbeat_does_not_step_with_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, now = open_storage(str(tmp_path)), time.time
    with Lease(storage, "s"):
        first = storage.read("lock.json")
        monkeypatch.setattr(time, "time", lambda: now() + 50_000)
        while (data := storage.read("lock.json")) == first:
            time.sleep(0.05)
    holder = json.loads(data)
    assert 0 < holder["beat_s"] - holder["started_s"] < 40_000


def test_a_later_process_with_the_holders_pid_is_not_the_holder(storage: Storage) -> None:
    with sleeping_process() as pid:
        storage.write("lock.json", claim_of(pid, process_start=start_of(pid) - 1))
        assert driver_of(storage) is None
        with Lease(storage, "s") as lease:
            assert lease.took_over


@pytest.mark.parametrize("skew_s", [-3600.0, 3600.0])
def test_a_holder_on_another_machine_is_alive_while_its_claim_changes_whatever_its_clock_says(
    storage: Storage, skew_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write("lock.json", claim(beat_s=time.time() + skew_s))
    monkeypatch.setattr("orchestrator.storage.lease.LEASE_S", 120.0)  # it ends with the first change
    with (
        beating(storage, beat_s=time.time() + skew_s),
        pytest.raises(SweepError, match="on another-machine"),
        Lease(storage, "s"),
    ):
        raise AssertionError("two drivers")


@pytest.mark.parametrize(
    "data",
    [
        claim(beat_s=time.time() + 3600),
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        json.dumps({"machine": machine_id(), "pid": 10**30, "process_start": 1}).encode(),
        json.dumps({"machine": machine_id(), "pid": float("inf")}).encode(),
    ],
    ids=["future", "empty", "list", "{}", "deep", "huge PID", "infinite PID"],
)
def test_a_claim_that_nobody_renews_is_taken_over(storage: Storage, data: bytes) -> None:
    storage.write("lock.json", data)
    with Lease(storage, "s") as lease:
        assert lease.took_over


@pytest.mark.parametrize("of", ["no start", "another program"])
def test_a_claim_that_names_an_unrelated_process_is_taken_over_once_nobody_renews_it(storage: Storage, of: str) -> None:
    """Else it would lock the sweep for as long as that process runs: for ever, if it is the first of the machine."""
    command = ["sleep", "600"] if of == "another program" else [sys.executable, "-c", "import time; time.sleep(600)"]
    process = subprocess.Popen(command)
    try:
        if of == "another program":  # until then it is this one
            while Path(f"/proc/{process.pid}/comm").read_text().strip() != "sleep":
                time.sleep(0.01)
        data = claim_of(process.pid, **({"process_start": 0} if of == "no start" else {}))
        storage.write("lock.json", data)
        found = unlock(storage, "s")
        assert found is not None and found["pid"] == process.pid
        storage.write("lock.json", data)
        with Lease(storage, "s") as lease:
            assert lease.took_over
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a link"])
def test_what_is_no_file_in_the_place_of_a_lock_is_named_and_removed_by_unlock(tmp_path: Path, kind: str) -> None:
    storage, path = LocalStorage(tmp_path / "runs"), tmp_path / "runs" / "lock.json"
    path.parent.mkdir()
    target = tmp_path / "of the user"
    target.write_text("kept")
    make = {"a folder": path.mkdir, "a pipe": lambda: os.mkfifo(path), "a link": lambda: path.symlink_to(target)}
    make[kind]()
    named = f"lock.json is {kind}.*, not a lock.*Remove it with `trm sweep unlock s --storage s3://b`"
    with pytest.raises(SweepError, match=named), Lease(storage, "s", "s3://b"):
        raise AssertionError("a driver without a lease")
    assert unlock(storage, "s") == {}
    assert unlock(storage, "s") is None and target.read_text() == "kept"
    with Lease(storage, "s"):
        assert path.is_file()


def test_a_folder_with_files_in_the_place_of_a_lock_is_left_to_the_user(tmp_path: Path) -> None:
    (tmp_path / "lock.json" / "more").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"cannot remove .*lock.json: directory not empty.*Move it away"):
        unlock(LocalStorage(tmp_path), "s")


def test_a_restarted_container_takes_its_own_old_claim_over(storage: Storage) -> None:
    """It has the same host name, and its PID 1 is alive: in another PID namespace, or written by a version without."""
    old = {"host": socket.gethostname(), "pid": os.getpid(), "started_s": 0.0, "beat_s": time.time()}
    for data in (claim(host=socket.gethostname(), pid=os.getpid()), to_json_bytes(old)):
        storage.write("lock.json", data)
        with Lease(storage, "s") as lease:
            assert lease.took_over


def test_a_holder_that_was_taken_over_notices_and_leaves_the_next_claim_alone(storage: Storage) -> None:
    with Lease(storage, "s") as lease:
        storage.write("lock.json", claim())
        assert lease.lost.wait(120)
    assert json.loads(storage.read("lock.json"))["host"] == "another-machine"


def test_leaving_releases_only_the_own_claim_even_before_the_loss_is_noticed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.storage.lease.HEARTBEAT_S", 600.0)
    lease = Lease(storage, "s")
    lease.__enter__()
    storage.write("lock.json", claim())
    lease._end.set()
    lease.__exit__()
    assert json.loads(storage.read("lock.json"))["host"] == "another-machine"


def test_a_process_that_its_parent_has_not_collected_is_no_holder(storage: Storage) -> None:
    """The first process of many containers collects none: the sweep of a killed driver would be locked for ever."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    storage.write("lock.json", claim_of(process.pid))
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert driver_of(storage) is None
        with Lease(storage, "depth") as lease:
            assert lease.took_over
    finally:
        process.wait()


def test_a_driver_that_takes_the_lease_while_the_storage_is_away_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version that is read after a long outage may be that of another driver."""
    storage, read_tagged = LocalStorage(tmp_path), LocalStorage.read_tagged

    def late(self: LocalStorage, key: str) -> Tagged:
        if (tmp_path / "lock.json").exists():
            storage.write("lock.json", claim_of(process))
        return read_tagged(self, key)

    monkeypatch.setattr(LocalStorage, "read_tagged", late)
    with sleeping_process() as process:
        with pytest.raises(SweepError, match=f"is being run by process {process}"), Lease(storage, "depth"):
            pass
        assert json.loads(storage.read("lock.json"))["pid"] == process


def test_a_lease_whose_last_renewal_had_no_answer_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_if = LocalStorage.replace_if
    renewed = threading.Event()

    def lose_answer(self: LocalStorage, key: str, data: bytes, etag: str) -> str | None:
        if renewed.is_set():
            raise StorageError("away")
        replace_if(self, key, data, etag)
        renewed.set()
        raise StorageError("away")

    monkeypatch.setattr(LocalStorage, "replace_if", lose_answer)
    storage = LocalStorage(tmp_path)
    with Lease(storage, "depth"):
        assert renewed.wait(120)
    assert not storage.exists("lock.json")


def test_a_lease_whose_last_renewal_arrives_late_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be on its way for longer than the end waits for it. This process lives on, and would hold the sweep."""
    replace_if, delete_if = LocalStorage.replace_if, LocalStorage.delete_if
    on_its_way, may_arrive, has_arrived = threading.Event(), threading.Event(), threading.Event()

    def renew_late(self: LocalStorage, key: str, data: bytes, etag: str) -> str | None:
        on_its_way.set()
        may_arrive.wait(120)
        version = replace_if(self, key, data, etag)
        has_arrived.set()
        return version

    def delete_after_it(self: LocalStorage, key: str, etag: str) -> bool:
        may_arrive.set()
        assert has_arrived.wait(120)
        return delete_if(self, key, etag)

    monkeypatch.setattr(LocalStorage, "replace_if", renew_late)
    monkeypatch.setattr(LocalStorage, "delete_if", delete_after_it)
    storage = LocalStorage(tmp_path)
    with Lease(storage, "depth"):
        assert on_its_way.wait(120)
    assert not storage.exists("lock.json")


def test_a_beat_whose_answer_was_lost_is_no_lost_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_if, beats = LocalStorage.replace_if, []

    def lose_answers(self: LocalStorage, key: str, data: bytes, etag: str) -> str | None:
        written = replace_if(self, key, data, etag)
        beats.append(written)
        return None if len(beats) == 1 else written

    monkeypatch.setattr(LocalStorage, "replace_if", lose_answers)
    with Lease(open_storage(str(tmp_path)), "s") as lease:
        deadline = time.monotonic() + 60
        while len(beats) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not lease.lost.is_set()


def test_a_heartbeat_survives_an_unexpected_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_if, beats = LocalStorage.replace_if, list[int]()

    def fail_once(self: LocalStorage, key: str, data: bytes, etag: str) -> str | None:
        beats.append(1)
        if len(beats) == 1:
            raise RuntimeError("cannot schedule new futures")
        return replace_if(self, key, data, etag)

    monkeypatch.setattr(LocalStorage, "replace_if", fail_once)
    with Lease(open_storage(str(tmp_path)), "s") as lease:
        while len(beats) < 3 and any(thread.name == "lease" for thread in threading.enumerate()):
            time.sleep(0.01)
        assert len(beats) >= 3 and not lease.lost.is_set()


@pytest.mark.parametrize("clock", ["monotonic", "time"])
def test_a_holder_that_wakes_after_another_one_has_come_and_gone_has_lost_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: str
) -> None:
    """The monotonic clock stands still while a machine is suspended; the other one does not while a server is away."""
    storage, is_away = open_storage(str(tmp_path)), threading.Event()

    def away(self: LocalStorage, key: str, data: bytes, etag: str) -> str | None:
        is_away.set()
        raise StorageError("the server is away")

    with Lease(storage, "s") as lease:
        with monkeypatch.context() as patched:
            patched.setattr(LocalStorage, "replace_if", away)
            assert is_away.wait(60)
            storage.delete("lock.json")  # the other one took the lease over, and gave it back
            now = getattr(time, clock)
            monkeypatch.setattr(f"orchestrator.storage.lease.time.{clock}", lambda: now() + 900.0)
        assert lease.lost.wait(60) and not storage.exists("lock.json")


class TestUnlock:
    def test_the_claim_of_a_dead_holder_is_removed(self, storage: Storage) -> None:
        assert unlock(storage, "s") is None
        with sleeping_process() as pid:
            storage.write("lock.json", claim_of(pid))
            with pytest.raises(SweepError, match="End it with `trm sweep stop s`"):
                unlock(storage, "s")
        found = unlock(storage, "s")
        assert found is not None and found["pid"] == pid
        storage.write("lock.json", claim())
        assert unlock(storage, "s") is not None
        assert "lock.json" not in storage.list()

    def test_one_that_is_renewed_stays_however_late(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        """As long as another driver would not take it over: several heartbeats may be missed on a busy machine."""
        pauses = iter(range(100))

        def sleep(_: float) -> None:
            if next(pauses) == 20:
                storage.write("lock.json", claim(count=1))

        storage.write("lock.json", claim())
        monkeypatch.setattr("orchestrator.storage.lease.LEASE_S", 120.0)
        monkeypatch.setattr("orchestrator.storage.lease.time.sleep", sleep)
        with pytest.raises(SweepError, match="the heartbeat of process 1 on another-machine continues"):
            unlock(storage, "s")
        assert storage.exists("lock.json")


def test_a_process_of_another_machine_cannot_be_seen() -> None:
    assert ProcessIdentity("0" * 12, 1, 1).is_alive() is None
    assert ProcessIdentity(machine_id(), os.getpid(), 0).is_alive() is True
    assert ProcessIdentity(machine_id(), -1, 0).is_alive() is False


def test_a_request_to_stop_that_arrives_while_the_lease_is_taken_is_kept(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = type(storage).create

    def create_and_request(self: Storage, key: str, data: bytes) -> bool:
        created = create(self, key, data)
        self.write("stop.json", b'{"reason": "of the new driver"}')
        return created

    storage.write("stop.json", b'{"reason": "of an earlier driver"}')
    with Lease(storage, "demo"):
        assert not storage.exists("stop.json")
    storage.write("stop.json", b'{"reason": "of an earlier driver"}')
    with monkeypatch.context() as patched:
        patched.setattr(type(storage), "create", create_and_request)
        with Lease(storage, "demo"):
            assert b"of the new driver" in storage.read("stop.json")


def test_a_lease_that_is_not_entered_for_an_error_is_free_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process lives on, a notebook for example: nothing else would ever release it."""
    storage.write("stop.json", b"{}")
    delete_if = type(storage).delete_if

    def fail_once(self: Storage, key: str, etag: str) -> bool:
        if key == "stop.json":
            raise StorageError("away")
        return delete_if(self, key, etag)

    with monkeypatch.context() as patched:
        patched.setattr(type(storage), "delete_if", fail_once)
        with pytest.raises(StorageError, match="away"), Lease(storage, "depth"):
            pass
    assert driver_of(storage) is None
    with Lease(storage, "depth"):
        assert not storage.exists("stop.json")
