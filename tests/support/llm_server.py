"""A small server that speaks OpenAI's chat protocol and misbehaves as it is told."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Say:
    """What the server does with one question."""

    text: str = ""
    finish: str = "stop"
    tokens: tuple[int, int] | None = (100, 200)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    """Instead of a completion."""
    delay_s: float = 0.0
    hang_up: bool = False


@dataclass
class Heard:
    """A question that arrived."""

    at_s: float
    question: str
    body: dict[str, Any]
    key: str


class ChatServer:
    """Answers each question by `answer(question, number)`, number counting all questions from 0."""

    def __init__(self, answer: Callable[[str, int], Say]) -> None:
        self.heard: list[Heard] = []
        self._answer = answer
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._serve(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        key = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        with self._lock:
            number = len(self.heard)
            self.heard.append(Heard(time.monotonic(), question, body, key))
        say = self._answer(question, number)
        time.sleep(say.delay_s)
        if say.hang_up:
            handler.close_connection = True
            handler.connection.close()
            return
        content = (say.body if say.body is not None else json.dumps(_completion(body["model"], say))).encode()
        try:
            handler.send_response(say.status)
            kind = "text/html" if content.startswith(b"<") else "application/json"
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **say.headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has disconnected

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _completion(model: str, say: Say) -> dict[str, Any]:
    message = {"role": "assistant", "content": say.text}
    found: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": f"{model}-2026",
        "choices": [{"index": 0, "message": message, "finish_reason": say.finish}],
    }
    if say.tokens is not None:
        given, made = say.tokens
        found["usage"] = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
    return found


@contextmanager
def chat_server(answer: Callable[[str, int], Say]) -> Iterator[ChatServer]:
    """A running server."""
    server = ChatServer(answer)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def dripping_server() -> Iterator[str]:
    """The address of a server whose answer arrives blank by blank, until the client disconnects."""

    def drip() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while not end.wait(0.05):
                    connection.sendall(b"1\r\n \r\n")

    end = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            end.set()
            thread.join()
