"""Sync a sweep to MLflow while it runs, from a thread.

    with tracked(sweep, storage, uri):
        run_sweep(...)

The thread compares the records with what it has sent every few seconds, so MLflow has a point of a running trial within
ten seconds of its being recorded. A sweep never waits for it, except at its end, for a few seconds at most after the
last answer of the tracker.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from orchestrator.errors import SweepError, command_line
from orchestrator.records.index import sweep_folder
from orchestrator.records.reader import SweepReader
from orchestrator.storage import LocalStorage, Storage
from orchestrator.storage.lease import Lease, driver_of
from orchestrator.sweep.definition import Sweep
from orchestrator.tracking.mlflow import MlflowSync
from orchestrator.tracking.mlflow_connection import TrackingError, check_form, default_uri
from orchestrator.tracking.mlflow_process import load_mlflow
from orchestrator.tracking.mlflow_view import has_run
from orchestrator.tracking.sqlite import sqlite_path
from trm_data.addresses import shown_address
from trm_data.errors import UserError, first_line

logger = logging.getLogger(__name__)

SYNC_EVERY_S = 5.0
"""Pause between two syncs: tracking must not slow down a sweep of tiny trials."""
ANSWER_WAIT_S = 5.0
"""At the end of a sweep: time to wait for the next answer of a server, and for another process that is writing."""
LOCAL_WAIT_S = 60.0
"""The same for an SQLite file, where only this machine's own load keeps the thread busy."""
CLOSE_LIMIT_S = 120.0
"""At the end of a sweep: time to wait for a server that does answer, but slowly."""
TELL_AFTER_S = 1.0
"""At the end of a sweep: time after which the user is told what is being waited for."""
POLL_S = 0.1


@contextmanager
def only_writer(storage: Storage, sweep_name: str, uri: str, *, wait_s: float) -> Iterator[None]:
    """Hold the lease on one sweep in one tracker: two writers that look for a trial's run would both create one.

    The lease is `sweeps/<sweep>/tracking/<digest of the address>/lock.json`. That of a dead process is taken over.

    Raises:
        TrackingError: another process holds it for longer than `wait_s`.
    """
    folder = storage.sub(f"sweeps/{sweep_name}/tracking/{hashlib.sha256(uri.encode()).hexdigest()[:12]}")
    deadline = time.monotonic() + wait_s
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(Lease(folder, sweep_name))
                break
            except SweepError as error:
                if time.monotonic() > deadline:
                    raise _busy(folder, sweep_name) from error
            time.sleep(POLL_S)
        yield


def _busy(folder: Storage, sweep_name: str) -> TrackingError:
    holder = driver_of(folder)
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return TrackingError(
        f"{who} is writing sweep {sweep_name!r} to this tracker", "It sends the same data: wait until it ends"
    )


