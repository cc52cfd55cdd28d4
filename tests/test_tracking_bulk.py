"""What is written into MLflow's tables is what MLflow's client would have written, and is whole at any moment."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy

from orchestrator.projections import bulk
from orchestrator.projections.connection import default_uri, load_mlflow
from orchestrator.projections.mlflow import MlflowProjection, Synced, TrackingError
from orchestrator.record import Attempt, Row, Status, TrialRecord
from tests.tracking_fixtures import DEFINITION, START_S, contents, finished, postgres_cluster, record

WAYS = ("api", "bulk")
NAN, INF = float("nan"), float("inf")
CLOCKS = {"deleted_time", "creation_time", "last_update_time"}
"""Columns with the present: only whether they are filled can be compared."""

DRAWN = re.compile(r"\b[0-9a-f]{32}\b")
Stores = dict[str, str]
"""The address of a store of its own for each way."""


@pytest.fixture
def uri(migrated: Path, tmp_path: Path) -> str:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return default_uri(tmp_path)


@pytest.fixture
def sqlite_stores(migrated: Path, tmp_path: Path) -> Stores:
    for way in WAYS:
        (tmp_path / way).mkdir()
        shutil.copy(migrated, tmp_path / way / "mlflow.db")
    return {way: default_uri(tmp_path / way) for way in WAYS}


@pytest.fixture(scope="module")
def postgres_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    from sqlalchemy.pool import NullPool

    with postgres_cluster() as address:
        first = address.replace("/postgres", "/api")
        admin = sqlalchemy.create_engine(address, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with admin.connect() as connection:
            connection.execute(sqlalchemy.text("CREATE DATABASE api"))
            files = tmp_path_factory.mktemp("files").as_uri()
            MlflowProjection(first, artifacts=files).sync([], "none", {})
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            SqlAlchemyStore._get_or_create_engine(first).dispose()  # a template must not be in use
            connection.execute(sqlalchemy.text("CREATE DATABASE bulk TEMPLATE api"))
        yield {"api": first, "bulk": address.replace("/postgres", "/bulk")}


def projection_of(uri: str, way: str = "bulk") -> MlflowProjection:
    return MlflowProjection(uri, through_api=way == "api")


def many_settings() -> Any:
    """More than one request takes, one of them longer than MLflow keeps."""
    plain = {"seed": 0, "text": "ü" * 7000, "model": {f"setting_{number}": number for number in range(250)}}
    return SimpleNamespace(seed=0, plain=lambda: plain)


def odd_rows() -> list[Row]:
    """Values that are no numbers, points that are there twice, and a curve that goes back."""
    rows = [Row(step, START_S, "train", {"loss": value}) for step, value in enumerate([NAN, INF, -INF, 0.5])]
    rows += [Row(7, START_S + 7, "train", {"loss": value, "é": 1.0}) for value in (0.0, NAN, -0.5)]
    rows += [Row(9, START_S + time_s, "validation", {"loss": value}) for time_s, value in ((3, 1.0), (2, 2.0))]
    return [*rows, Row(5, START_S + 99, "validation", {"loss": 3.0}), *rows[-2:], rows[0]]


def ended(status: Status, seed: int, **changes: Any) -> TrialRecord:
    end = {"status": str(status), "ended_s": START_S + 77.7, "reason": "Ende: 深さ\nTraceback ..."}
    attempts = [Attempt(1, record(seed).attempts[0].start, end)]
    return record(seed, **{"status": status, "attempts": attempts, **changes})


def as_trial(name: str, one: TrialRecord, **changes: Any) -> TrialRecord:
    return dataclasses.replace(one, trial_id=name, **changes)


def first_chapter() -> list[TrialRecord]:
    stop = {"step": 30, "rule": "halving", "reason": "below the median"}
    return [
        as_trial("finished", finished(0)),
        as_trial("continued", ended(Status.STOPPED, 1, stopped=stop)),
        as_trial("failed", ended(Status.FAILED, 2)),
        as_trial("diverged", ended(Status.DIVERGED, 3, rows=odd_rows())),
        as_trial("grows", record(4, steps=3)),
        as_trial("no rows", record(5, rows=[])),
        as_trial("interrupted", ended(Status.INTERRUPTED, 6, family="größer")),
        as_trial("taken back", record(7, steps=5)),
        as_trial("long", record(8, steps=280)),
        as_trial("many settings", record(9, config=many_settings())),
        as_trial("never started", record(10, rows=[], attempts=[], status=Status.PENDING)),
    ]


def second_chapter() -> list[TrialRecord]:
    """Every trial that can has changed."""
    known = {one.trial_id: one for one in first_chapter()}
    again = [dataclasses.replace(row, time_s=row.time_s + 100) for row in record(7, steps=4).rows[4:]]
    other = {**record().dataset, "benchmark": "maze-9x9", "fingerprint": "e" * 64}
    later = [
        as_trial("continued", record(1, steps=7)),
        as_trial("grows", record(4, steps=280, rows=[*record(4, steps=40).rows, *odd_rows()])),
        as_trial("no rows", ended(Status.OUT_OF_MEMORY, 5)),
        as_trial("interrupted", finished(6), family="another name"),
        as_trial("taken back", record(7, rows=record(7, steps=2).rows + again)),
        as_trial("never started", record(10, dataset=other)),
        as_trial("another dataset", finished(11), dataset=other),
    ]
    return list((known | {one.trial_id: one for one in later}).values())


def third_chapter() -> list[TrialRecord]:
    """One ends; one gets a point that comes before those that it has."""
    early = Row(3, START_S + 3, "train", {"loss": 9.0})
    later = {
        "grows": as_trial("grows", finished(4, steps=40), rows=[*record(4, steps=40).rows, *odd_rows()]),
        "continued": as_trial("continued", record(1, rows=[*record(1, steps=7).rows, early])),
    }
    return [later.get(one.trial_id, one) for one in second_chapter()]


def tell(stores: Stores) -> None:
    """The same story both ways, and another sweep in the same store."""
    for way, uri in stores.items():
        projection = projection_of(uri, way)
        for chapter in (first_chapter, second_chapter, second_chapter, third_chapter):
            projection.sync(chapter(), "depth", DEFINITION)
        width = [as_trial(f"width-{seed}", finished(seed), sweep="width") for seed in range(2)]
        projection.sync(width, "width", {**DEFINITION, "name": "width"})


def tables(uri: str) -> dict[str, list[str]]:
    """Every row of every table, with names in place of the ids that are drawn."""
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
    metadata = sqlalchemy.MetaData()
    with engine.connect() as connection:
        metadata.reflect(connection)
        found = {
            name: [dict(row) for row in connection.execute(sqlalchemy.select(table)).mappings()]
            for name, table in metadata.tables.items()
        }
    names = _names(found)

    def told(column: str, value: Any) -> str:
        if column in CLOCKS:
            return str(value is not None)
        return DRAWN.sub(lambda drawn: names.get(drawn[0], drawn[0]), repr(value))

    return {
        name: sorted(str({column: told(column, value) for column, value in row.items()}) for row in rows)
        for name, rows in found.items()
    }


def _names(found: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    tags = {(tag["run_uuid"], tag["key"]): tag["value"] for tag in found["tags"]}
    runs = {
        run["run_uuid"]: f"{tags.get((run['run_uuid'], 'sweep'))}/{tags.get((run['run_uuid'], 'trial_id'))}"
        f"/{run['lifecycle_stage']}"
        for run in found["runs"]
    }
    datasets = {row["dataset_uuid"]: f"dataset {row['name']} {row['digest']}" for row in found["datasets"]}
    inputs = {
        row["input_uuid"]: f"{datasets[row['source_id']]} of {runs[row['destination_id']]}" for row in found["inputs"]
    }
    names = runs | datasets | inputs
    assert len(set(names.values())) == len(names)
    return names


def read_back(uri: str) -> list[str]:
    """What MLflow's client says, with the datasets of each run and their tags."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("trm")
    inputs = [
        [run.data.tags["sweep"], run.data.tags.get("trial_id"), client.get_run(run.info.run_id).inputs.to_dictionary()]
        for run in client.search_runs([experiment.experiment_id], "tags.sweep != 'none'")
    ]
    return sorted(json.dumps(one, sort_keys=True) for one in [*contents(uri), *inputs])


