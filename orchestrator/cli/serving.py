"""The body of `trm ui`: two local servers that end together."""

from __future__ import annotations

import functools
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

from orchestrator.cli.console import out
from orchestrator.cli.leaderboard_view import write_page
from orchestrator.cli.tracking import resolve_uri
from orchestrator.errors import SweepError
from orchestrator.storage import LocalStorage, open_storage
from trm_data.errors import UserError

HOST = "127.0.0.1"
"""Never another interface: neither server asks who is there."""
POLL_S = 0.3
END_S = 10.0


class _Page(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Quiet: what is asked for is no news to the one who asks."""


def serve(url: str, port: int) -> None:
    """Serve until a signal.

    Raises:
        UserError: a port is in use, or the storage holds nothing that could be shown.
    """
    storage = open_storage(url)
    if not isinstance(storage, LocalStorage):
        raise SweepError(f"trm ui shows local results, {url} is remote", "Name a folder with --storage")
    for each in (port, port + 1):
        check_port(each)
    write_page(storage, storage.root / "leaderboard.html")
    ended = threading.Event()

    def stop(number: int, _: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    mlflow = _start_mlflow(resolve_uri(storage, None) or "", port, storage.root)
    handler = functools.partial(_Page, directory=str(storage.root))
    page = http.server.ThreadingHTTPServer((HOST, port + 1), handler)
    threading.Thread(target=page.serve_forever, name="page", daemon=True).start()
    out.print(f"leaderboard: [bold]http://{HOST}:{port + 1}/leaderboard.html[/]")
    out.print(f"MLflow:      [bold]http://{HOST}:{port}[/] (answers in about 15 s)")
    out.print("Ctrl-C ends both.")
    try:
        while mlflow.poll() is None and not ended.wait(POLL_S):
            pass
        if not ended.is_set():
            raise UserError(
                f"MLflow ended by itself (exit code {mlflow.returncode})", f"See {storage.root}/mlflow-ui.log"
            )
    finally:
        page.shutdown()
        _end(mlflow)
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


def check_port(port: int) -> None:
    """Raises UserError if somebody listens on `port` of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port} is in use", f"Name another: --port {port + 10}") from error


def _start_mlflow(uri: str, port: int, folder: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        HOST,
        "--port",
        str(port),
        "--backend-store-uri",
        uri,
    ]
    with (folder / "mlflow-ui.log").open("wb") as log:
        return subprocess.Popen([*command, "--workers", "1"], stdout=log, stderr=log, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """MLflow runs workers of its own: end the whole group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                continue
