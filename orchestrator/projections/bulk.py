"""Trials written into MLflow's own tables, one transaction each: for SQLite and PostgreSQL that we open ourselves.

MLflow's client takes 0.05 s of CPU for a run, whatever its length, and an object for every point: 2,239 points/s for
trials of 200 points into SQLite on two cores, where this makes 7,684 (`benchmarks/tracking.py`).

It relies on MLflow's schema and writes what `SqlAlchemyStore` would write (`create_run`, `log_inputs`, `log_batch`,
`update_run_info` of MLflow 3.17), with its table models, checks of values and session. None of these is promised to
stay. So `store_of` wants exactly that version, the revision of the schema that belongs to it, and MLflow's own store
class; everything else is written through the client, by `api`. `tests/test_tracking_bulk.py` compares all tables that
both ways leave, row for row.

A transaction is there or not: a process that dies leaves no half of a trial, and the tag `projected` cannot say more or
less than the rows do. Every statement may meet what the client left of a request that was cut: rows that are there
stay.
"""

from __future__ import annotations

import importlib.metadata
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.projections import view
from orchestrator.projections.runs import ENDED, Run, Update, dataset_input, milliseconds, params
from orchestrator.record import Row, TrialRecord

MLFLOW = "3.17"
REVISION = "dc11669786a5"
"""The version and the revision of its schema that this was written for."""

DIALECTS = ("sqlite", "postgresql")
"""Both know INSERT ... ON CONFLICT, in the same words of SQLAlchemy's."""


def store_of(client: Any) -> Any | None:
    """The store of an `MlflowClient` if it is a database that `BulkWriter` knows."""
    import sqlalchemy
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = client._tracking_client.store
    if type(store) is not SqlAlchemyStore or store.engine.dialect.name not in DIALECTS:
        return None  # a server, another database, or a store that divides its runs among workspaces
    if importlib.metadata.version("mlflow").rpartition(".")[0] != MLFLOW:
        return None
    with store.engine.connect() as connection:
        revisions = connection.scalars(sqlalchemy.text("SELECT version_num FROM alembic_version")).all()
    return store if revisions == [REVISION] else None


def runs_of(store: Any, experiment_id: str, sweep_name: str) -> list[Run]:
    """The runs of a sweep that are not deleted. MLflow's own search takes 5 ms for each: it reads curves besides."""
    import sqlalchemy
    from mlflow.entities import LifecycleStage
    from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag

    runs, tags = SqlRun.__table__, SqlTag.__table__
    of_sweep = sqlalchemy.select(tags.c.run_uuid).where(tags.c.key == "sweep", tags.c.value == sweep_name)
    active = sqlalchemy.select(runs.c.run_uuid, runs.c.status).where(
        runs.c.experiment_id == int(experiment_id),
        runs.c.lifecycle_stage == LifecycleStage.ACTIVE,
        runs.c.run_uuid.in_(of_sweep),
    )
    every_tag = sqlalchemy.select(tags.c.run_uuid, tags.c.key, tags.c.value).where(tags.c.run_uuid.in_(of_sweep))
    with store.ManagedSessionMaker() as session:
        found = {run_id: Run(run_id, status, {}) for run_id, status in session.execute(active)}
        for run_id, name, value in session.execute(every_tag):
            if run_id in found:
                found[run_id].tags[name] = value
    return list(found.values())


