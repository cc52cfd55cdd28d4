"""Admit requests of this machine only: the check of every server of `trm ui`, as ASGI and as WSGI.

The host is checked because any web page can have a browser send requests to 127.0.0.1, under a domain name that it
resolves to this address; the browser then takes the answers to belong to that page (DNS rebinding). The origin is
checked because another page can send requests under the right name.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from starlette.types import ASGIApp, Receive, Scope, Send

HOST = "127.0.0.1"
REFUSAL = b"This server answers requests to localhost only.\n"


def is_local(host: str | None, origin: str | None, port: int) -> bool:
    """Return whether a request names this server, and comes from one of its own pages or from no page.

    Args:
        host, origin: the headers of the request.
        port: of the server.
    """
    hosts = {f"{name}:{port}" for name in (HOST, "localhost")}
    return host in hosts and (origin is None or origin in {f"http://{each}" for each in hosts})


def local_only(app: ASGIApp, port: int, headers: dict[str, str] | None = None) -> ASGIApp:
    """Answer 403 to requests that are not local.

    Args:
        headers: added to every answer of the application.
    """
    added = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        found = {name: value.decode("latin-1") for name, value in scope["headers"] if name in (b"host", b"origin")}
        if not is_local(found.get(b"host"), found.get(b"origin"), port):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            kind = [(b"content-type", b"text/plain"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 403, "headers": kind})
            await send({"type": "http.response.body", "body": REFUSAL})
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        await app(scope, receive, send_with_headers if added else send)

    return checked


def local_only_wsgi(app: WSGIApplication, port: int) -> WSGIApplication:
    """Answer 403 to requests that are not local."""

    def checked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if is_local(environ.get("HTTP_HOST"), environ.get("HTTP_ORIGIN"), port):
            return app(environ, start_response)
        headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(REFUSAL))), ("Cache-Control", "no-store")]
        start_response("403 Forbidden", headers)
        return [REFUSAL]

    return checked
