"""Sweeps in MLflow: a view of the records, for its charts and its search. It can be stopped, restarted or begun anew.

    projection = MlflowProjection(default_uri(Path("runs")))
    projection.sync(read_trials(storage, "depth"), "depth", definition)   # as often as wanted: only new rows are sent

A sweep is a parent run, a trial is a child found by its tag `trial_id`. Points carry the record's own time and step.
The tag `projected` says how many rows a run has, with their digest; it is written in the same request as the rows,
after them, and MLflow ignores a point that it has: a request that is repeated changes nothing. Where a record has taken
back rows (a lost attempt had gone further than its last checkpoint), the run is deleted and sent anew, because MLflow
cannot delete points.

MLflow knows five states, a trial has eight. FINISHED is kept for trials with a final score, so that a search for it
gives comparable runs: stopped early is KILLED; failed, diverged and out of memory are FAILED; interrupted waits to go
on, as SCHEDULED. The tag `status` has the exact word.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.projections import view
from orchestrator.projections.reach import probe
from orchestrator.record import Status, TrialRecord
from trm_data.errors import UserError

STATUSES = {
    Status.PENDING: "SCHEDULED",
    Status.RUNNING: "RUNNING",
    Status.INTERRUPTED: "SCHEDULED",
    Status.STOPPED: "KILLED",
    Status.FINISHED: "FINISHED",
    Status.FAILED: "FAILED",
    Status.DIVERGED: "FAILED",
    Status.OUT_OF_MEMORY: "FAILED",
}
ENDED = {"FINISHED", "FAILED", "KILLED"}
POINTS_PER_REQUEST = 1000
PARAMS_PER_REQUEST = 100
"""Limits of MLflow's API."""


class TrackingError(UserError):
    """A tracker that cannot be reached or refuses. Records lose nothing by it: synchronise again later."""


class Synced(NamedTuple):
    """What one synchronisation sent."""

    trials: int
    points: int


@dataclass(slots=True)
class _Run:
    """A run as MLflow has it."""

    run_id: str
    status: str
    tags: dict[str, str]


def default_uri(folder: Path) -> str:
    """An SQLite file in a folder: MLflow without a server."""
    return f"sqlite:///{(folder / 'mlflow.db').absolute()}"


