"""Write MLflow runs through MLflow's client.

What one request brings is there or not, but a trial is several requests. So the tag `projected` travels with the rows
that it counts, in the same request; MLflow writes tags last and ignores a point that it has. A request that is repeated
changes nothing, one that was cut short is completed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from orchestrator.records.schema import TrialRecord
from orchestrator.tracking import mlflow_view
from orchestrator.tracking.mlflow_view import ENDED, Run, Update, dataset_input, milliseconds, params

ENTITIES_PER_REQUEST = 1000
PARAMS_PER_REQUEST = 100
"""Limits of MLflow's API. What exceeds the first (points, parameters and tags together) its client sends in further
requests, the tags in the first: a server that dies in between would then claim points that it never got."""


class ApiWriter:
    """Several trials may be written at once, from several threads; each trial's own requests stay in order."""

    def __init__(self, client: Any, experiment_id: str) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._datasets: set[str] = set()
        self._first_of_dataset = threading.Lock()
        """MLflow refuses one of two requests that name the same new dataset at once."""

    def write(self, run: Run | None, update: Update) -> Run:
        """By as many requests as it takes."""
        record, rows, status, tags = update
        run = run or self.create(mlflow_view.started_s(record), tags)
        last_params = [] if mlflow_view.PROJECTED in run.tags else self._introduce(run, record)
        before = mlflow_view.num_projected(run.tags)
        limit = ENTITIES_PER_REQUEST - len(last_params) - len(tags) - 1
        for end, batch in mlflow_view.batches(rows, before, limit) or [(before, [])]:
            last = tags if end == len(rows) else {}
            self.send(run, batch, {**last, mlflow_view.PROJECTED: mlflow_view.mark(rows[:end])}, last_params)
            last_params = []
        self.set_status(run, status, mlflow_view.ended_s(record))
        return run

    def create(self, started_s: float, tags: Mapping[str, str]) -> Run:
        """A new run with these tags, `mlflow.runName` among them."""
        created = self._client.create_run(
            self._experiment_id,
            start_time=milliseconds(started_s),
            tags=dict(tags),
            run_name=tags["mlflow.runName"],
        )
        return Run(created.info.run_id, "RUNNING", dict(tags))

    def send(
        self, run: Run, points: Iterable[mlflow_view.Point], tags: Mapping[str, str], some_params: Sequence[Any] = ()
    ) -> None:
        """One request. MLflow writes its tags last, and only those that differ are in it."""
        from mlflow.entities import Metric, RunTag

        new = {name: value for name, value in tags.items() if run.tags.get(name) != value}
        metrics = [Metric(point.name, point.value, milliseconds(point.time_s), point.step) for point in points]
        if metrics or new or some_params:
            self._client.log_batch(run.run_id, metrics, some_params, [RunTag(*item) for item in new.items()])
            run.tags.update(new)

    def set_status(self, run: Run, status: str, ended_s: float) -> None:
        """Nothing is sent if the run has it."""
        if run.status == status:
            return
        if status in ENDED:
            self._client.set_terminated(run.run_id, status, milliseconds(ended_s))
        else:
            self._client.update_run(run.run_id, status)
        run.status = status

    def _introduce(self, run: Run, record: TrialRecord) -> list[Any]:
        """Send the dataset and all but the last parameters, which are returned: they go along with the first points."""
        data = dataset_input(record)
        with nullcontext() if data.dataset.digest in self._datasets else self._first_of_dataset:
            self._client.log_inputs(run.run_id, [data])
            self._datasets.add(data.dataset.digest)
        left = params(record)
        while len(left) > PARAMS_PER_REQUEST:
            self._client.log_batch(run.run_id, params=left[:PARAMS_PER_REQUEST])
            left = left[PARAMS_PER_REQUEST:]
        return left
