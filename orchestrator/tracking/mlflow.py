"""Sync sweeps to MLflow. The sync is idempotent: it can be interrupted, rerun or rebuilt from scratch.

    mlflow = MlflowSync(default_uri(Path("runs")))
    mlflow.sync(sweep, read_trials(storage, sweep.name))      # sends what MLflow does not have yet
    mlflow.verify(sweep, read_trials(storage, sweep.name))    # [] if MLflow has every point exactly once

A sweep is a parent run and a trial is a child run, found by its tag `trial_id`. Points carry the record's own time and
step. The tag `projected` says how many rows a run has, with their digest; it is sent in the same request as the rows.
Where a record has dropped rows (a lost attempt had got further than its last checkpoint), the run is deleted and
sent again, because MLflow cannot delete points.

MLflow has five states, a trial has eight. FINISHED is kept for trials with a final score, so that a search for it gives
comparable runs: stopped early is KILLED; failed, diverged and out of memory are FAILED; interrupted is SCHEDULED. A
sweep that has trials left and no driver is KILLED until it is resumed. The tag `status` has the exact state. A trial
that waits for its first start has no run yet.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.records.schema import Status, TrialRecord
from orchestrator.records.state import standing
from orchestrator.sweep.definition import Sweep
from orchestrator.tracking.mlflow_api import RunWriter
from orchestrator.tracking.mlflow_connection import EXPERIMENT, Connection, TrackingError, default_uri
from orchestrator.tracking.mlflow_view import (
    PARENT,
    Run,
    RunContent,
    digest_of_files,
    has_run,
    milliseconds,
    points,
    sweep_content,
    sweep_files,
    trial_content,
)

if TYPE_CHECKING:
    from orchestrator.tracking.registry import Winner
    from trm_model.checkpoints.trained import Trained

__all__ = ["Difference", "MlflowSync", "SyncResult", "TrackingError", "default_uri"]

logger = logging.getLogger(__name__)

FILES_TAG = "files"
"""Tag with the digest of the files that were sent."""
MAX_VALUE = 1.7976931348623157e308
"""Value that MLflow stores for infinity."""
MAX_STEPS_NAMED = 5
"""Number of steps that are listed if a curve differs."""

OnProgress = Callable[[int, int], None]
"""Called with (trials done, trials) after every request that was answered."""


class SyncResult(NamedTuple):
    """Count what one sync has sent."""

    trials: int
    points: int


class _Sent(NamedTuple):
    """Hold a record as it was read, how it stood, and its parent run."""

    record: TrialRecord
    status: Status
    is_superseded: bool
    parent_id: str

    def is_same(self, other: _Sent | None) -> bool:
        """Return whether nothing has changed. Records are compared by identity, which reads no rows."""
        return other is not None and self.record is other.record and self[1:] == other[1:]


@dataclass(slots=True)
class _Known:
    """Cache what is known of one sweep's runs between syncs."""

    runs: dict[str, Run]
    sent: dict[str, _Sent] = field(default_factory=dict)
    """What was sent last, by trial. Records do not change, so the same one that stands as it did is done."""


