"""Syncing while a sweep runs: a running trial is seen, only what is new costs anything, and nobody waits for long."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SweepError
from orchestrator.records.reader import SweepReader
from orchestrator.records.schema import Status
from orchestrator.storage import LocalStorage, Storage, open_storage
from orchestrator.storage.lease import Lease
from orchestrator.tracking import live, mlflow_connection
from orchestrator.tracking.live import Tracker, resolve_uri, tracked
from orchestrator.tracking.mlflow import MlflowSync
from orchestrator.tracking.mlflow_connection import TrackingError
from orchestrator.tracking.mlflow_process import mlflow_environment
from tests.support.tracking import SWEEP, FakeServer, finished, record, write_record


@pytest.fixture
def storage(tmp_path: Path, migrated: Path) -> Storage:
    (tmp_path / "mlflow.db").write_bytes(migrated.read_bytes())
    return open_storage(str(tmp_path))


@pytest.fixture
def with_trial(tmp_path: Path) -> Storage:
    """A storage with a finished trial, which no tracker has."""
    storage = open_storage(str(tmp_path))
    write_record(storage, finished())
    return storage


@pytest.fixture
def told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TELL_AFTER_S", 0.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SYNC_EVERY_S", 0.05)


def eventually(condition: Callable[[], Any]) -> Any:
    """What `condition` returns as soon as it is true; the test's own time limit ends it otherwise."""
    while not (value := condition()):
        time.sleep(0.05)
    return value


def steps_of(uri: str, trial_id: str) -> list[int]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("trm")
    if experiment is None:
        return []
    runs = client.search_runs([experiment.experiment_id], f"tags.trial_id = '{trial_id}'")
    return [point.step for run in runs for point in client.get_metric_history(run.info.run_id, "train/loss")]


def test_points_of_a_running_trial_arrive_while_it_runs(storage: Storage, quick: None) -> None:
    uri = resolve_uri(storage, None) or ""
    with tracked(SWEEP, storage, None):
        write_record(storage, record(steps=2))
        eventually(lambda: steps_of(uri, record().trial_id) == [10, 20])
        write_record(storage, record(steps=5), segment=2, rows_from=4)
        eventually(lambda: steps_of(uri, record().trial_id) == [10, 20, 30, 40, 50])
        write_record(storage, finished(), segment=3, rows_from=10)
    assert MlflowSync(uri).verify(SWEEP, SweepReader(storage, "depth").read().trials, is_driven=False) == []


def test_records_on_s3_without_a_tracker_are_told_in_one_line(s3_bucket: str) -> None:
    """Bug E7: with a storage on S3 tracking was silently off."""
    storage = open_storage(s3_bucket)
    told: list[str] = []
    with tracked(SWEEP, storage, None, tell=told.append) as tracker:
        assert tracker.uri is None
    (line,) = told
    assert "trm ui --storage" in line and "--tracking URL" in line and "\n" not in line
    with tracked(SWEEP, storage, "none", tell=told.append):
        pass
    assert len(told) == 1, "who switches tracking off knows"