class TestContract:
    @pytest.mark.parametrize("kind", ["sqlite", "postgres"])
    def test_both_ways_leave_the_same_rows_in_every_table(self, kind: str, request: pytest.FixtureRequest) -> None:
        stores = cast(Stores, request.getfixturevalue(f"{kind}_stores"))
        tell(stores)
        by_api, by_bulk = tables(stores["api"]), tables(stores["bulk"])
        assert by_bulk.keys() == by_api.keys()
        for name in by_api:
            assert by_bulk[name] == by_api[name], name
        written = ("runs", "metrics", "latest_metrics", "params", "tags", "datasets", "inputs", "input_tags")
        assert all(by_bulk[name] for name in written) and len(by_bulk["metrics"]) > 1120
        assert read_back(stores["bulk"]) == read_back(stores["api"])

    def test_what_one_way_began_the_other_goes_on_with(self, sqlite_stores: Stores) -> None:
        for way, uri in sqlite_stores.items():
            projection_of(uri, way).sync(first_chapter(), "depth", DEFINITION)
        for way, other in zip(WAYS, reversed(WAYS), strict=True):
            projection_of(sqlite_stores[way], other).sync(third_chapter(), "depth", DEFINITION)
        assert tables(sqlite_stores["bulk"]) == tables(sqlite_stores["api"])

    @pytest.mark.parametrize(
        ("part", "nth"),
        [("log_inputs", 1), ("_log_params", 1), ("_log_metrics", 1), ("_log_metrics", 2), ("_set_tags", 1)],
    )
    def test_a_request_that_was_cut_is_completed(
        self, uri: str, monkeypatch: pytest.MonkeyPatch, part: str, nth: int
    ) -> None:
        """MLflow writes one request in several transactions: rows may be there that `projected` does not count."""
        load_mlflow()
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        real, calls = getattr(SqlAlchemyStore, part), []

        def dies_after(*args: Any, **kwargs: Any) -> None:
            real(*args, **kwargs)
            calls.append(1)
            if len(calls) == nth:
                raise ConnectionError("the process was ended")

        trials = [as_trial("long", record(8, steps=300)), as_trial("grows", finished(4))]
        monkeypatch.setattr(SqlAlchemyStore, part, dies_after)
        with pytest.raises(TrackingError, match="was ended"):
            projection_of(uri, "api").sync(trials, "depth", DEFINITION)
        monkeypatch.setattr(SqlAlchemyStore, part, real)
        projection_of(uri).sync(trials, "depth", DEFINITION)
        assert projection_of(uri).verify(trials, "depth") == []