class MlflowSync:
    """Sync sweeps to one experiment. Not thread-safe.

    Every method raises TrackingError if the tracker cannot be reached or refuses. What arrived stays, and the next call
    continues from there.
    """

    def __init__(self, tracking_uri: str, experiment: str = EXPERIMENT, artifacts: str | None = None) -> None:
        self.tracking_uri = tracking_uri
        self._connection = Connection(tracking_uri, experiment, artifacts)
        self._known: dict[str, _Known] = {}
        self._client: Any = None

    def sync(
        self,
        sweep: Sweep,
        records: Sequence[TrialRecord],
        on_progress: OnProgress = lambda done, total: None,
        *,
        is_driven: bool = True,
    ) -> SyncResult:
        """Send everything that MLflow does not have yet.

        Args:
            is_driven: whether a driver runs the sweep. If none does, no run is left RUNNING.
        """
        read, records = records, standing(sweep, records, is_driven=is_driven)
        with self._connection.session() as client:
            known = self._find_or_recall(client, sweep.name)
            begun = [pair for pair in zip(read, records, strict=True) if has_run(pair[1])]
            if not begun:
                return SyncResult(0, 0)
            done, sent = 0, []
            writer = RunWriter(client, self._connection.experiment_id, lambda: on_progress(done, len(begun)))
            on_progress(done, len(begun))
            self._write(client, writer, known.runs, PARENT, sweep_content(sweep, records, is_driven=is_driven))
            parent_id = known.runs[PARENT].run_id
            for original, record in begun:
                now = _Sent(original, record.status, record.is_superseded, parent_id)
                if not now.is_same(known.sent.get(record.trial_id)):
                    content = trial_content(record, parent_id)
                    sent.append(self._write(client, writer, known.runs, record.trial_id, content))
                    known.sent[record.trial_id] = now
                done += 1
                on_progress(done, len(begun))
            # Files go last: an artifact store that is down must not keep a curve from being sent.
            self._write_files(client, writer, known.runs[PARENT], sweep_files(sweep, records))
        changed = [count for count in sent if count is not None]
        return SyncResult(len(changed), sum(changed))

    def rebuild(
        self,
        sweep: Sweep,
        records: Sequence[TrialRecord],
        on_progress: OnProgress = lambda done, total: None,
        *,
        is_driven: bool = True,
    ) -> SyncResult:
        """Delete the runs of a sweep, if there are any, and send everything again."""
        self.delete(sweep.name)
        return self.sync(sweep, records, on_progress, is_driven=is_driven)

    def delete(self, sweep_name: str) -> int:
        """Delete the runs of a sweep and return their number. A database that does not exist is not created."""
        with self._connection.reading() as client:
            if client is None or not self._find_runs(client, sweep_name):
                return 0
        with self._connection.session() as client:
            self._known.pop(sweep_name, None)
            runs = [run for runs in self._find_runs(client, sweep_name).values() for run in runs]
            for run in runs:
                client.delete_run(run.run_id)
        return len(runs)

    def count_runs(self, sweep_name: str) -> int:
        """Return how many runs a sweep has, its own included. Creates no database."""
        with self._connection.reading() as client:
            return 0 if client is None else sum(map(len, self._find_runs(client, sweep_name).values()))

    def rename(self, sweep_name: str, new_name: str) -> int:
        """Give the runs of a sweep to its new name; return how many there were. Creates no database."""
        if not self.count_runs(sweep_name):
            return 0
        with self._connection.session() as client:
            self._known.pop(sweep_name, None)
            runs = [(key, run) for key, runs in self._find_runs(client, sweep_name).items() for run in runs]
            for key, run in runs:
                if key == PARENT:
                    client.update_run(run.run_id, name=new_name)
                client.set_tag(run.run_id, "sweep", new_name)
        return len(runs)

    def verify(
        self,
        sweep: Sweep,
        records: Sequence[TrialRecord],
        on_progress: OnProgress = lambda done, total: None,
        *,
        is_driven: bool = True,
    ) -> list[Difference]:
        """Compare every point with the records without changing anything. Return an empty list if each is there exactly
        once."""
        records = standing(sweep, records, is_driven=is_driven)
        expected = {record.trial_id: trial_content(record) for record in records if has_run(record)}
        if expected:
            expected = {PARENT: sweep_content(sweep, records, is_driven=is_driven)} | expected
        differences: list[Difference] = []
        with self._connection.reading() as client:
            found = self._find_runs(client, sweep.name) if client is not None else {}
            for done, (key, content) in enumerate(expected.items()):
                on_progress(done, len(expected))
                differences += _compare_run(client, found.get(key, []), key or sweep.name, content)
            on_progress(len(expected), len(expected))
        unknown = found.keys() - {record.trial_id for record in records} - {PARENT}
        return differences + [Difference(trial_id, "run", note="it has no record") for trial_id in sorted(unknown)]

    def register(self, won: Winner, trained: Trained) -> tuple[str, int, bool]:
        """Register a winner in the model registry, with its files in its run; see `registry.register`."""
        from orchestrator.tracking.registry import register

        with self._connection.session() as client:
            (run,) = self._find_runs(client, won.record.sweep)[won.record.trial_id]
            return register(client, run.run_id, won, trained)

    def _find_or_recall(self, client: Any, sweep_name: str) -> _Known:
        """Return what is known of a sweep's runs; nothing is known after a failure, or of another connection."""
        if client is not self._client:
            self._known.clear()
            self._client = client
        if sweep_name not in self._known:
            self._known[sweep_name] = _Known(_without_duplicates(client, self._find_runs(client, sweep_name)))
        return self._known[sweep_name]

    def _find_runs(self, client: Any, sweep_name: str) -> dict[str, list[Run]]:
        """Return the runs of a sweep by trial id, and its own run by PARENT."""
        runs: dict[str, list[Run]] = defaultdict(list)
        for found in self._connection.search(client, f"tags.sweep = '{sweep_name}'"):
            run = Run(found.info.run_id, found.info.status, dict(found.data.tags))
            runs[run.tags.get("trial_id", PARENT)].append(run)
        return dict(runs)

    def _write(self, client: Any, writer: RunWriter, runs: dict[str, Run], key: str, content: RunContent) -> int | None:
        """Send one run and return the number of points sent; None if there was nothing to send."""
        run = runs.get(key)
        if run and not content.continues(run):
            logger.info("the record of run %s has fewer rows than were sent: it is sent again", content.name)
            client.delete_run(run.run_id)
            del runs[key]
            run = None
        if run and content.is_held_by(run):
            return None
        before = run.num_rows if run else 0
        runs[key] = writer.write(run, content)
        return sum(len(row.metrics) for row in content.rows[before:])

    def _write_files(self, client: Any, writer: RunWriter, run: Run, files: Mapping[str, str]) -> None:
        digest = digest_of_files(files)
        if run.tags.get(FILES_TAG) != digest:
            for name, text in files.items():
                client.log_text(run.run_id, text, name)
            writer.send(run, [], {FILES_TAG: digest})