class MlflowProjection:
    """One writer of one experiment. Not for use from several threads at once."""

    def __init__(self, tracking_uri: str, experiment: str = "trm") -> None:
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self._client: Any = None
        self._experiment_id: str | None = None
        self._runs: dict[str, dict[str, _Run]] = {}

    def sync(self, records: Sequence[TrialRecord], sweep_name: str, definition: Mapping[str, Any]) -> Synced:
        """Bring MLflow to what the records say, sending only what it does not have.

        Raises:
            TrackingError: the tracker cannot be reached or refuses. What arrived stays; the next call goes on there.
        """
        with self._session():
            runs = self._known_runs(sweep_name)
            parent = self._sync_parent(runs, records, sweep_name, definition)
            sent = [self._sync_trial(runs, record, parent) for record in records]
        return Synced(sum(points is not None for points in sent), sum(points or 0 for points in sent))

    def verify(self, records: Sequence[TrialRecord], sweep_name: str) -> list[str]:
        """Compare every point with the records: one line per difference, none if each is there exactly once.

        Raises:
            TrackingError: the tracker cannot be reached.
        """
        with self._session():
            self._runs.clear()
            runs = self._known_runs(sweep_name)
            differences = [line for record in records for line in self._compare(runs.get(record.trial_id), record)]
        unknown = runs.keys() - {record.trial_id for record in records} - {view.PARENT}
        return differences + [f"{trial_id}: a run without a record" for trial_id in sorted(unknown)]

    @contextmanager
    def _session(self) -> Iterator[None]:
        """Connect; on any failure forget what was known of the other side, which may have changed meanwhile."""
        probe(self.tracking_uri, TrackingError)
        _load_mlflow()
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            if self._client is None:
                self._connect()
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            self._client, self._experiment_id = None, None
            self._runs.clear()
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise TrackingError(
                f"tracker {view.without_password(self.tracking_uri)}: {lines[0] if lines else type(error).__name__}",
                "Records are complete without it; `trm sweep resume NAME` sends the rest when it works again",
            ) from error

    def _connect(self) -> None:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.tracking_uri)
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            self._experiment_id = client.create_experiment(self.experiment, _artifact_location(self.tracking_uri))
        else:
            self._experiment_id = found.experiment_id
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(found.experiment_id)
        self._client = client

    def _known_runs(self, sweep_name: str) -> dict[str, _Run]:
        """The sweep's runs by trial id. A second run of a trial, left by a request without an answer, is deleted."""
        if sweep_name not in self._runs:
            runs: dict[str, _Run] = {}
            for found in self._search(f"tags.sweep = '{sweep_name}'"):
                run = _Run(found.info.run_id, found.info.status, dict(found.data.tags))
                key = run.tags.get("trial_id", view.PARENT)
                if key in runs:
                    first, run = sorted((runs[key], run), key=lambda one: view.num_projected(one.tags))
                    self._client.delete_run(first.run_id)
                runs[key] = run
            self._runs[sweep_name] = runs
        return self._runs[sweep_name]

    def _search(self, condition: str) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], condition, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _sync_parent(
        self, runs: dict[str, _Run], records: Sequence[TrialRecord], sweep_name: str, definition: Mapping[str, Any]
    ) -> str:
        tags = view.parent_tags(sweep_name, definition, records)
        if view.PARENT not in runs:
            started_s = min((view.started_s(record) for record in records), default=0.0)
            runs[view.PARENT] = self._create(started_s, tags)
        run = runs[view.PARENT]
        self._send(run, [], tags)
        ended = all(record.status.is_final for record in records)
        self._set_status(run, "FINISHED" if ended else "RUNNING", max(map(view.ended_s, records), default=0.0))
        return run.run_id

    def _sync_trial(self, runs: dict[str, _Run], record: TrialRecord, parent_id: str) -> int | None:
        """The number of points sent; None if there was nothing to do."""
        run = runs.get(record.trial_id)
        rows = view.rows(record)
        status = STATUSES[record.status]
        if run and _is_settled(run, record) and view.num_projected(run.tags) == len(rows):
            return None
        if run and not view.continues(run.tags, rows):
            self._client.delete_run(run.run_id)
            run = None
        tags = view.trial_tags(record, parent_id)
        if run is None:
            run = runs[record.trial_id] = self._create(view.started_s(record), tags)
        params = [] if view.PROJECTED in run.tags else self._introduce(run, record)
        before = view.num_projected(run.tags)
        changed = run.status != status or before < len(rows) or any(run.tags.get(k) != v for k, v in tags.items())
        for end, batch in view.batches(rows, before, POINTS_PER_REQUEST) or [(before, [])]:
            last = tags if end == len(rows) else {}
            self._send(run, batch, {**last, view.PROJECTED: view.mark(rows[:end])}, params)
            params = []
        self._set_status(run, status, view.ended_s(record))
        return sum(len(row.metrics) for row in rows[before:]) if changed else None

    def _create(self, started_s: float, tags: dict[str, str]) -> _Run:
        created = self._client.create_run(
            self._experiment_id, start_time=round(started_s * 1000), tags=tags, run_name=tags["mlflow.runName"]
        )
        return _Run(created.info.run_id, "RUNNING", dict(tags))

    def _introduce(self, run: _Run, record: TrialRecord) -> list[Any]:
        """Send the dataset and all but the last parameters, which are returned: they go along with the first points."""
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag, Param

        facts = record.dataset
        source = CodeDatasetSource({"source": str(facts.get("source", "")), "counts": str(facts.get("counts", {}))})
        dataset = MetaDataset(source, name=str(facts["benchmark"]), digest=str(facts["fingerprint"])[: view.DIGEST_LEN])
        context = InputTag("mlflow.data.context", "training")
        self._client.log_inputs(run.run_id, [DatasetInput(dataset._to_mlflow_entity(), [context])])
        params = [Param(name, value) for name, value in view.flatten(record.config.plain()).items()]
        while len(params) > PARAMS_PER_REQUEST:
            self._client.log_batch(run.run_id, params=params[:PARAMS_PER_REQUEST])
            params = params[PARAMS_PER_REQUEST:]
        return params

    def _send(
        self, run: _Run, points: Iterable[view.Point], tags: Mapping[str, str], params: Sequence[Any] = ()
    ) -> None:
        """One request. MLflow writes its tags last, and only those that differ are in it."""
        from mlflow.entities import Metric, RunTag

        new = {name: value for name, value in tags.items() if run.tags.get(name) != value}
        metrics = [Metric(point.name, point.value, round(point.time_s * 1000), point.step) for point in points]
        if metrics or new or params:
            self._client.log_batch(run.run_id, metrics, params, [RunTag(*item) for item in new.items()])
            run.tags.update(new)

    def _set_status(self, run: _Run, status: str, ended_s: float) -> None:
        if run.status == status:
            return
        if status in ENDED:
            self._client.set_terminated(run.run_id, status, round(ended_s * 1000))
        else:
            self._client.update_run(run.run_id, status)
        run.status = status

    def _compare(self, run: _Run | None, record: TrialRecord) -> Iterator[str]:
        if run is None:
            yield f"{record.trial_id}: no run"
            return
        expected: dict[str, list[view.Point]] = {}
        for point in view.points(view.rows(record)):
            expected.setdefault(point.name, []).append(point)
        has = set(self._client.get_run(run.run_id).data.metrics)
        for name in sorted(has | expected.keys()):
            history = self._client.get_metric_history(run.run_id, name)
            there = Counter((item.step, item.timestamp, _comparable(item.value)) for item in history)
            wanted = Counter((p.step, round(p.time_s * 1000), _comparable(p.value)) for p in expected.get(name, []))
            if there != wanted:
                missing, surplus = (wanted - there).total(), (there - wanted).total()
                yield f"{record.trial_id}: {name}: {missing} missing, {surplus} too many"


def _is_settled(run: _Run, record: TrialRecord) -> bool:
    """Whether the run knows that the trial is done: spares digests of long curves at every synchronisation."""
    known = run.tags.get("status") == record.status and run.status == STATUSES[record.status]
    return known and record.status.is_final


def _comparable(value: float) -> float | str:
    """A value as MLflow keeps it: infinity becomes the largest number, and NaN has to equal itself."""
    if math.isnan(value):
        return "nan"
    return math.copysign(1.7976931348623157e308, value) if math.isinf(value) else value


def _artifact_location(tracking_uri: str) -> str | None:
    """Beside an SQLite file, where MLflow would take the current folder; a server decides for itself."""
    _, separator, path = tracking_uri.partition("sqlite:///")
    return (Path(path).absolute().parent / "mlflow-artifacts").as_uri() if separator else None


_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # else a new database reports its migrations on the user's terminal
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default, 7 with growing pauses, stalls for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def _load_mlflow() -> None:
    """Import MLflow (0.9 s) with settings that it takes from the environment and only at import."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401
