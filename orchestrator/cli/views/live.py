"""A sweep while it runs: a table that redraws itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time

from rich.console import Group, RenderableType
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.views.console import BuildBar, clock, duration, err, out
from orchestrator.execution.options import Callback, SweepStatus
from orchestrator.execution.run import SweepOutcome
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.search.planner import Planner, TrialState
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

    def building(self, stage: str, done: int, total: int) -> None:
        if self._build is None:
            self._build = self._stack.enter_context(BuildBar())
        self._build(stage, done, total)

    def started(self, planner: Planner, slots: int) -> None:
        self._stack.close()  # the build is over
        at_once = f"up to {min(slots, planner.total)} at once" if slots > 1 else "one at a time"
        err.print(f"sweep [bold]{self._sweep.name}[/]: {planner.total} trials, {at_once}. Ctrl-C stops cleanly.")
        if err.is_terminal:
            self._live = self._stack.enter_context(RichLive(console=err, refresh_per_second=4, transient=True))

    def refresh(self, planner: Planner) -> None:
        if self._live is not None:
            self._live.update(self._table(planner))
        elif time.monotonic() - self._plain_s > PLAIN_EVERY_S:
            self._plain_s = time.monotonic()
            for state in _running(planner):
                err.print(f"{clock()}        {_words(state)}")

    def trial_ended(self, planner: Planner, record: TrialRecord) -> None:
        state = planner.trials[record.trial_id]
        done = sum(s.status.is_final for s in planner.trials.values())
        style = STYLES.get(state.status, "default")
        reason = f" ({record.reason})" if record.reason and record.status in EXPLAINED else ""
        err.print(f"{clock()} {done:3}/{planner.total} [{style}]{state.status:<11}[/] {_words(state)}{reason}")

    def remark(self, text: str) -> None:
        err.print(f"{clock()} {text}")

    def _table(self, planner: Planner) -> RenderableType:
        table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
        for name, justify in (("stage", "left"), ("trial", "left"), ("step", "right"), ("", "left")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        table.add_column(self._sweep.metric.replace("_", " "), justify="right")
        for state in _running(planner):
            total = state.trial.config.train.max_steps
            shown = "-" if state.value is None else f"{100 * state.value:.1f} %"
            name = f"{state.trial.family}  seed {state.trial.config.seed}"
            table.add_row(
                state.trial.stage, name, f"{state.step}/{total}", ProgressBar(total, state.step, width=20), shown
            )
        done = sum(s.status.is_final for s in planner.trials.values())
        spent = time.monotonic() - self._started_s
        return Group(table, Text(f"{done} of {planner.total} trials done, {duration(spent)}", style="dim"))


def _running(planner: Planner) -> list[TrialState]:
    return [state for state in list(planner.trials.values()) if state.status is Status.RUNNING]


def _words(state: TrialState) -> str:
    config = state.trial.config
    value = "" if state.value is None else f"  {100 * state.value:5.1f} % exact"
    steps = f"step {state.step}/{config.train.max_steps}"
    return f"{state.trial.stage:<7} {state.trial.family}  seed {config.seed}  {steps}{value}"


def closing_words(sweep: Sweep, storage: Storage, ran: SweepOutcome, tracking: str | None) -> None:
    """What came out, and what to do next."""
    planner = ran.planner
    states = list(planner.trials.values())
    counts = {status: sum(state.status is status for state in states) for status in Status}
    shown = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items() if count)
    where = "" if storage.url.rstrip("/").endswith("/runs") else f" --storage {storage.url}"
    resume = f"[bold]trm sweep resume {sweep.name}{where}[/]"
    if ran.ending is SweepStatus.OUT_OF_BUDGET:
        left = planner.total - sum(state.status.is_final for state in states)
        out.print(f"\nout of budget: {ran.why}.\n{shown}; {left} of {planner.total} trials are left.")
        out.print(f"Go on with a larger limit: {resume} --max-...")
        return
    if ran.ending is not SweepStatus.COMPLETE:
        out.print(f"\nstopped: {shown}. Go on with: {resume}")
        return
    out.print(f"\nsweep [bold]{sweep.name}[/] is complete: {shown}.")
    if planner.exhausted:
        out.print(f"the space holds only {len([s for s in states if s.trial.stage == 'explore'])} configurations")
    for record in planner.best(1):
        assert record.result is not None
        value = record.result.metrics[sweep.metric]
        out.print(
            f"best explored: {record.family} ({100 * value:.1f} % {sweep.metric.replace('_', ' ')} on validation)"
        )
    if tracking:
        out.print(f"MLflow: mlflow ui --backend-store-uri {shown_address(tracking)}")
    out.print(f"Compare: [bold]trm leaderboard{where}[/]")
