"""Measure points per second into MLflow: by this project's sync, a call per point, and Ray's MLflow callback.

    python benchmarks/tracking.py [--trials N] [--points N ...] [--rounds N] [--stores sqlite server] [--json FILE]

The sides take turns. Each writes runs with the same points, parameters and final state into a store of the same kind;
the sync also writes the origin of each trial and its dataset. "Full batches" is the most that MLflow's client can do:
points only, 1,000 to a request, without runs. A call per point is so slow that those sides get `--others` trials. A
figure is the median over rounds; a ratio is taken round by round. CPU time is that of the writing process, which is
comparable between a quiet and a shared machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.records.schema import (
    Attempt,
    AttemptEnd,
    AttemptStart,
    DatasetInfo,
    GitState,
    Row,
    Status,
    TrialRecord,
    TrialResult,
)
from orchestrator.sweep import Sweep, choice
from orchestrator.sweep.settings import flatten
from orchestrator.tracking import mlflow_view
from orchestrator.tracking.mlflow import MlflowSync
from orchestrator.tracking.mlflow_process import load_mlflow, mlflow_environment
from orchestrator.worker.provenance import processor
from trm_data.config import DataConfig
from trm_data.settings import digest
from trm_model.config import TrialConfig

START_S = 1_790_000_000.0
METRICS = ("loss", "exact_accuracy", "cell_accuracy", "halting_steps")


class Measured(NamedTuple):
    """Hold the rates of one side in one round."""

    points_per_s: float
    points_per_cpu_s: float


BASE = TrialConfig(recipe="sudoku-mini", data=DataConfig())


def make_sweep(name: str = "benchmark") -> Sweep:
    """Return a study to which the records belong."""
    return Sweep(name=name, base=BASE, space={"T": choice(1, 2)}, seeds=1)


def make_record(seed: int, points: int) -> TrialRecord:
    """Return a finished trial with about `points` points."""
    config = BASE.model_copy(update={"seed": seed})
    rows = [
        Row(step, START_S + step, "train", {name: 1 / (step + seed + index) for index, name in enumerate(METRICS, 1)})
        for step in range(1, points // len(METRICS) + 1)
    ]
    end_s = START_S + len(rows)
    start = AttemptStart(
        from_step=0, host="node-1", started_s=START_S, versions={"torch": "2.13.0"}, git=GitState(commit="abc")
    )
    end = AttemptEnd(status=Status.FINISHED, step=len(rows), ended_s=end_s, train_s=1.0)
    return TrialRecord(
        trial_id=digest([seed, points]),
        sweep="benchmark",
        stage="study",
        family="T=1 n=2",
        config=config,
        dataset=DatasetInfo(benchmark="sudoku-6x6-generated", fingerprint="f" * 64, source="generator"),
        status=Status.FINISHED,
        step=len(rows),
        rows=rows,
        attempts=[Attempt(1, start, end)],
        result=TrialResult(split="test", items=1, metrics={"exact_accuracy": 0.9}, ended_s=end_s),
    )


def sync(uri: str, records: Sequence[TrialRecord]) -> None:
    """Sync as the tracking of a sweep does."""
    MlflowSync(uri).sync(make_sweep(), records)


def per_call(uri: str, records: Sequence[TrialRecord]) -> None:
    """Call MLflow for every parameter and every point, as training scripts do."""
    mlflow = load_mlflow()
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("per-call")
    for record in records:
        with mlflow.start_run():
            for name, value in flatten(record.config.plain()).items():
                mlflow.log_param(name, value)
            for row in mlflow_view.rows(record):
                for name, value in row.metrics.items():
                    mlflow.log_metric(name, value, step=row.step)


class _Trial:
    """Provide the part of a Tune trial that Ray's callback uses."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config


def ray_callback(uri: str, records: Sequence[TrialRecord]) -> None:
    """Call `MLflowLoggerCallback` as Tune does."""
    load_mlflow()
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name="callback")
    callback.setup()
    for record in records:
        trial = _Trial(record.config.plain())
        callback.log_trial_start(trial)  # type: ignore[arg-type]
        for row in mlflow_view.rows(record):
            callback.log_trial_result(row.step, trial, {**row.metrics, "training_iteration": row.step})  # type: ignore[arg-type]
        callback.log_trial_end(trial)  # type: ignore[arg-type]


