"""Write MLflow runs through MLflow's client.

A request arrives whole or not at all, but a trial takes several. So the tag `projected`, which counts the rows that a
run has, travels in the same request as these rows; MLflow writes tags last and ignores a point that it has. A repeated
request changes nothing, and a run that was cut short is completed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.tracking.mlflow_view import (
    ROWS_TAG,
    Point,
    Run,
    RunContent,
    batches,
    dataset_input,
    digest_of_rows,
    milliseconds,
    params,
)

ENTITIES_PER_REQUEST = 1000
PARAMS_PER_REQUEST = 100
"""Limits of MLflow's API. What exceeds the first (points, parameters and tags together) its client sends in further
requests, the tags in the first: a server that dies in between would then claim points that it never got."""
ENDED = {"FINISHED", "FAILED", "KILLED"}
"""States of MLflow's that have an end time."""


class RunWriter:
    """Write the runs of one experiment, one request at a time.

    Args:
        on_answer: called after each request that was answered.
    """

    def __init__(self, client: Any, experiment_id: str, on_answer: Callable[[], None]) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._on_answer = on_answer

    def write(self, run: Run | None, content: RunContent) -> Run:
        """Send what the run does not have yet, creating it if necessary."""
        run = run or self._create(content)
        last_params = [] if ROWS_TAG in run.tags else self._introduce(run, content)
        limit = ENTITIES_PER_REQUEST - len(last_params) - len(content.tags) - 1
        for end, batch in batches(content.rows, run.num_rows, limit) or [(run.num_rows, [])]:
            tags = {ROWS_TAG: digest_of_rows(content.rows[:end])}
            # The state in the other tags is sent only when the run has all rows.
            self.send(run, batch, {**content.tags, **tags} if end == len(content.rows) else tags, last_params)
            last_params = []
        self._set_status(run, content)
        return run

    def send(self, run: Run, points: Iterable[Point], tags: Mapping[str, str], some_params: Sequence[Any] = ()) -> None:
        """Send one request with points, parameters and changed tags; send none if there is nothing to write."""
        from mlflow.entities import Metric, RunTag

        new = {name: value for name, value in tags.items() if run.tags.get(name) != value}
        metrics = [Metric(point.name, point.value, milliseconds(point.time_s), point.step) for point in points]
        if metrics or new or some_params:
            self._client.log_batch(run.run_id, metrics, some_params, [RunTag(*item) for item in new.items()])
            self._on_answer()
            run.tags.update(new)

    def _create(self, content: RunContent) -> Run:
        tags = dict(content.tags)
        started_ms = milliseconds(content.started_s)
        created = self._client.create_run(self._experiment_id, start_time=started_ms, tags=tags, run_name=content.name)
        self._on_answer()
        return Run(created.info.run_id, "RUNNING", tags)

    def _introduce(self, run: Run, content: RunContent) -> list[Any]:
        """Send the dataset and the parameters, except the last batch, which is returned to go with the first points."""
        if content.record is None:
            return []
        self._client.log_inputs(run.run_id, [dataset_input(content.record)])
        self._on_answer()
        left = params(content.record)
        while len(left) > PARAMS_PER_REQUEST:
            self.send(run, [], {}, left[:PARAMS_PER_REQUEST])
            left = left[PARAMS_PER_REQUEST:]
        return left

    def _set_status(self, run: Run, content: RunContent) -> None:
        if run.status == content.status != "KILLED":  # one that was resumed and killed again ended later
            return
        if content.status in ENDED:
            self._client.set_terminated(run.run_id, content.status, milliseconds(content.ended_s))
        else:
            self._client.update_run(run.run_id, content.status)
        self._on_answer()
        run.status = content.status
