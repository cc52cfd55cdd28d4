"""Serve applications from threads of this process, to this machine only."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from orchestrator.web.access import HOST, local_only, local_only_wsgi
from trm_data.errors import UserError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from starlette.types import ASGIApp

REQUEST_TIMEOUT_S = 30.0
"""A connection over which nothing comes is closed: browsers open some in advance."""
POLL_S = 0.02


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the only user of the server knows their requests."""

    def address_string(self) -> str:
        return HOST  # without a look-up of its name


@contextmanager
def serving_wsgi(app: WSGIApplication, port: int) -> Iterator[None]:
    """Serve a WSGI application from a thread."""
    server = _Server((HOST, port), _Handler)
    server.set_app(local_only_wsgi(app, port))
    thread = threading.Thread(target=server.serve_forever, name=f"http-{port}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving(app: ASGIApp, port: int, headers: dict[str, str] | None = None) -> Iterator[None]:
    """Serve an ASGI application from a thread.

    Raises:
        UserError: the port cannot be listened on.
    """
    import uvicorn

    config = uvicorn.Config(
        local_only(app, port, headers),
        host=HOST,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=_run, args=(server,), name=f"http-{port}", daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise UserError(f"port {port} cannot be listened on", f"Name another: --port {port + 10}")
            time.sleep(POLL_S)
        yield
    finally:
        server.should_exit = True
        thread.join()


def _run(server: Any) -> None:
    try:
        server.run()
    except SystemExit:  # uvicorn's way to say that it cannot listen: the caller sees that the thread has ended
        return


@contextmanager
def optuna_app(url: str) -> Iterator[WSGIApplication]:
    """Yield Optuna's dashboard of a database as an application."""
    from optuna.storages import RDBStorage
    from optuna_dashboard import wsgi

    database = RDBStorage(url)
    dashboard: Callable[..., Any] = wsgi(database)

    def serve_dashboard(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return list(dashboard(environ, start_response))
        finally:
            database.remove_session()  # of this request's thread

    try:
        yield serve_dashboard
    finally:
        database.engine.dispose()
