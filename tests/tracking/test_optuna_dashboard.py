"""The Optuna study of a search: what the dashboard shows, and that nothing is written twice."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from orchestrator.records.index import sweep_folder, trial_folder
from orchestrator.records.schema import AttemptEnd, AttemptStart, Row, Status, StopDecision, TrialResult
from orchestrator.records.writer import TrialWriter
from orchestrator.search.optuna_trials import STATES
from orchestrator.storage import open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.lease import Lease
from orchestrator.sweep import Sweep
from orchestrator.sweep.trials import PlannedTrial, search_trial
from orchestrator.tracking.optuna_dashboard import OptunaError, SyncResult, default_url, sync
from tests.support.sweeps import fingerprint, search, study

DATASET = {"benchmark": "sudoku-4x4", "fingerprint": "f", "generated": True, "counts": {}, "source": ""}


class Recorder:
    """Writes the records of a search as trials would."""

    def __init__(self, folder: Path, sweep: Sweep) -> None:
        self.storage = open_storage(str(folder))
        self.sweep = sweep
        self.url = default_url(self.storage)
        sweep_folder(self.storage, sweep.name).write("sweep.json", to_json_bytes(sweep.plain()))

    def sync(self) -> SyncResult:
        return sync(self.storage, self.sweep.name, self.url)

    def plan(self, cycles: int, latent: int) -> PlannedTrial:
        settings: dict[str, Any] = {"model.cycles": cycles, "model.latent_steps": latent}
        trial = search_trial(self.sweep, fingerprint, f"T={cycles} n={latent}", settings)
        head = {"stage": "explore", "family": trial.family, "config": trial.config.plain(), "dataset": DATASET}
        trial_folder(self.storage, self.sweep.name, trial.trial_id).write("trial.json", to_json_bytes(head))
        return trial

    def run(self, trial: PlannedTrial, until: int, started_s: float = 100.0, from_step: int = 0) -> TrialWriter:
        writer = TrialWriter(self.storage, self.sweep.name, trial.trial_id)
        writer.start(AttemptStart(from_step=from_step, started_s=started_s + writer.attempt))
        for step in range(from_step + 4, until + 1, 4):
            metrics = {"exact_accuracy": step / 100, "raw_cell_accuracy": 0.5}
            writer.add(Row(step, started_s + step, "validation", metrics))
        writer.flush()
        return writer

    def end(self, trial: PlannedTrial, writer: TrialWriter, status: Status, step: int) -> None:
        if status is Status.FINISHED:
            metrics = {"exact_accuracy": 0.75, "cell_accuracy": 0.9}
            result = TrialResult(split="validation", items=4, metrics=metrics, train_flops=1e9, ended_s=200.0)
            trial_folder(self.storage, self.sweep.name, trial.trial_id).write("result.json", result.encode())
        if status is Status.STOPPED:
            stopped = StopDecision(step=step, rule="halving", reason="rank 3 of 4")
            trial_folder(self.storage, self.sweep.name, trial.trial_id).write("stopped.json", stopped.encode())
        writer.end(AttemptEnd(status=status, step=step, ended_s=150.0, train_s=1.0, reason="why"))

    def study(self) -> list[optuna.trial.FrozenTrial]:
        return optuna.load_study(study_name=self.sweep.name, storage=self.url).get_trials()


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "runs", search())


def test_every_ending_has_its_state_with_steps_times_and_ids(recorder: Recorder) -> None:
    endings = [Status.FINISHED, Status.STOPPED, Status.DIVERGED, Status.FAILED, Status.OUT_OF_MEMORY]
    trials = []
    for index, status in enumerate(endings):
        trial = recorder.plan(1 + index % 3, 1 + index // 3)
        recorder.end(trial, recorder.run(trial, until=8, started_s=100.0 + index), status, 8)
        trials.append(trial)
    assert recorder.sync() == (5, 5)
    shown = recorder.study()
    assert [each.state for each in shown] == [STATES[status] for status in endings]
    assert [each.user_attrs["trial_id"] for each in shown] == [trial.trial_id for trial in trials]
    assert shown[0].value == 0.75 and shown[0].params == {"model.cycles": 1, "model.latent_steps": 1}
    assert shown[1].state is TrialState.PRUNED and shown[1].last_step == 8 and shown[1].value is None
    assert shown[1].user_attrs["stopped_at"] == 8 and shown[1].user_attrs["reason"] == "rank 3 of 4"
    assert shown[0].datetime_start is not None and shown[0].datetime_start.timestamp() == 101.0
    assert shown[0].datetime_complete is not None and shown[0].datetime_complete.timestamp() == 200.0


def test_syncing_again_writes_nothing_and_a_rebuilt_study_is_the_same(recorder: Recorder) -> None:
    rng = random.Random(1)
    for cycles in (1, 2, 3):
        trial = recorder.plan(cycles, 1)
        writer = recorder.run(trial, until=4, started_s=10.0 * cycles)
        recorder.sync()
        recorder.end(trial, writer, rng.choice([Status.FINISHED, Status.STOPPED, Status.DIVERGED]), 4)
        recorder.sync()
    assert recorder.sync() == (3, 0)
    grown = recorder.study()
    Path(recorder.url.removeprefix("sqlite:///")).unlink()
    assert recorder.sync() == (3, 3)

    def facts(trials: list[optuna.trial.FrozenTrial]) -> list[Any]:
        return [(t.number, t.state, t.values, t.params, t.user_attrs, t.intermediate_values, t.datetime_start,
                 t.datetime_complete) for t in trials]  # fmt: skip

    assert facts(recorder.study()) == facts(grown)


def test_running_is_shown_only_while_a_driver_lives(recorder: Recorder) -> None:
    trial = recorder.plan(1, 1)
    recorder.run(trial, until=4)
    recorder.sync()
    assert recorder.study()[0].state is TrialState.WAITING
    with Lease(sweep_folder(recorder.storage, recorder.sweep.name), recorder.sweep.name):
        recorder.sync()
        assert recorder.study()[0].state is TrialState.RUNNING
    recorder.sync()
    assert recorder.study()[0].state is TrialState.WAITING


def test_stopped_trial_that_goes_on_and_rows_taken_back_leave_no_trace(recorder: Recorder) -> None:
    trial, other = recorder.plan(1, 1), recorder.plan(2, 2)
    recorder.end(trial, recorder.run(trial, until=8), Status.STOPPED, 8)
    recorder.run(other, until=12, started_s=300.0)
    recorder.sync()
    trial_folder(recorder.storage, recorder.sweep.name, trial.trial_id).delete("stopped.json")
    recorder.run(other, until=8, started_s=300.0, from_step=4)  # its machine was lost after its checkpoint at step 4
    recorder.end(trial, recorder.run(trial, until=12, from_step=8), Status.FINISHED, 12)
    recorder.sync()
    shown = recorder.study()
    assert [each.state for each in shown] == [TrialState.COMPLETE, TrialState.WAITING]
    assert [sorted(each.intermediate_values) for each in shown] == [[4, 8, 12], [4, 8]]


def test_two_studies_share_a_file_and_a_sweep_without_search_has_none(tmp_path: Path) -> None:
    first = Recorder(tmp_path / "runs", search())
    second = Recorder(tmp_path / "runs", search(name="other"))
    for recorder in (first, second):
        recorder.plan(1, 1)
        recorder.sync()
    grid = Recorder(tmp_path / "runs", study())
    assert grid.sync() == (0, 0)
    assert sorted(optuna.get_all_study_names(first.url)) == ["other", "search"]


def test_dashboard_opens_it_as_it_is(recorder: Recorder) -> None:
    from optuna.storages import RDBStorage
    from optuna_dashboard import wsgi

    trial = recorder.plan(3, 2)
    recorder.end(trial, recorder.run(trial, until=12), Status.FINISHED, 12)
    recorder.sync()
    database = RDBStorage(recorder.url)
    answers: list[str] = []

    def get(path: str) -> Any:
        environment = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "localhost",
                       "SERVER_PORT": "80", "wsgi.url_scheme": "http"}  # fmt: skip
        body = wsgi(database)(environment, lambda status, *_: answers.append(status))
        return json.loads(b"".join(body))

    [summary] = get("/api/studies")["study_summaries"]
    detail = get(f"/api/studies/{summary['study_id']}")
    assert answers == ["200 OK", "200 OK"]
    assert summary["study_name"] == "search"
    [shown] = detail["trials"]
    assert shown["state"] == "Complete" and {p["name"] for p in shown["params"]} == {
        "model.cycles",
        "model.latent_steps",
    }
    database.remove_session()
    database.engine.dispose()


def test_database_whose_creation_was_cut_is_created_again(recorder: Recorder) -> None:
    """A process that dies while Optuna creates its tables leaves some of them, and no version."""
    path = Path(recorder.url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE studies (study_id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE study_directions (study_direction_id INTEGER PRIMARY KEY)")
    os.utime(path, (1, 1))
    recorder.plan(1, 1)
    assert recorder.sync() == (1, 1) and len(recorder.study()) == 1


def test_database_whose_creation_is_cut_leaves_no_file(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    path = Path(recorder.url.removeprefix("sqlite:///"))
    recorder.plan(1, 1)
    with monkeypatch.context() as patch:
        patch.setattr("optuna.storages._rdb.storage._VersionManager.__init__", fails)  # after the first tables
        with pytest.raises(OptunaError, match="disk is full"):
            recorder.sync()
    assert list(path.parent.glob(f"*{path.name}*")) == []
    assert recorder.sync() == (1, 1)


def test_database_of_something_else_is_left_alone(recorder: Recorder) -> None:
    path = Path(recorder.url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE birds (name TEXT)")
        connection.execute("INSERT INTO birds VALUES ('wren')")
    os.utime(path, (1, 1))
    recorder.plan(1, 1)
    recorder.sync()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM birds").fetchall() == [("wren",)]


def test_database_that_cannot_be_written_is_one_line(recorder: Recorder, tmp_path: Path) -> None:
    recorder.plan(1, 1)
    (tmp_path / "file").write_text("this is not a database, and long enough to be seen as such " * 40)
    for url in (f"sqlite:///{tmp_path}/file", f"sqlite:///{tmp_path}/file/below.db", "mysql://localhost:1/optuna"):
        with pytest.raises(OptunaError) as caught:
            sync(recorder.storage, recorder.sweep.name, url)
        assert "\n" not in str(caught.value) and "delete" not in str(caught.value), "it may not be ours"
