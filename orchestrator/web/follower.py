"""Keep the databases of Optuna's dashboard and MLflow up to date from the records while `trm ui` runs.

The driver of a sweep with a local storage writes to MLflow itself. Records on S3 have no MLflow of their own, so the
records are copied to a database in this user's cache.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from orchestrator.records.datasets import cache_folder
from orchestrator.storage import LocalStorage, Storage, open_storage
from orchestrator.tracking.live import artifact_location, only_writer
from orchestrator.tracking.mlflow import MlflowSync
from orchestrator.tracking.mlflow_connection import default_uri
from orchestrator.tracking.sqlite import sqlite_url
from orchestrator.web.feed import StorageFeed, SweepView
from trm_data.errors import UserError
from trm_data.settings import digest

logger = logging.getLogger(__name__)

EVERY_S = 4.0
"""Pause between two syncs: a point is shown at most ten seconds after it was recorded."""


def views_folder(storage: Storage) -> Path:
    """Return where the databases of a storage are: in its folder if it is local, else in the user's cache."""
    if isinstance(storage, LocalStorage):
        return storage.root.resolve()
    return cache_folder() / "views" / digest(storage.url, 12)


class Follower:
    """Sync from a thread until it is closed.

    Args:
        report: called with a line about what cannot be shown, once per problem.
        copies_to_mlflow: whether MLflow's database is written here, and not by the drivers of the sweeps.
    """

    def __init__(self, feed: StorageFeed, report: Callable[[str], None], *, copies_to_mlflow: bool) -> None:
        self._feed = feed
        self._report = report
        self._folder = views_folder(feed.storage)
        self._mlflow: MlflowSync | None = None
        if copies_to_mlflow:
            self._mlflow = MlflowSync(default_uri(self._folder), artifacts=artifact_location(self._local))
        self._sent: dict[tuple[str, str], tuple[int, bool]] = {}
        self._told: set[str] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="views", daemon=True)
        self._has_searches = False
        self._metrics: dict[str, str] = {}
        self.study_ids: dict[str, int] = {}
        """Numbers of the studies in Optuna's database, by sweep; empty until it exists."""

    @property
    def optuna_url(self) -> str:
        """Return the address of Optuna's database."""
        return sqlite_url(self._folder / "optuna.db")

    @property
    def _local(self) -> Storage:
        return open_storage(str(self._folder))

    def in_mlflow(self) -> dict[str, str]:
        """Return the sweeps that have been read and that MLflow may have, each with its metric."""
        if self._mlflow is None:
            return self._metrics.copy()
        return {name: self._metrics[name] for tool, name in list(self._sent) if tool == "mlflow"}

    def has_searches(self) -> bool:
        """Return whether a sweep that was read is a search."""
        return self._has_searches

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _follow(self) -> None:
        while True:
            self.sync()
            if self._end.wait(EVERY_S):
                return

    def sync(self) -> None:
        """Bring both databases up to date with what has changed since the last call."""
        try:
            names = self._feed.names()
        except UserError as error:
            self._tell(str(error))
            return
        for name in names:
            for tool in (self._sync_optuna, self._sync_mlflow):
                if self._end.is_set():
                    return
                try:
                    view = self._feed.sweep(name).view()
                    self._metrics[name] = view.sweep.metric
                    tool(view)
                except UserError as error:
                    self._tell(f"sweep {name}: {error}")
                except KeyError:  # the sweep was removed meanwhile
                    pass

    def _tell(self, problem: str) -> None:
        if problem not in self._told:
            self._told.add(problem)
            self._report(problem)

    def _is_new(self, tool: str, view: SweepView) -> bool:
        return self._sent.get((tool, view.sweep.name)) != (view.version, view.driver is not None)

    def _done(self, tool: str, view: SweepView) -> None:
        self._sent[tool, view.sweep.name] = (view.version, view.driver is not None)

    def _sync_optuna(self, view: SweepView) -> None:
        self._has_searches |= view.sweep.kind == "search"
        if view.sweep.kind != "search" or not self._is_new("optuna", view):
            return
        from orchestrator.tracking import optuna_dashboard  # imports Optuna: 0.5 s

        optuna_dashboard.sync(self._feed.storage, view.sweep.name, self.optuna_url, view.records)
        if view.sweep.name not in self.study_ids:
            self.study_ids = optuna_dashboard.study_ids(self.optuna_url)
        self._done("optuna", view)

    def _sync_mlflow(self, view: SweepView) -> None:
        if self._mlflow is None or not self._is_new("mlflow", view):
            return
        with only_writer(self._local, view.sweep.name, self._mlflow.tracking_uri, wait_s=0.0):
            self._mlflow.sync(view.sweep, view.records, is_driven=view.driver is not None)
        self._done("mlflow", view)
