"""Check the services that a sweep uses: storage, tracker, cluster, data hub; and what an earlier Ray left behind."""

from __future__ import annotations

import importlib.metadata
import socket
import sqlite3
import uuid
from contextlib import suppress
from pathlib import Path

from orchestrator.cli.doctor.check import Check
from orchestrator.storage.mounts import NETWORK, file_system
from orchestrator.sweep.text import plural
from trm_data.addresses import split_address
from trm_data.errors import UserError

TIMEOUT_S = 2.0
HUB = ("huggingface.co", 443)


def storage(url: str) -> list[Check]:
    """Write, read and delete a probe, and check that an exclusive creation is exclusive."""
    from orchestrator.storage import LocalStorage, open_storage

    key = f"doctor-{uuid.uuid4().hex}"
    try:
        place = open_storage(url, attempts=1, patience_s=0)
        new_folder = isinstance(place, LocalStorage) and not place.root.exists()
        try:
            exclusive = place.create(key, b"probe") and not place.create(key, b"second")
            whole = place.read(key) == b"probe"
        finally:
            with suppress(UserError, OSError):
                place.delete(key)
                if new_folder and isinstance(place, LocalStorage):
                    place.root.rmdir()
    except UserError as error:
        return [Check("storage", "fail", error.what, error.remedy)]
    if not exclusive or not whole:
        remedy = "Use a server with conditional writes (AWS S3, MinIO from 2024-11 on) or a folder"
        return [
            Check("storage", "fail", f"{place.url}: ignores If-None-Match: two drivers could run one sweep", remedy)
        ]
    return [Check("storage", "ok", f"{place.url}: can be read and written")]


def tracker(uri: str) -> list[Check]:
    """Check whether MLflow can write to an address: a database on a local disk, or a server that answers with its
    version."""
    from orchestrator.tracking.mlflow_connection import probe
    from orchestrator.tracking.sqlite import sqlite_path

    scheme = split_address(uri).scheme.partition("+")[0]
    try:
        probe(uri)
        if path := sqlite_path(uri):
            return [_sqlite(path)]
        if scheme in ("http", "https"):
            return [_server(uri)]
    except UserError as error:
        return [Check("tracker", "fail", error.what, error.remedy)]
    return [Check("tracker", "ok", f"{split_address(uri).hostname} accepts connections")]


def _sqlite(path: Path) -> Check:
    kind = file_system(path.absolute().parent)
    if kind.startswith(NETWORK):
        return Check("tracker", "warn", f"{path} is SQLite on {kind}", "Locks fail there: use a local disk or a server")
    if not path.exists():
        return Check("tracker", "ok", f"{path} will be created")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=TIMEOUT_S)
        try:
            runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.Error as error:
        return Check("tracker", "fail", f"{path}: {error}", "Name another file, or `mlflow db upgrade` it")
    return Check("tracker", "ok", f"{path}: {plural(runs, 'run')}")


def _server(uri: str) -> Check:
    from orchestrator.tracking.mlflow_connection import server_version
    from trm_data.addresses import shown_address

    ours = importlib.metadata.version("mlflow")
    theirs, shown = server_version(uri, TIMEOUT_S), shown_address(uri)
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        return Check("tracker", "warn", f"{shown}: MLflow {theirs}, here {ours}", "Use the same minor version")
    return Check("tracker", "ok", f"{shown}: MLflow {theirs}")


def cluster(address: str) -> list[Check]:
    """Check, as a run does, whether a head answers, which nodes it has, and whether this machine's driver may join."""
    from orchestrator.execution.ray_cluster import check_cluster

    try:
        found = check_cluster(address)
    except UserError as error:
        return [Check("cluster", "fail", error.what, error.remedy)]
    return [Check("cluster", "ok", f"{address}: {found.summary()}")]


def ray_leftovers(temp: Path = Path("/tmp/ray")) -> list[Check]:
    """Check for the address file of a dead head, which confuses `ray` and `ray.init`, and for Ray processes without a
    parent."""
    checks: list[Check] = []
    note = temp / "ray_current_cluster"
    with suppress(OSError, ValueError):
        address = note.read_text().strip()
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=TIMEOUT_S).close()
        except OSError:
            checks.append(Check("Ray note", "warn", f"{note} names {address}, where nothing answers", f"rm {note}"))
    orphans = _orphaned_raylets()
    if orphans:
        pids = " ".join(str(pid) for pid in orphans)
        remedy = f"If none is wanted: kill {pids} (`ray stop` would end every Ray of this machine)"
        checks.append(Check("Ray processes", "warn", f"left without a parent: {pids}", remedy))
    return checks or [Check("Ray processes", "ok", "nothing left behind")]


def _orphaned_raylets() -> list[int]:
    """Return raylets and heads whose starter has ended; a wanted `ray start` without --block looks the same."""
    import psutil

    found = psutil.process_iter(["pid", "name", "ppid"])
    return sorted(
        one.info["pid"] for one in found if one.info["name"] in ("raylet", "gcs_server") and one.info["ppid"] == 1
    )


def hub() -> list[Check]:
    """Check the source of Sudoku-Extreme and Maze-Hard. ARC is packaged and generated puzzles need no source."""
    try:
        socket.create_connection(HUB, timeout=TIMEOUT_S).close()
    except OSError as error:
        remedy = "Sudoku-Extreme and Maze-Hard need --source FILE; ARC and generated puzzles work without"
        return [Check("data hub", "warn", f"{HUB[0]}: {error.strerror or error}", remedy)]
    return [Check("data hub", "ok", f"{HUB[0]} answers")]
