"""The folder of a trial: the truth from which every view (MLflow, the Optuna study, reports) can be rebuilt.

    <storage>/sweeps/<sweep>/
        sweep.json                     the definition, as data
        history/001.json               the definition before the first extension
        plan.jsonl                     one line per planned trial (study) or per fixed trial (search)
        lock.json                      the driver that owns the sweep, with a heartbeat
        trials/<trial id>/
            trial.json                 configuration, identity, stage: written before the trial starts
            recursion.py               source of the file that model.recursion names, if it names one
            attempts/001/start.json    machine, versions, step at which it took over
            attempts/001/rows-000001.jsonl ...   immutable numbered segments (S3 cannot append)
            attempts/001/end.json      how the attempt ended
            checkpoints/step-00000123.safetensors
            stopped.json               the driver's decision to stop it early: step, rule, reason
            outcomes.arrow             of the final score: what happened to every item
            gallery.json               a few of them, with the answer after every supervision step
            result.json                the final score; exists only for a finished trial

Invariant: an attempt counts up to the step at which the next one took over, so no row is counted twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from trm_model.config import TrialConfig

if TYPE_CHECKING:
    from orchestrator.storage import Storage


class Status(StrEnum):
    """State of a trial, computed from its record and never stored."""

    PENDING = "pending"  # trial.json only
    RUNNING = "running"  # the last attempt has no end
    INTERRUPTED = "interrupted"  # ended by a signal, or given another chance; goes on from its checkpoint
    STOPPED = "stopped"  # stopped early by a rule; can be continued
    FINISHED = "finished"  # result.json
    FAILED = "failed"  # its own error: not tried again by itself
    DIVERGED = "diverged"  # non-finite loss
    OUT_OF_MEMORY = "out_of_memory"

    @property
    def is_final(self) -> bool:
        """Whether the trial needs nothing more."""
        return self in _FINAL


_FINAL = {Status.STOPPED, Status.FINISHED, Status.FAILED, Status.DIVERGED, Status.OUT_OF_MEMORY}


@dataclass(frozen=True, slots=True)
class Row:
    """Metrics at one step. `time_s` is seconds since the epoch; `split` is train, validation or system."""

    step: int
    time_s: float
    split: str
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a trial on one machine."""

    number: int
    start: dict[str, Any]
    """host, node_id, device, gpu_type, gpu_count, pid, started_s, from_step, num_threads, versions, git{commit, dirty}
    """
    end: dict[str, Any] | None
    """status, step, ended_s, train_s (training alone, evaluation apart), reason; None while it runs or if lost"""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A trial as its record tells it."""

    trial_id: str
    sweep: str
    stage: Literal["explore", "confirm", "study"]
    """Only confirm and study results reach the leaderboard."""
    family: str
    """The configuration without its seed, by name: `T=2 n=4`, `best`, `direct`, `hrm` ..."""
    config: TrialConfig
    dataset: dict[str, Any]
    """benchmark, fingerprint, generated (bool), counts {split: puzzles}, source"""
    status: Status
    step: int
    rows: list[Row] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    stopped: dict[str, Any] | None = None
    """step, rule, reason: the driver's decision, unless it was taken back"""
    result: dict[str, Any] | None = None
    """split, items, metrics{exact_accuracy, cell_accuracy, ...}, supervision_steps, weights, num_parameters,
    puzzles_presented, train_flops, train_s, ended_s, per_item: exact (0/1) per item in order as packed hex; ARC:
    per_task: share of each task's test inputs answered, for pass@1 and pass@2"""
    origin: dict[str, Any] | None = None
    """Where its first steps come from: kind `continued` (a shorter trial of this sweep) or `reused` (the same trial of
    another sweep), trial_id, sweep"""
    retries: list[dict[str, Any]] = field(default_factory=list)
    """was, reason, after_attempt, requested_s: each another chance that the user gave it"""

    @property
    def is_exempt(self) -> bool:
        """Whether no rule stops it any more: it was stopped, and the user had it go on."""
        return any(retry["was"] == Status.STOPPED for retry in self.retries)

    @property
    def reason(self) -> str:
        """Why it was stopped, or how its last attempt ended; empty where there is nothing to say."""
        if self.status is Status.STOPPED and self.stopped:
            return str(self.stopped["reason"])
        end = self.attempts[-1].end if self.attempts else None
        return str(end["reason"]) if end else ""

    def curve(self, metric: str, split: str = "validation") -> list[tuple[int, float]]:
        """(step, value) of one metric."""
        return [(row.step, row.metrics[metric]) for row in self.rows if row.split == split and metric in row.metrics]


