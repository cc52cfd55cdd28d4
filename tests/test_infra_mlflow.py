"""Records in MLflow: SQLite, and a real server that is killed in the middle."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from orchestrator.projections.mlflow import MlflowProjection, Synced, TrackingError, default_uri
from orchestrator.record import Attempt, Row, Status, TrialRecord
from tests.infra_fixtures import free_port, wait_for_http
from trm_data.config import DataConfig
from trm_data.settings import digest
from trm_model.config import TrialConfig

DEFINITION = {"name": "depth", "kind": "study", "space": {"model.cycles": [1, 2]}, "seeds": [0, 1]}
START_S = 1_790_000_000.0


def record(seed: int = 0, steps: int = 5, **changes: Any) -> TrialRecord:
    """A running trial with `steps` rows of training and validation."""
    config = TrialConfig(recipe="sudoku-mini", data=DataConfig(), seed=seed)
    rows = [
        Row(step, START_S + step, split, {"loss": 1 / (step + seed + 1), "exact_accuracy": step / 100})
        for step in range(10, 10 * steps + 1, 10)
        for split in ("train", "validation")
    ]
    start = {
        "host": "node-1",
        "gpu_type": "L40S",
        "started_s": START_S,
        "versions": {"torch": "2.13.0"},
        "git": {"commit": "abc123", "dirty": False},
    }
    made = TrialRecord(
        trial_id=digest(config.plain()),
        sweep="depth",
        stage="study",
        family="T=1 n=2",
        config=config,
        dataset={
            "benchmark": "sudoku-6x6-generated",
            "fingerprint": "f" * 64,
            "source": "generator",
            "counts": {"train": 400},
        },
        status=Status.RUNNING,
        step=10 * steps,
        rows=rows,
        attempts=[Attempt(1, start, None)],
    )
    return dataclasses.replace(made, **changes)


def finished(seed: int = 0, steps: int = 5) -> TrialRecord:
    """The same trial at its end, with a final score."""
    before = record(seed, steps)
    end = {"status": "finished", "step": before.step, "ended_s": START_S + 99, "train_s": 80.0}
    result = {
        "split": "test",
        "items": 500,
        "metrics": {"exact_accuracy": 0.91},
        "num_parameters": 1234,
        "ended_s": START_S + 99,
    }
    attempts = [Attempt(1, before.attempts[0].start, end)]
    return dataclasses.replace(before, status=Status.FINISHED, attempts=attempts, result=result)


class FirstUse(NamedTuple):
    """What the first use of a new folder left behind."""

    done: subprocess.CompletedProcess[str]
    current_folder: Path
    database: Path


@pytest.fixture(scope="module")
def first_use(tmp_path_factory: pytest.TempPathFactory) -> FirstUse:
    """A process that makes a new database: two seconds of migrations, which is why all tests copy this one."""
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    code = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.projections.mlflow import MlflowProjection, default_uri\n"
        "assert 'mlflow' not in sys.modules\n"
        "MlflowProjection(default_uri(Path(sys.argv[1]))).sync([], 'none', {})"
    )
    done = subprocess.run([sys.executable, "-c", code, str(there)], cwd=here, capture_output=True, text=True)
    return FirstUse(done, here, there / "mlflow.db")


@pytest.fixture
def migrated(first_use: FirstUse) -> Path:
    return first_use.database


@pytest.fixture
def uri(migrated: Path, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "mlflow.db").write_bytes(migrated.read_bytes())
    yield default_uri(tmp_path)


@pytest.fixture
def projection(uri: str) -> MlflowProjection:
    return MlflowProjection(uri)


def runs_of(uri: str, condition: str = "tags.sweep = 'depth'") -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("trm")
    return list(client.search_runs([experiment.experiment_id], condition))


def only_trial(uri: str) -> Any:
    (run,) = runs_of(uri, "tags.trial_id LIKE '%'")
    return run


class TestContent:
    def test_a_sweep_is_a_parent_with_a_child_for_every_trial(self, projection: MlflowProjection, uri: str) -> None:
        projection.sync([finished(0), finished(1)], "depth", DEFINITION)
        parents = runs_of(uri, "tags.mlflow.runName = 'depth'")
        assert len(parents) == 1 and parents[0].info.status == "FINISHED"
        assert parents[0].data.tags["definition.space"] == '{"model.cycles": [1, 2]}'
        assert parents[0].data.tags["trials.finished"] == "2"
        children = runs_of(uri, f"tags.mlflow.parentRunId = '{parents[0].info.run_id}'")
        assert {run.data.tags["trial_id"] for run in children} == {finished(0).trial_id, finished(1).trial_id}

    def test_a_run_has_every_setting_point_and_origin(self, projection: MlflowProjection, uri: str) -> None:
        trial = finished()
        assert projection.sync([trial], "depth", DEFINITION) == Synced(trials=1, points=2 * 10 + 3)
        run = only_trial(uri)
        assert run.data.params["model.cycles"] == str(trial.config.model.cycles)
        assert run.data.params["data.train_splits"] == '["train"]'
        assert set(run.data.params) >= {"seed", "optimizer.lr", "train.max_steps", "evaluation.split"}
        assert run.data.metrics["test/exact_accuracy"] == 0.91
        assert run.data.metrics["num_parameters"] == 1234
        assert run.data.tags["mlflow.source.git.commit"] == "abc123"
        assert run.data.tags["gpu_type"] == "L40S" and run.data.tags["version.torch"] == "2.13.0"
        assert run.info.start_time == round(START_S * 1000)
        assert run.info.end_time == round((START_S + 99) * 1000)
        (data,) = run.inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == ("sudoku-6x6-generated", "f" * 36)
        assert projection.verify([trial], "depth") == []

    def test_points_carry_the_time_and_step_of_the_record(self, projection: MlflowProjection, uri: str) -> None:
        from mlflow import MlflowClient

        projection.sync([finished()], "depth", DEFINITION)
        history = MlflowClient(tracking_uri=uri).get_metric_history(only_trial(uri).info.run_id, "validation/loss")
        expected = [(step, round((START_S + step) * 1000), 1 / (step + 1)) for step in range(10, 51, 10)]
        assert sorted((point.step, point.timestamp, point.value) for point in history) == expected

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (Status.PENDING, "SCHEDULED"),
            (Status.RUNNING, "RUNNING"),
            (Status.INTERRUPTED, "SCHEDULED"),
            (Status.STOPPED, "KILLED"),
            (Status.FAILED, "FAILED"),
            (Status.DIVERGED, "FAILED"),
            (Status.OUT_OF_MEMORY, "FAILED"),
        ],
    )
    def test_the_state_is_mapped_and_its_exact_word_kept(
        self, projection: MlflowProjection, uri: str, status: Status, expected: str
    ) -> None:
        projection.sync([record(status=status)], "depth", DEFINITION)
        run = only_trial(uri)
        assert (run.info.status, run.data.tags["status"]) == (expected, status)

    def test_values_that_are_no_numbers_arrive_and_are_not_repeated(
        self, projection: MlflowProjection, uri: str
    ) -> None:
        odd = [Row(step, START_S, "train", {"loss": value}) for step, value in enumerate([float("nan"), float("inf")])]
        trial = record(rows=odd, status=Status.DIVERGED)
        for _ in range(2):
            MlflowProjection(uri).sync([trial], "depth", DEFINITION)
        assert projection.verify([trial], "depth") == []

    def test_a_curve_longer_than_one_request_arrives_whole(self, projection: MlflowProjection) -> None:
        trial = record(steps=600)
        assert projection.sync([trial], "depth", DEFINITION).points == 2400
        assert projection.verify([trial], "depth") == []


class TestIncrements:
    def test_a_replay_changes_nothing(self, projection: MlflowProjection, uri: str) -> None:
        trials = [finished(0), finished(1)]
        projection.sync(trials, "depth", DEFINITION)
        before = {run.info.run_id: run.to_dictionary() for run in runs_of(uri)}
        assert projection.sync(trials, "depth", DEFINITION) == Synced(0, 0)
        assert MlflowProjection(uri).sync(trials, "depth", DEFINITION) == Synced(0, 0)
        assert {run.info.run_id: run.to_dictionary() for run in runs_of(uri)} == before

    def test_only_new_rows_are_sent_also_after_a_restart(self, projection: MlflowProjection, uri: str) -> None:
        assert projection.sync([record(steps=3)], "depth", DEFINITION).points == 12
        assert projection.sync([record(steps=4)], "depth", DEFINITION) == Synced(1, 4)
        assert MlflowProjection(uri).sync([finished(steps=5)], "depth", DEFINITION) == Synced(1, 4 + 3)
        assert len(runs_of(uri)) == 2
        assert projection.verify([finished(steps=5)], "depth") == []

    def test_rows_that_a_record_took_back_leave_the_run(self, projection: MlflowProjection, uri: str) -> None:
        projection.sync([record(steps=5)], "depth", DEFINITION)
        kept = record(steps=3).rows
        again = [dataclasses.replace(row, time_s=row.time_s + 100) for row in record(steps=5).rows[6:]]
        trial = record(steps=5, rows=kept + again)
        assert projection.verify([trial], "depth") != []
        projection.sync([trial], "depth", DEFINITION)
        assert projection.verify([trial], "depth") == []
        assert only_trial(uri).data.tags["trial_id"] == trial.trial_id

    def test_a_stopped_trial_that_is_continued_runs_again(self, projection: MlflowProjection, uri: str) -> None:
        stop = {"step": 30, "rule": "halving", "reason": "below the median"}
        projection.sync([record(steps=3, status=Status.STOPPED, stopped=stop)], "depth", DEFINITION)
        assert only_trial(uri).data.tags["stopped"] == "step 30: below the median"
        projection.sync([record(steps=4)], "depth", DEFINITION)
        run = only_trial(uri)
        assert (run.info.status, run.data.tags["stopped"]) == ("RUNNING", "")

    def test_an_extended_sweep_keeps_its_parent(self, projection: MlflowProjection, uri: str) -> None:
        projection.sync([finished(0)], "depth", DEFINITION)
        projection.sync([finished(0), record(1)], "depth", DEFINITION | {"seeds": [0, 1, 2]})
        (parent,) = runs_of(uri, "tags.mlflow.runName = 'depth'")
        assert parent.info.status == "RUNNING"
        counts = {status: parent.data.tags[f"trials.{status}"] for status in ("finished", "running", "failed")}
        assert counts == {"finished": "1", "running": "1", "failed": "0"}
        assert parent.data.tags["definition.seeds"] == "[0, 1, 2]"

    @pytest.mark.parametrize("point_of_death", ["create_run", "log_inputs", "log_batch", "set_terminated"])
    @pytest.mark.parametrize("arrived", [False, True])
    def test_a_request_without_an_answer_is_made_good(
        self,
        projection: MlflowProjection,
        uri: str,
        monkeypatch: pytest.MonkeyPatch,
        point_of_death: str,
        arrived: bool,
    ) -> None:
        from mlflow import MlflowClient

        real = getattr(MlflowClient, point_of_death)
        calls: list[int] = []

        def dies_at_its_second_call(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            answer = real(*args, **kwargs) if arrived or len(calls) != 2 else None
            if len(calls) == 2:
                raise ConnectionError("the server went away")
            return answer

        monkeypatch.setattr(MlflowClient, point_of_death, dies_at_its_second_call)
        trials = [finished(0), finished(1)]
        with pytest.raises(TrackingError, match=r"the server went away\. Records are complete without it"):
            projection.sync(trials, "depth", DEFINITION)
        projection.sync(trials, "depth", DEFINITION)
        assert projection.verify(trials, "depth") == []
        assert len(runs_of(uri)) == 3

    def test_two_runs_of_one_trial_become_one(self, projection: MlflowProjection, uri: str) -> None:
        from mlflow import MlflowClient

        projection.sync([finished()], "depth", DEFINITION)
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("trm")
        client.create_run(experiment.experiment_id, tags={"trial_id": finished().trial_id, "sweep": "depth"})
        MlflowProjection(uri).sync([finished()], "depth", DEFINITION)
        assert only_trial(uri).data.metrics["test/exact_accuracy"] == 0.91


class TestErrors:
    @pytest.mark.parametrize(
        ("uri", "message"),
        [
            ("http://127.0.0.1:1", "nothing answers .*Start the server"),
            ("postgresql+psycopg://me:secret@127.0.0.1:1/mlflow", r"me:\.\.\.@127"),
            ("./mlruns", "not an address that MLflow can write to. Use sqlite"),
            ("file:///tmp/mlruns", "not an address that MLflow can write to"),
        ],
    )
    def test_a_tracker_that_cannot_be_used_is_one_line_at_once(self, uri: str, message: str) -> None:
        began = time.monotonic()
        with pytest.raises(TrackingError, match=message) as caught:
            MlflowProjection(uri).sync([record()], "depth", DEFINITION)
        assert time.monotonic() - began < 3
        assert "\n" not in str(caught.value) and "secret" not in str(caught.value)

    def test_a_file_that_is_no_database_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_text("not a database" * 100)
        with pytest.raises(TrackingError, match=r"sends the rest"):
            MlflowProjection(default_uri(tmp_path)).sync([record()], "depth", DEFINITION)

    def test_verify_names_what_is_missing_and_what_has_no_record(self, projection: MlflowProjection) -> None:
        projection.sync([finished(0)], "depth", DEFINITION)
        lines = projection.verify([finished(1)], "depth")
        assert lines == [f"{finished(1).trial_id}: no run", f"{finished(0).trial_id}: a run without a record"]


def test_a_new_database_is_made_without_a_word_and_nothing_lands_in_the_current_folder(first_use: FirstUse) -> None:
    assert (first_use.done.returncode, first_use.done.stdout, first_use.done.stderr) == (0, "", "")
    assert list(first_use.current_folder.iterdir()) == []
    assert first_use.database.exists()


@pytest.mark.slow
@pytest.mark.timeout(400)  # two starts of the server, each a quarter of a minute on a quiet machine
def test_a_server_killed_in_the_middle_third_loses_nothing(migrated: Path, tmp_path: Path) -> None:
    (tmp_path / "server.db").write_bytes(migrated.read_bytes())
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--artifacts-destination", str(tmp_path)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    url = f"http://127.0.0.1:{port}"

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        wait_for_http(f"{url}/health", process)
        return process

    def kill(process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    logging.getLogger("urllib3").setLevel(logging.ERROR)
    projection = MlflowProjection(url)
    outages = 0
    server = start()
    try:
        for third, steps in enumerate(range(2, 14)):
            if steps == 6:
                kill(server)
            if steps == 10:
                server = start()
            try:
                projection.sync([record(seed, steps) for seed in range(12)], "depth", DEFINITION)
            except TrackingError:
                outages += 1
            assert outages == min(max(third - 3, 0), 4)
        trials = [finished(seed, 13) for seed in range(12)]
        projection.sync(trials, "depth", DEFINITION)
        assert projection.verify(trials, "depth") == []
    finally:
        kill(server)
