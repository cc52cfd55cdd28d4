"""A connection to one experiment of an MLflow server or database.

    connection = Connection("sqlite:////data/mlflow.db")
    with connection.session() as client:       # whatever goes wrong inside is one TrackingError
        client.log_batch(...)

Not for use from several threads at once, nor across a fork: MLflow keeps one database connection per address.
"""

from __future__ import annotations

import base64
import importlib.metadata
import importlib.util
import os
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from orchestrator.tracking.mlflow_view import without_password
from trm_data.errors import UserError, first_line

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


_DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}


TIMEOUT_S = 2.0


ANSWER_S = 10.0
"""A server with a busy database takes a while; one that says nothing for longer is as good as away."""


ADDRESSES = "Use sqlite:////path/mlflow.db, http://HOST:PORT or postgresql+psycopg://USER@HOST/DATABASE"


class TrackingError(UserError):
    """A tracker that cannot be reached or refuses. Records lose nothing by it: synchronise again later."""


def probe(uri: str, error: type[UserError] = TrackingError) -> None:
    """Raise `error` unless the address is an SQLite file or its host accepts a connection. Takes milliseconds."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite":
        if not uri.partition("sqlite:///")[2]:
            raise error(f"tracker {uri!r} names no file", ADDRESSES)
        return
    if scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise error(f"tracker {uri!r}: not an address that MLflow can write to", ADDRESSES)
    try:
        address = (parts.hostname, parts.port or _DEFAULT_PORTS[scheme])
        socket.create_connection(address, timeout=TIMEOUT_S).close()
    except (OSError, ValueError) as cause:
        raise error(
            f"tracker {without_password(uri)}: nothing answers ({getattr(cause, 'strerror', None) or cause})",
            "Start the server or correct the address; records are complete without it",
        ) from cause


def check(uri: str) -> None:
    """Raise TrackingError unless what answers is an MLflow server, or a database that is empty or of our schema."""
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        _check_server(uri)
    else:
        _check_database(uri)


def _check_server(uri: str) -> None:
    shown = without_password(uri)
    try:
        with urllib.request.urlopen(_version_request(uri), timeout=ANSWER_S) as answer:
            version = answer.read(40).decode("ascii", "replace").strip()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            remedy = "Write them into the address: http://USER:PASSWORD@HOST:PORT"
            raise TrackingError(f"tracker {shown} asks for a user and a password", remedy) from error
        version = ""
    except (OSError, ValueError) as error:
        raise TrackingError(f"tracker {shown}: no answer ({error})", "Look at the server's log") from error
    if not version[:1].isdigit():
        raise TrackingError(f"{shown} answers, but it is no MLflow server", f"{ADDRESSES}; here something else listens")


def _version_request(uri: str) -> urllib.request.Request:
    """GET /version, with the user and password of the address, which urllib would take for a part of the host."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(f"{parts.scheme}://{host}{parts.path.rstrip('/')}/version")
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    return request


def _check_database(uri: str) -> None:
    shown = without_password(uri)
    path = Path(uri.partition("sqlite:///")[2]) if uri.startswith("sqlite") else None
    if path is not None and not path.exists():
        return  # MLflow makes it
    import sqlalchemy

    try:
        tables, revision = _schema(uri)
    except ImportError as error:
        remedy = "pip install 'trm-orchestrator[postgres]' has the one for PostgreSQL"
        raise TrackingError(f"tracker {shown} needs the package {error.name}", remedy) from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = first_line(getattr(error, "orig", None) or error)
        raise TrackingError(f"tracker {shown}: {reason}", ADDRESSES) from error
    if revision == _head() or not tables:
        return
    ours = importlib.metadata.version("mlflow")
    if revision is None:
        raise TrackingError(f"tracker {shown} is a database of something else, not MLflow's", "Name another one")
    if revision in _revisions():
        raise TrackingError(
            f"tracker {shown} was written by an older MLflow (schema {revision}, MLflow {ours} has {_head()})",
            "Make a copy of it, then `mlflow db upgrade ADDRESS`; or name another one",
        )
    raise TrackingError(
        f"tracker {shown} was written by a newer MLflow (schema {revision}, unknown to {ours})",
        "Install the MLflow that wrote it, or name another one",
    )


def _schema(uri: str) -> tuple[list[str], str | None]:
    """The tables of a database, Alembic's own left out, and the revision of its schema."""
    import sqlalchemy

    timeout: dict[str, Any] = {"timeout": 5} if uri.startswith("sqlite") else {"connect_timeout": 5}
    engine = sqlalchemy.create_engine(uri, connect_args=timeout, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        names = sqlalchemy.inspect(connection).get_table_names()
        found = "alembic_version" in names
        revision = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")) if found else None
        return [name for name in names if not name.startswith("alembic_")], revision.scalar() if revision else None


@cache
def _revisions() -> frozenset[str]:
    return frozenset(script.revision for script in _scripts().walk_revisions())


@cache
def _head() -> str | None:
    head: str | None = _scripts().get_current_head()
    return head


@cache
def _scripts() -> Any:
    from alembic.script import ScriptDirectory

    package = importlib.util.find_spec("mlflow")
    assert package is not None and package.origin is not None
    return ScriptDirectory(str(Path(package.origin).parent / "store" / "db_migrations"))
