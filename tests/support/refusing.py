"""A proxy before an S3 stand-in that refuses requests, as a busy server does."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlparse

Refuses = Callable[[str, str], bool]
"""Called with method and path of every request."""


class _Proxy(http.server.BaseHTTPRequestHandler):
    target: str
    refuses: Refuses

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

    def log_message(self, format: str, *args: object) -> None:
        pass


_OWN = {"content-length", "transfer-encoding", "connection", "date", "server"}


@contextmanager
def refusing_proxy(endpoint: str, refuses: Refuses) -> Iterator[str]:
    """The address of a proxy that passes requests on to `endpoint` unless `refuses` says no."""
    values = {"target": urlparse(endpoint).netloc, "refuses": staticmethod(refuses)}
    handler = type("Proxy", (_Proxy,), values)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
