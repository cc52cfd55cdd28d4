"""Sweeps in MLflow: a view of the records, for its charts and its search. It can be stopped, restarted or begun anew.

    projection = MlflowProjection(default_uri(Path("runs")))
    projection.sync(read_trials(storage, "depth"), "depth", definition)   # as often as wanted: only new rows are sent
    projection.verify(read_trials(storage, "depth"), "depth")             # [] where every point is there exactly once

A sweep is a parent run, a trial is a child found by its tag `trial_id`. Points carry the record's own time and step.
The tag `projected` says how many rows a run has, with their digest; it is written in the same request as the rows.
Where a record has taken back rows (a lost attempt had gone further than its last checkpoint), the run is deleted and
sent again, because MLflow cannot delete points.

MLflow knows five states, a trial has eight. FINISHED is kept for trials with a final score, so that a search for it
gives comparable runs: stopped early is KILLED; failed, diverged and out of memory are FAILED; interrupted waits to go
on, as SCHEDULED. The tag `status` has the exact word. A trial that waits for its first start has no run yet.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from orchestrator.records.schema import Status, TrialRecord
from orchestrator.tracking import mlflow_view
from orchestrator.tracking.mlflow_api import ApiWriter
from orchestrator.tracking.mlflow_connection import Connection, TrackingError, default_uri
from orchestrator.tracking.mlflow_view import Run, Update, milliseconds

if TYPE_CHECKING:
    from orchestrator.tracking.registry import Winner
    from trm_model.checkpoints.trained import Trained

__all__ = ["Difference", "MlflowProjection", "Synced", "TrackingError", "default_uri"]

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
FILES = "files"
"""Tag with the digest of the files that were sent."""
TRIALS_AT_ONCE = 4
"""MLflow's server has four workers unless told otherwise."""

Item = TypeVar("Item")
Listener = Callable[[int, int], None]
"""Called with (trials done, trials)."""


class Synced(NamedTuple):
    """What one synchronisation sent."""

    trials: int
    points: int


