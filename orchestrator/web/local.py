"""Serve WSGI applications to this machine only: to the loopback interface, and to requests that name it as their host.

The host is checked because any web page can have a browser send requests to 127.0.0.1, under a domain name that it
resolves to this address; the browser then takes the answers to belong to that page (DNS rebinding).
"""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

HOST = "127.0.0.1"
REQUEST_TIMEOUT_S = 30.0
"""A connection over which nothing comes is closed: browsers open some in advance."""
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the only user of the server knows their requests."""

    def address_string(self) -> str:
        return HOST  # without a look-up of its name


@contextmanager
def serving(app: WSGIApplication, port: int) -> Iterator[None]:
    """Serve an application from a thread."""
    server = _Server((HOST, port), _Handler)
    server.set_app(only_local(app, port))
    thread = threading.Thread(target=server.serve_forever, name=f"http-{port}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def only_local(app: WSGIApplication, port: int) -> WSGIApplication:
    """Answer 403 to requests with another Host header, and to changes that another page requests."""
    hosts = {f"{name}:{port}" for name in (HOST, "localhost")}
    origins = {f"http://{host}" for host in hosts}

    def checked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        origin = environ.get("HTTP_ORIGIN")
        is_change = environ["REQUEST_METHOD"] not in _SAFE_METHODS
        if environ.get("HTTP_HOST") not in hosts or (is_change and origin is not None and origin not in origins):
            return _answer(start_response, "403 Forbidden", b"This server answers requests to localhost only.\n")
        return app(environ, start_response)

    return checked


def page_app(page: Path) -> WSGIApplication:
    """Return an application that serves one HTML file, under its name and as the start page, and nothing else."""

    def serve_page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _answer(start_response, "405 Method Not Allowed", b"")
        if environ["PATH_INFO"] not in ("/", f"/{page.name}"):
            return _answer(start_response, "404 Not Found", b"There is only the start page.\n")
        return _answer(start_response, "200 OK", page.read_bytes(), "text/html; charset=utf-8")

    return serve_page


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


def _answer(start_response: StartResponse, status: str, body: bytes, kind: str = "text/plain") -> list[bytes]:
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
    start_response(status, headers)
    return [body]
