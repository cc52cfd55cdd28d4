"""Records, MLflow servers and a PostgreSQL cluster for the tests of tracking."""

from __future__ import annotations

import dataclasses
import http.server
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from orchestrator.records.index import new_head
from orchestrator.records.schema import (
    Attempt,
    AttemptEnd,
    AttemptStart,
    DatasetInfo,
    Row,
    Status,
    TrialRecord,
    TrialResult,
)
from orchestrator.records.writer import dump_rows
from orchestrator.storage import Storage
from orchestrator.sweep import Sweep, choice
from tests.support.infra import free_port, wait_for_http
from tests.support.sweeps import study, tiny_config
from trm_data.settings import digest


def depth(**changes: Any) -> Sweep:
    """A study of four trials."""
    base = tiny_config(**{"train.max_steps": 50})
    return study(**{"name": "depth", "base": base, "space": {"T": choice(1, 2)}, "seeds": 2, **changes})


SWEEP = depth()
START_S = 1_790_000_000.0


def record(seed: int = 0, steps: int = 5, **changes: Any) -> TrialRecord:
    """A running trial with `steps` rows of training and validation."""
    config = SWEEP.base.model_copy(update={"seed": seed})
    rows = [
        Row(step, START_S + step, split, {"loss": 1 / (step + seed + 1), "exact_accuracy": step / 100})
        for step in range(10, 10 * steps + 1, 10)
        for split in ("train", "validation")
    ]
    start = {
        "host": "node-1",
        "gpu_type": "L40S",
        "started_s": START_S,
        "from_step": 0,
        "versions": {"torch": "2.13.0"},
        "git": {"commit": "abc123", "dirty": False},
    }
    made = TrialRecord(
        trial_id=digest(config.plain()),
        sweep="depth",
        stage="study",
        family="T=1 n=2",
        config=config,
        dataset=DatasetInfo(
            benchmark="sudoku-6x6-generated",
            fingerprint="f" * 64,
            source="generator",
            generated=True,
            counts={"train": 400, "validation": 100, "test": 500},
        ),
        status=Status.RUNNING,
        step=10 * steps,
        rows=rows,
        attempts=[Attempt(1, AttemptStart.parse(start), None)],
    )
    return dataclasses.replace(made, **changes)


def finished(seed: int = 0, steps: int = 5) -> TrialRecord:
    """The same trial at its end, with a final score."""
    before = record(seed, steps)
    end = AttemptEnd(status=Status.FINISHED, step=before.step, ended_s=START_S + 99, train_s=80.0)
    result = TrialResult(
        split="test", items=500, metrics={"exact_accuracy": 0.91}, num_parameters=1234, ended_s=START_S + 99
    )
    attempts = [Attempt(1, before.attempts[0].start, end)]
    return dataclasses.replace(before, status=Status.FINISHED, attempts=attempts, result=result)


START_LIMIT_S = 600
"""A server starts in a few seconds, and in minutes where ten others share its core."""


class FirstUse(NamedTuple):
    """What the first use of a new folder left behind."""

    done: subprocess.CompletedProcess[str]
    current_folder: Path
    database: Path


@pytest.fixture(scope="session")
def first_use(tmp_path_factory: pytest.TempPathFactory) -> FirstUse:
    """A process that creates a database: two seconds of migrations, which is why all tests copy this one."""
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    code = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.tracking.mlflow import MlflowSync, default_uri\n"
        "from tests.support.tracking import depth\n"
        "assert 'mlflow' not in sys.modules\n"
        "MlflowSync(default_uri(Path(sys.argv[1]))).sync(depth(name='none'), [])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(there)], cwd=here, capture_output=True, text=True)
    return FirstUse(done, here, there / "mlflow.db")


@pytest.fixture
def migrated(first_use: FirstUse) -> Path:
    return first_use.database


