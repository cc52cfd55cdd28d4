"""Show a sweep while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from orchestrator.cli.views.console import PLAIN_EVERY_S, BuildBar, clock, err, line, out, table
from orchestrator.errors import command_line
from orchestrator.execution.options import Callback, SweepOutcome, SweepSnapshot, SweepStatus, TrialSnapshot
from orchestrator.records.index import last_address
from orchestrator.records.progress import SweepProgress, format_counts
from orchestrator.records.schema import Status
from orchestrator.storage import LocalStorage, Storage
from orchestrator.sweep.commands import repair_advice, resume_command
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.text import about, device_time, duration, plural
from trm_data.addresses import shown_address

STYLES = {
    Status.FINISHED: "green",
    Status.STOPPED: "yellow",
    Status.FAILED: "red",
    Status.DIVERGED: "red",
    Status.OUT_OF_MEMORY: "red",
    Status.INTERRUPTED: "yellow",
}
LEAST_DONE = 0.25
"""Share of a trial that must be done before the time that is left is predicted."""
STATUS_WIDTH = max(len(status.words) for status in Status if status.is_final)
EXPLAINED = {status for status in Status if status.is_final and status is not Status.FINISHED}


class LiveView(Callback):
    """Show the running trials of a sweep, and print a line for each trial that ends."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._plain_s = 0.0
        self._stack = contextlib.ExitStack()
        self._build: BuildBar | None = None
        self._live: Live | None = None
        self._first: tuple[float, float] | None = None
        """When the first trials were shown, in seconds, and how many trials were done then, parts included."""

    def close(self) -> None:
        """Remove the live table."""
        self._stack.close()
        self._live = None

    def on_build(self, stage: str, done: int, total: int) -> None:
        """Show the progress of a dataset build."""
        if self._build is None:
            self._build = self._stack.enter_context(BuildBar())
        self._build(stage, done, total)

    def on_sweep_start(self, snapshot: SweepSnapshot) -> None:
        """Print how many trials there are, and open the live table."""
        self._stack.close()  # the bars of the build
        total, slots = snapshot.progress.planned, snapshot.slots
        most = min(slots, total)
        at_once = f", up to {most} at once" if most > 1 else ", one at a time" if total > 1 else ""
        trials = f"{plural(total, 'trial')}{at_once}"
        err.print(line("sweep ", (snapshot.name, "bold"), f": {trials}. Ctrl-C stops cleanly."))
        if err.is_terminal:
            begins = Text("starting Ray", style="dim")
            self._live = self._stack.enter_context(Live(begins, console=err, refresh_per_second=4, transient=True))

    def on_progress(self, snapshot: SweepSnapshot) -> None:
        """Redraw the table; without a terminal, print the running trials every 15 seconds."""
        if self._live is not None:
            self._live.update(self.table(snapshot))
        elif time.monotonic() - self._plain_s > PLAIN_EVERY_S:
            self._plain_s = time.monotonic()
            for trial in snapshot.running:
                err.print(f"{clock()}        {_described(trial)}")

    def on_trial_end(self, trial: TrialSnapshot, progress: SweepProgress) -> None:
        """Print one line: how the trial ended, and why."""
        status = (f"{trial.status.words:<{STATUS_WIDTH}}", STYLES.get(trial.status, "default"))
        reason = f" ({' '.join(trial.reason.split())})" if trial.reason and trial.status in EXPLAINED else ""
        count = f"{progress.done:3}/{progress.planned}"
        err.print(line(f"{clock()} {count} ", status, f" {_described(trial)}{reason}"))

    def on_message(self, text: str) -> None:
        """Print one line."""
        err.print(f"{clock()} {text}")

    def table(self, snapshot: SweepSnapshot) -> RenderableType:
        """Return the running trials, and below them what is done, the time left, the best so far and the cost."""
        metric = snapshot.metric.replace("_", " ")
        rows = table("stage", "trial", "step", "", metric, right=("step", metric), drop=("", "stage", "step"))
        for trial in snapshot.running:
            shown = "-" if trial.value is None else f"{100 * trial.value:.1f} %"
            name = f"{trial.family}  seed {trial.seed}"
            bar = ProgressBar(trial.max_steps, trial.step, width=20)
            rows.add_row(trial.stage, name, f"{trial.step}/{trial.max_steps}", bar, shown)
        summary = Text(self._summary(snapshot), style="dim")
        return Group(rows, summary) if snapshot.running else summary

    def _summary(self, snapshot: SweepSnapshot) -> str:
        """Return what is done, the time it took and what is left of it, the best so far, and what it has cost."""
        now_s = time.monotonic()
        parts = [str(snapshot.progress), duration(now_s - self._started_s)]
        done = sum(_share_done(trial) for trial in snapshot.trials)
        if self._first is None:
            self._first = (now_s, done)
        since_s, before = self._first
        if done - before >= LEAST_DONE and snapshot.progress.left:
            left = about((now_s - since_s) * (snapshot.progress.planned - done) / (done - before))
            parts.append(f"{left} left" if left.startswith("less") else f"about {left} left")
        # Before a trial ends its scores are of other puzzles, and those of confirmed ones are of the test split.
        ended = [one for one in snapshot.trials if one.status is Status.FINISHED and one.stage != "confirm"]
        if best := max((one for one in ended if one.value is not None), key=lambda one: one.value or 0.0, default=None):
            parts.append(f"best so far {100 * (best.value or 0.0):.1f} % ({best.family})")
        if snapshot.gpu_hours:
            price = "price unknown" if snapshot.usd is None else f"${snapshot.usd:,.2f}"
            parts.append(f"{device_time(snapshot.gpu_hours, 'GPU')} ({price}) by trials that have ended")
        if not snapshot.running and snapshot.progress.left:
            parts.append("starting trials")
        return ", ".join(parts)


