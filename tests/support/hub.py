"""A server on this machine that serves the files of a folder, as a web server and as Hugging Face's hub does."""

from __future__ import annotations

import hashlib
import http.server
from pathlib import Path
from typing import Any


class HubServer(http.server.ThreadingHTTPServer):
    """Serves a folder; `cut` files are announced whole and sent by half; `hub` speaks the hub's protocol."""

    cut: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset({"gone", "refs"})
    """Revisions that no repository has."""
    etags: dict[str, str]


class HubHandler(http.server.SimpleHTTPRequestHandler):
    server: HubServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path, error = self.path.split("?")[0], "EntryNotFound"
        if "/resolve/" in path:
            revision = path.partition("/resolve/")[2].partition("/")[0]
            path = "/" + path.rsplit("/", 1)[-1]
            if revision in self.server.missing:
                path, error = "/none", "RevisionNotFound"
        file = Path(self.directory) / path.lstrip("/")
        if not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", error)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{self.server.etags.get(file.name, hashlib.sha256(content).hexdigest())}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if file.name in self.server.cut else content)
