"""MLflow within this process: the variables that it reads, what it writes to the terminal, its database connections.

All three are those of the whole process and may be used by the user's own code too: they are changed for a session.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trm_data.addresses import hide_credentials

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # otherwise a new database reports its migrations on the user's terminal
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # otherwise the end of a run prints a line into --json output
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default, 7 with growing pauses, stalls for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_environment_lock = threading.Lock()
_environment_users = 0
_environment_added: set[str] = set()
_LOGGERS = ("mlflow", "sqlalchemy", "alembic")
_STORES = ("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store")


@contextmanager
def mlflow_environment() -> Iterator[None]:
    """Set the environment variables that MLflow reads, at its import and at each request, and remove them afterwards.

    Variables that the user has set are left as they are. May be entered by several threads at once.
    """
    global _environment_users
    with _environment_lock:
        if _environment_users == 0:
            _environment_added.update(_ENVIRONMENT.keys() - os.environ.keys())
            os.environ.update({name: _ENVIRONMENT[name] for name in _environment_added})
        _environment_users += 1
    try:
        yield
    finally:
        with _environment_lock:
            _environment_users -= 1
            if _environment_users == 0:
                for name in _environment_added:
                    os.environ.pop(name, None)
                _environment_added.clear()


def load_mlflow() -> Any:
    """Import MLflow, which takes a second, with the settings that it reads at its import."""
    with mlflow_environment():
        import mlflow

        return mlflow


@contextmanager
def without_messages() -> Iterator[None]:
    """Keep from the terminal what MLflow and its database libraries log in this thread: errors are raised too.

    It goes to this package's own log, in the detail of `-vv`. MLflow must have been imported, which adds its handler.
    """
    thread = threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        if record.thread != thread or record.name.partition(".")[0] not in _LOGGERS:
            return True
        logger.debug("%s: %s", record.name, hide_credentials(record.getMessage()), exc_info=record.exc_info)
        return False

    names = [*_LOGGERS, "sqlalchemy.engine"]
    handlers = {handler for name in names for handler in logging.getLogger(name).handlers} | {logging.lastResort}
    for handler in filter(None, handlers):
        handler.addFilter(keep)
    try:
        yield
    finally:
        for handler in filter(None, handlers):
            handler.removeFilter(keep)


def close_connections(uri: str) -> None:
    """Close what MLflow keeps open of a database: a file that was deleted would take all that is written, unseen."""
    for store in filter(None, map(sys.modules.get, _STORES)):
        # Another thread may be importing it.
        if (engine := getattr(getattr(store, "SqlAlchemyStore", None), "_engine_map", {}).get(uri)) is not None:
            engine.dispose()
