"""`trm track`: sync, verify and rebuild from the command line; every mistake is one line."""

from __future__ import annotations

import http.server
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.api.lifecycle import extend_sweep
from orchestrator.cli import main
from orchestrator.cli.commands import track
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep import choice
from tests.support.sweeps import study
from tests.support.tracking import contents, depth, finished, record, write_record
from trm_data.files import machine_id, start_of


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `trm track ...`."""
    with pytest.raises(SystemExit) as ended:
        main(["track", *arguments])
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


@pytest.fixture
def storage(tmp_path: Path, migrated: Path) -> Storage:
    """Three trials of the sweep `depth`, one of which still runs, and an empty database of MLflow's."""
    place = open_storage(str(tmp_path / "runs"))
    place.write("sweeps/depth/sweep.json", to_json_bytes(study(name="depth").plain()))
    for each in (finished(0), finished(1), record(2, steps=3)):
        write_record(place, each)
    (tmp_path / "runs" / "mlflow.db").write_bytes(migrated.read_bytes())
    return place


def uri_of(storage: Storage) -> str:
    return f"sqlite:///{storage.url}/mlflow.db"


def test_sync_sends_what_is_new_and_verify_finds_it_exactly_once(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--storage", storage.url]
    code, out, _ = call(capsys, "sync", "depth", *options, "--json")
    (first,) = json.loads(out)["sweeps"]
    assert code == 0 and (first["trials"], first["trials_changed"]) == (3, 3)
    assert first["points"] == first["points_sent"] == 2 * 26 + 12
    write_record(storage, record(2, steps=5), segment=2, rows_from=6)
    assert json.loads(call(capsys, "sync", *options, "--json")[1])["sweeps"][0]["points_sent"] == 8
    assert call(capsys, "sync", "depth", *options)[1] == "depth: 3 trials, nothing new\n"
    assert call(capsys, "verify", "depth", *options)[:2] == (0, "depth: 3 trials, 72 points, each exactly once\n")


def test_a_complete_sweep_that_was_extended_and_not_run_yet_is_no_difference(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.write("sweeps/depth/sweep.json", to_json_bytes(depth(space={"T": choice(1)}, seeds=3).plain()))
    write_record(storage, finished(2))
    options = ["depth", "--storage", storage.url]
    call(capsys, "sync", *options)
    extend_sweep("depth", storage, seeds=4)
    assert call(capsys, "verify", *options)[:2] == (0, "depth: 3 trials, 78 points, each exactly once\n")
    write_record(storage, record(3, steps=3))
    code, out, _ = call(capsys, "verify", *options)
    assert code == 1 and "depth: status: FINISHED instead of KILLED" in out


def test_verify_says_what_is_missing_or_doubled_and_ends_with_1(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    options = ["depth", "--storage", storage.url]
    call(capsys, "sync", *options)
    client = MlflowClient(tracking_uri=uri_of(storage))
    experiment = client.get_experiment_by_name("trm").experiment_id
    runs = {run.data.tags.get("trial_id"): run.info.run_id for run in client.search_runs([experiment])}
    client.log_metric(runs[finished(0).trial_id], "train/loss", 3.5, timestamp=5, step=20)
    client.delete_run(runs[finished(1).trial_id])
    code, out, _ = call(capsys, "verify", *options, "--json")
    found = json.loads(out)["sweeps"][0]["differences"]
    assert code == 1
    assert {(one["trial_id"], one["what"], one["missing"], one["surplus"]) for one in found} == {
        (finished(0).trial_id, "train/loss", 0, 1),
        (finished(1).trial_id, "run", 26, 0),
    }
    call(capsys, "rebuild", *options)
    assert call(capsys, "verify", *options)[0] == 0


def test_a_damaged_definition_keeps_no_other_sweep_from_the_tracker(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.write("sweeps/broken/sweep.json", b"{")
    code, out, err = call(capsys, "sync", "--storage", storage.url, "--json")
    assert code == 0 and [report["sweep"] for report in json.loads(out)["sweeps"]] == ["depth"]
    assert "1 unreadable file skipped" in err and "broken/sweep.json" in err
    code, _, err = call(capsys, "sync", "broken", "--storage", storage.url)
    assert code == 2 and err.count("\n") == 1


def test_verify_changes_nothing(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    """It neither restores a deleted experiment nor creates a database, which `sync` does."""
    from mlflow import MlflowClient

    options = ["depth", "--storage", storage.url]
    call(capsys, "sync", *options)
    client = MlflowClient(tracking_uri=uri_of(storage))
    client.delete_experiment(client.get_experiment_by_name("trm").experiment_id)
    code, out, _ = call(capsys, "verify", *options)
    assert code == 1 and out.count("there is none") == 4
    assert client.get_experiment_by_name("trm").lifecycle_stage == "deleted"
    missing = Path(storage.url) / "missing.db"
    assert call(capsys, "verify", *options, "--tracking", f"sqlite:///{missing}")[0] == 1
    assert not missing.exists()
    call(capsys, "sync", *options)
    assert call(capsys, "verify", *options)[0] == 0


def test_rebuild_into_an_empty_tracker_gives_the_same(
    storage: Storage, migrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["depth", "--storage", storage.url]
    call(capsys, "sync", *options)
    write_record(storage, record(2, steps=5), segment=2, rows_from=6)
    call(capsys, "sync", *options)
    (tmp_path / "other.db").write_bytes(migrated.read_bytes())
    other = f"sqlite:///{tmp_path}/other.db"
    assert call(capsys, "rebuild", *options, "--tracking", other)[0] == 0
    assert contents(other) == contents(uri_of(storage))


Refused = Callable[..., None]
"""Checks that an address is refused with one line that holds the given hints."""


class TestBadInput:
    @pytest.fixture
    def refused(self, storage: Storage, capsys: pytest.CaptureFixture[str]) -> Iterator[Refused]:
        def check(tracking: str, *hints: str, verb: str = "sync") -> None:
            code, out, err = call(capsys, verb, "depth", "--storage", storage.url, "--tracking", tracking)
            assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
            for hint in hints:
                assert hint in err

        yield check

    @pytest.mark.parametrize("verb", ["sync", "verify", "rebuild"])
    def test_server_that_does_not_answer(self, refused: Refused, verb: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        refused(f"http://127.0.0.1:{port}", "nothing answers", "Start the server", verb=verb)

    @pytest.mark.parametrize(
        ("address", "hint"),
        [("mlruns", "not an address"), ("file:///tmp/x", "not an address"), ("sqlite://", "names no file")],
    )
    def test_address_of_no_tracker(self, refused: Refused, address: str, hint: str) -> None:
        refused(address, hint, "Use sqlite:////path/mlflow.db")

    @pytest.mark.parametrize(
        ("harm", "reason", "remedy"),
        [
            ("garbage", "file is not a database", "Move the file away, then run `trm track rebuild --storage {at}`"),
            ("truncated", "malformed", "Move the file away, then run `trm track rebuild --storage {at}`"),
            ("folder", "unable to open", "Move the folder that is in its place away, then run `trm track rebuild "),
            ("locked", "database is locked", "Wait until the other process that writes to it ends"),
            ("link", "is a link to /nonexistent/mlflow.db, which does not exist", "Mount or restore what it points"),
        ],
    )
    def test_a_database_that_cannot_be_used_says_what_helps(
        self,
        harm: str,
        reason: str,
        remedy: str,
        storage: Storage,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("orchestrator.tracking.sqlite.CONNECT_TIMEOUT_S", 0.1)
        call(capsys, "sync", "depth", "--storage", storage.url)
        path = Path(storage.url) / "mlflow.db"
        whole = path.read_bytes()
        for each in path.parent.glob("mlflow.db*"):
            each.unlink()
        holder = None
        if harm == "folder":
            path.mkdir()
        elif harm == "link":
            path.symlink_to("/nonexistent/mlflow.db")
        else:
            path.write_bytes(b"garbage" * 500 if harm == "garbage" else whole[: len(whole) // 2])
        if harm == "locked":
            path.write_bytes(whole)
            holder = sqlite3.connect(path)
            holder.execute("PRAGMA locking_mode = EXCLUSIVE")
            holder.execute("BEGIN EXCLUSIVE")
        for verb in ("verify", "sync"):
            code, _, err = call(capsys, verb, "depth", "--storage", storage.url)
            assert code == 2 and reason in err and err.count("\n") == 1, err
            assert remedy.format(at=storage.url) in err and "sqlite:////path" not in err
        assert harm != "link" or path.is_symlink(), "it was not replaced"
        if holder is not None:
            holder.close()

    def test_server_of_something_else(self, refused: Refused) -> None:
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None: ...

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            refused(f"http://127.0.0.1:{server.server_port}", "it is not an MLflow server")
        finally:
            server.shutdown()
            server.server_close()

    def test_database_of_an_older_mlflow_is_refused_and_not_migrated(self, refused: Refused, tmp_path: Path) -> None:
        """Made by MLflow's own migrations up to a revision of 2023. MLflow itself would migrate it without asking."""
        path = tmp_path / "old.db"
        old_database(path, "97727af70f4d")
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("INSERT INTO runs (run_uuid, name) VALUES ('1', 'a run')")
        before = path.read_bytes()
        refused(f"sqlite:///{path}", "older MLflow (schema 97727af70f4d", "mlflow db upgrade")
        assert path.read_bytes() == before

    def test_database_of_a_newer_mlflow(self, refused: Refused, migrated: Path, tmp_path: Path) -> None:
        path = tmp_path / "new.db"
        path.write_bytes(migrated.read_bytes())
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = 'fffffffffff1'")
        refused(f"sqlite:///{path}", "newer MLflow (schema fffffffffff1")

    def test_database_of_something_else(self, refused: Refused, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "else.db")) as connection, connection:
            connection.execute("CREATE TABLE birds (name TEXT)")
        refused(f"sqlite:///{tmp_path}/else.db", "a database of something else")

    def test_place_that_cannot_be_written(self, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        refused(f"sqlite:///{tmp_path}/file/mlflow.db", "mlflow.db")

    def test_driver_that_is_not_installed(self, refused: Refused) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            refused(
                f"postgresql+psycopg2://me:secret@127.0.0.1:{port}/mlflow",
                "needs the package psycopg2",
                "psycopg2://127.0.0.1",
            )

    def test_records_on_s3_need_a_named_tracker(self, s3_bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
        code, _, err = call(capsys, "sync", "--storage", s3_bucket)
        assert code == 2 and "--tracking http://HOST:PORT" in err and err.count("\n") == 1

    def test_sweep_that_does_not_exist(self, storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
        code, _, err = call(capsys, "verify", "dept", "--storage", storage.url)
        assert code == 2 and "'depth'" in err

    def test_two_writers(
        self, storage: Storage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = ["depth", "--storage", storage.url]
        call(capsys, "sync", *options)
        (folder,) = (Path(storage.url) / "sweeps/depth/tracking").iterdir()
        machine = {"machine": machine_id(), "process_start": start_of(os.getpid())}
        holder = {"host": socket.gethostname(), "pid": os.getpid(), **machine, "started_s": 0, "beat_s": time.time()}
        (folder / "lock.json").write_text(json.dumps(holder))
        monkeypatch.setattr(track, "WAIT_S", 0)
        code, _, err = call(capsys, "sync", *options)
        assert code == 2 and f"process {os.getpid()} on" in err
        (folder / "lock.json").write_text(json.dumps({**holder, "pid": 2**22 - 1}))
        assert call(capsys, "sync", *options)[0] == 0, "one that a dead process left is taken over"


def old_database(path: Path, revision: str) -> None:
    """A database as an MLflow of that revision left it."""
    import mlflow
    import sqlalchemy
    from alembic import command
    from alembic.config import Config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    folder = Path(mlflow.__file__).parent / "store" / "db_migrations"
    config = Config(str(folder / "alembic.ini"))
    config.set_main_option("script_location", str(folder))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{path}")
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