class TestIncrements:
    def test_every_point_is_there_once_and_a_repeat_sends_nothing(self, uri: str) -> None:
        trials = [finished(0), finished(1), ended(Status.STOPPED, 2), record(3, steps=280)]
        projection = projection_of(uri)
        assert projection.sync(trials, "depth", DEFINITION) == Synced(4, 2 * 26 + 20 + 3 + 1120)
        assert projection.verify(trials, "depth") == []
        before = tables(uri)
        assert projection.sync(trials, "depth", DEFINITION) == Synced(0, 0)
        assert projection_of(uri).sync(trials, "depth", DEFINITION) == Synced(0, 0)
        assert tables(uri) == before

    def test_a_run_that_was_deleted_meanwhile_is_one_line_and_then_sent_anew(self, uri: str) -> None:
        from mlflow import MlflowClient

        projection = projection_of(uri)
        projection.sync([record(steps=3)], "depth", DEFINITION)
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("trm")
        (run,) = client.search_runs([experiment.experiment_id], "tags.trial_id LIKE '%'")
        client.delete_run(run.info.run_id)
        with pytest.raises(TrackingError, match="was deleted meanwhile"):
            projection.sync([record(steps=4)], "depth", DEFINITION)
        projection.sync([record(steps=4)], "depth", DEFINITION)
        assert projection.verify([record(steps=4)], "depth") == []

    def test_a_value_that_mlflow_refuses_leaves_nothing_of_its_trial(self, uri: str) -> None:
        refused = record(1, rows=[Row(1, START_S, "train", {"loss": 1.0}), Row(2, START_S, "train", {"a?": 1.0})])
        with pytest.raises(TrackingError, match="Names may only contain"):
            projection_of(uri).sync([record(0), refused], "depth", DEFINITION)
        assert list(map(str, projection_of(uri).verify([record(0), refused], "depth"))) == [
            f"{refused.trial_id}: run: 2 missing, there is none"
        ]

    def test_a_database_that_cannot_be_written_is_one_line(self, uri: str) -> None:
        projection = projection_of(uri)
        projection.sync([record(0)], "depth", DEFINITION)
        with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection:
            connection.execute("DROP TABLE latest_metrics")
        with pytest.raises(TrackingError, match="latest_metrics") as caught:
            projection.sync([record(0, steps=6)], "depth", DEFINITION)
        assert "\n" not in str(caught.value)