def dump_rows(rows: list[Row]) -> bytes:
    """One segment: a JSON line per row."""
    lines = [{"step": r.step, "time_s": r.time_s, "split": r.split, "metrics": r.metrics} for r in rows]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def dump(value: dict[str, Any]) -> bytes:
    """A small JSON file, readable by people."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def read_trial(storage: Storage, sweep: str, trial_id: str) -> TrialRecord:
    """One trial from its folder. Raises KeyError if there is none."""
    return read_trials(storage, sweep, only=trial_id)[0]


def read_trials(storage: Storage, sweep: str, only: str | None = None) -> list[TrialRecord]:
    """Every trial of a sweep, in the order of their ids: one listing, then one read per small file."""
    root = f"sweeps/{sweep}/trials"
    folders: dict[str, list[str]] = {}
    for key in storage.list(f"{root}/{only}" if only else root):
        trial_id, _, name = key.removeprefix(f"{root}/").partition("/")
        folders.setdefault(trial_id, []).append(name)
    if only and only not in folders:
        raise KeyError(only)
    return [
        _fold(sweep, trial_id, _Folder(storage.sub(f"{root}/{trial_id}"), frozenset(names)))
        for trial_id, names in sorted(folders.items())
        if "trial.json" in names
    ]


@dataclass(frozen=True, slots=True)
class _Folder:
    """A trial's files: the names are known from one listing, so that a missing file costs no request."""

    storage: Storage
    names: frozenset[str]

    def json(self, name: str) -> dict[str, Any] | None:
        if name not in self.names:
            return None
        value: dict[str, Any] = json.loads(self.storage.read(name))
        return value

    def attempts(self) -> list[Attempt]:
        numbers = sorted({int(name.split("/")[1]) for name in self.names if name.startswith("attempts/")})
        found = []
        for number in numbers:
            start = self.json(f"attempts/{number:03d}/start.json")
            if start is not None:
                found.append(Attempt(number, start, self.json(f"attempts/{number:03d}/end.json")))
        return found

    def retries(self) -> list[dict[str, Any]]:
        found = (self.json(name) for name in sorted(self.names) if name.startswith("retries/"))
        return [retry for retry in found if retry is not None]

    def rows(self, attempt: int) -> list[Row]:
        prefix = f"attempts/{attempt:03d}/rows-"
        lines = [
            json.loads(line)
            for name in sorted(self.names)
            if name.startswith(prefix)
            for line in self.storage.read(name).splitlines()
        ]
        return [Row(line["step"], line["time_s"], line["split"], line["metrics"]) for line in lines]


def _fold(sweep: str, trial_id: str, folder: _Folder) -> TrialRecord:
    head = folder.json("trial.json")
    assert head is not None, "read_trials only folds folders that hold a trial.json"
    attempts = folder.attempts()
    rows: list[Row] = []
    for index, attempt in enumerate(attempts):
        # What the next attempt did again counts once: its rows replace those after its first step.
        until = attempts[index + 1].start["from_step"] if index + 1 < len(attempts) else None
        rows += [row for row in folder.rows(attempt.number) if until is None or row.step <= until]
    result, stopped, retries = folder.json("result.json"), folder.json("stopped.json"), folder.retries()
    if any(retry["was"] == Status.STOPPED for retry in retries):
        stopped = None
    last_step = max([row.step for row in rows], default=attempts[-1].start["from_step"] if attempts else 0)
    return TrialRecord(
        trial_id=trial_id,
        sweep=sweep,
        stage=head["stage"],
        family=head["family"],
        config=TrialConfig.parse(head["config"], where=f"{folder.storage.url}/trial.json"),
        dataset=head["dataset"],
        status=_status(attempts, result, stopped, max((retry["after_attempt"] for retry in retries), default=0)),
        step=last_step,
        rows=rows,
        attempts=attempts,
        result=result,
        stopped=stopped,
        origin=head.get("origin"),
        retries=retries,
    )


def _status(
    attempts: list[Attempt], result: dict[str, Any] | None, stopped: dict[str, Any] | None, forgiven: int
) -> Status:
    """`forgiven`: the last attempt whose end does not count any more."""
    if result is not None:
        return Status.FINISHED
    if stopped is not None:
        return Status.STOPPED
    if not attempts:
        return Status.PENDING
    end = attempts[-1].end
    if end is None:
        return Status.RUNNING
    return Status.INTERRUPTED if attempts[-1].number <= forgiven else Status(end["status"])


class TrialWriter:
    """The write side of one attempt. Used by the process that trains, and by nobody else."""

    def __init__(self, storage: Storage, sweep: str, trial_id: str) -> None:
        self.folder = storage.sub(f"sweeps/{sweep}/trials/{trial_id}")
        self.checkpoints = self.folder.sub("checkpoints")
        taken = [int(key.split("/")[1]) for key in self.folder.list("attempts") if key.endswith("start.json")]
        self.attempt = max(taken, default=0) + 1
        self._pending: list[Row] = []
        self._segments = 0

    def start(self, start: dict[str, Any]) -> None:
        """Announce the attempt."""
        self.folder.write(f"attempts/{self.attempt:03d}/start.json", dump(start))

    def inherit(self, rows: list[Row]) -> None:
        """Take over the curve of the trial whose checkpoint this attempt will begin with: to be written before it."""
        self.folder.write(f"attempts/{self.attempt:03d}/rows-000000.jsonl", dump_rows(rows))

    def add(self, row: Row) -> None:
        """Keep a row for the next segment."""
        self._pending.append(row)

    def flush(self) -> None:
        """Write what is pending as one immutable segment."""
        if not self._pending:
            return
        self._segments += 1
        name = f"attempts/{self.attempt:03d}/rows-{self._segments:06d}.jsonl"
        self.folder.write(name, dump_rows(self._pending))
        self._pending.clear()

    def finish(self, result: dict[str, Any], files: dict[str, bytes]) -> None:
        """Write the final score, after the files that belong to it: from now on the trial is finished."""
        self.flush()
        for name, data in files.items():
            self.folder.write(name, data)
        self.folder.write("result.json", dump(result))

    def end(self, end: dict[str, Any]) -> None:
        """Say how the attempt ended."""
        self.flush()
        self.folder.write(f"attempts/{self.attempt:03d}/end.json", dump(end))
