"""Define the records of a sweep, from which every view (MLflow, the Optuna study, reports) can be rebuilt.

    <storage>/sweeps/<sweep>/
        sweep.json                     the definition, as data
        history/001.json               the definition before the first extension
        finished.jsonl                 index of trials that do not run, verified against a listing
        plan.jsonl                     one line per planned trial (study) or per fixed trial (search)
        lock.json                      the driver that owns the sweep, with a heartbeat
        trials/<trial id>/
            trial.json                 configuration, identity, stage: written before the trial starts
            recursion.py               source of the file that model.recursion names, if it names one
            kind.py                    source of the file that data.benchmark names, if it names one
            attempts/001/start.json    machine, versions, step at which it took over
            attempts/001/rows-000001.jsonl ...   immutable numbered segments (S3 cannot append), folded at the end
            attempts/001/end.json      how the attempt ended
            checkpoints/step-00000123.safetensors
            stopped.json               the driver's decision to stop it early: step, rule, reason
            outcomes.arrow             of the final score: the outcome of every item
            gallery.json               a few of them, with the answer after every supervision step
            result.json                the final score; exists only for a finished trial

Invariant: an attempt counts up to the step at which the next one took over, so no row is counted twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep.settings import replace_settings
from trm_data.settings import Settings
from trm_model.config import TrialConfig

DEFINITION = "sweep.json"
"""The file that makes a folder a sweep."""
SYSTEM_SPLIT = "system"
"""Split of the rows that hold samples of the machine."""
LAST_TIME_S = 2.5e11
"""End of the times that can be shown as a date, in the year 9892."""
GPU_ENERGY = "gpu_energy_joules"
"""Metric of those rows: energy of the trial's GPUs since its attempt began, in joules."""


Timestamp = Annotated[float, Field(ge=0, le=LAST_TIME_S)]
"""Seconds since the epoch; NaN and infinity are refused as well."""
Duration = Annotated[float, Field(ge=0, le=LAST_TIME_S)]
"""Seconds."""
Count = Annotated[int, Field(ge=0, lt=2**53)]
"""A number of steps or items."""
Amount = Annotated[float, Field(ge=0, le=1e30)]
"""An amount of work or energy."""
Devices = Annotated[float, Field(ge=0, le=1e6)]
"""A number of CPUs or GPUs; a share of one below 1."""
_SHARES = ("accuracy", "pass")
"""How the names of metrics end that are shares, before the `@` of their k or rate."""
Stage = Literal["explore", "confirm", "study"]


class Status(StrEnum):
    """List the states of a trial, which are computed from its record and never stored."""

    PENDING = "pending"  # trial.json only
    RUNNING = "running"  # the last attempt has no end
    INTERRUPTED = "interrupted"  # ended by a signal, or marked for retry; resumes from its checkpoint
    STOPPED = "stopped"  # stopped early by a rule; can be continued
    FINISHED = "finished"  # result.json
    FAILED = "failed"  # its own error: not retried automatically
    DIVERGED = "diverged"  # non-finite loss
    OUT_OF_MEMORY = "out_of_memory"

    @property
    def words(self) -> str:
        """Return the status as people read it."""
        return self.replace("_", " ")

    @property
    def is_final(self) -> bool:
        """Return whether the trial is over."""
        return self.is_failure or self in (Status.STOPPED, Status.FINISHED)

    @property
    def is_failure(self) -> bool:
        """Return whether the trial failed by itself: such a trial runs again only on request."""
        return self in (Status.FAILED, Status.DIVERGED, Status.OUT_OF_MEMORY)


@dataclass(frozen=True, slots=True)
class Row:
    """Hold metrics at one step. `time_s` is seconds since the epoch; `split` is train, validation or system."""

    step: int
    time_s: float
    split: str
    metrics: dict[str, float]


class RecordPart(Settings):
    """Define the base of the JSON files of a record: reading ignores keys of newer versions."""

    model_config = ConfigDict(extra="ignore")

    def plain(self) -> dict[str, Any]:
        """Return the values that were set, JSON-ready; defaults are not written."""
        return self.model_dump(mode="json", exclude_unset=True)

    def encode(self) -> bytes:
        """Return the content of the part's file."""
        return to_json_bytes(self.plain())


class GitState(RecordPart):
    """Describe the code that an attempt ran."""

    commit: str | None = None
    dirty: bool = False
    diff: str | None = None


class AttemptStart(RecordPart):
    """Hold the content of `start.json`: where an attempt ran, and from which step."""

    from_step: Count
    started_s: Timestamp
    started_from: str = ""
    """Which weights of which checkpoint training began with; empty where it resumed or began at random."""
    skipped: tuple[str, ...] = ()
    """Newer checkpoints that were damaged."""
    host: str | None = None
    node_id: str | None = None
    pid: int | None = None
    device: str | None = None
    processor: str | None = None
    cpu_count: Devices | None = None
    gpu_type: str | None = None
    gpu_name: str | None = None
    gpu_count: Devices | None = None
    gpu_ids: tuple[int | str, ...] = ()
    gpu_memory_bytes: Count | None = None
    memory_share: Amount | None = None
    market: str | None = None
    """`spot`, `on-demand`, or nothing where the node has no label."""
    num_threads: Count | None = None
    processes: Count | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    git: GitState = GitState()


class AttemptEnd(RecordPart):
    """Hold the content of `end.json`: how an attempt ended."""

    status: Status
    step: Count
    ended_s: Timestamp
    elapsed_s: Duration | None = None
    """Seconds since the attempt's start by a monotonic clock: the wall clock may step. Older records have none."""
    train_s: Duration = 0.0
    """Seconds of training in the trial so far, without evaluation."""
    reason: str = ""
    traceback: str = ""
    peak_bytes: Count | None = None
    gpu_peak_bytes: Count | None = None


