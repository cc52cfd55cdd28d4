"""One writer per sweep and tracker: two that look for a trial's run at once would both make one."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from orchestrator.errors import SweepError
from orchestrator.records.reader import SweepReader
from orchestrator.storage import LocalStorage, Storage
from orchestrator.storage.lease import Lease, driver_of
from orchestrator.sweep.definition import Sweep
from orchestrator.tracking.mlflow_connection import TrackingError
from trm_data.errors import UserError

if TYPE_CHECKING:
    from orchestrator.tracking.mlflow import MlflowProjection

logger = logging.getLogger(__name__)

POLL_S = 0.5


@contextmanager
def only_writer(storage: Storage, sweep_name: str, uri: str, *, wait_s: float) -> Iterator[None]:
    """Hold `sweeps/<sweep>/tracking/<address>/lock.json`; one that a dead process left is taken over.

    Raises:
        TrackingError: another living process writes there, and goes on for `wait_s`.
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
    return TrackingError(f"{who} is writing sweep {sweep_name!r} to this tracker", "It sends the same: let it end")


EVERY_S = 5.0
"""Shortest time between two projections: a sweep of tiny trials must not spend its cores on tracking."""


LAST_WAIT_S = 60.0
"""At the end of a sweep, for a `trm track` that happens to be writing; before, the next time will do."""


class Tracker:
    """Syncs one sweep to MLflow from a thread until it is closed; reports once if the tracker cannot be reached."""

    def __init__(self, sweep: Sweep, storage: Storage, uri: str | None, warn: Callable[[str], None]) -> None:
        self.uri = uri
        self._sweep = sweep
        self._warn = warn
        self._storage = storage
        self._reader = SweepReader(storage, sweep.name)
        self._dirty = threading.Event()
        self._end = threading.Event()
        self._failed = ""
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)

    def changed(self) -> None:
        """The records say something new: the first time, this starts the thread."""
        if self.uri is None:
            return
        self._dirty.set()
        if not self._thread.is_alive():
            self._thread.start()

    def close(self) -> None:
        """Project what is still new, and end. A sweep that never started leaves no trace in MLflow."""
        self._end.set()
        self._dirty.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._failed:
            self._warn(f"MLflow was not brought up to date: {self._failed}")

    def _follow(self) -> None:
        from orchestrator.tracking.mlflow import MlflowProjection

        assert self.uri is not None
        projection = MlflowProjection(self.uri, artifacts=artifact_location(self._storage))
        while not self._end.is_set():
            self._dirty.wait()
            self._dirty.clear()
            self._project(projection)
            self._end.wait(EVERY_S)
        if self._dirty.is_set():
            self._project(projection, wait_s=LAST_WAIT_S)

    def _project(self, projection: MlflowProjection, wait_s: float = 0.0) -> None:
        try:
            with only_writer(self._storage, self._sweep.name, projection.tracking_uri, wait_s=wait_s):
                records = self._reader.read().trials
                projection.sync(records, self._sweep.name, self._sweep.plain())
            self._failed = ""
        except UserError as error:  # of the tracker or of the storage: the next time may do better
            self._failed = str(error)


@contextmanager
def tracked(
    sweep: Sweep, storage: Storage, uri: str | None, warn: Callable[[str], None] = logger.warning
) -> Iterator[Tracker]:
    """A tracker for the duration of a run."""
    tracker = Tracker(sweep, storage, resolve_uri(storage, uri), warn)
    try:
        yield tracker
    finally:
        tracker.close()


def resolve_uri(storage: Storage, uri: str | None) -> str | None:
    """The given one; else SQLite beside the records where these are local; None switches tracking off."""
    if uri == "none":
        return None
    if uri is not None:
        return uri
    return f"sqlite:///{storage.root.resolve()}/mlflow.db" if isinstance(storage, LocalStorage) else None


def artifact_location(storage: Storage) -> str:
    """Where files go if the tracker is a database without a place for them: beside the records."""
    if isinstance(storage, LocalStorage):
        return (storage.root.resolve() / "mlflow-artifacts").as_uri()
    return f"{storage.url.partition('?')[0].rstrip('/')}/mlflow-artifacts"
