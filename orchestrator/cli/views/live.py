"""Show a sweep while it runs: a table that redraws itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from orchestrator.api.callbacks import Callback
from orchestrator.cli.views.console import BuildBar, clock, duration, err, line, out, table
from orchestrator.errors import command_line
from orchestrator.execution.options import SweepStatus
from orchestrator.execution.run import SweepOutcome
from orchestrator.records.failures import ExitCode
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.search.planner import Planner, TrialState
from orchestrator.storage import LocalStorage, Storage
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


class LiveView(Callback):
    """Show the running trials of a sweep, and a line for each that ends."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._plain_s = 0.0
        self._stack = contextlib.ExitStack()
        self._build: BuildBar | None = None
        self._live: Live | None = None

    def close(self) -> None:
        """Remove the live table."""
        self._stack.close()
        self._live = None

    def building(self, stage: str, done: int, total: int) -> None:
        """Show how far a dataset is built."""
        if self._build is None:
            self._build = self._stack.enter_context(BuildBar())
        self._build(stage, done, total)

    def started(self, planner: Planner, slots: int) -> None:
        """Say how many trials there are, and open the live table."""
        self._stack.close()  # the bars of the build
        at_once = f"up to {min(slots, planner.total)} at once" if slots > 1 else "one at a time"
        name = (planner.sweep.name, "bold")
        err.print(line("sweep ", name, f": {planner.total} trials, {at_once}. Ctrl-C stops cleanly."))
        if err.is_terminal:
            self._live = self._stack.enter_context(Live(console=err, refresh_per_second=4, transient=True))

    def refresh(self, planner: Planner) -> None:
        """Redraw the table; without a terminal, print the running trials every quarter of a minute."""
        if self._live is not None:
            self._live.update(self._table(planner))
        elif time.monotonic() - self._plain_s > PLAIN_EVERY_S:
            self._plain_s = time.monotonic()
            for state in _running(planner):
                err.print(f"{clock()}        {_described(state)}")

    def trial_ended(self, planner: Planner, record: TrialRecord) -> None:
        """Print one line: how the trial ended, and why."""
        state = planner.trials[record.trial_id]
        done = sum(s.status.is_final for s in list(planner.trials.values()))
        status = (f"{state.status:<11}", STYLES.get(state.status, "default"))
        reason = f" ({' '.join(record.reason.split())})" if record.reason and record.status in EXPLAINED else ""
        err.print(line(f"{clock()} {done:3}/{planner.total} ", status, f" {_described(state)}{reason}"))

    def remark(self, text: str) -> None:
        """Print one line."""
        err.print(f"{clock()} {text}")

    def _table(self, planner: Planner) -> RenderableType:
        metric = planner.sweep.metric.replace("_", " ")
        rows = table("stage", "trial", "step", "", metric, right=("step", metric))
        for state in _running(planner):
            total = state.trial.config.train.max_steps
            shown = "-" if state.value is None else f"{100 * state.value:.1f} %"
            name = f"{state.trial.family}  seed {state.trial.config.seed}"
            progress = ProgressBar(total, state.step, width=20)
            rows.add_row(state.trial.stage, name, f"{state.step}/{total}", progress, shown)
        done = sum(s.status.is_final for s in list(planner.trials.values()))
        spent = time.monotonic() - self._started_s
        return Group(rows, Text(f"{done} of {planner.total} trials done, {duration(spent)}", style="dim"))


def _running(planner: Planner) -> list[TrialState]:
    return [state for state in list(planner.trials.values()) if state.status is Status.RUNNING]


def _described(state: TrialState) -> str:
    config = state.trial.config
    value = "" if state.value is None else f"  {100 * state.value:5.1f} % exact"
    steps = f"step {state.step}/{config.train.max_steps}"
    return f"{state.trial.stage:<7} {state.trial.family}  seed {config.seed}  {steps}{value}"


def show_outcome(sweep: Sweep, storage: Storage, outcome: SweepOutcome, tracking: str | None) -> None:
    """Print what came out, and the command that comes next."""
    planner = outcome.planner
    states = list(planner.trials.values())
    counts = {status: sum(state.status is status for state in states) for status in Status}
    shown = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items() if count)
    resume = (command_line("sweep", "resume", sweep.name, storage=storage.url), "bold")
    if outcome.ending is SweepStatus.OUT_OF_BUDGET:
        left = planner.total - sum(state.status.is_final for state in states)
        out.print(f"\nout of budget: {outcome.why}.\n{shown}; {left} of {planner.total} trials are left.")
        out.print(line("Resume with a larger limit: ", resume, " --max-..."), soft_wrap=True)
        return
    if outcome.ending is not SweepStatus.COMPLETE:
        out.print(line(f"\nstopped: {shown}. Resume with: ", resume), soft_wrap=True)
        return
    out.print(line("\nsweep ", (sweep.name, "bold"), f" is complete: {shown}."))
    if planner.exhausted:
        out.print(f"the space holds only {len([s for s in states if s.trial.stage == 'explore'])} configurations")
    for record in planner.best(1):
        assert record.result is not None
        value = record.result.metrics[sweep.metric]
        out.print(
            f"best explored: {record.family} ({100 * value:.1f} % {sweep.metric.replace('_', ' ')} on validation)"
        )
    if tracking:
        local = tracking.startswith("sqlite:") and isinstance(storage, LocalStorage)
        where = command_line("ui", storage=storage.url) if local else shown_address(tracking)
        out.print(f"MLflow: {where}", soft_wrap=True)
    out.print(line("Compare: ", (command_line("leaderboard", storage=storage.url), "bold")), soft_wrap=True)


def exit_code(outcome: SweepOutcome) -> int:
    """Return the exit code of a run."""
    return ExitCode.COMPLETE if outcome.ending is SweepStatus.COMPLETE else ExitCode.STOPPED
