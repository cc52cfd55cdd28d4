"""Connect to one experiment of an MLflow server or database.

    connection = Connection("sqlite:////data/mlflow.db")
    with connection.session() as client:       # every failure inside is raised as a TrackingError
        client.log_batch(...)

Before MLflow sees an address, `probe` checks that something listens there and `check` that it is MLflow of our version:
MLflow would retry for minutes, and would migrate an older database without asking.

Not for use from several threads at once, nor across a fork: MLflow keeps one database connection per address.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.tracking.mlflow_process import close_connections, mlflow_environment, without_messages
from orchestrator.tracking.sqlite import (
    ensure_database,
    remedy_of,
    require_target,
    rows_by_table,
    sqlite_path,
    sqlite_url,
)
from trm_data.addresses import hide_credentials, shown_address, split_address
from trm_data.errors import UserError, first_line

EXPERIMENT = "trm"
RUNS_PER_PAGE = 1000
CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 10.0
"""A server with a busy database takes a while to answer; one that does not answer for longer is considered down."""
ADDRESSES = "Use sqlite:////path/mlflow.db, http://HOST:PORT or postgresql+psycopg://USER@HOST/DATABASE"
_DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}


class TrackingError(UserError):
    """Raised for a tracker that cannot be reached or refuses. The records are complete without it: sync again later."""


def default_uri(folder: Path) -> str:
    """Return the address of an SQLite file in a folder: MLflow without a server."""
    return sqlite_url((folder / "mlflow.db").absolute())


class Connection:
    """Connect at first use. After any failure, discard all state about the server and connect again.

    Args:
        artifacts: where a new experiment keeps files if `tracking_uri` is a database other than SQLite, which has no
            place of its own as SQLite (its folder) and servers have.
    """

    def __init__(self, tracking_uri: str, experiment: str = EXPERIMENT, artifacts: str | None = None) -> None:
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self.experiment_id = ""
        self._artifacts = artifacts
        self._client: Any = None
        self._file: tuple[int, int] | None = None

    @contextmanager
    def session(self) -> Iterator[Any]:
        """Yield an `MlflowClient` for the experiment, which is created, or restored if it was deleted.

        Raises:
            TrackingError: the tracker cannot be reached or refuses, or is another kind of service.
        """
        with self._errors():
            if self._client is None or self._file != _file_of(self.tracking_uri):
                close_connections(self.tracking_uri)
                prepare(self.tracking_uri)
                client = self._new_client()
                self._open_experiment(client)
                self._client, self._file = client, _file_of(self.tracking_uri)
            yield self._client

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """Yield an `MlflowClient` without changing anything, or None where there is no such database or experiment."""
        with self._errors():
            close_connections(self.tracking_uri)
            check(self.tracking_uri)
            path = sqlite_path(self.tracking_uri)
            if path is not None and (not path.exists() or not rows_by_table(path).get("experiments")):
                yield None  # MLflow's client would create the tables, or the experiment that every database has
                return
            client = self._new_client()
            experiment = client.get_experiment_by_name(self.experiment)
            if experiment is None or experiment.lifecycle_stage == "deleted":
                yield None
                return
            self.experiment_id = experiment.experiment_id
            yield client

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with _tracking_errors(self.tracking_uri):
                yield
        except BaseException:
            self._client = None  # the server may have changed meanwhile
            raise

    def _new_client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    def _open_experiment(self, client: Any) -> None:
        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is None:
            from mlflow.exceptions import MlflowException

            try:
                self.experiment_id = client.create_experiment(self.experiment, self._artifact_location())
                return
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = client.get_experiment_by_name(self.experiment)  # another process was faster
        self.experiment_id = experiment.experiment_id
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)

    def _artifact_location(self) -> str | None:
        """Return the folder of an SQLite file, since MLflow would use the current one. A server decides for itself."""
        path = sqlite_path(self.tracking_uri)
        if path is not None:
            return (path.parent / "mlflow-artifacts").as_uri()
        return None if self.tracking_uri.startswith("http") else self._artifacts

    def search(self, client: Any, condition: str) -> Iterator[Any]:
        """Yield every run of the experiment that meets a condition."""
        token = None
        while True:
            page = client.search_runs([self.experiment_id], condition, max_results=RUNS_PER_PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def _file_of(uri: str) -> tuple[int, int] | None:
    """Return what tells an SQLite file from one that takes its place; None if there is none."""
    path = sqlite_path(uri)
    if path is None or not path.exists():
        return None
    status = path.stat()
    return status.st_dev, status.st_ino


@contextmanager
def _tracking_errors(uri: str) -> Iterator[None]:
    """Raise MLflow's errors as a TrackingError of one line, after checking whether anything listens at the address."""
    probe(uri)
    with mlflow_environment():
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with without_messages():
                yield
        except Exception as error:
            if not isinstance(error, (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, *_s3_errors())):
                raise
            raise TrackingError(
                f"tracker {shown_address(uri)}: {hide_credentials(first_line(_of_database(error)))}",
                remedy_of(uri, str(error)) or "Records are complete without it, and the next sync sends the rest",
            ) from error


def _of_database(error: Exception) -> BaseException:
    """Return the database's own error where MLflow's and SQLAlchemy's wrap one: they begin with their own advice."""
    return getattr(error.__cause__, "orig", None) or getattr(error, "orig", None) or error


