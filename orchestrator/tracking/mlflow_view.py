"""Map records to the content of MLflow runs: points, tags, parameters, files. Nothing here contacts a tracker."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from orchestrator.records.progress import sweep_progress
from orchestrator.records.schema import AttemptStart, Row, Status, TrialRecord
from orchestrator.records.state import described
from orchestrator.resources.usage import trial_cost
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.settings import flatten
from trm_data.addresses import hide_credentials

PARENT = ""
"""Key of the sweep's own run, where trials have their id."""
ROWS_TAG = "projected"
"""Tag `<number of rows>:<digest of these rows>`."""
DIGEST_LEN = 36
"""MLflow's limit for the digest of a dataset."""
MAX_TAG_LEN = 5000
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
HARDWARE = ("host", "node_id", "device", "processor", "cpu_count", "gpu_type", "gpu_name", "gpu_count", "market")
RESULT_NUMBERS = ("num_parameters", "train_flops", "train_s", "puzzles_presented", "items")


class Point(NamedTuple):
    """Hold one value of one curve."""

    name: str
    value: float
    time_s: float
    step: int


@dataclass(slots=True)
class Run:
    """Hold a run as MLflow has it."""

    run_id: str
    status: str
    tags: dict[str, str]

    @property
    def num_rows(self) -> int:
        """Return how many rows of the record the run has, by its tag; 0 where somebody edited the tag."""
        count = self.tags.get(ROWS_TAG, "0").partition(":")[0]
        return int(count) if count.isascii() and count.isdecimal() and len(count) < 16 else 0


class RunContent(NamedTuple):
    """Describe the intended content of a run."""

    name: str
    status: str
    """One of MLflow's five states."""
    started_s: float
    ended_s: float
    tags: Mapping[str, str]
    rows: Sequence[Row]
    record: TrialRecord | None = None
    """The trial, for its parameters and its dataset; None for the sweep's own run."""

    def continues(self, run: Run) -> bool:
        """Return whether the rows that the run has are the first of these."""
        return ROWS_TAG not in run.tags or digest_of_rows(self.rows[: run.num_rows]) == run.tags[ROWS_TAG]

    def is_held_by(self, run: Run) -> bool:
        """Return whether the run has all of this content. Call it only for runs that this content continues."""
        has_tags = all(run.tags.get(name) == value for name, value in self.tags.items())
        return ROWS_TAG in run.tags and run.num_rows == len(self.rows) and run.status == self.status and has_tags

    def was_extended_since(self, run: Run) -> bool:
        """Return whether a sweep was given more to run after its run was complete, and none of that has started."""
        counts = [f"trials.{status}" for status in Status if status is not Status.PENDING]
        same = all(run.tags.get(name) == self.tags.get(name) for name in counts)
        return run.status == "FINISHED" and run.tags.get("trials.left") == "0" and same


def has_run(record: TrialRecord) -> bool:
    """Return whether a trial has a run: after its first start, since MLflow sets the start time of new runs only."""
    return bool(record.attempts) or record.status.is_final


def trial_content(record: TrialRecord, parent_id: str = "") -> RunContent:
    """Return the intended content of a trial's run."""
    return RunContent(
        name=f"{record.family or record.trial_id} seed={record.config.seed}",
        status="KILLED" if record.is_superseded and not record.status.is_final else STATUSES[record.status],
        started_s=started_s(record),
        ended_s=ended_s(record),
        tags=trial_tags(record, parent_id),
        rows=rows(record),
        record=record,
    )