def test_a_sweep_whose_trials_never_start_leaves_no_trace(tmp_path: Path, quick: None) -> None:
    storage = open_storage(str(tmp_path))
    with tracked(SWEEP, storage, None):
        write_record(storage, record(status=Status.PENDING, attempts=[], rows=[]))
        time.sleep(0.2)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_record_that_did_not_change_is_read_once(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(str(tmp_path))
    write_record(storage, record(status=Status.PENDING, attempts=[], rows=[]))
    read, passes = LocalStorage.read, LocalStorage.snapshots
    read_keys: list[str] = []
    num_passes: list[int] = []
    monkeypatch.setattr(LocalStorage, "read", lambda self, key: (read_keys.append(key), read(self, key))[1])
    monkeypatch.setattr(LocalStorage, "snapshots", lambda *given: (num_passes.append(1), passes(*given))[1])
    with tracked(SWEEP, storage, None):
        eventually(lambda: len(num_passes) >= 4)
    assert len([key for key in read_keys if key.endswith("trial.json")]) == 1


def test_a_damaged_record_does_not_keep_the_others_from_mlflow(storage: Storage, quick: None) -> None:
    write_record(storage, finished(0))
    write_record(storage, finished(1))
    storage.write(f"sweeps/depth/trials/{finished(1).trial_id}/attempts/001/end.json", b"")
    with tracked(SWEEP, storage, None):
        eventually(lambda: steps_of(resolve_uri(storage, None) or "", finished(0).trial_id))


def test_a_second_sync_of_the_same_records_sends_no_request(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    mlflow = MlflowSync(resolve_uri(storage, None) or "")
    trials = [finished(0), record(1)]
    mlflow.sync(SWEEP, trials)
    for name in ("create_run", "log_batch", "log_inputs", "search_runs", "set_terminated", "update_run", "log_text"):
        monkeypatch.setattr(MlflowClient, name, lambda *_, **__: pytest.fail("nothing is new"))
    assert mlflow.sync(SWEEP, trials) == (0, 0)


@pytest.fixture
def hanging() -> Iterator[FakeServer]:
    """Answers /version as MLflow does, and nothing else ever."""
    with FakeServer(hangs=True) as server:
        yield server


def test_a_tracker_that_hangs_delays_the_end_of_a_sweep_by_its_patience_only(
    hanging: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """The thread is then still inside its request, whose own limit is longer."""
    monkeypatch.setattr(live, "ANSWER_WAIT_S", 0.2)
    monkeypatch.setattr(live, "CLOSE_LIMIT_S", 5.0)
    storage = open_storage(str(tmp_path))
    write_record(storage, finished())
    warnings: list[str] = []
    tracker = Tracker(SWEEP, storage, hanging.url, warnings.append)
    tracker.start()
    eventually(lambda: hanging.requests[1:])
    tracker.close()
    assert [thread.name for thread in threading.enumerate()].count("mlflow-sync") == 1, "it did not wait for the thread"
    assert len(warnings) == 1 and "no answer for" in warnings[0] and "\n" not in warnings[0]
    hanging.release()
    eventually(lambda: "mlflow-sync" not in [thread.name for thread in threading.enumerate()])


def test_a_tracker_that_answers_slowly_says_how_much_was_sent_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    enough, answering = threading.Event(), threading.Event()

    class SlowSync(MlflowSync):
        def sync(self, sweep: Any, records: Any, on_progress: Callable[[int, int], None], **_: Any) -> Any:
            while not enough.wait(0.01):
                on_progress(1234, 10_000)
                answering.set()

    monkeypatch.setattr(live, "MlflowSync", SlowSync)
    monkeypatch.setattr(live, "ANSWER_WAIT_S", 120.0)
    monkeypatch.setattr(live, "CLOSE_LIMIT_S", 0.2)
    storage = open_storage(str(tmp_path / "my runs"))
    write_record(storage, finished())
    warnings: list[str] = []
    tracker = Tracker(SWEEP, storage, "http://host:5000", warnings.append)
    tracker.start()
    answering.wait()
    tracker.close()
    enough.set()
    (warning,) = warnings
    assert "the time limit of 0 s is over, with 1,234 of 10,000 trials sent" in warning and "no answer" not in warning
    assert f"`trm track sync depth --tracking http://host:5000 --storage '{storage.url}'` sends the rest" in warning


def test_waiting_at_the_end_is_told_and_ends_with_ctrl_c(
    hanging: FakeServer, with_trial: Storage, told_at_once: None, quick: None
) -> None:
    warnings: list[str] = []
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    try:
        with tracked(SWEEP, with_trial, hanging.url, warnings.append, tell):
            eventually(lambda: hanging.requests[1:])
    finally:
        signal.signal(signal.SIGINT, before)
    hanging.release()
    assert len(told) == 1 and "MLflow is being brought up to date" in told[0] and "Ctrl-C" in told[0]
    assert len(warnings) == 1 and "not brought up to date: interrupted. `trm track sync depth" in warnings[0]
    eventually(lambda: "mlflow-sync" not in [thread.name for thread in threading.enumerate()])


def test_nothing_is_told_of_the_end_after_an_error(
    hanging: FakeServer, with_trial: Storage, told_at_once: None, quick: None
) -> None:
    told: list[str] = []
    with pytest.raises(SweepError), tracked(SWEEP, with_trial, hanging.url, lambda _: None, told.append):
        eventually(lambda: hanging.requests[1:])
        raise SweepError("exists with another definition")
    hanging.release()
    assert told == []


def test_what_could_not_be_sent_is_one_warning_at_the_end(
    tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    storage = open_storage(str(tmp_path))
    write_record(storage, finished())
    warnings: list[str] = []
    caplog.set_level(logging.INFO, "orchestrator.tracking")
    with tracked(SWEEP, storage, "http://127.0.0.1:1", warnings.append):
        eventually(lambda: caplog.messages)
        time.sleep(0.3)
    assert len(warnings) == 1 and "nothing answers" in warnings[0] and "trm track sync" in warnings[0]
    assert len(caplog.messages) == 1, "one line per change of state"


def test_a_place_that_cannot_be_written_is_one_line_without_a_wait(
    with_trial: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow.store.db.utils

    monkeypatch.setattr(mlflow.store.db.utils, "MAX_RETRY_COUNT", 2)
    tried: list[str] = []
    monkeypatch.setattr(mlflow.store.db.utils, "create_sqlalchemy_engine", tried.append)
    warnings: list[str] = []
    with tracked(SWEEP, with_trial, "sqlite:////proc/mlflow.db", warnings.append):
        pass
    (warning,) = warnings
    assert "unable to open database file" in warning and "trm track sync depth --tracking" in warning
    assert tried == [] and capsys.readouterr().err == ""


def test_a_database_that_is_deleted_while_a_sweep_runs_is_made_again_whole(
    storage: Storage, tmp_path: Path, quick: None
) -> None:
    """MLflow kept the deleted file open, and wrote the rest into it."""
    write_record(storage, finished(0))
    warnings: list[str] = []
    with tracked(SWEEP, storage, None, warnings.append) as tracker:
        eventually(lambda: steps_of(tracker.uri or "", finished(0).trial_id))
        for path in tmp_path.glob("mlflow.db*"):
            path.unlink()
        write_record(storage, finished(1))
    mlflow = MlflowSync(resolve_uri(storage, None) or "")
    assert mlflow.verify(SWEEP, [finished(0), finished(1)], is_driven=False) == [] and warnings == []


def test_what_mlflow_logs_of_an_error_is_not_on_the_terminal(
    storage: Storage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("orchestrator"), "handlers", [])  # a command that ran before may print them
    tracker = MlflowSync(resolve_uri(storage, None) or "")
    tracker.sync(SWEEP, [finished(0)])
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("DROP TABLE metrics")
    caplog.set_level(logging.DEBUG, "orchestrator.tracking")
    with pytest.raises(TrackingError, match="no such table: metrics"):
        tracker.sync(SWEEP, [finished(0), finished(1)])
    assert capsys.readouterr().err == ""
    assert any("no such table: metrics" in message for message in caplog.messages), "`-vv` shows it"
    logging.getLogger("mlflow.store").warning("of the user's own code")
    assert "of the user's own code" in capsys.readouterr().err


def test_an_unexpected_error_is_told_at_once_and_tried_again(
    storage: Storage, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, fails = MlflowSync.sync, [True]

    def broken(self: MlflowSync, *arguments: Any, **options: Any) -> None:
        if fails[0]:
            raise AttributeError("an odd MLflow")
        sync(self, *arguments, **options)

    monkeypatch.setattr(MlflowSync, "sync", broken)
    warnings: list[str] = []
    write_record(storage, finished())
    with tracked(SWEEP, storage, None, warnings.append) as tracker:
        deadline = time.monotonic() + 60
        while not warnings and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        assert len(warnings) == 1 and "AttributeError: an odd MLflow" in warnings[0] and "trm track sync" in warnings[0]
        fails[0] = False
        eventually(lambda: steps_of(tracker.uri or "", finished().trial_id))
    assert len(warnings) == 1, "MLflow has everything"


def test_another_writer_at_the_end_is_waited_for_shortly(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.setattr(live, "ANSWER_WAIT_S", 0.1)
    uri = resolve_uri(storage, None) or ""
    warnings: list[str] = []
    MlflowSync(uri).sync(SWEEP, [finished(0)])
    with live.only_writer(storage, "depth", uri, wait_s=0), tracked(SWEEP, storage, None, warnings.append):
        write_record(storage, finished(1))
    assert len(warnings) == 1 and f"process {os.getpid()}" in warnings[0]


class TestEnvironment:
    def test_what_mlflow_reads_is_set_for_a_session_only(self, storage: Storage) -> None:
        before = dict(os.environ)
        MlflowSync(resolve_uri(storage, None) or "").sync(SWEEP, [finished()])
        assert dict(os.environ) == before

    def test_the_users_own_settings_win_and_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
        with mlflow_environment(), mlflow_environment():
            assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
            assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77" and "MLFLOW_DISABLE_TELEMETRY" not in os.environ


class TestCredentials:
    @pytest.fixture
    def server(self) -> Iterator[FakeServer]:
        with FakeServer(authorization="Basic bWU6aHVudGVyMg==") as server:  # me:hunter2
            yield server

    def test_mlflows_own_variables_are_used(self, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
        assert mlflow_connection.server_version(server.url) == "3.17.2"

    def test_those_of_the_address_are_used(self, server: FakeServer) -> None:
        assert mlflow_connection.server_version(server.url.replace("//", "//me:hunter2@")) == "3.17.2"

    def test_a_token_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter2")
        with FakeServer(authorization="Bearer hunter2") as server:
            assert mlflow_connection.server_version(server.url) == "3.17.2"

    def test_wrong_ones_are_one_line_that_names_the_variables_and_hides_them(self, server: FakeServer) -> None:
        with pytest.raises(TrackingError, match="MLFLOW_TRACKING_USERNAME") as caught:
            mlflow_connection.server_version(server.url.replace("//", "//me:hunter3@"))
        assert "hunter3" not in str(caught.value) and "\n" not in str(caught.value)

    def test_doctor_uses_and_hides_them_too(self, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
        from orchestrator.cli.doctor import services

        monkeypatch.setattr(services, "TIMEOUT_S", 60.0)
        (good,) = services.tracker(server.url.replace("//", "//me:hunter2@"))
        (bad,) = services.tracker(server.url.replace("//", "//me:hunter3@"))
        assert (good.status, bad.status) == ("ok", "fail")
        assert "hunter" not in str(good) + str(bad)


def test_lease_of_a_tracker_is_that_of_one_sweep_and_one_address(storage: Storage) -> None:
    with live.only_writer(storage, "depth", "http://one", wait_s=0):
        for sweep, uri in (("depth", "http://two"), ("other", "http://one")):
            with live.only_writer(storage, sweep, uri, wait_s=0):
                pass
        with pytest.raises(TrackingError), live.only_writer(storage, "depth", "http://one", wait_s=0):
            pytest.fail("two writers")
    with Lease(storage.sub("sweeps/depth"), "depth"):
        pass


def test_runs_of_a_sweep_are_running_only_while_its_driver_lives(storage: Storage, quick: None) -> None:
    """What MLflow says of a sweep that was stopped, of a trial that was cut off, and of both once it is resumed."""
    from mlflow import MlflowClient

    uri = resolve_uri(storage, None) or ""

    def statuses() -> dict[str, str]:
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("trm")
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        return {run.data.tags.get("trial_id", "sweep"): run.info.status for run in runs}

    trial = record().trial_id
    for _ in range(2):  # the second time it is resumed
        with tracked(SWEEP, storage, None), Lease(storage.sub("sweeps/depth"), "depth"):
            write_record(storage, record(steps=2))
            eventually(lambda: statuses() == {"sweep": "RUNNING", trial: "RUNNING"})
        assert statuses() == {"sweep": "KILLED", trial: "SCHEDULED"}
