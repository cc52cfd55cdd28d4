"""A sweep while it runs: a table that redraws itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time

from rich.console import Group, RenderableType
from rich.live import Live as RichLive
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.views.console import BuildBar, clock, duration, err, out
from orchestrator.execution.options import Callback, SweepOutcome, SweepSnapshot, SweepStatus, TrialSnapshot
from orchestrator.records.progress import SweepProgress
from orchestrator.records.schema import Status
from orchestrator.storage import Storage
from orchestrator.storage.address import shown_address
from orchestrator.sweep.definition import Sweep

PLAIN_EVERY_S = 15.0
STYLES = {
    Status.FINISHED: "green",
    Status.STOPPED: "yellow",
    Status.FAILED: "red",
    Status.DIVERGED: "red",
    Status.OUT_OF_MEMORY: "red",
    Status.INTERRUPTED: "yellow",
}
EXPLAINED = {Status.STOPPED, Status.FAILED, Status.DIVERGED, Status.OUT_OF_MEMORY}


class Live(Callback):
    """Shows a running sweep."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._started_s = time.monotonic()
        self._plain_s = 0.0
        self._stack = contextlib.ExitStack()
        self._build: BuildBar | None = None
        self._live: RichLive | None = None

    def __enter__(self) -> Live:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def on_build(self, stage: str, done: int, total: int) -> None:
        if self._build is None:
            self._build = self._stack.enter_context(BuildBar())
        self._build(stage, done, total)

    def on_sweep_start(self, snapshot: SweepSnapshot) -> None:
        self._stack.close()  # the build is over
        total, slots = snapshot.progress.planned, snapshot.slots
        at_once = f"up to {min(slots, total)} at once" if slots > 1 else "one at a time"
        err.print(f"sweep [bold]{self._sweep.name}[/]: {total} trials, {at_once}. Ctrl-C stops cleanly.")
        if err.is_terminal:
            self._live = self._stack.enter_context(RichLive(console=err, refresh_per_second=4, transient=True))

    def on_progress(self, snapshot: SweepSnapshot) -> None:
        if self._live is not None:
            self._live.update(self._table(snapshot))
        elif time.monotonic() - self._plain_s > PLAIN_EVERY_S:
            self._plain_s = time.monotonic()
            for trial in snapshot.running:
                err.print(f"{clock()}        {_words(trial)}", markup=False)

    def on_trial_end(self, trial: TrialSnapshot, progress: SweepProgress) -> None:
        style = STYLES.get(trial.status, "default")
        reason = f" ({trial.reason})" if trial.reason and trial.status in EXPLAINED else ""
        text = escape(f"{_words(trial)}{reason}")
        err.print(f"{clock()} {progress.done:3}/{progress.planned} [{style}]{trial.status:<11}[/] {text}")

    def on_message(self, text: str) -> None:
        err.print(f"{clock()} {text}", markup=False)

    def _table(self, snapshot: SweepSnapshot) -> RenderableType:
        table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
        for name, justify in (("stage", "left"), ("trial", "left"), ("step", "right"), ("", "left")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        table.add_column(self._sweep.metric.replace("_", " "), justify="right")
        for trial in snapshot.running:
            shown = "-" if trial.value is None else f"{100 * trial.value:.1f} %"
            name = escape(f"{trial.family}  seed {trial.seed}")
            bar = ProgressBar(trial.max_steps, trial.step, width=20)
            table.add_row(trial.stage, name, f"{trial.step}/{trial.max_steps}", bar, shown)
        spent = duration(time.monotonic() - self._started_s)
        return Group(table, Text(f"{snapshot.progress}, {spent}", style="dim"))


def _words(trial: TrialSnapshot) -> str:
    value = "" if trial.value is None else f"  {100 * trial.value:5.1f} % exact"
    return f"{trial.stage:<7} {trial.family}  seed {trial.seed}  step {trial.step}/{trial.max_steps}{value}"


def closing_words(sweep: Sweep, storage: Storage, ran: SweepOutcome, tracking: str | None) -> None:
    """Print what came out, and what to do next."""
    snapshot, progress = ran.snapshot, ran.snapshot.progress
    shown = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in snapshot.counts.items())
    where = "" if storage.url.rstrip("/").endswith("/runs") else f" --storage {storage.url}"
    resume, retry = f"trm sweep resume {sweep.name}{where}", f"trm sweep retry {sweep.name}{where}"
    if ran.status is not SweepStatus.COMPLETE:
        reason = f" ({ran.reason})" if ran.reason else ""
        left = f"{progress.left} of {progress.planned} trials are left"
        out.print(f"\n{ran.status}{reason}: {shown or 'no trial'}; {left}.", markup=False, soft_wrap=True)
        if ran.status is SweepStatus.FAILING:
            out.print(f"Fix it, then: {retry} && {resume}; --max-failures 0 never stops", markup=False, soft_wrap=True)
        elif ran.status is SweepStatus.OUT_OF_BUDGET:
            out.print(f"Continue with a larger limit: {resume} --max-...", markup=False, soft_wrap=True)
        else:
            out.print(f"Continue with: {resume}", markup=False, soft_wrap=True)
        return
    failed = f", but {progress.failed} failed: {retry}" if progress.failed else ""
    out.print(f"\nsweep {sweep.name} is complete{failed}: {shown}.", markup=False, soft_wrap=True)
    if snapshot.is_exhausted:
        explored = sum(trial.stage == "explore" for trial in snapshot.trials)
        out.print(f"the space holds only {explored} configurations")
    if ran.best is not None and ran.best.value is not None:
        metric = sweep.metric.replace("_", " ")
        out.print(
            f"best explored: {ran.best.family} ({100 * ran.best.value:.1f} % {metric} on validation)", markup=False
        )
    if tracking:
        out.print(f"MLflow: mlflow ui --backend-store-uri {shown_address(tracking)}", markup=False)
    out.print(f"Compare: [bold]trm leaderboard{where}[/]")
