"""The body of `trm ui`: local servers that start together and end together."""

from __future__ import annotations

import functools
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from orchestrator.errors import SweepError
from orchestrator.records.index import load_definition, sweep_names
from orchestrator.results.report.storage_page import write_storage_page
from orchestrator.storage import LocalStorage, Storage, open_storage
from orchestrator.tracking.live import resolve_uri
from trm_data.errors import UserError

HOST = "127.0.0.1"
"""Never another interface: none of the servers asks who is there."""
POLL_S = 0.3
END_S = 10.0
PAGE = "leaderboard.html"


@dataclass(frozen=True, slots=True)
class Server:
    """A server in a process of its own; its output goes to a file."""

    name: str
    port: int
    command: Sequence[str]
    log: Path

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


def serve(url: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until a signal, or until one of the servers ends.

    Raises:
        UserError: a port is in use, the storage is remote, a database is of another version, a server ended by itself.
    """
    storage = open_storage(url)
    if not isinstance(storage, LocalStorage):
        raise SweepError(f"trm ui shows local results, {url} is remote", "Name a folder with --storage")
    for each in range(port, port + 3):
        check_port(each)
    uri = resolve_uri(storage, None) or ""
    _check(uri)
    write_storage_page(storage, storage.root / PAGE)
    servers = [_mlflow(uri, port, storage.root)]
    optuna = _with_searches(storage, say)
    if optuna is not None:
        servers.append(_dashboard(optuna, port + 2, storage.root))
    with _until_signal() as ended, _page(storage.root, port + 1), _running(servers) as processes:
        say(f"leaderboard: http://{HOST}:{port + 1}/{PAGE}")
        for server in servers:
            say(f"{server.name + ':':<12} {server.url}")
        say("MLflow answers in about 15 s. Ctrl-C ends everything.")
        _wait(ended, servers, processes)


def _check(uri: str) -> None:
    from orchestrator.tracking.mlflow_connection import check

    check(uri)


def _with_searches(storage: Storage, say: Callable[[str], None]) -> str | None:
    """Bring Optuna's view of the searches up to date: its address, or None if there is no search."""
    names = [name for name in sweep_names(storage) if load_definition(storage, name).kind == "search"]
    if not names:
        return None
    from orchestrator.tracking.optuna_dashboard import default_url, sync

    url = default_url(storage)
    try:
        for name in names:
            sync(storage, name, url)
    except UserError as error:
        say(f"Optuna's dashboard is left out: {error}")
        return None
    return url


def _mlflow(uri: str, port: int, folder: Path) -> Server:
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--artifacts-destination", str(folder / "mlflow-artifacts")]
    return Server("MLflow", port, command, folder / "mlflow-ui.log")


def _dashboard(url: str, port: int, folder: Path) -> Server:
    program = "from optuna_dashboard._cli import main; main()"
    command = [sys.executable, "-c", program, url, "--host", HOST, "--port", str(port), "--server", "wsgiref"]
    return Server("Optuna", port, command, folder / "optuna-ui.log")


def check_port(port: int) -> None:
    """Raises UserError if somebody listens on `port` of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port} is in use", f"Name another: --port {port + 10}") from error


@contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set."""
    ended = threading.Event()

    def stop(number: int, _: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Quiet: what is asked for is no news to the one who asks."""


@contextmanager
def _page(folder: Path, port: int) -> Iterator[None]:
    """The folder's files, from a thread."""
    server = http.server.ThreadingHTTPServer((HOST, port), functools.partial(_Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, name="page", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _running(servers: Sequence[Server]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes of the servers, each the head of a group that is ended with it."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for server in servers:
            processes.append(_start(server))
        yield processes
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            deadline = time.monotonic() + END_S
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, deadline - time.monotonic()))


def _start(server: Server) -> subprocess.Popen[bytes]:
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }  # nothing here uses jobs
    with server.log.open("wb") as log:
        return subprocess.Popen(
            server.command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **quiet}
        )


def _wait(ended: threading.Event, servers: Sequence[Server], processes: Sequence[subprocess.Popen[bytes]]) -> None:
    while not ended.wait(POLL_S):
        for server, process in zip(servers, processes, strict=True):
            if process.poll() is not None:
                raise UserError(f"{server.name} ended by itself (exit code {process.returncode})", f"See {server.log}")