def batches_alone(uri: str, records: Sequence[TrialRecord]) -> None:
    """Write points only, all into one run with full requests: the limit of MLflow's client, one request at a time."""
    mlflow = load_mlflow()
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name("batches")
    run = client.create_run(found.experiment_id if found else client.create_experiment("batches"))
    points = [
        mlflow.entities.Metric(f"{index}/{point.name}", point.value, round(1000 * point.time_s), point.step)
        for index, record in enumerate(records)  # MLflow is slow to ignore a point that it has
        for point in mlflow_view.points(mlflow_view.rows(record))
    ]
    for start in range(0, len(points), 1000):
        client.log_batch(run.info.run_id, points[start : start + 1000])


SIDES: dict[str, Callable[[str, Sequence[TrialRecord]], None]] = {
    "sync": sync,
    "full batches": batches_alone,
    "call per point": per_call,
    "Ray's callback": ray_callback,
}
IN_BATCHES = ("sync", "full batches")


@contextmanager
def sqlite_store(folder: Path) -> Iterator[str]:
    """Create an empty database and yield its address."""
    uri = f"sqlite:///{folder}/mlflow.db"
    MlflowSync(uri).sync(make_sweep("none"), [])
    yield uri


@contextmanager
def server_store(folder: Path) -> Iterator[str]:
    """Run `mlflow server` on an SQLite database and yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=folder
    )
    try:
        _wait(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the server ended with {process.returncode}")


STORES = {"sqlite": sqlite_store, "server": server_store}


def measure(side: str, uri: str, records: Sequence[TrialRecord]) -> Measured:
    """Write the records once and return the rates."""
    points = sum(len(row.metrics) for record in records for row in mlflow_view.rows(record))
    gc.collect()  # garbage of the previous side
    began, cpu = time.perf_counter(), time.process_time()
    with mlflow_environment():
        SIDES[side](uri, records)
    return Measured(points / (time.perf_counter() - began), points / (time.process_time() - cpu))


def compare(store: str, trials: int, points: int, others: int, rounds: int) -> dict[str, Any]:
    """Measure all sides in turns with one kind of store; print a line per side."""
    sides = list(SIDES)
    found: dict[str, list[Measured]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as place, STORES[store](Path(place)) as uri:
        for side in sides:  # connections, imports
            measure(side, uri, [make_record(10**6, 8)])
        for number in range(rounds):
            for side in sides:
                count = trials if side in IN_BATCHES else others
                records = [make_record(1000 * number + index, points) for index in range(count)]
                found[side].append(measure(side, uri, records))
    print(f"{store}: {trials} trials of {points} points")
    results = {}
    for side, measured in found.items():
        ratios = [own.points_per_s / other.points_per_s for own, other in zip(found["sync"], measured, strict=True)]
        results[side] = {
            "points_per_s": statistics.median(one.points_per_s for one in measured),
            "points_per_cpu_s": statistics.median(one.points_per_cpu_s for one in measured),
            "sync_is_faster_by": statistics.median(ratios),
        }
        rate, cpu_rate, ratio = results[side].values()
        print(f"  {side:<16} {rate:>9,.0f} points/s  {cpu_rate:>9,.0f} per CPU second", end="")
        print("" if side == "sync" else f"   sync {ratio:,.1f} x", flush=True)
    return results


def main() -> None:
    """Parse the options, measure, print, and write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--points", type=int, nargs="+", default=[200, 2000], help="points of a trial")
    parser.add_argument("--others", type=int, default=1, help="trials for the sides with a call per point")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES))
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server that was started ends too
    print(f"{processor()}, {os.cpu_count()} cores; load before: {os.getloadavg()[0]:.1f}")
    results = {
        f"{store} {points}": compare(store, options.trials, points, options.others, options.rounds)
        for store in options.stores
        for points in options.points
    }
    print(f"load after: {os.getloadavg()[0]:.1f}")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
