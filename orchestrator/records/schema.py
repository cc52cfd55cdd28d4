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

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from trm_model.config import TrialConfig

if TYPE_CHECKING:
    pass


SYSTEM_SPLIT = "system"
"""Split of the rows that hold samples of the machine."""
GPU_ENERGY = "gpu_energy_joules"
"""Metric of those rows: energy of the trial's GPUs since its attempt began, in joules."""


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
