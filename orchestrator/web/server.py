"""Serve MLflow, the results page and Optuna's dashboard on this machine until a signal, for `trm ui`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from orchestrator.errors import SweepError
from orchestrator.records.index import load_definitions
from orchestrator.results.report.storage_page import write_storage_page
from orchestrator.storage import LocalStorage, Storage, storage_to_read
from orchestrator.tracking.live import resolve_uri
from orchestrator.tracking.mlflow_connection import prepare
from orchestrator.web.local import HOST, optuna_app, page_app, serving
from trm_data.errors import UserError

POLL_S = 0.3
END_TIMEOUT_S = 10.0
"""For the processes of MLflow's server to end after SIGTERM, before SIGKILL."""
PAGE = "leaderboard.html"
MLFLOW_LOG = "mlflow-ui.log"


def serve(url: str, port: int, report: Callable[[str], None]) -> None:
    """Serve until a signal, or until MLflow's server ends.

    Args:
        url: a local storage.
        port: MLflow's port. The page and Optuna's dashboard get the next two.
        report: called with each line for the user.

    Raises:
        UserError: a port is in use, the storage is remote, a database is of another version, or MLflow's server ended.
    """
    storage = storage_to_read(url)
    if not isinstance(storage, LocalStorage):
        raise SweepError(f"trm ui shows local results, {storage.url} is remote", "Name a folder with --storage")
    for each in range(port, port + 3):
        check_port(each)
    uri = resolve_uri(storage, None) or ""
    prepare(uri)
    write_storage_page(storage, storage.root / PAGE)
    dashboard = _sync_searches(storage, report)
    with ExitStack() as stack:
        ended = stack.enter_context(_until_signal())
        stack.enter_context(serving(page_app(storage.root / PAGE), port + 1))
        process = stack.enter_context(_mlflow_server(uri, port, storage.root))
        report(f"leaderboard: http://{HOST}:{port + 1}/{PAGE}")
        report(f"MLflow:      http://{HOST}:{port}")
        if dashboard is not None:
            stack.enter_context(serving(stack.enter_context(optuna_app(dashboard)), port + 2))
            report(f"Optuna:      http://{HOST}:{port + 2}")
        report("MLflow answers in about 15 s. Ctrl-C ends everything.")
        while not ended.wait(POLL_S):
            if process.poll() is not None:
                raise UserError(
                    f"MLflow's server ended by itself (exit code {process.returncode})",
                    f"See {storage.root / MLFLOW_LOG}",
                )


def _sync_searches(storage: Storage, report: Callable[[str], None]) -> str | None:
    """Update the database of Optuna's dashboard and return its address, or None if there is no search."""
    definitions, damaged = load_definitions(storage)
    for each in damaged:
        report(f"skipped {each}")
    names = [sweep.name for sweep in definitions if sweep.kind == "search"]
    if not names:
        return None
    from orchestrator.tracking.optuna_dashboard import default_url, sync  # imports Optuna: 0.5 s

    url = default_url(storage)
    try:
        for name in names:
            sync(storage, name, url)
    except UserError as error:
        report(f"Optuna's dashboard is left out: {error}")
        return None
    return url


def check_port(port: int) -> None:
    """Raise UserError if a process of this machine listens on `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port} is in use", f"Name another: --port {port + 10}") from error


@contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set."""
    ended = threading.Event()

    def stop(number: int, _: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _mlflow_server(uri: str, port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run MLflow's server as the head of a process group that is ended with it; its output is written to a file."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--artifacts-destination", str(folder / "mlflow-artifacts")]
    # Jobs of MLflow's server are not used here; they would take two more processes.
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / MLFLOW_LOG).open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **environment}
        )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT_S)