def sweep_content(sweep: Sweep, records: Sequence[TrialRecord], *, is_driven: bool) -> RunContent:
    """Return the intended content of the parent run. It is FINISHED when every planned trial is over, not before, and
    KILLED where trials are left and no driver runs them."""
    progress = sweep_progress(sweep, records)
    counts = Counter(record.status for record in records)
    tags = {
        "mlflow.source.name": "trm",
        "sweep": sweep.name,
        "trials": str(len(records)),
        "trials.planned": str(progress.planned),
        "trials.left": str(progress.left),
        **{f"trials.{status}": str(counts[status]) for status in Status},
        **{f"definition.{name}": hide_credentials(json.dumps(value)) for name, value in sweep.plain().items()},
    }
    return RunContent(
        name=sweep.name,
        status="FINISHED" if progress.left == 0 else "RUNNING" if is_driven else "KILLED",
        started_s=min((started_s(record) for record in records if record.attempts), default=0.0),
        ended_s=max(map(ended_s, records), default=0.0),
        tags={name: value[:MAX_TAG_LEN] for name, value in tags.items()},
        rows=sweep_rows(sweep, records),
    )


def sweep_rows(sweep: Sweep, records: Sequence[TrialRecord]) -> list[Row]:
    """Return a row per finished trial, in the order of their ends: the best and the mean score so far, by split."""
    scored = [(record, record.result) for record in records if record.result and sweep.metric in record.result.metrics]
    scored.sort(key=lambda pair: (ended_s(pair[0]), pair[0].trial_id))
    scores: dict[str, list[float]] = defaultdict(list)
    made = []
    for number, (record, result) in enumerate(scored, 1):
        name, value = f"{result.split}/{sweep.metric}", result.metrics[sweep.metric]
        if math.isfinite(value):
            scores[name].append(value)
            mean = math.fsum(scores[name]) / len(scores[name])
            metrics = {f"best/{name}": max(scores[name]), f"mean/{name}": mean}
            made.append(Row(number, ended_s(record), "result", metrics))
    return made


def rows(record: TrialRecord) -> Sequence[Row]:
    """Return the rows of the curves and, for a trial that is over, one with its final score, its size and its cost."""
    if not record.status.is_final:
        return record.rows
    numbers: dict[str, float] = {}
    scores: dict[str, float] = {}
    if record.result is not None:
        known = {name: getattr(record.result, name) for name in RESULT_NUMBERS}
        numbers = {name: float(value) for name, value in known.items() if value is not None}
        scores = {f"{record.result.split}/{name}": value for name, value in record.result.metrics.items()}
    last = Row(record.step, ended_s(record), "result", numbers | scores | costs(record))
    return [*record.rows, last] if last.metrics else record.rows


def costs(record: TrialRecord) -> dict[str, float]:
    """Return GPU-hours, dollars at catalogue price, and kWh, each only if it is known; nothing on a CPU."""
    cost = trial_cost(record)
    if cost is None:
        return {}
    kwh = "kwh_measured" if cost.is_measured else "kwh_at_full_power"
    named = {"gpu_hours": cost.gpu_hours, "usd": cost.usd, kwh: cost.kwh}
    return {f"cost/{name}": value for name, value in named.items() if value is not None}


def points(some: Sequence[Row]) -> Iterator[Point]:
    """Yield the values of rows as `validation/loss` and so on; final scores are named by their own split."""
    for row in some:
        prefix = "" if row.split == "result" else f"{row.split}/"
        for name, value in row.metrics.items():
            yield Point(prefix + name, float(value), row.time_s, row.step)


def batches(some: Sequence[Row], start: int, limit: int) -> list[tuple[int, list[Point]]]:
    """Split rows from `start` on into batches of at most `limit` points, each with the number of rows after it.

    A row is never split: a tag that counts rows has to be true of every request.
    """
    made: list[tuple[int, list[Point]]] = []
    for index in range(start, len(some)):
        new = list(points([some[index]]))
        if made and len(made[-1][1]) + len(new) <= limit:
            new = made.pop()[1] + new
        made.append((index + 1, new))
    return made


def digest_of_rows(some: Sequence[Row]) -> str:
    """Return the value of ROWS_TAG for these rows."""
    hasher = hashlib.sha256()
    for row in some:
        hasher.update(json.dumps([row.step, row.time_s, row.split, row.metrics], sort_keys=True).encode())
    return f"{len(some)}:{hasher.hexdigest()[:16]}"


