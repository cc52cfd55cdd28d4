"""Serve the pages of a storage, MLflow and Optuna's dashboard on this machine until a signal, for `trm ui`."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

from orchestrator.storage import LocalStorage, Storage, storage_to_read
from orchestrator.tracking.mlflow_connection import EXPERIMENT, default_uri, prepare
from orchestrator.web.access import HOST
from orchestrator.web.app import HEADERS, pages
from orchestrator.web.feed import StorageFeed
from orchestrator.web.follower import Follower, views_folder
from orchestrator.web.serving import optuna_app, serving, serving_wsgi
from trm_data.errors import UserError

POLL_S = 0.3
END_TIMEOUT_S = 10.0
"""For the process of MLflow's server to end after SIGTERM, before SIGKILL."""
ANSWER_LIMIT_S = 5.0
MLFLOW_LOG = "mlflow-ui.log"


def serve(url: str, port: int, report: Callable[[str], None]) -> None:
    """Serve until a signal, or until MLflow's server ends.

    Args:
        url: a storage, local or on S3.
        port: of the start page. MLflow and Optuna's dashboard get the next two.
        report: called with each line for the user.

    Raises:
        UserError: a port is in use, the storage cannot be read, a database is of another version, or MLflow's server
            ended.
    """
    storage = storage_to_read(url)
    for each in range(port, port + 3):
        check_port(each)
    folder = views_folder(storage)
    folder.mkdir(parents=True, exist_ok=True)
    uri = default_uri(folder)
    prepare(uri)
    feed = StorageFeed(storage)
    with ExitStack() as stack:
        ended = stack.enter_context(_until_signal())
        follower = stack.enter_context(Follower(feed, report, copies_to_mlflow=not isinstance(storage, LocalStorage)))
        tools = Tools(port, follower)
        stack.enter_context(serving(pages(feed, tools.state), port, HEADERS))
        process = stack.enter_context(_mlflow_server(uri, port + 1, folder))
        report(f"sweeps: http://{HOST}:{port}")
        report(f"MLflow: http://{HOST}:{port + 1} (answers in about 15 s; the start page links to its table of runs)")
        if not isinstance(storage, LocalStorage):
            report(f"MLflow and Optuna show copies of {_shown(storage)} in {folder}, which follow the records")
        report("Ctrl-C ends everything.")
        while not ended.wait(POLL_S):
            if process.poll() is not None:
                raise UserError(
                    f"MLflow's server ended by itself (exit code {process.returncode})", f"See {folder / MLFLOW_LOG}"
                )
            tools.probe_mlflow()
            if follower.study_ids and not tools.has_optuna:
                stack.enter_context(serving_wsgi(stack.enter_context(optuna_app(follower.optuna_url)), port + 2))
                tools.has_optuna = True
                report(f"Optuna: http://{HOST}:{port + 2}")


def _shown(storage: Storage) -> str:
    return storage.url.partition("?")[0]


@dataclass(slots=True)
class Tools:
    """Describe the servers of MLflow and Optuna for the start page."""

    port: int
    """Of the start page."""
    follower: Follower
    has_optuna: bool = False
    experiment: str | None = field(default=None)
    """MLflow's number of the experiment; None until its server answers and has one."""
    is_mlflow_ready: bool = False

    def state(self) -> dict[str, Any]:
        """Return the tools with their addresses, whether they answer, and a link to each sweep."""
        return {"mlflow": self._mlflow(), "optuna": self._optuna()}

    def _mlflow(self) -> dict[str, Any]:
        address = f"http://{HOST}:{self.port + 1}"
        table = f"{address}/#/experiments/{self.experiment}/runs?"
        if self.experiment is None:
            links, top = {}, address
        else:
            metrics = self.follower.in_mlflow()
            links = {name: table + runs_query(name, metric) for name, metric in metrics.items()}
            top = f"{table}workflowType=machine_learning"
        return {"title": "MLflow", "url": top, "is_ready": self.is_mlflow_ready, "note": "starting", "sweeps": links}

    def _optuna(self) -> dict[str, Any]:
        address = f"http://{HOST}:{self.port + 2}/dashboard"
        links = {name: f"{address}/studies/{number}" for name, number in self.follower.study_ids.items()}
        note = "starting" if self.follower.has_searches() else "there is no search yet"
        return {"title": "Optuna", "url": address, "is_ready": self.has_optuna, "note": note, "sweeps": links}

    def probe_mlflow(self) -> None:
        """Ask MLflow's server for the experiment, until it has one."""
        if self.experiment is not None:
            return
        connection = http.client.HTTPConnection(HOST, self.port + 1, timeout=ANSWER_LIMIT_S)
        try:
            connection.request("GET", f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={EXPERIMENT}")
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()
        self.is_mlflow_ready = True
        if answer.status == 200:
            self.experiment = str(json.loads(body)["experiment"]["experiment_id"])


def runs_query(sweep: str, metric: str) -> str:
    """Return the query of MLflow's table of runs: the trials of a sweep, the best first.

    Sorted by time, MLflow would show the sweep's own run only, and the trials folded below it. Without the type of
    workflow it shows its pages for language models.
    """
    wanted = quote(f"tags.sweep = '{sweep}' AND tags.trial_id LIKE '%'", safe="")
    order = quote(f"metrics.`validation/{metric}`", safe="")
    return f"workflowType=machine_learning&searchFilter={wanted}&orderByKey={order}&orderByAsc=false"


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
    command = [sys.executable, "-m", "orchestrator.web.mlflow_server", uri, str(folder / "mlflow-artifacts"), str(port)]
    with (folder / MLFLOW_LOG).open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT_S)