class MlflowProjection:
    """One writer of one experiment. Not for use from several threads at once.

    Every method raises TrackingError where the tracker cannot be reached or refuses. What arrived stays; the next call
    goes on there.
    """

    def __init__(self, tracking_uri: str, experiment: str = "trm", artifacts: str | None = None) -> None:
        """Args:
        artifacts: where a new experiment keeps files if `tracking_uri` is a database other than SQLite, which has no
            place of its own as SQLite (beside its file) and servers have.
        """
        self.tracking_uri = tracking_uri
        self._connection = Connection(tracking_uri, experiment, artifacts)
        self._runs: dict[str, dict[str, Run]] = {}
        self._client: Any = None

    def sync(
        self,
        records: Sequence[TrialRecord],
        sweep_name: str,
        definition: Mapping[str, Any],
        listen: Listener | None = None,
    ) -> Synced:
        """Bring MLflow to what the records say, sending only what it does not have."""
        with self._connection.session(self._forget) as self._client:
            if sweep_name not in self._runs:
                self._runs[sweep_name] = self._without_doubles(self._found(sweep_name))
            runs = self._runs[sweep_name]
            begun = [record for record in records if _has_begun(record)]
            if not begun:
                return Synced(0, 0)
            requests = ApiWriter(self._client, self._connection.experiment_id)
            parent = self._sync_parent(requests, runs, records, sweep_name, definition)
            sent = list(_counted(self._sync_trials(requests, runs, begun, parent), len(begun), listen))
            self._sync_files(requests, runs[mlflow_view.PARENT], mlflow_view.parent_files(definition, records))
        return Synced(sum(points is not None for points in sent), sum(points or 0 for points in sent))

    def rebuild(
        self,
        records: Sequence[TrialRecord],
        sweep_name: str,
        definition: Mapping[str, Any],
        listen: Listener | None = None,
    ) -> Synced:
        """Delete the runs of a sweep, if there are any, and send everything anew."""
        with self._connection.session(self._forget) as self._client:
            self._runs.pop(sweep_name, None)
            for run in [run for doubles in self._found(sweep_name).values() for run in doubles]:
                self._client.delete_run(run.run_id)
        return self.sync(records, sweep_name, definition, listen)

    def verify(
        self, records: Sequence[TrialRecord], sweep_name: str, listen: Listener | None = None
    ) -> list[Difference]:
        """Compare every point with the records; nothing is left to say if each is there exactly once. Only reads."""
        with self._connection.session(self._forget) as self._client:
            found = self._found(sweep_name)
            begun = [record for record in records if _has_begun(record)]
            differences = [
                difference
                for record in _counted(begun, len(begun), listen)
                for difference in self._compare(found.get(record.trial_id, []), record)
            ]
        if begun:
            odd = _odd(found.get(mlflow_view.PARENT, []))
            differences += [Difference(sweep_name, "the sweep's own run", note=note) for note in odd]
        unknown = found.keys() - {record.trial_id for record in records} - {mlflow_view.PARENT}
        return differences + [Difference(trial_id, "run", note="it has no record") for trial_id in sorted(unknown)]

    def register(self, won: Winner, trained: Trained) -> tuple[str, int, bool]:
        """Put a winner into the model registry, its files beside its run; see `registry.register`."""
        from orchestrator.tracking.registry import register

        with self._connection.session(self._forget) as self._client:
            (run,) = self._found(won.record.sweep)[won.record.trial_id]
            return register(self._client, run.run_id, won, trained)

    def _forget(self) -> None:
        self._runs.clear()

    @property
    def _is_server(self) -> bool:
        return self.tracking_uri.startswith("http")

    def _found(self, sweep_name: str) -> dict[str, list[Run]]:
        """The sweep's runs by trial id."""
        search = self._connection.search(self._client, f"tags.sweep = '{sweep_name}'")
        runs: dict[str, list[Run]] = defaultdict(list)
        for run in (Run(run.info.run_id, run.info.status, dict(run.data.tags)) for run in search):
            runs[run.tags.get("trial_id", mlflow_view.PARENT)].append(run)
        return dict(runs)

    def _without_doubles(self, found: Mapping[str, list[Run]]) -> dict[str, Run]:
        """A request without an answer may leave a second run of a trial: the one that has less is deleted."""
        kept = {}
        for key, runs in found.items():
            *others, kept[key] = sorted(runs, key=lambda run: mlflow_view.num_projected(run.tags))
            for other in others:
                self._client.delete_run(other.run_id)
        return kept

    def _sync_parent(
        self,
        requests: ApiWriter,
        runs: dict[str, Run],
        records: Sequence[TrialRecord],
        sweep_name: str,
        definition: Mapping[str, Any],
    ) -> str:
        tags = mlflow_view.parent_tags(sweep_name, definition, records)
        if mlflow_view.PARENT not in runs:
            started_s = min((mlflow_view.started_s(record) for record in records if record.attempts), default=0.0)
            runs[mlflow_view.PARENT] = requests.create(started_s, tags)
        run = runs[mlflow_view.PARENT]
        requests.send(run, [], tags)
        ended = all(record.status.is_final for record in records)
        requests.set_status(
            run, "FINISHED" if ended else "RUNNING", max(map(mlflow_view.ended_s, records), default=0.0)
        )
        return run.run_id

    def _sync_files(self, requests: ApiWriter, run: Run, files: Mapping[str, str]) -> None:
        """Last: a store of files that is away keeps no curve from being sent."""
        tag = {FILES: mlflow_view.digest_of(files)}
        if run.tags.get(FILES) != tag[FILES]:
            for name, text in files.items():
                self._client.log_text(run.run_id, text, name)
            requests.send(run, [], tag)

    def _sync_trials(
        self, writer: ApiWriter, runs: dict[str, Run], records: Sequence[TrialRecord], parent_id: str
    ) -> Iterator[int | None]:
        """Several at once where each waits for answers of a server; each trial's own requests stay in order."""
        send = partial(self._sync_trial, runs, parent_id=parent_id, writer=writer)
        if not self._is_server:
            yield from map(send, records)
            return
        with ThreadPoolExecutor(TRIALS_AT_ONCE, "mlflow") as pool:
            yield from pool.map(send, records)

    def _sync_trial(self, runs: dict[str, Run], record: TrialRecord, parent_id: str, writer: ApiWriter) -> int | None:
        """The number of points sent; None if there was nothing to do."""
        run = runs.get(record.trial_id)
        rows = mlflow_view.rows(record)
        if run and _is_settled(run, record) and mlflow_view.num_projected(run.tags) == len(rows):
            return None
        if run and not mlflow_view.continues(run.tags, rows):
            self._client.delete_run(run.run_id)
            run = None
        update = Update(record, rows, STATUSES[record.status], mlflow_view.trial_tags(record, parent_id))
        if not update.changes(run):
            return None
        before = mlflow_view.num_projected(run.tags) if run else 0
        runs[record.trial_id] = writer.write(run, update)
        return sum(len(row.metrics) for row in rows[before:])

    def _compare(self, runs: Sequence[Run], record: TrialRecord) -> Iterator[Difference]:
        expected: dict[str, list[Key]] = defaultdict(list)
        for point in mlflow_view.points(mlflow_view.rows(record)):
            expected[point.name].append(key_of(point.step, milliseconds(point.time_s), point.value))
        for note in _odd(runs):
            yield Difference(record.trial_id, "run", sum(map(len, expected.values())) if not runs else 0, note=note)
        if len(runs) != 1:
            return
        run = runs[0]
        if run.status != STATUSES[record.status]:
            yield Difference(record.trial_id, "status", note=f"{run.status} instead of {STATUSES[record.status]}")
        has = set(self._client.get_run(run.run_id).data.metrics)
        for name in sorted(has | expected.keys()):
            history = self._client.get_metric_history(run.run_id, name)
            there = [key_of(item.step, item.timestamp, item.value) for item in history]
            difference = compare(record.trial_id, name, expected.get(name, []), there)
            if difference:
                yield difference


