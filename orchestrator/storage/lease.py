"""Hold an exclusive lease that a heartbeat renews: one driver per sweep, one writer per tracker.

Whether the holder is alive is decided without its clock. On the same machine the holder's process is checked by PID and
start time. On another machine the version of the lease file is watched: a holder that is alive updates it every few
seconds.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from orchestrator.errors import SweepError, command_line
from orchestrator.storage.base import Storage, StorageError, to_json_bytes
from orchestrator.storage.local import LocalStorage
from orchestrator.storage.local_files import kind_of, remove_irregular
from trm_data.errors import UserError
from trm_data.files import ProcessIdentity, load_json, this_process

logger = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
LEASE_S = 30.0
"""Seconds after which an unchanged lease may be taken over: five missed heartbeats on slow storage are tolerated."""
LOCK = "lock.json"
RELEASE_S = 20.0
"""Longest wait for an unavailable storage at the end: a lease that stays is taken over."""
STOP = "stop.json"
_IDENTITY = ("host", "pid", "machine", "process_start", "started_s")


class Lease:
    """Own a sweep: `with Lease(storage, sweep):`. Entering waits up to `LEASE_S` seconds for a holder on another
    machine.

    Args:
        storage: address of the storage, for the commands that an error names.
        remedy: what an error suggests instead, where the name is not that of a sweep.
        what: what is being done under the lease, for errors: "sweep 'demo' is being run".
        needs: a file of the folder that the holder has written. A lease that somebody deleted is written again only
            while this file is there; without it the folder was deleted, and the lease is lost.

    Raises:
        SweepError: another holder that is alive owns it.
    """

    def __init__(
        self, folder: Storage, name: str, storage: str = "", remedy: str = "", what: str = "", needs: str = ""
    ) -> None:
        self.took_over = False
        """Whether the holder before this one died without releasing the lease."""
        self.lost = threading.Event()
        """Set when another process took the lease over, as it may when this machine was suspended for too long, or the
        folder was deleted."""
        self.is_deleted = False
        """Whether the lease was lost because its folder was deleted."""
        self._was_deleted = False
        self._folder = folder
        self._storage_without_retries = folder.brief()
        """A failed heartbeat is not repeated, and one without an answer is abandoned: both would delay the next one."""
        self._name, self._storage, self._needs = name, storage, needs
        watch, stop = (command_line("sweep", verb, name, storage=storage) for verb in ("status", "stop"))
        self._what = what or f"sweep {name!r} is being run"
        self._remedy = remedy or f"Watch it with `{watch}`, or end it with `{stop}`"
        identity = this_process()
        self._owner: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": identity.pid,
            "machine": identity.machine,
            "process_start": identity.start,
            "started_s": time.time(),
        }
        self._begun_s = time.monotonic()
        self._held_at = _clocks()
        """When the last request was sent that is known to have renewed the lease."""
        self._version = ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        earlier_request = _version_of(self._folder, STOP)
        try:
            self._version = self._create() or self._take_over()
            if earlier_request is not None:  # a request that arrived since then is for this holder
                self._folder.delete_if(STOP, earlier_request)
            self._thread.start()
        except BaseException:  # this process may live on, and would seem to hold what nobody gives back
            self._release(self._storage_without_retries)
            raise
        return self

    def _create(self) -> str | None:
        """Return the version of a new lease; None if there is one already.

        A storage that is away between the two calls may be so for longer than `LEASE_S`: then another driver has taken
        the lease over, and its version must not be taken for this one's.
        """
        content, self._held_at = self._content(), _clocks()
        if not self._folder.create(LOCK, content):
            return None
        try:
            data, version = self._folder.read_tagged(LOCK)
        except KeyError:
            return None
        return version if data == content else None

    def _take_over(self) -> str:
        """Replace the lease of a dead holder. The version check lets only one of several candidates succeed."""
        try:
            data, version = self._folder.read_tagged(LOCK)
            holder = _parse(data)
            if _lives(holder) or (_lives(holder) is None and _changes(self._folder, version)):
                where = f"process {holder.get('pid')} on {holder.get('host')}"
                raise SweepError(f"{self._what} by {where}", self._remedy)
        except KeyError:
            if what := _in_its_place(self._folder):
                unlock_it = command_line("sweep", "unlock", self._name, storage=self._storage)
                remedy = f"Remove it with `{unlock_it}`" if self._storage else "Move it away"
                raise SweepError(f"{what}, not a lock", remedy) from None
            raise SweepError(f"the driver of sweep {self._name!r} is just ending", "Try again in a moment") from None
        self._held_at = _clocks()
        taken = self._folder.replace_if(LOCK, self._content(), version)
        if taken is None:
            raise SweepError(f"another driver has just taken sweep {self._name!r}", "Try again in a moment")
        self.took_over = True
        return taken

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(HEARTBEAT_S)
        if self.is_deleted or not self.lost.is_set():
            self._release(self._storage_without_retries.patient(RELEASE_S))

    def _release(self, folder: Storage) -> None:
        """Delete the lease if it can be read and this process holds it."""
        with suppress(StorageError):
            for _ in range(2):  # the last renewal, if it is still on its way, may arrive in between
                if (version := self._ours(folder)) is None or folder.delete_if(LOCK, version):
                    return

    def _content(self) -> bytes:
        # Not by the clock: it may have stepped since the start.
        return to_json_bytes({**self._owner, "beat_s": self._owner["started_s"] + time.monotonic() - self._begun_s})

    def _renew(self) -> None:
        while not self._end.wait(HEARTBEAT_S):
            sent_at = _clocks()
            try:
                version = self._storage_without_retries.replace_if(LOCK, self._content(), self._version)
                if version is None:
                    version = self._ours(self._storage_without_retries) or self._restored()
                if version is None or self._is_orphan():
                    self.lost.set()
                    return
            except UserError:
                continue  # the lease outlives a short outage; a long one ends the sweep where it writes
            except Exception:
                logger.exception("a heartbeat of %s failed", self._name)
                continue
            self._version, self._held_at = version, sent_at

    def _restored(self) -> str | None:
        """Return the version of a lease that takes the place of a deleted one.

        None if there may have been another holder since, which has ended: nobody takes a lease over that was renewed
        less than `LEASE_S` ago.
        """
        self._was_deleted = True
        if self._end.is_set() or self._is_orphan():  # it may be given back
            return None
        silent_s = max(now - then for now, then in zip(_clocks(), self._held_at, strict=True))
        if silent_s > LEASE_S - HEARTBEAT_S or (version := self._create()) is None:
            return None
        logger.warning("the lock of %s was deleted, and is written again", self._name)
        return version

    def _is_orphan(self) -> bool:
        """Return whether the folder was deleted: with the lease, or little by little after it."""
        if self._was_deleted and self._needs:
            self.is_deleted = not self._storage_without_retries.exists(self._needs)
        return self.is_deleted

    def _ours(self, folder: Storage) -> str | None:
        """Return the version of the lease if this process still holds it: a renewal may succeed without an answer."""
        try:
            data, version = folder.read_tagged(LOCK)
        except KeyError:
            return None
        holder = _parse(data)
        same = all(holder.get(name) == value for name, value in self._owner.items())
        return version if same else None


def _clocks() -> tuple[float, float]:
    """Return the seconds of two clocks: the monotonic one stands still while the machine is suspended, and the other
    one may be set."""
    return time.monotonic(), time.time()


def _changes(folder: Storage, version: str) -> bool:
    """Watch a lease for `LEASE_S` seconds of this machine's monotonic clock. Raises KeyError if it is deleted."""
    deadline = time.monotonic() + LEASE_S
    while time.monotonic() < deadline:
        time.sleep(min(HEARTBEAT_S / 5, LEASE_S / 5))
        if folder.read_tagged(LOCK).etag != version:
            return True
    return False