class BulkWriter:
    """Not for use from several threads at once."""

    def __init__(self, store: Any, experiment_id: str) -> None:
        from mlflow.store.tracking.dbmodels import models
        from sqlalchemy.dialects import postgresql, sqlite

        self._store = store
        self._experiment_id = int(experiment_id)
        self._insert = (sqlite if store.engine.dialect.name == "sqlite" else postgresql).insert
        self._models = models

    def write(self, run: Run | None, update: Update) -> Run:
        """In one transaction."""
        known = run.tags if run else {}
        tags = {**update.tags, view.PROJECTED: view.mark(update.rows)}
        new_tags = {name: value for name, value in tags.items() if known.get(name) != value}
        with self._store.ManagedSessionMaker(read_only=False) as session:
            run_id = self._change_run(session, run, update) if run else self._create_run(session, update)
            if view.PROJECTED not in known:
                self._add_dataset(session, run_id, update.record)
                self._add_params(session, run_id, update.record)
            self._add_points(session, run_id, update.rows[view.num_projected(known) :], is_new=run is None)
            self._set_tags(session, run_id, new_tags, is_new=run is None)
        return Run(run_id, update.status, {**known, **tags})

    def _create_run(self, session: Any, update: Update) -> str:
        """As `create_run` and, for a state other than RUNNING, `update_run_info`."""
        from mlflow.entities import LifecycleStage, SourceType
        from mlflow.utils.uri import append_to_uri_path

        run_id = uuid.uuid4().hex
        row = {
            "run_uuid": run_id,
            "name": update.tags["mlflow.runName"],
            "source_type": SourceType.to_string(SourceType.UNKNOWN),
            "source_name": "",
            "entry_point_name": "",
            "source_version": "",
            "user_id": update.tags.get("mlflow.user", "unknown"),
            "status": update.status,
            "start_time": milliseconds(view.started_s(update.record)) or _now(),
            "end_time": _ended(update) if update.status in ENDED else None,
            "deleted_time": None,
            "lifecycle_stage": LifecycleStage.ACTIVE,
            "artifact_uri": append_to_uri_path(self._place(session), run_id, self._store.ARTIFACTS_FOLDER_NAME),
            "experiment_id": self._experiment_id,
        }
        session.execute(self._insert(self._models.SqlRun.__table__), [row])
        return run_id

    def _place(self, session: Any) -> str:
        """Where the experiment keeps files."""
        import sqlalchemy
        from mlflow.entities import LifecycleStage
        from mlflow.exceptions import MlflowException

        table = self._models.SqlExperiment.__table__
        found = session.execute(
            sqlalchemy.select(table.c.artifact_location).where(
                table.c.experiment_id == self._experiment_id, table.c.lifecycle_stage == LifecycleStage.ACTIVE
            )
        ).scalar_one_or_none()
        if found is None:
            raise MlflowException(f"the experiment {self._experiment_id} was deleted meanwhile")
        return str(found)

    def _change_run(self, session: Any, run: Run, update: Update) -> str:
        """First of all, because it locks the run: nobody writes between what is read of it and what is written."""
        import sqlalchemy
        from mlflow.entities import LifecycleStage
        from mlflow.exceptions import MlflowException

        table = self._models.SqlRun.__table__
        values: dict[str, Any] = {"status": update.status}
        if update.tags["mlflow.runName"] != run.tags.get("mlflow.runName"):
            values["name"] = update.tags["mlflow.runName"]
        if update.status in ENDED and update.status != run.status:
            values["end_time"] = _ended(update)
        changed = session.execute(
            sqlalchemy.update(table)
            .where(table.c.run_uuid == run.run_id, table.c.lifecycle_stage == LifecycleStage.ACTIVE)
            .values(**values)
        )
        if changed.rowcount != 1:
            raise MlflowException(f"the run {run.run_id} was deleted meanwhile")
        return run.run_id

    def _add_dataset(self, session: Any, run_id: str, record: TrialRecord) -> None:
        """As `log_inputs`. Of two processes that name the same new dataset, one waits and takes the other's."""
        from mlflow.utils.validation import _validate_dataset_inputs

        data = dataset_input(record)
        _validate_dataset_inputs([data])
        edge = {
            "source_type": "DATASET",
            "source_id": self._dataset(session, data.dataset),
            "destination_type": "RUN",
            "destination_id": run_id,
        }
        input_id = uuid.uuid4().hex
        inputs = self._models.SqlInput.__table__
        added = session.execute(self._insert(inputs).values(input_uuid=input_id, **edge).on_conflict_do_nothing())
        if added.rowcount:
            tags = [{"input_uuid": input_id, "name": tag.key, "value": tag.value} for tag in data.tags]
            session.execute(self._insert(self._models.SqlInputTag.__table__), tags)

    def _dataset(self, session: Any, dataset: Any) -> str:
        """Its id, which the experiment gives to a name and a digest once."""
        import sqlalchemy

        table = self._models.SqlDataset.__table__
        key = {"experiment_id": self._experiment_id, "name": dataset.name, "digest": dataset.digest}
        find = sqlalchemy.select(table.c.dataset_uuid).filter_by(**key)
        found = session.execute(find).scalar_one_or_none()
        if found is None:
            facts = {
                "dataset_uuid": uuid.uuid4().hex,
                "dataset_source_type": dataset.source_type,
                "dataset_source": dataset.source,
                "dataset_schema": dataset.schema,
                "dataset_profile": dataset.profile,
            }
            session.execute(self._insert(table).values(**key, **facts).on_conflict_do_nothing())
            found = session.execute(find).scalar_one()
        return str(found)

    def _add_params(self, session: Any, run_id: str, record: TrialRecord) -> None:
        """As `_log_params`, values cut as it does. A trial's id is made of its settings: they never change."""
        from mlflow.utils.validation import _validate_param

        checked = [_validate_param(param.key, param.value) for param in params(record)]
        rows = [{"key": param.key, "value": param.value, "run_uuid": run_id} for param in checked]
        if rows:
            session.execute(self._insert(self._models.SqlParam.__table__).on_conflict_do_nothing(), rows)

    def _add_points(self, session: Any, run_id: str, rows: Sequence[Row], *, is_new: bool) -> None:
        """As `_log_metrics`: a point that is there stays, and the latest of each curve is kept beside them."""
        points = self._points(run_id, rows)
        if not points:
            return
        session.execute(self._insert(self._models.SqlMetric.__table__).on_conflict_do_nothing(), points)
        table = self._models.SqlLatestMetric.__table__
        there = {} if is_new else self._latest(session, run_id)
        latest = dict(there)
        for point in points:
            other = latest.get(point["key"])
            if other is None or _age(point) > _age(other):
                latest[point["key"]] = point
        changed = [point for name, point in latest.items() if point is not there.get(name)]
        if changed:
            statement = self._insert(table)
            new = {name: statement.excluded[name] for name in ("value", "timestamp", "step", "is_nan")}
            session.execute(statement.on_conflict_do_update(index_elements=["key", "run_uuid"], set_=new), changed)

    def _points(self, run_id: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
        from mlflow.utils.validation import _validate_metric

        made = []
        for point in view.points(rows):
            timestamp = milliseconds(point.time_s)
            _validate_metric(point.name, point.value, timestamp, point.step)
            is_nan, value = self._store.sanitize_metric_value(point.value)
            made.append(
                {
                    "run_uuid": run_id,
                    "key": point.name,
                    "value": value,
                    "timestamp": timestamp,
                    "step": point.step,
                    "is_nan": is_nan,
                }
            )
        return made

    def _latest(self, session: Any, run_id: str) -> dict[str, dict[str, Any]]:
        import sqlalchemy

        table = self._models.SqlLatestMetric.__table__
        found = session.execute(sqlalchemy.select(table).where(table.c.run_uuid == run_id)).mappings()
        return {row["key"]: dict(row) for row in found}

    def _set_tags(self, session: Any, run_id: str, tags: Mapping[str, str], *, is_new: bool) -> None:
        """As `_set_tags`, and as `create_run`, which checks nothing."""
        from mlflow.entities import RunTag
        from mlflow.utils.validation import _validate_tag

        checked = [RunTag(*item) if is_new else _validate_tag(*item) for item in tags.items()]
        rows = [{"key": tag.key, "value": tag.value, "run_uuid": run_id} for tag in checked]
        if rows:
            statement = self._insert(self._models.SqlTag.__table__)
            new = {"value": statement.excluded.value}
            session.execute(statement.on_conflict_do_update(index_elements=["key", "run_uuid"], set_=new), rows)


def _age(point: Mapping[str, Any]) -> tuple[Any, ...]:
    """What MLflow compares to say which point of a curve is the latest."""
    return point["step"], point["timestamp"], point["value"]


def _ended(update: Update) -> int:
    return milliseconds(view.ended_s(update.record)) or _now()


def _now() -> int:
    """MLflow takes the present for a time that it is not told."""
    return time.time_ns() // 1_000_000
