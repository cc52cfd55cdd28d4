"""Records in MLflow: what a run holds, what a second look sends, what goes wrong."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.schema import Row, Status, StopDecision
from orchestrator.resources.catalogue import usd_per_gpu_hour
from orchestrator.tracking.mlflow import MlflowProjection, Synced, TrackingError, default_uri
from tests.support.tracking import DEFINITION, START_S, FirstUse, contents, finished, record


@pytest.fixture
def uri(migrated: Path, tmp_path: Path) -> str:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return default_uri(tmp_path)


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
        assert projection.sync([trial], "depth", DEFINITION) == Synced(trials=1, points=2 * 10 + 3 + 3)
        run = only_trial(uri)
        assert run.data.params["model.cycles"] == str(trial.config.model.cycles)
        assert run.data.params["data.train_splits"] == '["train"]'
        assert set(run.data.params) >= {"seed", "optimizer.lr", "train.max_steps", "evaluation.split"}
        assert run.data.metrics["test/exact_accuracy"] == 0.91
        assert run.data.metrics["num_parameters"] == 1234
        assert run.data.metrics["cost/gpu_hours"] == pytest.approx(99 / 3600)
        assert run.data.metrics["cost/usd"] == pytest.approx(99 / 3600 * usd_per_gpu_hour("L40S"))
        assert run.data.metrics["cost/kwh_at_full_power"] == pytest.approx(99 / 3600 * 0.35)
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

    def test_a_trial_has_a_run_from_its_first_start_on(self, projection: MlflowProjection, uri: str) -> None:
        """Whenever it was first seen: the time of a start cannot be changed in MLflow."""
        waiting = dataclasses.replace(record(status=Status.PENDING), attempts=[])
        assert projection.sync([waiting], "depth", DEFINITION) == Synced(0, 0) and runs_of(uri) == []
        assert projection.verify([waiting], "depth") == []
        projection.sync([finished()], "depth", DEFINITION)
        assert {run.info.start_time for run in runs_of(uri)} == {round(START_S * 1000)}
        assert projection.verify([finished()], "depth") == []

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
        assert MlflowProjection(uri).sync([finished(steps=5)], "depth", DEFINITION) == Synced(1, 4 + 6)
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
        stop = StopDecision(step=30, rule="halving", reason="below the median")
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


class TestRequests:
    """What is written by requests to MLflow, as to a server, and cut between two of them."""

    @pytest.fixture
    def projection(self, uri: str) -> MlflowProjection:
        return MlflowProjection(uri)

    @pytest.mark.parametrize("nth", [2, 3])
    def test_a_curve_that_was_cut_between_requests_is_completed(
        self, projection: MlflowProjection, monkeypatch: pytest.MonkeyPatch, nth: int
    ) -> None:
        """Below MLflow's client, which splits what exceeds 1,000 entities and sends the tags first."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        real, calls = SqlAlchemyStore.log_batch, []

        def dies_once(*args: Any, **kwargs: Any) -> None:
            calls.append(1)
            if len(calls) == nth:
                raise ConnectionError("the server went away")
            real(*args, **kwargs)

        monkeypatch.setattr(SqlAlchemyStore, "log_batch", dies_once)
        trial = record(steps=600)
        with pytest.raises(TrackingError, match="went away"):
            projection.sync([trial], "depth", DEFINITION)
        projection.sync([trial], "depth", DEFINITION)
        assert projection.verify([trial], "depth") == []

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
        with pytest.raises(TrackingError, match=r"mlflow\.db: file is not a database"):
            MlflowProjection(default_uri(tmp_path)).sync([record()], "depth", DEFINITION)

    def test_verify_names_what_is_missing_and_what_has_no_record(self, projection: MlflowProjection) -> None:
        projection.sync([finished(0)], "depth", DEFINITION)
        lines = list(map(str, projection.verify([finished(1)], "depth")))
        assert lines == [
            f"{finished(1).trial_id}: run: 26 missing, there is none",
            f"{finished(0).trial_id}: run: it has no record",
        ]

    def test_verify_names_points_that_are_missing_or_there_twice_and_runs_that_are(
        self, projection: MlflowProjection, uri: str
    ) -> None:
        from mlflow import MlflowClient

        projection.sync([finished()], "depth", DEFINITION)
        client, run = MlflowClient(tracking_uri=uri), only_trial(uri)
        point = finished().rows[1]
        client.log_metric(run.info.run_id, "validation/loss", point.metrics["loss"], timestamp=1, step=point.step)
        longer = dataclasses.replace(finished(), rows=[*finished().rows, Row(60, START_S + 60, "train", {"loss": 0.5})])
        lines = list(map(str, projection.verify([longer], "depth")))
        assert [line.removeprefix(f"{longer.trial_id}: ") for line in lines] == [
            "train/loss: 1 missing, at step 60",
            "validation/loss: 1 too many, at step 10",
        ]
        client.create_run(run.info.experiment_id, tags={"trial_id": longer.trial_id, "sweep": "depth"})
        assert list(map(str, projection.verify([longer], "depth"))) == [f"{longer.trial_id}: run: there are 2"]

    def test_rebuild_leaves_nothing_of_what_was_there(self, projection: MlflowProjection, uri: str) -> None:
        from mlflow import MlflowClient

        trials = [finished(0), record(1)]
        projection.sync(trials, "depth", DEFINITION)
        before = contents(uri)
        MlflowClient(tracking_uri=uri).log_metric(runs_of(uri)[0].info.run_id, "validation/loss", 7.0, step=1)
        assert contents(uri) != before
        assert projection.rebuild(trials, "depth", DEFINITION) == Synced(2, 26 + 20)
        assert contents(uri) == before


def test_a_new_database_is_made_without_a_word_and_nothing_lands_in_the_current_folder(first_use: FirstUse) -> None:
    assert (first_use.done.returncode, first_use.done.stdout, first_use.done.stderr) == (0, "", "")
    assert list(first_use.current_folder.iterdir()) == []
    assert first_use.database.exists()
