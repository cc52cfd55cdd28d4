"""Define the options of a run, the snapshots that it shows while it runs, and its outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypedDict

from pydantic import Field

from orchestrator.records.failures import ExitCode
from orchestrator.records.progress import SweepProgress
from orchestrator.records.schema import Status
from orchestrator.resources.placement import Preference
from orchestrator.sweep.budget import Budget
from orchestrator.sweep.domains import Setting
from orchestrator.sweep.text import aligned, percent
from orchestrator.worker.job import TrialReport
from trm_data.settings import Settings
from trm_model.config import TrialConfig

MAX_FAILURES = 5
"""Trials in a row that fail with one reason, after which a sweep stops. A faulty setting, a missing file or a broken
machine fails every trial alike, while independent faults seldom repeat five times."""


class SweepStatus(StrEnum):
    """List the ways in which a run can end."""

    COMPLETE = "complete"
    """Every planned trial has ended, including failed ones."""
    STOPPED = "stopped"
    """Stopped by the user, or because the storage was full or unavailable for too long."""
    OUT_OF_BUDGET = "out of budget"
    FAILING = "failing"
    """Stopped because trials failed one after the other with the same reason."""
    ABANDONED = "abandoned"
    """Stopped, but Ray no longer answers: the process must end without waiting for it."""


class RunOptions(Settings):
    """Configure where and how to run. Nothing here changes a result."""

    address: str | None = None
    """HOST:PORT of a running Ray cluster; None starts a private Ray on this machine."""
    max_concurrent: int | None = Field(None, ge=1)
    """Trials at once; None means as many as fit."""
    max_gpus: float | None = Field(None, gt=0, allow_inf_nan=False)
    """GPUs in use at once; None means all."""
    budget: Budget = Budget()
    prefer: Preference = "cost"
    """Which GPU type to prefer if several are allowed."""
    share_gpus: bool | None = None
    """Whether a trial that takes one GPU gets only the share that its predicted memory needs; None: where the sweep
    leaves the choice of GPUs open."""
    canary: bool | None = None
    """Whether the first trial on a GPU type runs alone at first; None: on clusters with GPUs."""
    reuse: bool = False
    """Reuse finished trials of other sweeps in this storage."""
    replay: str | None = None
    """A search whose order of results and early stops is repeated: a name in the storage, or FOLDER/sweeps/NAME."""
    max_failures: int | None = Field(MAX_FAILURES, ge=1)
    """Number of consecutive failures with the same reason that stop the sweep; None never stops it."""
    retries: int = Field(0, ge=0)
    """Times that a trial which failed by itself runs again, from its last checkpoint."""


class RunArguments(TypedDict, total=False):
    """Name the fields of `RunOptions` as keyword arguments, for editors and type checkers."""

    address: str | None
    max_concurrent: int | None
    max_gpus: float | None
    budget: Budget
    prefer: Preference
    share_gpus: bool | None
    canary: bool | None
    reuse: bool
    replay: str | None
    max_failures: int | None
    retries: int


@dataclass(frozen=True, slots=True)
class TrialSnapshot:
    """Hold the state of a trial at one moment. Immutable, so displays may keep it."""

    trial_id: str
    stage: str
    family: str
    seed: int
    status: Status
    step: int
    max_steps: int
    value: float | None
    """Newest value of the sweep's metric."""
    reason: str = ""
    """Why it ended; may be empty."""