def started_s(record: TrialRecord) -> float:
    """Return when the first attempt started; 0 if none did."""
    return record.attempts[0].start.started_s if record.attempts else 0.0


def ended_s(record: TrialRecord) -> float:
    """Return the time of the last event in the record: a row, the end of an attempt, or the final score."""
    times = [row.time_s for row in record.rows[-1:]]
    times += [attempt.end.ended_s for attempt in record.attempts if attempt.end]
    times += [record.result.ended_s] if record.result else []
    return max(times, default=started_s(record))


def trial_tags(record: TrialRecord, parent_id: str) -> dict[str, str]:
    """Return a trial's identity, state and provenance: what ran where, on which code."""
    tags: dict[str, Any] = {
        "mlflow.parentRunId": parent_id,
        "mlflow.source.name": "trm",
        "trial_id": record.trial_id,
        "sweep": record.sweep,
        "stage": record.stage,
        "family": record.family,
        "status": described(record),
        "step": record.step,
        "attempts": len(record.attempts),
        "benchmark": record.dataset.benchmark,
    }
    stop = record.stopped
    # A request cannot delete a tag: an empty value means that a stopped trial was continued.
    tags["stopped"] = f"step {stop.step}: {stop.reason}" if stop else ""
    if record.attempts:
        tags |= _attempt_tags(record.attempts[-1].start)
        end = record.attempts[-1].end
        tags["reason"] = end.reason if end else ""
    return {name: str(value)[:MAX_TAG_LEN] for name, value in tags.items() if value is not None}


def _attempt_tags(start: AttemptStart) -> dict[str, Any]:
    tags = {name: getattr(start, name) for name in HARDWARE}
    versions = {f"version.{name}": version for name, version in start.versions.items()}
    code = {"mlflow.source.git.commit": start.git.commit, "git.dirty": start.git.dirty if start.git.commit else None}
    return tags | versions | code | {"git.diff": _diff_name(start.git.diff) if start.git.diff else None}


def _diff_name(diff: str) -> str:
    """Return the file in which the parent run keeps a diff; trials that ran the same code share it."""
    return f"code/{hashlib.sha256(diff.encode()).hexdigest()[:12]}.diff"


def sweep_files(sweep: Sweep, records: Sequence[TrialRecord]) -> dict[str, str]:
    """Return the text files of the parent run: the definition, and every uncommitted diff that a trial ran with."""
    states = (attempt.start.git for record in records for attempt in record.attempts)
    diffs = {git.diff for git in states if git.diff}
    definition = hide_credentials(json.dumps(sweep.plain(), indent=1, sort_keys=True))
    return {"sweep.json": f"{definition}\n", **{_diff_name(diff): f"{diff}\n" for diff in sorted(diffs)}}


def digest_of_files(files: Mapping[str, str]) -> str:
    """Return a digest of the names and contents."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]


def dataset_input(record: TrialRecord) -> Any:
    """Return the dataset of a trial as an MLflow entity."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag

    facts = record.dataset
    source = CodeDatasetSource({"source": hide_credentials(facts.source), "counts": str(facts.counts)})
    dataset = MetaDataset(source, name=facts.benchmark, digest=facts.fingerprint[:DIGEST_LEN])
    return DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", "training")])


def params(record: TrialRecord) -> list[Any]:
    """Return every setting of a trial as MLflow entities."""
    from mlflow.entities import Param

    settings = flatten(record.config.plain())
    texts = {name: json.dumps(v) if isinstance(v, list) else str(v) for name, v in settings.items()}
    return [Param(name, hide_credentials(text)) for name, text in texts.items()]


def milliseconds(time_s: float) -> int:
    """Return a time as MLflow stores it."""
    return round(time_s * 1000)