class TestWhichWay:
    @pytest.mark.parametrize(
        ("guard", "value", "requests"), [("REVISION", "0" * 12, 3), ("MLFLOW", "3.16", 3), ("", "", 1)]
    )
    def test_another_schema_or_version_is_written_through_the_client(
        self, uri: str, monkeypatch: pytest.MonkeyPatch, guard: str, value: str, requests: int
    ) -> None:
        load_mlflow()
        from mlflow import MlflowClient

        assert bulk.store_of(MlflowClient(tracking_uri=uri)) is not None
        if guard:
            monkeypatch.setattr(bulk, guard, value)
            assert bulk.store_of(MlflowClient(tracking_uri=uri)) is None
        real, created = MlflowClient.create_run, []

        def counted(*args: Any, **kwargs: Any) -> Any:
            created.append(1)
            return real(*args, **kwargs)

        monkeypatch.setattr(MlflowClient, "create_run", counted)
        trials = [finished(0), finished(1)]
        assert projection_of(uri).sync(trials, "depth", DEFINITION).trials == 2
        assert len(created) == requests, "the sweep's own run, and those of trials by the client only"
        assert projection_of(uri).verify(trials, "depth") == []

    def test_a_server_is_no_store_of_ours(self) -> None:
        load_mlflow()
        from mlflow import MlflowClient

        assert bulk.store_of(MlflowClient(tracking_uri="http://127.0.0.1:1")) is None


def in_child(work: Callable[[], object]) -> int:
    """Begin some work in a process of its own, which ends with it."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def sync_killed_at(uri: str, trials: Sequence[TrialRecord], nth: int) -> bool:
    """Synchronise in a process that ends by SIGKILL before its nth change or commit; False if there are fewer."""

    def work() -> None:
        from sqlalchemy.engine import Engine

        seen = 0

        def count() -> None:
            nonlocal seen
            seen += 1
            if seen == nth:
                os.kill(os.getpid(), signal.SIGKILL)

        @sqlalchemy.event.listens_for(Engine, "before_cursor_execute")
        def _statement(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith(("INSERT", "UPDATE")):
                count()

        @sqlalchemy.event.listens_for(Engine, "commit")
        def _commit(connection: Any) -> None:
            count()

        projection_of(uri).sync(trials, "depth", DEFINITION)

    _, status = os.waitpid(in_child(work), 0)
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)


def copy_of(database: Path, folder: Path) -> str:
    """A copy of a database and its log in a new folder."""
    folder.mkdir()
    with closing(sqlite3.connect(database)) as here, closing(sqlite3.connect(folder / "mlflow.db")) as there:
        here.backup(there)
    return default_uri(folder)


def test_killed_before_any_of_its_changes_a_sync_is_completed_by_the_next(uri: str, tmp_path: Path) -> None:
    """A trial that is new and one that grew; SIGKILL before each change to the database and each commit."""
    begun = projection_of(uri)
    begun.sync([record(1, steps=3)], "depth", DEFINITION)
    database, trials = Path(uri.removeprefix("sqlite:///")), [finished(0), finished(1)]
    whole = copy_of(database, tmp_path / "whole")
    projection_of(whole).sync(trials, "depth", DEFINITION)
    assert projection_of(whole).verify(trials, "depth") == []
    wanted = contents(whole)
    nth = 1
    while sync_killed_at(copy := copy_of(database, tmp_path / str(nth)), trials, nth):
        projection = projection_of(copy)
        halves = [str(one) for one in projection.verify([trials[0]], "depth") if one.trial_id == trials[0].trial_id]
        assert halves in ([], [f"{trials[0].trial_id}: run: 26 missing, there is none"]), nth
        projection.sync(trials, "depth", DEFINITION)
        assert contents(copy) == wanted, nth
        nth += 1
    assert nth > 20


def test_two_processes_that_name_a_new_dataset_at_once_are_both_served(uri: str) -> None:
    sweeps = [[as_trial(f"{n}-{m}", finished(m), sweep=f"s{n}") for m in range(8)] for n in range(2)]
    load_mlflow()
    children = [
        in_child(lambda number=number: projection_of(uri).sync(sweeps[number], f"s{number}", DEFINITION))
        for number in range(2)
    ]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    for number, trials in enumerate(sweeps):
        assert projection_of(uri).verify(trials, f"s{number}") == []
    assert len(tables(uri)["datasets"]) == 1