@dataclass(frozen=True, slots=True)
class SweepSnapshot:
    """Hold the state of a sweep at one moment. Immutable, so displays may keep it and read it from any thread."""

    name: str
    metric: str
    progress: SweepProgress
    trials: Sequence[TrialSnapshot]
    """Trials that were started or recorded, in the order of their first start."""
    slots: int = 1
    """Trials that may run at the same time."""
    is_exhausted: bool = False
    """Whether a search's space held fewer configurations than requested."""
    gpu_hours: float = 0.0
    """GPU-hours of the trials that have ended, lost attempts included."""
    usd: float | None = 0.0
    """What these cost; None where the catalogue has no price for one of the GPUs."""

    @property
    def running(self) -> list[TrialSnapshot]:
        """Return the trials that run now."""
        return [trial for trial in self.trials if trial.status is Status.RUNNING]

    @property
    def counts(self) -> dict[Status, int]:
        """Return the number of trials by status, without zeros."""
        found = dict.fromkeys(Status, 0)
        for trial in self.trials:
            found[trial.status] += 1
        return {status: count for status, count in found.items() if count}


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """Hold how a run ended, and its results."""

    status: SweepStatus
    snapshot: SweepSnapshot
    reason: str = ""
    """What stopped it: a limit of the budget, an error, a repeated failure; empty if the user stopped it."""
    best: TrialSnapshot | None = None
    """The best explored trial of a search; `value` is its score on the validation split."""
    best_config: TrialConfig | None = None
    """Its configuration."""
    best_params: Mapping[str, Setting] = field(default_factory=dict)
    """Its values on the axes of the space, by path: `{"model.cycles": 2}`."""

    @property
    def best_value(self) -> float | None:
        """Return the score of the best explored trial of a search on the validation split."""
        return None if self.best is None else self.best.value

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        header = ("stage", "configuration", "seed", "status", "step", self.snapshot.metric.replace("_", " "))
        best_first = sorted(self.snapshot.trials, key=lambda trial: (trial.stage, -(trial.value or 0.0)))
        rows = [
            (trial.stage, trial.family, str(trial.seed), trial.status.words, f"{trial.step}/{trial.max_steps}",
             percent(trial.value))
            for trial in best_first
        ]  # fmt: skip
        lines = [f"{self.snapshot.name}: {self.status}{reason}, {self.snapshot.progress}"]
        lines += aligned(header, rows, right=("seed", "step", header[-1])) if rows else []
        if self.best is not None:
            lines.append(f"best explored: {self.best.family} ({percent(self.best.value)} on validation)")
        return "\n".join(lines)

    @property
    def exit_code(self) -> int:
        """Return the exit code of a command that ran the sweep."""
        if self.status is SweepStatus.COMPLETE:
            return ExitCode.FAILED if self.snapshot.progress.failed else ExitCode.COMPLETE
        return ExitCode.FAILED if self.status is SweepStatus.FAILING else ExitCode.STOPPED


class Callback:
    """Receive the events of `run` and `train`. Override the methods that matter; each does nothing here.

    Every method is called from the thread that called `run`, one at a time, and never holds up a trial. What a
    method raises is logged once and never stops the run.
    """

    def on_build(self, stage: str, done: int, total: int) -> None:
        """Handle progress of a dataset that is built before the first trial."""

    def on_sweep_start(self, snapshot: SweepSnapshot) -> None:
        """Handle the start of the sweep: Ray runs, and trials are about to start."""

    def on_trial_start(self, trial: TrialSnapshot) -> None:
        """Handle a trial that was submitted; it may still wait for its resources."""

    def on_trial_report(self, trial: TrialSnapshot) -> None:
        """Handle an evaluation of a running trial."""

    def on_trial_end(self, trial: TrialSnapshot, progress: SweepProgress) -> None:
        """Handle the end of a trial, or its interruption."""

    def on_progress(self, snapshot: SweepSnapshot) -> None:
        """Handle a periodic update: called a few times per second."""

    def on_message(self, text: str) -> None:
        """Handle one line of text for the user."""

    def on_sweep_end(self, outcome: SweepOutcome) -> None:
        """Handle the end of the run. Not called where `run` raises."""

    def on_train_report(self, report: TrialReport, max_steps: int) -> None:
        """Handle a report of `train`: means of training, an evaluation, or the end."""

    def close(self) -> None:
        """Release the resources of the callback. Called once when the run is over, even if it failed."""
