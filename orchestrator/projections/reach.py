"""Is a tracker's address usable, does anything listen there? Asked first, because the libraries retry for minutes."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from orchestrator.projections.view import without_password
from trm_data.errors import UserError

_DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}
TIMEOUT_S = 2.0


def probe(uri: str, error: type[UserError] = UserError) -> None:
    """Raise `error` unless the address is an SQLite file or its host accepts a connection."""
    remedy = "Use sqlite:////path/mlflow.db, http://HOST:PORT or postgresql+psycopg://USER@HOST/DATABASE"
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite":
        return
    if scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise error(f"tracker {uri!r}: not an address that MLflow can write to", remedy)
    try:
        address = (parts.hostname, parts.port or _DEFAULT_PORTS[scheme])
        socket.create_connection(address, timeout=TIMEOUT_S).close()
    except (OSError, ValueError) as cause:
        raise error(
            f"tracker {without_password(uri)}: nothing answers ({getattr(cause, 'strerror', None) or cause})",
            "Start the server or correct the address; records are complete without it",
        ) from cause
