"""A connection to one experiment of an MLflow server or database.

    connection = Connection("sqlite:////data/mlflow.db")
    with connection.session() as client:       # whatever goes wrong inside is one TrackingError
        client.log_batch(...)

Not for use from several threads at once, nor across a fork: MLflow keeps one database connection per address.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from orchestrator.projections.reach import TrackingError, check, probe
from orchestrator.projections.view import without_password
from trm_data.errors import first_line

PAGE = 1000
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # else a new database reports its migrations on the user's terminal
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # else the end of every run is a line in the midst of --json
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default, 7 with growing pauses, stalls for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def default_uri(folder: Path) -> str:
    """An SQLite file in a folder: MLflow without a server."""
    return f"sqlite:///{(folder / 'mlflow.db').absolute()}"


def load_mlflow() -> Any:
    """Import MLflow (0.9 s) with settings that it takes from the environment and only at import."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow

    return mlflow


class Connection:
    """Connects at first use; after any failure it forgets what it knew of the other side and connects anew."""

    def __init__(self, tracking_uri: str, experiment: str, artifacts: str | None = None) -> None:
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self.experiment_id = ""
        self._artifacts = artifacts
        self._client: Any = None

    @contextmanager
    def session(self, forget: Callable[[], None]) -> Iterator[Any]:
        """An `MlflowClient`. `forget` is called on failure: the other side may have changed meanwhile.

        Raises:
            TrackingError: the tracker cannot be reached or refuses, or is another kind of thing.
        """
        probe(self.tracking_uri)
        load_mlflow()
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            if self._client is None:
                check(self.tracking_uri)
                self._client = self._connect()
            yield self._client
        except BaseException as error:
            self._client = None
            forget()
            if not isinstance(error, (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, *_file_errors())):
                raise
            raise TrackingError(
                f"tracker {without_password(self.tracking_uri)}: {first_line(error)}",
                "Records are complete without it; `trm track sync NAME` sends the rest when it works again",
            ) from error

    def _connect(self) -> Any:
        from mlflow import MlflowClient

        _write_ahead(self.tracking_uri)
        client = MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            self.experiment_id = client.create_experiment(self.experiment, self._artifact_location())
        else:
            self.experiment_id = found.experiment_id
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(found.experiment_id)
        return client

    def _artifact_location(self) -> str | None:
        """Beside an SQLite file, where MLflow would take the current folder; a server decides for itself."""
        path = _sqlite_path(self.tracking_uri)
        if path is not None:
            return (path.absolute().parent / "mlflow-artifacts").as_uri()
        return None if self.tracking_uri.startswith("http") else self._artifacts

    def search(self, client: Any, condition: str) -> Iterator[Any]:
        """Every run of the experiment that meets a condition."""
        token = None
        while True:
            page = client.search_runs([self.experiment_id], condition, max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def _file_errors() -> tuple[type[Exception], ...]:
    """What a store of files on S3 raises where MLflow writes to it by itself, without a server between."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return Boto3Error, BotoCoreError, ClientError


def _write_ahead(tracking_uri: str) -> None:
    """Let an SQLite file keep a write-ahead log: readers (`trm ui`) and the writer do not wait for each other, and a
    commit is one flush of the disk instead of three. The file remembers it."""
    path = _sqlite_path(tracking_uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=20)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")


def _sqlite_path(tracking_uri: str) -> Path | None:
    _, separator, path = tracking_uri.partition("sqlite:///")
    return Path(path) if separator else None