class Tracker:
    """Sync one sweep from a thread until it is closed.

    Args:
        uri: the tracker; None switches tracking off.
        warn: called with one line by `close` if MLflow does not have everything, and at once, from the thread, after an
            unexpected error.
        tell: called once, by `close`, with one line if it has to wait.
    """

    def __init__(
        self,
        sweep: Sweep,
        storage: Storage,
        uri: str | None,
        warn: Callable[[str], None] = logger.warning,
        tell: Callable[[str], None] = logger.info,
    ) -> None:
        self.uri = uri
        self._sweep = sweep
        self._storage = storage
        self._warn, self._tell = warn, tell
        self._records = SweepReader(storage, sweep.name)
        self._sent_version = (0, False)
        """Of the records, and whether a driver ran the sweep then."""
        self._num_damaged = 0
        self._end = threading.Event()
        self._answered_s = time.monotonic()
        self._num_sent = (0, 0)
        """Trials that the tracker has, of those that it is to have, as of its last answer."""
        self._patience_s = LOCAL_WAIT_S
        """The longest silence that `close` accepts: importing MLflow takes longer than a server's answer."""
        self._problem = ""
        self._thread = threading.Thread(target=self._follow, name="mlflow-sync", daemon=True)

    def start(self) -> None:
        """Start the thread. It writes nothing to MLflow before the first trial starts."""
        if self.uri is not None:
            self._thread.start()

    def close(self, *, is_quiet: bool = False) -> None:
        """Send what is still new, waiting only as long as the tracker answers, and end the thread.

        Ctrl-C ends the waiting: what is missing in MLflow is in the records. `is_quiet`: do not say that it waits.
        """
        if self._thread.ident is None:
            return  # it was never started
        try:
            self._wait(is_told=is_quiet)
        except KeyboardInterrupt:
            self._problem = "interrupted"
        if self._problem:
            problem = " ".join(self._problem.split())
            self._warn(f"MLflow was not brought up to date: {problem}. `{self._sync_command()}` sends the rest")

    def _wait(self, is_told: bool) -> None:
        self._answered_s = began_s = time.monotonic()
        self._end.set()
        while self._thread.is_alive():
            # After a break the thread ends with the process, or sends the rest if the process continues.
            now_s = time.monotonic()
            silent_s = now_s - self._answered_s
            if silent_s > self._patience_s:
                self._problem = f"no answer for {silent_s:.0f} s"
                break
            if now_s - began_s > CLOSE_LIMIT_S:
                self._problem = self._unsent()
                break
            if not is_told and now_s - began_s > TELL_AFTER_S:
                is_told = True
                self._tell("the trials have ended; MLflow is being brought up to date. Ctrl-C ends this at once")
            self._thread.join(POLL_S)

    def _unsent(self) -> str:
        done, total = self._num_sent
        limit = f"the time limit of {CLOSE_LIMIT_S:.0f} s is over"
        return f"{limit}, with {done:,} of {total:,} trials sent" if total else limit

    def _sync_command(self) -> str:
        assert self.uri is not None
        is_default = self.uri == resolve_uri(self._storage, None)
        tracking = () if is_default else ("--tracking", shown_address(self.uri))
        return command_line("track", "sync", self._sweep.name, *tracking, storage=self._storage.url)

    def _follow(self) -> None:
        assert self.uri is not None
        mlflow = MlflowSync(self.uri, artifacts=artifact_location(self._storage))
        while not self._end.wait(SYNC_EVERY_S):
            self._sync(mlflow, wait_s=0.0)
        self._sync(mlflow, wait_s=ANSWER_WAIT_S)

    def _sync(self, mlflow: MlflowSync, wait_s: float) -> None:
        try:
            is_driven = driver_of(sweep_folder(self._storage, self._sweep.name)) is not None
            records, damaged = self._records.read()
            for file in damaged[self._num_damaged :]:
                logger.warning("sweep %s: a trial is not synced to MLflow: %s", self._sweep.name, file)
            self._num_damaged = len(damaged)
            version = self._records.version, is_driven
            if version == self._sent_version or not any(map(has_run, records)):
                return
            load_mlflow()
            self._patience_s = ANSWER_WAIT_S if sqlite_path(mlflow.tracking_uri) is None else LOCAL_WAIT_S
            self._answered_s = time.monotonic()
            with only_writer(self._storage, self._sweep.name, mlflow.tracking_uri, wait_s=wait_s):
                mlflow.sync(self._sweep, records, self._on_progress, is_driven=is_driven)
            self._sent_version = version
        except UserError as error:  # of the tracker or the storage: the next sync sends what this one did not
            if not self._problem:
                logger.info("sweep %s is not synced to MLflow: %s", self._sweep.name, error)
            self._problem = error.what
        except Exception as error:  # of MLflow or this program: it may last, and the sweep for days
            before, self._problem = self._problem, f"{type(error).__name__}: {first_line(error)}"
            if self._problem != before:
                logger.exception("sweep %s is not synced to MLflow", self._sweep.name)
                if not self._end.is_set():
                    tried = f"it is tried again every {SYNC_EVERY_S:.0f} s; `{self._sync_command()}` does so afterwards"
                    self._warn(f"MLflow is not brought up to date: {' '.join(self._problem.split())}. {tried}")
        else:
            if self._problem:
                logger.info("sweep %s is synced to MLflow again", self._sweep.name)
            self._problem = ""

    def _on_progress(self, done: int, total: int) -> None:
        self._answered_s = time.monotonic()
        self._num_sent = (done, total)


@contextmanager
def tracked(
    sweep: Sweep,
    storage: Storage,
    uri: str | None,
    warn: Callable[[str], None] = logger.warning,
    tell: Callable[[str], None] = logger.info,
) -> Iterator[Tracker]:
    """Sync a sweep to MLflow for the duration of a run.

    Args:
        uri: a tracking address, "none", or None for the default; see `resolve_uri`.
        warn, tell: see `Tracker`. `tell` is also called with a line if the default is none.
    """
    tracker = Tracker(sweep, storage, resolve_uri(storage, uri), warn, tell)
    if tracker.uri is None and uri is None:
        show = command_line("ui", storage=storage.url)
        tell(f"records on S3 have no MLflow of their own: `{show}` shows them in one, or name a server: --tracking URL")
    tracker.start()
    is_quiet = True  # after an error its line is all that the user is to read
    try:
        yield tracker
        is_quiet = False
    finally:
        tracker.close(is_quiet=is_quiet)


def resolve_uri(storage: Storage, uri: str | None) -> str | None:
    """Return the tracking address: the given one, else SQLite in the folder of local records, else None.

    Raises:
        TrackingError: it is not of the form of an address.
    """
    if uri == "none":
        return None
    if uri is not None:
        check_form(uri)
        return uri
    return default_uri(storage.root.resolve()) if isinstance(storage, LocalStorage) else None


def artifact_location(storage: Storage) -> str:
    """Return where files go if the tracker is a database that has no place for them: into the storage."""
    if isinstance(storage, LocalStorage):
        return (storage.root.resolve() / "mlflow-artifacts").as_uri()
    return f"{storage.url.partition('?')[0].rstrip('/')}/mlflow-artifacts"