class MlflowServer:
    """`mlflow server` as a process that can be killed and started again at the same address."""

    def __init__(self, backend: str, artifacts: str, environment: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        self._command += ["--workers", "1", "--backend-store-uri", backend, "--artifacts-destination", artifacts]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._environment = {**os.environ, **quiet, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_for_http(f"{self.url}/health", self._process, timeout_s=START_LIMIT_S)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL to the server and its workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> MlflowServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _postgres_binaries() -> Path | None:
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def _folder_of(account: dict[str, Any]) -> Path:
    """Return a new folder that `account` can write to: on some machines only root can enter the temporary directory."""
    for place in (tempfile.gettempdir(), "/var/tmp", "/dev/shm"):
        folder = Path(tempfile.mkdtemp(prefix="trm-postgres-", dir=place))
        if account:
            shutil.chown(folder, account["user"], account["group"])
        if subprocess.run(["test", "-w", str(folder)], **account).returncode == 0:
            return folder
        folder.rmdir()
    raise RuntimeError("no temporary directory can be entered by an unprivileged user")


@contextmanager
def postgres_cluster() -> Iterator[str]:
    """A PostgreSQL cluster on a free port, as an unprivileged user; yields the address of its empty database."""
    binaries = _postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed (pip install 'psycopg[binary]')")
    account: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    folder = _folder_of(account)
    data, port = folder / "data", free_port()

    def call(program: str, *arguments: str) -> None:
        command = [str(binaries / program), "-D", str(data), *arguments]
        with tempfile.TemporaryFile() as said:  # not a pipe, which the server would keep open
            if subprocess.run(command, cwd=folder, stdout=said, stderr=subprocess.STDOUT, **account).returncode:
                said.seek(0)
                raise RuntimeError(f"{program}: {said.read().decode()}")

    try:
        call("initdb", "-U", "mlflow", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://mlflow@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_record(storage: Storage, record: TrialRecord, segment: int = 1, rows_from: int = 0) -> None:
    """Write a made-up record, or what is new of it, as a trial process would."""
    folder = storage.sub(f"sweeps/{record.sweep}/trials/{record.trial_id}")
    folder.write("trial.json", new_head(record.stage, record.family, record.config, record.dataset).encode())
    for attempt in record.attempts:
        prefix = f"attempts/{attempt.number:03d}"
        folder.write(f"{prefix}/start.json", attempt.start.encode())
        folder.write(f"{prefix}/rows-{segment:06d}.jsonl", dump_rows(record.rows[rows_from:]))
        if attempt.end:
            folder.write(f"{prefix}/end.json", attempt.end.encode())
    if record.result:
        folder.write("result.json", record.result.encode())


def contents(uri: str, experiment: str = "trm") -> list[dict[str, Any]]:
    """Everything that a tracker has of an experiment, without the ids that it gave: equal where two say the same."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    place = client.get_experiment_by_name(experiment).experiment_id
    runs = client.search_runs([place], "tags.sweep != 'none'", max_results=5000)  # `none` made the empty database
    return sorted((_content(client, run) for run in runs), key=lambda run: str(run["tags"].get("trial_id", "")))


def _content(client: Any, run: Any) -> dict[str, Any]:
    passing = {"mlflow.parentRunId", "mlflow.user", "mlflow.artifacts"}
    return {
        "tags": {name: value for name, value in run.data.tags.items() if name not in passing},
        "params": run.data.params,
        "curves": {
            name: sorted((point.step, point.timestamp, str(point.value)) for point in history)
            for name in run.data.metrics
            for history in [client.get_metric_history(run.info.run_id, name)]
        },
        "datasets": [(data.dataset.name, data.dataset.digest) for data in run.inputs.dataset_inputs],
        "times": (run.info.start_time, run.info.end_time, run.info.status),
        "files": sorted(_files(client, run.info.run_id, "")),
    }


def _files(client: Any, run_id: str, folder: str) -> Iterator[str]:
    for entry in client.list_artifacts(run_id, folder or None):
        if entry.is_dir:
            yield from _files(client, run_id, entry.path)
        else:
            yield entry.path


class FakeServer:
    """An HTTP server that answers /version as MLflow does.

    Args:
        authorization: the header that it requires; other requests get 401.
        hangs: leave every other request without an answer until `release`.
    """

    def __init__(self, authorization: str = "", hangs: bool = False) -> None:
        self.requests: list[str] = []
        self._released = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                if hangs and self.path != "/version":
                    outer._released.wait()
                refused = bool(authorization) and self.headers.get("Authorization") != authorization
                self.send_response(401 if refused else 200)
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(b"no" if refused else b"3.17.2")

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="fake-server")
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def release(self) -> None:
        """Answer what has been left without an answer."""
        self._released.set()

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