def _s3_errors() -> tuple[type[Exception], ...]:
    """Return what an artifact store on S3 raises if MLflow's client writes to it directly."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return Boto3Error, BotoCoreError, ClientError


def check_form(uri: str, error: type[UserError] = TrackingError) -> None:
    """Raise `error` unless the text has the form of an address that MLflow can write to. Contacts nothing."""
    shown, parts = shown_address(uri), split_address(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite":
        if sqlite_path(uri) is None:
            raise error(f"tracker {shown!r} names no file", ADDRESSES)
    elif scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise error(f"tracker {shown!r}: not an address that MLflow can write to", f"{ADDRESSES}, or none")


def probe(uri: str, error: type[UserError] = TrackingError) -> None:
    """Raise `error` unless the address is an SQLite file or its host accepts a connection. Does not import MLflow.

    Also used for Optuna's database, which has the same kinds of addresses.
    """
    check_form(uri, error)
    shown, parts = shown_address(uri), split_address(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite":
        return
    assert parts.hostname, "check_form has found it"
    try:
        address = (parts.hostname, parts.port or _DEFAULT_PORTS[scheme])
        socket.create_connection(address, timeout=CONNECT_TIMEOUT_S).close()
    except ValueError as cause:
        raise error(f"tracker {shown!r}: its port is not a number", ADDRESSES) from cause
    except OSError as cause:
        raise error(
            f"tracker {shown}: nothing answers ({cause.strerror or cause})",
            "Start the server or correct the address; records are complete without it",
        ) from cause


def check(uri: str) -> None:
    """Raise TrackingError unless the address is an MLflow server, or a database that is empty or of our schema."""
    if uri.startswith("http"):
        server_version(uri)
    else:
        _check_database(uri)


def prepare(uri: str) -> None:
    """Check a tracker and create it if it is an SQLite file: MLflow would create the tables one by one in place.

    Raises:
        TrackingError: see `check`.
    """
    with _tracking_errors(uri):
        check(uri)
        if (path := sqlite_path(uri)) is not None:
            ensure_database(path, lambda path: not _is_half_made(path), _create_tables)


def server_version(uri: str, timeout_s: float | None = None) -> str:
    """Return the version of an MLflow server.

    The request is MLflow's own, so that it carries the credentials that MLflow would use: those of the address, of
    MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD and MLFLOW_TRACKING_TOKEN, and of ~/.mlflow/credentials.

    Raises:
        TrackingError: the server does not answer, requires credentials, or is not an MLflow server.
    """
    shown = shown_address(uri)
    with mlflow_environment():
        from mlflow.exceptions import MlflowException
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        try:
            answer = http_request(
                get_default_host_creds(uri),
                "/version",
                "GET",
                max_retries=0,
                timeout=timeout_s or ANSWER_TIMEOUT_S,
                raise_on_status=False,
            )
        except (MlflowException, OSError, ValueError) as error:
            reason = hide_credentials(first_line(error.__cause__ or error))
            raise TrackingError(f"tracker {shown}: no answer ({reason})", "See the server's log") from error
    if answer.status_code in (401, 403):
        remedy = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        raise TrackingError(f"tracker {shown} refuses these credentials ({answer.status_code})", remedy)
    version = str(answer.text).strip()
    if answer.status_code != 200 or not version[:1].isdigit():
        raise TrackingError(
            f"{shown} answers, but it is not an MLflow server", f"{ADDRESSES}; another service listens there"
        )
    return version


def _check_database(uri: str) -> None:
    if (path := sqlite_path(uri)) is not None:
        require_target(path)
        if not path.exists() or _is_half_made(path):
            return  # it will be created
    import sqlalchemy

    shown = shown_address(uri)
    try:
        tables, revision = _schema(uri)
    except ImportError as error:
        remedy = "The one for PostgreSQL: pip install 'psycopg[binary]>=3.2,<4'"
        raise TrackingError(f"tracker {shown} needs the package {error.name}", remedy) from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = hide_credentials(first_line(getattr(error, "orig", None) or error))
        raise TrackingError(f"tracker {shown}: {reason}", remedy_of(uri, reason) or ADDRESSES) from error
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


def _create_tables(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    uri = sqlite_url(path)
    try:
        SqlAlchemyStore(uri, (path.parent / "mlflow-artifacts").as_uri())
    finally:
        # MLflow keeps an engine per address, with connections to a file that is about to be renamed.
        if (engine := SqlAlchemyStore._engine_map.pop(uri, None)) is not None:
            engine.dispose()


def _is_half_made(path: Path) -> bool:
    """Return whether a process died while it created this file: its schema is incomplete and it has no run or model."""
    try:
        tables = rows_by_table(path)
    except sqlite3.Error:
        return False  # not a database: the address is probably wrong, so the file is never replaced
    if not tables:
        return path.stat().st_size == 0
    # Every new database gets one experiment, `Default`.
    is_empty = tables.get("experiments", 2) < 2 and not tables.get("runs") and not tables.get("registered_models")
    return is_empty and _schema(sqlite_url(path))[1] != _head()


def _schema(uri: str) -> tuple[list[str], str | None]:
    """Return the tables of a database without Alembic's own, and the revision of its schema."""
    import sqlalchemy

    timeout: dict[str, Any] = {"timeout": 5} if uri.startswith("sqlite") else {"connect_timeout": 5}
    engine = sqlalchemy.create_engine(uri, connect_args=timeout, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        names = sqlalchemy.inspect(connection).get_table_names()
        query = sqlalchemy.text("SELECT version_num FROM alembic_version")
        revision = connection.execute(query).scalar() if "alembic_version" in names else None
        return [name for name in names if not name.startswith("alembic_")], revision


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