def _without_duplicates(client: Any, found: Mapping[str, list[Run]]) -> dict[str, Run]:
    """Delete all but the longest run of a trial: a request without an answer may have created a second one."""
    kept = {}
    for key, runs in found.items():
        *others, kept[key] = sorted(runs, key=lambda run: run.num_rows)
        for other in others:
            client.delete_run(other.run_id)
    return kept


class Key(NamedTuple):
    """Identify one point of a curve."""

    step: int
    timestamp_ms: int
    value: float | str


class Difference(NamedTuple):
    """Describe where a tracker differs from a record."""

    trial_id: str
    """The trial, or the name of the sweep for its own run."""
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


def _compare_run(client: Any, runs: Sequence[Run], name: str, content: RunContent) -> Iterator[Difference]:
    expected: dict[str, list[Key]] = defaultdict(list)
    for point in points(content.rows):
        expected[point.name].append(key_of(point.step, milliseconds(point.time_s), point.value))
    if not runs:
        yield Difference(name, "run", sum(map(len, expected.values())), note="there is none")
        return
    if len(runs) > 1:
        yield Difference(name, "run", note=f"there are {len(runs)}")
        return
    (run,) = runs
    if run.status != content.status and not content.was_extended_since(run):
        yield Difference(name, "status", note=f"{run.status} instead of {content.status}")
    metrics = set(client.get_run(run.run_id).data.metrics)
    for metric in sorted(metrics | expected.keys()):
        history = client.get_metric_history(run.run_id, metric)
        found = [key_of(item.step, item.timestamp, item.value) for item in history]
        difference = compare(name, metric, expected.get(metric, []), found)
        if difference:
            yield difference


def compare(trial_id: str, metric: str, expected: Sequence[Key], found: Sequence[Key]) -> Difference | None:
    """Compare one curve of a record with that of its run; None if each point is there exactly once."""
    missing, surplus = Counter(expected) - Counter(found), Counter(found) - Counter(expected)
    if not missing and not surplus:
        return None
    steps = sorted({key.step for key in [*missing, *surplus]})
    more = " ..." if len(steps) > MAX_STEPS_NAMED else ""
    note = f"at step {', '.join(map(str, steps[:MAX_STEPS_NAMED]))}{more}"
    return Difference(trial_id, metric, missing.total(), surplus.total(), note)


def key_of(step: int, timestamp_ms: int, value: float) -> Key:
    """Return a point as MLflow stores it: infinity becomes the largest number, and NaN equals itself."""
    if math.isnan(value):
        return Key(step, timestamp_ms, "nan")
    return Key(step, timestamp_ms, math.copysign(MAX_VALUE, value) if math.isinf(value) else value)
