"""SQLite files of trackers exist whole or not at all, whatever happens while they are created."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from orchestrator.tracking import sqlite
from orchestrator.tracking.mlflow import MlflowSync, TrackingError, default_uri
from orchestrator.tracking.sqlite import DatabaseBusyError, ensure_database, rows_by_table, sqlite_path
from tests.support.tracking import SWEEP, finished
from tests.tracking.test_track_commands import old_database


def is_whole(path: Path) -> bool:
    return "last" in rows_by_table(path)


def create(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for name in ("first", "last"):
            connection.execute(f"CREATE TABLE {name} (x INTEGER)")


def half_made(path: Path) -> Path:
    """What a process leaves that died in the middle, long ago, with a journal that does not fit the next file."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE first (x INTEGER)")
    path.with_name(f"{path.name}-wal").write_bytes(b"\x37\x7f\x06\x82" + bytes(60))
    for each in (path, path.with_name(f"{path.name}-wal")):
        os.utime(each, (1, 1))
    return path


@pytest.mark.parametrize("before", ["nothing", "half-made", "half-made tomorrow"])
def test_a_missing_or_half_made_file_is_created_whole(
    tmp_path: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.tracking.sqlite.QUIET_S", 0.5)
    path = tmp_path / "runs" / "a.db"
    if before != "nothing":
        path.parent.mkdir()
        half_made(path)
    if before == "half-made tomorrow":  # by the clock of a file server, or before this one's stepped back
        os.utime(path, (time.time() + 86_400,) * 2)
    ensure_database(path, is_whole, create)
    assert rows_by_table(path) == {"first": 0, "last": 0}
    assert [each.name for each in path.parent.iterdir()] == ["a.db"]


def test_a_side_file_that_another_process_removes_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, stat, examined = half_made(tmp_path / "a.db"), Path.stat, []

    def removed_meanwhile(each: Path, **options: bool) -> os.stat_result:
        if each.name == "a.db-wal":
            examined.append(each)
            if len(examined) > 1 or not options.get("follow_symlinks", True):
                each.unlink(missing_ok=True)
        return stat(each, **options)

    monkeypatch.setattr(Path, "stat", removed_meanwhile)
    ensure_database(path, is_whole, create)
    assert examined and is_whole(path)


def test_a_usable_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    create(path)
    before = path.read_bytes()
    ensure_database(path, is_whole, create)
    assert path.read_bytes() == before


def test_a_creation_that_fails_leaves_nothing_and_the_next_succeeds(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        create(path)
        raise sqlite3.OperationalError("database or disk is full")

    path = tmp_path / "a.db"
    with pytest.raises(sqlite3.OperationalError):
        ensure_database(path, is_whole, fails)
    assert list(tmp_path.iterdir()) == []
    ensure_database(path, is_whole, create)
    assert is_whole(path)


def test_a_place_that_cannot_be_written_is_told_before_anything_is_created_there() -> None:
    """MLflow tries for two minutes to open such a file, and reports each try on the terminal."""

    def create(path: Path) -> None:
        raise AssertionError("nothing can be created there")

    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        ensure_database(Path("/proc/mlflow.db"), is_whole, create)
    assert not list(Path("/proc").glob(".mlflow.db*"))


def test_a_process_that_dies_leaves_no_database_and_the_next_removes_its_traces(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from orchestrator.tracking.sqlite import ensure_database\n"
        "from tests.tracking.test_sqlite import create, is_whole\n"
        "ensure_database(Path(sys.argv[1]), is_whole, lambda path: (create(path), os._exit(9)))"
    )
    path = tmp_path / "a.db"
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 9
    assert not path.exists() and len(list(tmp_path.iterdir())) == 1
    ensure_database(path, is_whole, create)
    assert [each.name for each in tmp_path.iterdir()] == ["a.db"]


def test_of_two_first_writers_one_creates_the_file(tmp_path: Path) -> None:
    path, calls = tmp_path / "a.db", []
    both = threading.Barrier(2)

    def counted(path: Path) -> None:
        calls.append(path)
        create(path)

    def write() -> None:
        both.wait()
        ensure_database(path, is_whole, counted)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and is_whole(path)


def test_a_writer_does_not_wait_for_ever_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LOCK_WAIT_S", 0.1)

    def blocked(path: Path) -> None:
        with pytest.raises(DatabaseBusyError, match="another process"):
            ensure_database(path.with_name("b.db"), is_whole, create)
        create(path)

    ensure_database(tmp_path / "a.db", is_whole, blocked)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////data/a.db", Path("/data/a.db")),
        ("sqlite+pysqlite:////data/a.db", Path("/data/a.db")),
        ("sqlite:///", None),
        ("postgresql:///a", None),
        ("http://host", None),
    ],
)
def test_path_of_an_address(url: str, path: Path | None) -> None:
    assert sqlite_path(url) == path


def test_mlflow_database_whose_creation_was_cut_is_created_again(tmp_path: Path) -> None:
    """As MLflow leaves it when it dies between two migrations; it was then refused as one of an older MLflow."""
    path = tmp_path / "mlflow.db"
    old_database(path, "97727af70f4d")
    os.utime(path, (1, 1))
    mlflow = MlflowSync(default_uri(tmp_path))
    mlflow.sync(SWEEP, [finished()])
    assert mlflow.verify(SWEEP, [finished()]) == []


def test_mlflow_database_is_created_by_one_of_two_syncs_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.tracking.mlflow import MlflowSync, default_uri\n"
        "from tests.support.tracking import depth, finished\n"
        "MlflowSync(default_uri(Path(sys.argv[1]))).sync(depth(name=sys.argv[2]), [finished(int(sys.argv[3]))])"
    )
    commands = [[sys.executable, "-c", code, str(tmp_path), f"sweep-{number}", str(number)] for number in range(2)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert rows_by_table(tmp_path / "mlflow.db")["runs"] == 2


def test_full_disk_while_mlflow_creates_its_tables_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.store.db.utils
    from sqlalchemy.exc import OperationalError

    def fails(engine: object) -> None:
        raise OperationalError("CREATE TABLE", {}, sqlite3.OperationalError("database or disk is full"))

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.store.db.utils, "_upgrade_db", fails)
        with pytest.raises(TrackingError, match="disk is full"):
            MlflowSync(default_uri(tmp_path)).sync(SWEEP, [finished()])
    assert not (tmp_path / "mlflow.db").exists()
    MlflowSync(default_uri(tmp_path)).sync(SWEEP, [finished()])


@pytest.mark.parametrize("name", ["a%20b", "a?x=1", "100%", "a b#c"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    uri = default_uri(folder)
    assert sqlite_path(uri) == folder / "mlflow.db"
    assert make_url(uri).database == str(folder / "mlflow.db"), "as MLflow and Optuna read it"


def test_mlflow_keeps_runs_in_a_folder_whose_name_has_signs_of_an_address(tmp_path: Path) -> None:
    folder = tmp_path / "a%20b?c"
    folder.mkdir()
    mlflow = MlflowSync(default_uri(folder))
    mlflow.sync(SWEEP, [finished()])
    assert rows_by_table(folder / "mlflow.db")["runs"] == 2 and mlflow.verify(SWEEP, [finished()]) == []
