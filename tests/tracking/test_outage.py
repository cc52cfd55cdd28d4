"""A tracker that is down for a while delays no sweep, and afterwards it has every point exactly once.

Real `mlflow server` processes, ended by SIGKILL; on SQLite, and on PostgreSQL with artifacts on S3 (moto).
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.reader import read_trials
from orchestrator.records.schema import TrialRecord
from orchestrator.storage import open_storage
from orchestrator.tracking.mlflow import MlflowSync, TrackingError
from tests.support.sweeps import TINY, set_options
from tests.support.tracking import SWEEP, MlflowServer, contents, finished, postgres_cluster, record

TRM = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
TRIALS = 12
LIMIT_S = 1800


@pytest.fixture(autouse=True)
def _quiet_and_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "300")  # a busy server is no outage
    monkeypatch.setattr("orchestrator.tracking.mlflow_connection.ANSWER_TIMEOUT_S", 300.0)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it reports every refused connection


def check_made_up_trials(server: MlflowServer, empty: str) -> None:
    """Sync twelve trials, each while it runs and at its end; the server is down for the middle four."""
    mlflow = MlflowSync(server.url)
    trials: dict[str, TrialRecord] = {}
    outages = 0
    with server:
        for number in range(TRIALS):
            if number == TRIALS // 3:
                server.kill()
            if number == 2 * TRIALS // 3:
                server.start()
            for new in (record(number, steps=3), finished(number)):
                trials[new.trial_id] = new
                try:
                    mlflow.sync(SWEEP, list(trials.values()))
                except TrackingError:
                    outages += 1
        assert outages == 2 * TRIALS // 3
        assert mlflow.verify(SWEEP, list(trials.values())) == []
        other = MlflowSync(empty)
        other.rebuild(SWEEP, list(trials.values()))
        assert contents(empty) == contents(server.url)


def test_server_killed_for_the_middle_third_of_twelve_trials_loses_nothing(migrated: Path, tmp_path: Path) -> None:
    for name in ("server.db", "empty.db"):
        shutil.copy(migrated, tmp_path / name)
    server = MlflowServer(f"sqlite:///{tmp_path}/server.db", str(tmp_path / "artifacts"))
    check_made_up_trials(server, f"sqlite:///{tmp_path}/empty.db")


def sweep_command(storage: Path, tracking: str) -> list[str]:
    """Twelve trials, one after the other, of some seconds each."""
    settings = {**TINY, "train.max_steps": 100, "runtime.evaluate_every": 10, "data.num_train": 64}
    sets = set_options(settings, "model.cycles")
    cells = ["--vary", "T=1,2", "--vary", "n=1,2,3", "--seeds", "2", "--max-concurrent", "1"]
    where = ["--name", "outage", "--storage", str(storage), "--tracking", tracking]
    return [*TRM, "sweep", "run", "--recipe", "sudoku-mini", *cells, *sets, *where]


def final(storage: Path) -> int:
    """How many trials are over."""
    return sum(1 for _ in storage.glob("sweeps/outage/trials/*/result.json"))


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], output: list[str]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert process.poll() is None, f"the sweep ended before its time:\n{''.join(output)}"
        assert time.monotonic() < deadline, "".join(output)
        time.sleep(0.1)


def track(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([*TRM, "track", *arguments, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    (found,) = json.loads(done.stdout)["sweeps"]
    return dict(found)


def run_through_an_outage(storage: Path, server: MlflowServer) -> None:
    """Kill the server after a third of the trials, start it again after two thirds; the sweep must end normally."""
    server.start()
    process = subprocess.Popen(
        sweep_command(storage, server.url), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda stream: output.extend(stream), args=(process.stdout,), daemon=True)
    reader.start()
    try:
        wait_until(lambda: final(storage) >= TRIALS // 3, process, output)
        server.kill()
        wait_until(lambda: final(storage) >= 2 * TRIALS // 3, process, output)
        server.start()
        assert process.wait(LIMIT_S) == 0, "".join(output)
    finally:
        process.kill()
        process.wait()
        reader.join(60)
        process.stdout.close()
    text = "".join(output)
    assert "is complete: 12 finished" in text and "Traceback" not in text, text
    if "MLflow was not brought up to date" in text:  # the trials were quicker than the server's second start
        track("sync", "outage", "--storage", str(storage), "--tracking", server.url)


@pytest.mark.slow
@pytest.mark.timeout(5000)
def test_sweep_with_the_server_killed_for_its_middle_third_ends_normally(migrated: Path, tmp_path: Path) -> None:
    for name in ("server.db", "empty.db"):
        shutil.copy(migrated, tmp_path / name)
    runs = tmp_path / "runs"
    with MlflowServer(f"sqlite:///{tmp_path}/server.db", str(tmp_path / "artifacts")) as server:
        server.kill()
        run_through_an_outage(runs, server)
        check_tracker(runs, server.url)
        with MlflowServer(f"sqlite:///{tmp_path}/empty.db", str(tmp_path / "other")) as empty:
            track("rebuild", "outage", "--storage", str(runs), "--tracking", empty.url)
            assert contents(empty.url) == contents(server.url)


def check_tracker(runs: Path, url: str) -> None:
    """`trm track verify` finds each point of twelve trials exactly once, and there are many."""
    found = track("verify", "outage", "--storage", str(runs), "--tracking", url)
    assert (found["trials"], found["differences"]) == (TRIALS, [])
    records = read_trials(open_storage(str(runs)), "outage")
    assert found["points"] > sum(len(row.metrics) for one in records for row in one.rows) > 1000


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_cluster() as uri:
        yield uri


def on_s3(postgres: str, bucket: str, name: str) -> MlflowServer:
    """A server with a PostgreSQL database of its own and artifacts on S3."""
    import psycopg

    with psycopg.connect(postgres.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload, unused-ignore]
    address, _, query = bucket.partition("?endpoint_override=")
    environment = {"MLFLOW_S3_ENDPOINT_URL": query}
    return MlflowServer(postgres.rpartition("/")[0] + f"/{name}", f"{address}/{name}", environment)


def listing(bucket: str) -> str:
    """The keys of a bucket, as XML."""
    name, _, endpoint = bucket.removeprefix("s3://").partition("?endpoint_override=")
    with urllib.request.urlopen(f"{endpoint}/{name}?list-type=2") as answer:
        return str(answer.read().decode())


@pytest.mark.slow
@pytest.mark.timeout(5000)
def test_sweep_through_an_outage_on_postgresql_with_artifacts_on_s3(
    postgres: str, s3_bucket: str, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    server, empty = on_s3(postgres, s3_bucket, "tracking"), on_s3(postgres, s3_bucket, "empty")
    try:
        run_through_an_outage(runs, server)
        check_tracker(runs, server.url)
        empty.start()
        track("rebuild", "outage", "--storage", str(runs), "--tracking", empty.url)
        assert contents(empty.url) == contents(server.url)
        assert "tracking/" in listing(s3_bucket) and "sweep.json" in listing(s3_bucket)
    finally:
        server.kill()
        empty.kill()


@pytest.mark.slow
def test_server_on_postgresql_with_files_on_s3_killed_for_the_middle_third_loses_nothing(
    postgres: str, s3_bucket: str, migrated: Path, tmp_path: Path
) -> None:
    shutil.copy(migrated, tmp_path / "empty.db")
    check_made_up_trials(on_s3(postgres, s3_bucket, "made_up"), f"sqlite:///{tmp_path}/empty.db")
    assert "sweep.json" in listing(s3_bucket)


def test_postgresql_without_a_server_takes_every_point_once(postgres: str, tmp_path: Path) -> None:
    """And what is wrong with the address or the account is one line."""
    mlflow = MlflowSync(postgres, artifacts=tmp_path.as_uri())
    trials = [finished(0), finished(1), record(2)]
    for _ in range(2):
        mlflow.sync(SWEEP, trials)
    assert mlflow.verify(SWEEP, trials) == []
    with pytest.raises(TrackingError, match='database "nowhere" does not exist'):
        MlflowSync(postgres.replace("/postgres", "/nowhere")).sync(SWEEP, trials)