def _version_of(folder: Storage, key: str) -> str | None:
    try:
        return folder.read_tagged(key).etag
    except KeyError:
        return None


def _parse(data: bytes) -> dict[str, Any]:
    """Return the content of a lease; empty if it cannot be read, so that only its heartbeat is checked."""
    try:
        value = load_json(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _in_its_place(folder: Storage) -> str:
    """Return what is in the place of a lease if it is no file; an empty string if nothing is, or a file."""
    if not isinstance(folder, LocalStorage):
        return ""
    path = folder.root / LOCK
    kind = kind_of(path)
    return f"{path} is {kind}" if kind else ""


def _lives(holder: dict[str, Any]) -> bool | None:
    """Return whether the holder's process runs on this machine; None if that cannot be determined from here.

    A lease is a file that others may have written. One that names a process without its start, or one that does not
    run Python, is decided by its heartbeat.
    """
    try:
        pid = int(holder["pid"])
        if "machine" in holder:
            start = int(holder.get("process_start", 0))
            is_alive = ProcessIdentity(str(holder["machine"]), pid, start).is_alive()
            return None if is_alive and not (start > 0 and runs_python(pid)) else is_alive
    except (KeyError, TypeError, ValueError, OverflowError):  # int(inf) overflows
        return None
    if holder.get("host") != socket.gethostname():
        return None
    # Written by an earlier version, which did not record boots and PID namespaces: a missing process is dead, but one
    # with this PID may as well be a restarted container's own.
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return None


def runs_python(pid: int) -> bool:
    """Return whether a process runs Python, as every holder of a lease does; False if this user may not know."""
    import psutil

    try:
        return Path(psutil.Process(pid).exe()).name.startswith(("python", "Python", "pypy"))
    except (psutil.Error, OSError):
        return False


def driver_of(folder: Storage, *, if_silent: Literal["dead", "watch", "alive"] = "dead") -> dict[str, Any] | None:
    """Return host, pid and started_s of the current holder, if there is one.

    If the holder is on another machine, the age of its lease file decides, by the storage's clock where it has one.

    Args:
        if_silent: what a holder on another machine counts as whose lease is older than `LEASE_S` by that clock. "dead"
            is sufficient for display. "watch", for decisions: alive if the file changes within `LEASE_S` from now on.
            "alive", for what does no harm: unless it is proved dead.
    """
    try:
        data, version = folder.read_tagged(LOCK)
        holder = _parse(data)
        is_alive = _lives(holder)
        if is_alive is None:
            is_alive = if_silent == "alive" or folder.age_s(LOCK) <= LEASE_S
            is_alive = is_alive or (if_silent == "watch" and _changes(folder, version))
    except KeyError:
        return None
    return {"host": "?", "pid": 0, "started_s": 0.0, **holder} if is_alive else None


class DriverHours:
    """Measure for how long the driver of a sweep has run, without comparing the clocks of two machines.

    A driver that is seen for the first time has run for as long as its lease says, by its own clock. From then on this
    machine's monotonic clock counts. Without a driver, the hours of the last one continue.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._driver: tuple[Any, ...] | None = None
        self._begun_s = clock()

    def of(self, driver: Mapping[str, Any] | None) -> float:
        """Return the hours since the start of a driver of `driver_of`; before one was seen, since this was made."""
        if driver is not None and (found := tuple(map(driver.get, _IDENTITY))) != self._driver:
            self._driver = found
            started_s, beat_s = start_of_driver(driver), driver.get("beat_s")
            ran_s = beat_s - started_s if isinstance(beat_s, (int, float)) and started_s is not None else 0.0
            self._begun_s = self._clock() - max(0.0, ran_s)
        return (self._clock() - self._begun_s) / 3600


def start_of_driver(driver: Mapping[str, Any]) -> float | None:
    """Return when a driver of `driver_of` started, by the clock of its machine; None if that is not known."""
    started_s = driver.get("started_s")
    return float(started_s) if isinstance(started_s, (int, float)) and started_s > 0 else None


def unlock(folder: Storage, name: str, storage: str = "") -> dict[str, Any] | None:
    """Remove the lease of a dead holder, and return it; None if there is no lease, and {} for a damaged one.

    Args:
        storage: address of the storage, for the command that an error names.

    Raises:
        SweepError: its process runs on this machine, or its heartbeat continues.
        StorageError: a folder with files is in its place.
    """
    try:
        data, version = folder.read_tagged(LOCK)
    except KeyError:
        if not isinstance(folder, LocalStorage) or not _in_its_place(folder):
            return None
        remove_irregular(folder.root / LOCK)
        return {}
    holder = _parse(data)
    remedy = f"End it with `{command_line('sweep', 'stop', name, storage=storage)}`"
    where = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
    if _lives(holder):
        raise SweepError(f"{where} runs sweep {name!r}", remedy)
    try:
        is_renewed = _lives(holder) is None and _changes(folder, version)
    except KeyError:  # it was released meanwhile
        return None
    if is_renewed or not folder.delete_if(LOCK, version):
        raise SweepError(f"the heartbeat of {where} continues", remedy)
    return holder