def _share_done(trial: TrialSnapshot) -> float:
    return 1.0 if trial.status.is_final else trial.step / max(trial.max_steps, 1)


def _described(trial: TrialSnapshot) -> str:
    value = "" if trial.value is None else f"  {100 * trial.value:5.1f} % exact"
    return f"{trial.stage:<7} {trial.family}  seed {trial.seed}  step {trial.step}/{trial.max_steps}{value}"


def outcome_summary(outcome: SweepOutcome) -> dict[str, Any]:
    """Return the outcome as plain data, for a script; `trm sweep status --json` has the trials."""
    progress, best = outcome.snapshot.progress, outcome.best
    return {
        "name": outcome.snapshot.name,
        "status": str(outcome.status),
        "reason": outcome.reason,
        "exit_code": int(outcome.exit_code),
        "counts": {str(status): count for status, count in outcome.snapshot.counts.items()},
        "planned": progress.planned,
        "done": progress.done,
        "failed": progress.failed,
        "left": progress.left,
        "best": best and {"trial_id": best.trial_id, "family": best.family, outcome.snapshot.metric: best.value},
        "best_params": dict(outcome.best_params),
    }


def show_outcome(sweep: Sweep, storage: Storage, outcome: SweepOutcome, tracking: str | None) -> None:
    """Print the results, and the command to run next."""
    for text in _outcome_lines(sweep, storage, outcome, tracking):
        out.print(text, soft_wrap=True)


def _outcome_lines(sweep: Sweep, storage: Storage, outcome: SweepOutcome, tracking: str | None) -> Iterator[str]:
    snapshot, progress = outcome.snapshot, outcome.snapshot.progress
    counts = format_counts(snapshot.counts) or "no trial"
    address = last_address(storage, sweep.name)
    resume = resume_command(sweep, storage.url, address)
    retry = command_line("sweep", "retry", sweep.name, storage=storage.url)
    if outcome.status is not SweepStatus.COMPLETE:
        reason = f" ({outcome.reason})" if outcome.reason else ""
        left = f"{progress.left} of {plural(progress.planned, 'trial')} remaining"
        yield f"\n{outcome.status}{reason}: {counts}; {left}."
        if outcome.status is SweepStatus.FAILING:
            yield repair_advice(sweep, storage.url, address)
            yield "--max-failures 0 never stops for failures"
        elif outcome.status is SweepStatus.OUT_OF_BUDGET:
            yield f"Resume without a limit: {resume}"
            yield "--max-trials, --max-gpu-hours, --max-usd and --max-hours set another one"
        else:
            yield f"Resume with: {resume}"
        if progress.failed and outcome.status is not SweepStatus.FAILING:
            yield f"Try the failed trials again: {retry} && {resume}"
        return
    failed = f", but {progress.failed} failed" if progress.failed else ""
    yield f"\nsweep {sweep.name} is complete{failed}: {counts}."
    if failed:
        yield f"Try the failed trials again: {retry} && {resume}"
    if snapshot.is_exhausted:
        yield f"the space holds only {sum(trial.stage == 'explore' for trial in snapshot.trials)} configurations"
    if outcome.best is not None and outcome.best.value is not None:
        metric = sweep.metric.replace("_", " ")
        yield f"best explored: {outcome.best.family} ({100 * outcome.best.value:.1f} % {metric} on validation)"
    if tracking:
        is_local = tracking.startswith("sqlite:") and isinstance(storage, LocalStorage)
        yield f"MLflow: {command_line('ui', storage=storage.url) if is_local else shown_address(tracking)}"
    elif not isinstance(storage, LocalStorage):
        yield f"MLflow, a copy: {command_line('ui', storage=storage.url)}"
    yield f"Compare: {command_line('leaderboard', storage=storage.url)}"
