"""A trial record as runs have it: named points, tags, parameters. Pure: no tracker here."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from orchestrator.records.schema import AttemptStart, Row, Status, TrialRecord

PARENT = ""
"""In place of a trial id: the run of the sweep itself."""
PROJECTED = "projected"
"""Tag `<number of rows>:<digest of them>`."""
DIGEST_LEN = 36
"""MLflow's limit for the digest of a dataset."""
MAX_TAG_LEN = 5000
HARDWARE = ("host", "node_id", "device", "processor", "cpu_count", "gpu_type", "gpu_name", "gpu_count", "market")
RESULT_NUMBERS = ("num_parameters", "train_flops", "train_s", "puzzles_presented", "items")


class Point(NamedTuple):
    """One value of one curve."""

    name: str
    value: float
    time_s: float
    step: int


def rows(record: TrialRecord) -> list[Row]:
    """The rows of the curves and, for a trial that is over, one more: its final score if it has one, and its cost."""
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
    """GPU-hours, dollars at catalogue price, and kWh; what is not known is left out, which on a CPU is everything."""
    from orchestrator.results.leaderboard.cost import (
        trial_cost,  # scipy comes with it: 1.5 s that no other use of this needs
    )

    cost = trial_cost(record)
    if cost is None:
        return {}
    kwh = "kwh_measured" if cost.is_measured else "kwh_at_full_power"
    named = {"gpu_hours": cost.gpu_hours, "usd": cost.usd, kwh: cost.kwh}
    return {f"cost/{name}": value for name, value in named.items() if value is not None}


def points(some: Sequence[Row]) -> Iterator[Point]:
    """`validation/loss` and so on; a final score carries the name of its own split."""
    for row in some:
        prefix = "" if row.split == "result" else f"{row.split}/"
        for name, value in row.metrics.items():
            yield Point(prefix + name, float(value), row.time_s, row.step)


def batches(some: Sequence[Row], start: int, limit: int) -> list[tuple[int, list[Point]]]:
    """Points of whole rows from `start` on, at most `limit` at once, each with the number of rows done after it."""
    made: list[tuple[int, list[Point]]] = []
    for index in range(start, len(some)):
        new = list(points([some[index]]))
        if made and len(made[-1][1]) + len(new) <= limit:
            new = made.pop()[1] + new
        made.append((index + 1, new))
    return made


def mark(some: Sequence[Row]) -> str:
    """The value of the tag PROJECTED for these rows."""
    hasher = hashlib.sha256()
    for row in some:
        hasher.update(json.dumps([row.step, row.time_s, row.split, row.metrics], sort_keys=True).encode())
    return f"{len(some)}:{hasher.hexdigest()[:16]}"


def num_projected(tags: Mapping[str, str]) -> int:
    """How many rows a run has, by its tag."""
    return int(tags.get(PROJECTED, "0").partition(":")[0])


def continues(tags: Mapping[str, str], some: Sequence[Row]) -> bool:
    """Whether the rows that a run has are the first of these."""
    return PROJECTED not in tags or mark(some[: num_projected(tags)]) == tags[PROJECTED]


def started_s(record: TrialRecord) -> float:
    """When the first attempt started; 0 if none did."""
    return record.attempts[0].start.started_s if record.attempts else 0.0


def ended_s(record: TrialRecord) -> float:
    """When the last thing happened that the record tells of."""
    times = [row.time_s for row in record.rows[-1:]]
    times += [attempt.end.ended_s for attempt in record.attempts if attempt.end]
    times += [record.result.ended_s] if record.result else []
    return max(times, default=started_s(record))


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings by dotted name; lists as JSON."""
    flat: dict[str, str] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(item) if isinstance(item, list | tuple) else str(item)
    return flat


def trial_tags(record: TrialRecord, parent_id: str) -> dict[str, str]:
    """Identity, state and provenance: what ran where, on which code."""
    tags: dict[str, Any] = {
        "mlflow.parentRunId": parent_id,
        "mlflow.runName": f"{record.family or record.trial_id} seed={record.config.seed}",
        "mlflow.source.name": "trm",
        "trial_id": record.trial_id,
        "sweep": record.sweep,
        "stage": record.stage,
        "family": record.family,
        "status": str(record.status),
        "step": record.step,
        "attempts": len(record.attempts),
        "benchmark": record.dataset.benchmark,
    }
    stop = record.stopped
    tags["stopped"] = f"step {stop.step}: {stop.reason}" if stop else ""  # empty: it was continued
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
    """Where the sweep's own run keeps a diff: trials that ran the same code share one."""
    return f"code/{hashlib.sha256(diff.encode()).hexdigest()[:12]}.diff"


def parent_tags(sweep_name: str, definition: Mapping[str, Any], records: Sequence[TrialRecord]) -> dict[str, str]:
    """The sweep's definition and how many trials are in which state."""
    counts = Counter(record.status for record in records)
    tags = {
        "mlflow.runName": sweep_name,
        "mlflow.source.name": "trm",
        "sweep": sweep_name,
        "trials": str(len(records)),
        **{f"trials.{status}": str(counts[status]) for status in Status},
        **{f"definition.{name}": json.dumps(value) for name, value in definition.items()},
    }
    return {name: value[:MAX_TAG_LEN] for name, value in tags.items()}


def parent_files(definition: Mapping[str, Any], records: Sequence[TrialRecord]) -> dict[str, str]:
    """Texts beside the sweep's own run: its definition, and every change to the code that a trial ran with."""
    states = (attempt.start.git for record in records for attempt in record.attempts)
    diffs = {git.diff for git in states if git.diff}
    sweep = json.dumps(definition, indent=1, sort_keys=True)
    return {"sweep.json": f"{sweep}\n", **{_diff_name(diff): f"{diff}\n" for diff in sorted(diffs)}}


def digest_of(files: Mapping[str, str]) -> str:
    """Of names and contents."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]


def without_password(uri: str) -> str:
    """An address as it may be shown."""
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":...@") if password else uri


ENDED = {"FINISHED", "FAILED", "KILLED"}
"""States of MLflow's with a time of end."""


@dataclass(slots=True)
class Run:
    """A run as MLflow has it."""

    run_id: str
    status: str
    tags: dict[str, str]


class Update(NamedTuple):
    """What a run is to say of its trial."""

    record: TrialRecord
    rows: Sequence[Row]
    """All of them; those that the run has already are the first."""
    status: str
    """In MLflow's words."""
    tags: Mapping[str, str]

    def changes(self, run: Run | None) -> bool:
        """Whether the run does not say all of it yet."""
        if run is None or PROJECTED not in run.tags or run.status != self.status:
            return True
        return num_projected(run.tags) < len(self.rows) or any(run.tags.get(k) != v for k, v in self.tags.items())


def dataset_input(record: TrialRecord) -> Any:
    """The dataset of a trial, an entity of MLflow's."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag

    facts = record.dataset
    source = CodeDatasetSource({"source": facts.source, "counts": str(facts.counts)})
    dataset = MetaDataset(source, name=facts.benchmark, digest=facts.fingerprint[:DIGEST_LEN])
    return DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", "training")])


def params(record: TrialRecord) -> list[Any]:
    """Every setting of a trial, as entities of MLflow's."""
    from mlflow.entities import Param

    return [Param(name, value) for name, value in flatten(record.config.plain()).items()]


def milliseconds(time_s: float) -> int:
    """A time as MLflow keeps it."""
    return round(time_s * 1000)
