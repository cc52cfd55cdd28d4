"""A proxy before an S3 stand-in that refuses requests and cuts answers off, as a busy server and a bad network do."""

from __future__ import annotations

import http.client
import http.server
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlparse

from tests.support.infra import in_a_thread

Refuses = Callable[[str, str], bool]
"""Called with method and path of every request."""


def never(method: str, path: str) -> bool:
    """Disturb nothing."""
    return False


class _Proxy(http.server.BaseHTTPRequestHandler):
    target: str
    refuses: Refuses
    cuts: Refuses

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if type(self).refuses(self.command, self.path):
            self._answer(503, [], b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>")
            return
        connection = http.client.HTTPConnection(type(self).target, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if type(self).cuts(self.command, self.path):
            self._cut(answer.status, content)
            return
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OWN]
        self._answer(answer.status, kept, content, answer.getheader("Content-Length"))

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _cut(self, status: int, body: bytes) -> None:
        """Send half of a body, and nothing at all where there is none: the request was carried out all the same."""
        if self.command == "GET" and body:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing about a client, or a server, that has been killed."""
        if not isinstance(sys.exception(), OSError | http.client.HTTPException):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


_OWN = {"content-length", "transfer-encoding", "connection", "date", "server"}


@contextmanager
def refusing_proxy(endpoint: str, refuses: Refuses, cuts: Refuses = never, port: int = 0) -> Iterator[str]:
    """The address of a proxy that passes requests on to `endpoint` unless `refuses` says no.

    Args:
        cuts: of what is passed on, the answers that are cut off.
        port: of the proxy; 0 for any that is free.
    """
    values = {"target": urlparse(endpoint).netloc, "refuses": staticmethod(refuses), "cuts": staticmethod(cuts)}
    handler = type("Proxy", (_Proxy,), values)
    with in_a_thread(_Server(("127.0.0.1", port), handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}"
