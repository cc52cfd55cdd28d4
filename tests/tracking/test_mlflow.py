"""Sync records to MLflow: what a run holds, what a second sync sends, what goes wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.schema import Row, Status, StopDecision, TrialRecord
from orchestrator.resources.catalogue import usd_per_gpu_hour
from orchestrator.tracking.mlflow import MlflowSync, SyncResult, TrackingError, default_uri
from tests.support.sweeps import tiny_config
from tests.support.tracking import START_S, SWEEP, FirstUse, contents, depth, finished, record


@pytest.fixture
def uri(migrated: Path, tmp_path: Path) -> str:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return default_uri(tmp_path)


@pytest.fixture
def mlflow(uri: str) -> MlflowSync:
    return MlflowSync(uri)


def runs_of(uri: str, condition: str = "tags.sweep = 'depth'") -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("trm")
    return list(client.search_runs([experiment.experiment_id], condition))


def only_trial(uri: str) -> Any:
    (run,) = runs_of(uri, "tags.trial_id LIKE '%'")
    return run


def parent_of(uri: str) -> Any:
    (run,) = runs_of(uri, "tags.mlflow.runName = 'depth'")
    return run


def scored(seed: int, score: float) -> TrialRecord:
    """A finished trial that ends later than those with lower seeds."""
    trial = finished(seed)
    changes = {"metrics": {"exact_accuracy": score}, "ended_s": START_S + 100 + seed}
    return dataclasses.replace(trial, result=trial.result and trial.result.model_copy(update=changes))


class TestContent:
    def test_a_sweep_is_a_parent_with_a_child_for_every_trial(self, mlflow: MlflowSync, uri: str) -> None:
        mlflow.sync(SWEEP, [finished(0), finished(1)])
        parents = runs_of(uri, "tags.mlflow.runName = 'depth'")
        assert len(parents) == 1
        assert json.loads(parents[0].data.tags["definition.space"]) == SWEEP.plain()["space"]
        assert parents[0].data.tags["trials.finished"] == "2"
        children = runs_of(uri, f"tags.mlflow.parentRunId = '{parents[0].info.run_id}'")
        assert {run.data.tags["trial_id"] for run in children} == {finished(0).trial_id, finished(1).trial_id}

    def test_the_parent_is_finished_when_no_planned_trial_is_left(self, mlflow: MlflowSync, uri: str) -> None:
        """Of four trials two have started and ended, as with `--max-trials 2`: that is not the end."""
        mlflow.sync(SWEEP, [finished(0), record(1, status=Status.FAILED)])
        parent = parent_of(uri)
        assert parent.info.status == "RUNNING"
        assert (parent.data.tags["trials.planned"], parent.data.tags["trials.left"]) == ("4", "2")
        mlflow.sync(SWEEP, [finished(0), record(1, status=Status.FAILED), finished(2), finished(3)])
        assert parent_of(uri).info.status == "FINISHED"

    def test_the_parent_has_the_best_and_the_mean_score_so_far(self, mlflow: MlflowSync, uri: str) -> None:
        from mlflow import MlflowClient

        trials = [scored(seed, score) for seed, score in enumerate((0.5, 0.9, 0.4))]
        for count in range(1, 4):
            mlflow.sync(SWEEP, trials[:count])
        client, parent = MlflowClient(tracking_uri=uri), parent_of(uri)

        def curve(name: str) -> list[tuple[int, float]]:
            return [(point.step, point.value) for point in client.get_metric_history(parent.info.run_id, name)]

        assert curve("best/test/exact_accuracy") == [(1, 0.5), (2, 0.9), (3, 0.9)]
        assert curve("mean/test/exact_accuracy") == [(1, 0.5), (2, pytest.approx(0.7)), (3, pytest.approx(0.6))]
        assert mlflow.verify(SWEEP, trials) == []

    def test_a_trial_that_ended_earlier_but_is_seen_later_gives_a_new_parent(
        self, mlflow: MlflowSync, uri: str
    ) -> None:
        """MLflow cannot delete points, and the order of the scores has changed. The children follow."""
        trials = [scored(0, 0.5), scored(1, 0.9)]
        mlflow.sync(SWEEP, trials[1:])
        before = parent_of(uri).info.run_id
        mlflow.sync(SWEEP, trials)
        parent = parent_of(uri)
        assert parent.info.run_id != before and mlflow.verify(SWEEP, trials) == []
        assert len(runs_of(uri, f"tags.mlflow.parentRunId = '{parent.info.run_id}'")) == 2

    def test_credentials_in_a_source_are_not_sent(self, mlflow: MlflowSync, uri: str) -> None:
        source = "https://me:hunter2@host/puzzles.csv?X-Amz-Signature=hunter2"
        trial = finished()
        config = trial.config.model_copy(update={"data": trial.config.data.model_copy(update={"source": source})})
        sweep = SWEEP.model_copy(update={"base": config})
        dataset = trial.dataset.model_copy(update={"source": source})
        mlflow.sync(sweep, [dataclasses.replace(trial, config=config, dataset=dataset)])
        assert "hunter2" not in str(contents(uri)) and "https://host/puzzles.csv" in str(contents(uri))

    def test_a_run_has_every_setting_point_and_origin(self, mlflow: MlflowSync, uri: str) -> None:
        trial = finished()
        assert mlflow.sync(SWEEP, [trial]) == SyncResult(trials=1, points=2 * 10 + 3 + 3)
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
        assert mlflow.verify(SWEEP, [trial]) == []

    def test_points_carry_the_time_and_step_of_the_record(self, mlflow: MlflowSync, uri: str) -> None:
        from mlflow import MlflowClient

        mlflow.sync(SWEEP, [finished()])
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
        self, mlflow: MlflowSync, uri: str, status: Status, expected: str
    ) -> None:
        mlflow.sync(SWEEP, [record(status=status)])
        run = only_trial(uri)
        assert (run.info.status, run.data.tags["status"]) == (expected, status)

    def test_a_trial_has_a_run_from_its_first_start_on(self, mlflow: MlflowSync, uri: str) -> None:
        """Whenever it was first seen: the time of a start cannot be changed in MLflow."""
        waiting = dataclasses.replace(record(status=Status.PENDING), attempts=[])
        assert mlflow.sync(SWEEP, [waiting]) == SyncResult(0, 0) and runs_of(uri) == []
        assert mlflow.verify(SWEEP, [waiting]) == []
        mlflow.sync(SWEEP, [finished()])
        assert {run.info.start_time for run in runs_of(uri)} == {round(START_S * 1000)}
        assert mlflow.verify(SWEEP, [finished()]) == []

    def test_values_that_are_no_numbers_arrive_and_are_not_repeated(self, mlflow: MlflowSync, uri: str) -> None:
        odd = [Row(step, START_S, "train", {"loss": value}) for step, value in enumerate([float("nan"), float("inf")])]
        trial = record(rows=odd, status=Status.DIVERGED)
        for _ in range(2):
            MlflowSync(uri).sync(SWEEP, [trial])
        assert mlflow.verify(SWEEP, [trial]) == []

    def test_a_curve_longer_than_one_request_arrives_whole(self, mlflow: MlflowSync) -> None:
        trial = record(steps=600)
        assert mlflow.sync(SWEEP, [trial]).points == 2400
        assert mlflow.verify(SWEEP, [trial]) == []


class TestIncrements:
    def test_a_replay_changes_nothing(self, mlflow: MlflowSync, uri: str) -> None:
        trials = [finished(0), finished(1)]
        mlflow.sync(SWEEP, trials)
        before = {run.info.run_id: run.to_dictionary() for run in runs_of(uri)}
        assert mlflow.sync(SWEEP, trials) == SyncResult(0, 0)
        assert MlflowSync(uri).sync(SWEEP, trials) == SyncResult(0, 0)
        assert {run.info.run_id: run.to_dictionary() for run in runs_of(uri)} == before

    def test_rows_of_trials_that_stand_as_they_did_are_not_read_again(self, mlflow: MlflowSync) -> None:
        """Those that longer ones have replaced, and those that were cut off with their driver."""
        read: list[int] = []

        class Rows(list[Row]):
            def __iter__(self) -> Iterator[Row]:
                read.append(id(self))
                return super().__iter__()

            def __len__(self) -> int:
                read.append(id(self))
                return super().__len__()

        longer = depth(base=tiny_config(**{"train.max_steps": 100}))
        ended, cut = finished(0), record(1)
        trials = [dataclasses.replace(each, rows=Rows(each.rows)) for each in (ended, cut)]
        for sweep in (longer, SWEEP):
            mlflow.sync(sweep, trials, is_driven=False)
            assert {id(each.rows) for each in trials} == set(read)
            read.clear()
            assert mlflow.sync(sweep, trials, is_driven=False) == SyncResult(0, 0) and not read
        assert mlflow.verify(SWEEP, trials, is_driven=False) == []

    def test_only_new_rows_are_sent_also_after_a_restart(self, mlflow: MlflowSync, uri: str) -> None:
        assert mlflow.sync(SWEEP, [record(steps=3)]).points == 12
        assert mlflow.sync(SWEEP, [record(steps=4)]) == SyncResult(1, 4)
        assert MlflowSync(uri).sync(SWEEP, [finished(steps=5)]) == SyncResult(1, 4 + 6)
        assert len(runs_of(uri)) == 2
        assert mlflow.verify(SWEEP, [finished(steps=5)]) == []

    def test_rows_that_a_record_took_back_leave_the_run(self, mlflow: MlflowSync, uri: str) -> None:
        mlflow.sync(SWEEP, [record(steps=5)])
        kept = record(steps=3).rows
        again = [dataclasses.replace(row, time_s=row.time_s + 100) for row in record(steps=5).rows[6:]]
        trial = record(steps=5, rows=kept + again)
        assert mlflow.verify(SWEEP, [trial]) != []
        mlflow.sync(SWEEP, [trial])
        assert mlflow.verify(SWEEP, [trial]) == []
        assert only_trial(uri).data.tags["trial_id"] == trial.trial_id

    def test_a_stopped_trial_that_is_continued_runs_again(self, mlflow: MlflowSync, uri: str) -> None:
        stop = StopDecision(step=30, rule="halving", reason="below the median")
        mlflow.sync(SWEEP, [record(steps=3, status=Status.STOPPED, stopped=stop)])
        assert only_trial(uri).data.tags["stopped"] == "step 30: below the median"
        mlflow.sync(SWEEP, [record(steps=4)])
        run = only_trial(uri)
        assert (run.info.status, run.data.tags["stopped"]) == ("RUNNING", "")

    def test_an_extended_sweep_keeps_its_parent(self, mlflow: MlflowSync, uri: str) -> None:
        mlflow.sync(SWEEP, [finished(0)])
        mlflow.sync(depth(seeds=3), [finished(0), record(1)])
        parent = parent_of(uri)
        assert parent.info.status == "RUNNING"
        counts = {status: parent.data.tags[f"trials.{status}"] for status in ("finished", "running", "failed")}
        assert counts == {"finished": "1", "running": "1", "failed": "0"}
        assert parent.data.tags["definition.seeds"] == "3"


class TestRequests:
    """What is written by requests to MLflow, as to a server, and cut between two of them."""

    @pytest.fixture
    def mlflow(self, uri: str) -> MlflowSync:
        return MlflowSync(uri)

    @pytest.mark.parametrize("nth", [2, 3])
    def test_a_curve_that_was_cut_between_requests_is_completed(
        self, mlflow: MlflowSync, monkeypatch: pytest.MonkeyPatch, nth: int
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
            mlflow.sync(SWEEP, [trial])
        mlflow.sync(SWEEP, [trial])
        assert mlflow.verify(SWEEP, [trial]) == []

    @pytest.mark.parametrize("point_of_death", ["create_run", "log_inputs", "log_batch", "set_terminated"])
    @pytest.mark.parametrize("arrived", [False, True])
    def test_a_request_without_an_answer_is_made_good(
        self,
        mlflow: MlflowSync,
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
            mlflow.sync(SWEEP, trials)
        mlflow.sync(SWEEP, trials)
        assert mlflow.verify(SWEEP, trials) == []
        assert len(runs_of(uri)) == 3

    def test_two_runs_of_one_trial_become_one(self, mlflow: MlflowSync, uri: str) -> None:
        from mlflow import MlflowClient

        mlflow.sync(SWEEP, [finished()])
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("trm")
        client.create_run(experiment.experiment_id, tags={"trial_id": finished().trial_id, "sweep": "depth"})
        MlflowSync(uri).sync(SWEEP, [finished()])
        assert only_trial(uri).data.metrics["test/exact_accuracy"] == 0.91

    @pytest.mark.parametrize("value", ["", "all of them", "-3:ab", "\N{SUPERSCRIPT TWO}:ab", "9" * 30])
    def test_a_run_whose_tags_somebody_edited_is_sent_again(self, mlflow: MlflowSync, uri: str, value: str) -> None:
        from mlflow import MlflowClient

        mlflow.sync(SWEEP, [finished()])
        client = MlflowClient(tracking_uri=uri)
        for run in runs_of(uri):
            for name in set(run.data.tags) - {"sweep", "trial_id"}:
                if not name.startswith("mlflow."):
                    client.set_tag(run.info.run_id, name, value)
        MlflowSync(uri).sync(SWEEP, [finished()])
        assert mlflow.verify(SWEEP, [finished()]) == []
        assert only_trial(uri).data.tags["stage"] == finished().stage


class TestErrors:
    @pytest.mark.parametrize(
        ("uri", "message"),
        [
            ("http://127.0.0.1:1", "nothing answers .*Start the server"),
            ("postgresql+psycopg://me:secret@127.0.0.1:1/mlflow", r"psycopg://127\.0\.0\.1:1/mlflow: nothing answers"),
            ("./mlruns", "not an address that MLflow can write to. Use sqlite"),
            ("file:///tmp/mlruns", "not an address that MLflow can write to"),
        ],
    )
    def test_a_tracker_that_cannot_be_used_is_one_line(self, uri: str, message: str) -> None:
        with pytest.raises(TrackingError, match=message) as caught:
            MlflowSync(uri).sync(SWEEP, [record()])
        assert "\n" not in str(caught.value) and "secret" not in str(caught.value)

    def test_a_file_that_is_no_database_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_text("not a database" * 100)
        with pytest.raises(TrackingError, match=r"mlflow\.db: file is not a database"):
            MlflowSync(default_uri(tmp_path)).sync(SWEEP, [record()])

    def test_verify_names_what_is_missing_and_what_has_no_record(self, mlflow: MlflowSync) -> None:
        mlflow.sync(SWEEP, [finished(0)])
        lines = list(map(str, mlflow.verify(SWEEP, [finished(1)])))
        assert lines == [
            f"{finished(1).trial_id}: run: 26 missing, there is none",
            f"{finished(0).trial_id}: run: it has no record",
        ]

    def test_verify_names_points_that_are_missing_or_there_twice_and_runs_that_are(
        self, mlflow: MlflowSync, uri: str
    ) -> None:
        from mlflow import MlflowClient

        mlflow.sync(SWEEP, [finished()])
        client, run = MlflowClient(tracking_uri=uri), only_trial(uri)
        point = finished().rows[1]
        client.log_metric(run.info.run_id, "validation/loss", point.metrics["loss"], timestamp=1, step=point.step)
        longer = dataclasses.replace(finished(), rows=[*finished().rows, Row(60, START_S + 60, "train", {"loss": 0.5})])
        lines = list(map(str, mlflow.verify(SWEEP, [longer])))
        assert [line.removeprefix(f"{longer.trial_id}: ") for line in lines] == [
            "train/loss: 1 missing, at step 60",
            "validation/loss: 1 too many, at step 10",
        ]
        client.create_run(run.info.experiment_id, tags={"trial_id": longer.trial_id, "sweep": "depth"})
        assert list(map(str, mlflow.verify(SWEEP, [longer]))) == [f"{longer.trial_id}: run: there are 2"]

    def test_rebuild_leaves_nothing_of_what_was_there(self, mlflow: MlflowSync, uri: str) -> None:
        from mlflow import MlflowClient

        trials = [finished(0), record(1)]
        mlflow.sync(SWEEP, trials)
        before = contents(uri)
        MlflowClient(tracking_uri=uri).log_metric(runs_of(uri)[0].info.run_id, "validation/loss", 7.0, step=1)
        assert contents(uri) != before
        assert mlflow.rebuild(SWEEP, trials) == SyncResult(2, 26 + 20)
        assert contents(uri) == before


def test_a_new_database_is_made_without_a_word_and_nothing_lands_in_the_current_folder(first_use: FirstUse) -> None:
    assert (first_use.done.returncode, first_use.done.stdout, first_use.done.stderr) == (0, "", "")
    assert list(first_use.current_folder.iterdir()) == []
    assert first_use.database.exists()
