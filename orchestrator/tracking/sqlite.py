"""Create an SQLite database atomically.

MLflow and Optuna create their tables step by step in the final file. If a process dies meanwhile, or the disk is full,
the remaining file can no longer be opened, and two concurrent processes conflict over the tables. So the file is
created under another name and renamed when it is complete, by one process at a time.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from orchestrator.errors import command_line
from trm_data.errors import UserError

LOCK_WAIT_S = 60.0
"""Time for another process to create the same file: migrations take two seconds on a quiet machine."""
QUIET_S = 3.0
"""Time without a change after which nobody is taken to write a file."""
POLL_S = 0.05
CONNECT_TIMEOUT_S = 20.0
_SIDE_FILES = ("-journal", "-wal", "-shm")


class DatabaseBusyError(UserError):
    """Raised if another process keeps the folder of a database locked."""


class DatabaseLinkError(UserError):
    """Raised for a database that is a link to a file that does not exist: a disk may not be mounted."""


def sqlite_url(path: Path) -> str:
    """Return the SQLAlchemy address of a file."""
    if not {"%", "?"} & set(str(path)):
        return f"sqlite:///{path}"
    from sqlalchemy.engine import URL  # its versions escape them differently

    return URL.create("sqlite", database=str(path)).render_as_string()


def sqlite_path(url: str) -> Path | None:
    """Return the file of an SQLAlchemy address, or None if it is of another kind."""
    scheme, separator, path = url.partition(":///")
    if not (separator and path and scheme.partition("+")[0] == "sqlite"):
        return None
    if {"%", "?"} & set(path):
        from sqlalchemy.engine import make_url

        path = make_url(url).database or path
    return Path(path).absolute()


def require_target(path: Path) -> None:
    """Raise DatabaseLinkError if a database is a link to nothing: a new one would take the place of the link."""
    if path.is_symlink() and not path.exists():
        raise DatabaseLinkError(
            f"the database {path} is a link to {path.readlink()}, which does not exist",
            "Mount or restore what it points to, or remove the link",
        )


def remedy_of(url: str, reason: str) -> str:
    """Return what helps against an error of MLflow's SQLite file; an empty string where that is not known."""
    path = sqlite_path(url)
    if path is None:
        return ""
    without = "`--tracking none` runs a sweep without it"
    if "is locked" in reason:
        return f"Wait until the other process that writes to it ends, and try again; {without}"
    if path.is_dir() or "malformed" in reason or "not a database" in reason:
        is_default = path.name == "mlflow.db"  # of a storage; which records go to any other one is not known here
        rebuild = command_line("track", "rebuild", storage=str(path.parent)) if is_default else ""
        what = "folder that is in its place" if path.is_dir() else "file"
        return f"Move the {what} away, then " + (f"run `{rebuild}`" if rebuild else "sync again") + f"; {without}"
    if any(text in reason for text in ("unable to open", "readonly", "Permission denied", "Read-only file system")):
        return f"Give this user access to the file and its folder; {without}"
    return ""


def ensure_database(path: Path, is_usable: Callable[[Path], bool], create: Callable[[Path], None]) -> None:
    """Create a database unless a usable one exists. An unusable file is replaced.

    Args:
        is_usable: whether an existing file is to be left as it is. It must reject only a file that holds nothing
            but the beginnings of the tables; called with a path that exists.
        create: creates all tables in a new file at the given path and closes it.

    Raises:
        DatabaseBusyError: another process holds the lock for longer than `LOCK_WAIT_S`.
        DatabaseLinkError: it is a link to nothing.
        sqlite3.Error: no file can be written there. `create` is not called: MLflow would retry for minutes.
        Exception: what `create` raises; the folder is then as before.
    """
    require_target(path)
    if path.exists() and is_usable(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if _usable_in_time(path, is_usable):
            return
        _remove(*path.parent.glob(f".{path.name}.*.tmp*"))  # of processes that died here
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
        try:
            _require_writable(temporary)
            create(temporary)
            _use_write_ahead_log(temporary)
            # A leftover journal of an incomplete file would be applied to the new one.
            _remove(path, *_side_files(path))
            temporary.rename(path)
        finally:
            _remove(temporary, *_side_files(temporary))
    logging.getLogger(__name__).info("created the database %s", path)


def _usable_in_time(path: Path, is_usable: Callable[[Path], bool]) -> bool:
    """Decide whether to keep an existing file, once it has not been written to for `QUIET_S` seconds.

    A server of MLflow's own that has just been started creates its tables in place and takes no lock.
    """
    before, since_s = None, time.monotonic()
    while path.exists():
        if is_usable(path):
            return True
        if (now := [_state(each) for each in (path, *_side_files(path))]) != before:
            before, since_s = now, time.monotonic()
        elif time.monotonic() - since_s > QUIET_S:
            return False
        time.sleep(POLL_S)
    return False


def _state(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is written. Its time is compared with no clock: it may be a file server's."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock on the folder, which leaves no file behind and ends with the process."""
    deadline = time.monotonic() + LOCK_WAIT_S
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DatabaseBusyError(
                        f"another process has been creating {path} for {LOCK_WAIT_S:.0f} s", "Try again when it ends"
                    ) from None
            time.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)


def _require_writable(path: Path) -> None:
    """Raise sqlite3.Error unless a database can be written at a path that does not exist yet. Leave nothing there."""
    try:
        with closing(sqlite3.connect(path, timeout=CONNECT_TIMEOUT_S)) as connection:
            connection.execute("CREATE TABLE probe (x)")
    finally:
        _remove(path, *_side_files(path))


def _use_write_ahead_log(path: Path) -> None:
    """Let readers (`trm ui`) and the writer work concurrently; the file stores this setting."""
    with closing(sqlite3.connect(path, timeout=CONNECT_TIMEOUT_S)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


def rows_by_table(path: Path) -> dict[str, int]:
    """Return the tables of a database, each with its number of rows: 0, 1, or 2 for more. Raises sqlite3.Error."""
    # A read-only connection would leave the files of the write-ahead log behind.
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=CONNECT_TIMEOUT_S)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        count = 'SELECT count(*) FROM (SELECT 1 FROM "{}" LIMIT 2)'
        return {name: connection.execute(count.format(name)).fetchone()[0] for name in names}


def _side_files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in _SIDE_FILES]


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
