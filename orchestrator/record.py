"""The folder of a trial: the truth from which every view (MLflow, the Optuna study, reports) can be rebuilt.

    <storage>/sweeps/<sweep>/
        sweep.json                     the definition, as data
        plan.jsonl                     one line per planned trial (study) or per fixed trial (search)
        lock.json                      the driver that owns the sweep, with a heartbeat
        trials/<trial id>/
            trial.json                 configuration, identity, stage: written before the trial starts
            attempts/001/start.json    machine, versions, step at which it took over
            attempts/001/rows-000001.jsonl ...   immutable numbered segments (S3 cannot append)
            attempts/001/end.json      how the attempt ended
            checkpoints/step-00000123.safetensors
            stopped.json               the driver's decision to stop it early: step, rule, reason
            result.json                the final score; exists only for a finished trial

Invariant: an attempt counts up to the step at which the next one took over, so no row is counted twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from trm_model.config import TrialConfig


class Status(StrEnum):
    """State of a trial, computed from its record and never stored."""

    PENDING = "pending"  # trial.json only
    RUNNING = "running"  # the last attempt has no end
    INTERRUPTED = "interrupted"  # the last attempt ended by a signal; goes on from its checkpoint
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
    """Metrics at one step. `time_s` is seconds since the epoch; `split` is train or validation."""

    step: int
    time_s: float
    split: str
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a trial on one machine."""

    number: int
    start: dict[str, Any]
    """host, node_id, device, gpu_type, gpu_count, pid, started_s, from_step, num_threads, versions{}, git{commit, dirty}"""
    end: dict[str, Any] | None
    """status, step, ended_s, train_s (seconds of training, evaluation apart), reason; None while it runs or if it was lost"""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A trial as its record tells it."""

    trial_id: str
    sweep: str
    stage: str
    """explore | confirm | study. Only confirm and study results reach the leaderboard."""
    family: str
    """The configuration without its seed, by name: `T=2 n=4`, `best`, `direct`, `hrm` ..."""
    config: TrialConfig
    dataset: dict[str, Any]
    """benchmark, fingerprint, generated (bool), counts {split: puzzles}, source"""
    status: Status
    step: int
    rows: list[Row] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    result: dict[str, Any] | None = None
    """split, items, metrics{exact_accuracy, cell_accuracy, ...}, supervision_steps, weights, num_parameters,
    puzzles_presented, train_flops, train_s, ended_s, per_item: [0/1 exact per puzzle in order] as a packed hex string"""

    def curve(self, metric: str, split: str = "validation") -> list[tuple[int, float]]:
        """(step, value) of one metric."""
        return [(row.step, row.metrics[metric]) for row in self.rows if row.split == split and metric in row.metrics]


def dump_rows(rows: list[Row]) -> bytes:
    """One segment: a JSON line per row."""
    lines = [{"step": r.step, "time_s": r.time_s, "split": r.split, "metrics": r.metrics} for r in rows]
    return "".join(json.dumps(line, allow_nan=True) + "\n" for line in lines).encode()