class TrialResult(RecordPart):
    """Hold the content of `result.json`: the final score."""

    split: str
    items: Count
    metrics: dict[str, float]
    unscored: Count = 0
    """Items whose answer is not known; they are in no metric."""
    supervision_steps: int | None = None
    weights: str = "raw"
    num_parameters: int | None = None
    steps: int | None = None
    puzzles_presented: Amount | None = None
    train_flops: Amount | None = None
    train_s: Duration | None = None
    ended_s: Timestamp = 0.0
    energy_j: Amount | None = None
    per_item: str | None = None
    """Exact (0 or 1) per item in order, as packed hexadecimal digits."""
    per_task: dict[str, list[float]] = Field(default_factory=dict)
    """ARC: share of each task's test inputs answered, by `pass@1` and `pass@2`."""

    @field_validator("metrics")
    @classmethod
    def _require_shares(cls, metrics: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        """Refuse a share outside of 0 to 1, or of no items. Other metrics of weights that diverged may be NaN or
        infinite."""
        for name, value in metrics.items():
            if name.partition("@")[0].endswith(_SHARES):
                if not 0 <= value <= 1:
                    raise ValueError(f"{name}={value} is no share")
                if info.data.get("items") == 0:
                    raise ValueError(f"{name}={value} is a share of 0 items")
        return metrics

    @field_validator("per_task")
    @classmethod
    def _require_task_shares(cls, per_task: dict[str, list[float]]) -> dict[str, list[float]]:
        if any(not 0 <= value <= 1 for values in per_task.values() for value in values):
            raise ValueError("a value is no share")
        return per_task


class DatasetInfo(RecordPart):
    """Describe the data of a trial in its record."""

    benchmark: str
    fingerprint: str
    name: str | None = None
    """Folder of the dataset in the storage."""
    generated: bool = False
    counts: dict[str, int] = Field(default_factory=dict)
    """Puzzles by split."""
    source: str = ""
    licence: str = ""
    vocab_size: int | None = None
    grid_shape: tuple[int, ...] = ()
    several_answers: bool = False
    """Any valid answer counts as right, and not only the label."""


class Origin(RecordPart):
    """Describe where a trial's first steps come from."""

    kind: Literal["continued", "reused"]
    """`continued`: a shorter trial of this sweep; `reused`: the same trial of another sweep."""
    trial_id: str
    sweep: str | None = None


class StopDecision(RecordPart):
    """Hold the content of `stopped.json`: the driver stopped the trial early."""

    step: Count
    reason: str
    rule: str = ""
    decided_s: Timestamp | None = None


class Retry(RecordPart):
    """Hold the content of `retries/001.json`: the user asked for the trial to run again."""

    was: Status
    reason: str = ""
    after_attempt: int
    requested_s: Timestamp


class TrialHead(RecordPart):
    """Hold the content of `trial.json`, written before the trial starts."""

    stage: Stage
    family: str
    config: dict[str, Any]
    dataset: DatasetInfo
    origin: Origin | None = None
    trial_id: str | None = None
    """Whose record it is: a copied folder states the trial that it is a copy of. Older records have none."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Describe one execution of a trial on one machine."""

    number: int
    start: AttemptStart
    end: AttemptEnd | None
    """None while it runs, or if its process was lost."""
    rows: Sequence[Row] | None = field(default=None, compare=False)
    """Everything that it has recorded itself, including what the next attempt did again; read on first use. None for
    the only attempt of a trial that has ended and inherited nothing: its rows are the trial's."""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """Hold the whole record of a trial."""

    trial_id: str
    sweep: str
    stage: Stage
    """Only confirm and study results reach the leaderboard."""
    family: str
    """The configuration without its seed, by name: `T=2 n=4`, `best`, `direct`, `hrm` ..."""
    config: TrialConfig
    dataset: DatasetInfo
    status: Status
    step: int
    rows: Sequence[Row] = field(default_factory=list)
    """Read from the storage when they are first used."""
    attempts: list[Attempt] = field(default_factory=list)
    stopped: StopDecision | None = None
    """The driver's decision, unless it was withdrawn."""
    result: TrialResult | None = None
    origin: Origin | None = None
    retries: list[Retry] = field(default_factory=list)
    is_superseded: bool = False
    """Whether a longer trial has replaced it; set by `records.state`, which knows the definition of the sweep."""

    @property
    def is_exempt(self) -> bool:
        """Return whether no rule stops the trial any more: it was stopped, and the user resumed it."""
        return any(retry.was is Status.STOPPED for retry in self.retries)

    @property
    def reason(self) -> str:
        """Return why the trial was stopped, or how its last attempt ended; may be empty."""
        if self.status is Status.STOPPED and self.stopped:
            return self.stopped.reason
        end = self.attempts[-1].end if self.attempts else None
        return end.reason if end else ""

    @property
    def last_config(self) -> TrialConfig:
        """Return the configuration with the number of threads of the last attempt, which affects the last bits."""
        threads = self.attempts[-1].start.num_threads if self.attempts else None
        return replace_settings(self.config, {"runtime.num_threads": threads})

    def curve(self, metric: str, split: str = "validation") -> list[tuple[int, float]]:
        """Return (step, value) of one metric."""
        columns = getattr(self.rows, "curve", None)
        if columns is not None:
            return list(columns(metric, split))
        return [(row.step, row.metrics[metric]) for row in self.rows if row.split == split and metric in row.metrics]