def _has_begun(record: TrialRecord) -> bool:
    """Whether it has a run: MLflow takes the time of a start with the run and never again."""
    return bool(record.attempts) or record.status.is_final


def _is_settled(run: Run, record: TrialRecord) -> bool:
    """Whether the run knows that the trial is done: spares digests of long curves at every synchronisation."""
    known = run.tags.get("status") == record.status and run.status == STATUSES[record.status]
    return known and record.status.is_final


def _odd(runs: Sequence[Run]) -> list[str]:
    """What is wrong with the number of runs of one trial; nothing if there is one."""
    return [] if len(runs) == 1 else ["there is none"] if not runs else [f"there are {len(runs)}"]


def _counted(items: Iterable[Item], total: int, listen: Listener | None) -> Iterator[Item]:
    tell = listen or (lambda done, total: None)
    tell(0, total)
    for done, item in enumerate(items, 1):
        yield item
        tell(done, total)


MAX_VALUE = 1.7976931348623157e308


NAMED_STEPS = 5
"""So many steps are named where a curve differs."""


class Key(NamedTuple):
    """What tells one point of a curve from another."""

    step: int
    timestamp_ms: int
    value: float | str


class Difference(NamedTuple):
    """Where a tracker does not say what a record says."""

    trial_id: str
    what: str
    """A metric's name, or which other part of the run it is."""
    missing: int = 0
    """Points of the record that the run does not have."""
    surplus: int = 0
    """Points of the run that the record does not have: another value at the same step, or a step it never took."""
    note: str = ""

    def __str__(self) -> str:
        counts = [f"{count} {word}" for count, word in ((self.missing, "missing"), (self.surplus, "too many")) if count]
        return f"{self.trial_id}: {self.what}: {', '.join([*counts, *filter(None, [self.note])])}"


def compare(trial_id: str, name: str, expected: Sequence[Key], there: Sequence[Key]) -> Difference | None:
    """One curve of a record beside that of its run; None if each point is there exactly once."""
    lost, extra = Counter(expected) - Counter(there), Counter(there) - Counter(expected)
    if not lost and not extra:
        return None
    steps = sorted({key.step for key in [*lost, *extra]})
    more = " ..." if len(steps) > NAMED_STEPS else ""
    note = f"at step {', '.join(map(str, steps[:NAMED_STEPS]))}{more}"
    return Difference(trial_id, name, lost.total(), extra.total(), note)


def key_of(step: int, timestamp_ms: int, value: float) -> Key:
    """A point as MLflow keeps it: infinity becomes the largest number, and NaN has to equal itself."""
    if math.isnan(value):
        return Key(step, timestamp_ms, "nan")
    return Key(step, timestamp_ms, math.copysign(MAX_VALUE, value) if math.isinf(value) else value)
