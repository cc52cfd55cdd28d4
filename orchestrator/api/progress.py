"""Show progress bars in scripts and notebooks; the command line has a fuller view of its own."""

from __future__ import annotations

from rich.progress import TaskID

from orchestrator.api.terminal import SafeConsole, progress_bar
from orchestrator.execution.options import Callback, SweepSnapshot, TrialSnapshot
from orchestrator.records.progress import SweepProgress
from orchestrator.worker.job import TrialReport

MOST_BARS = 12
"""Running trials with a bar of their own; a cluster may run hundreds."""


def default_callbacks() -> list[Callback]:
    """Return progress bars if a terminal or a notebook can show them, else an empty list."""
    console = SafeConsole(stderr=True)
    return [ProgressBars(console)] if console.is_terminal or console.is_jupyter else []


class ProgressBars(Callback):
    """Show one bar for the whole sweep and one per running trial, or one for a single training run."""

    def __init__(self, console: SafeConsole | None = None) -> None:
        self._progress = progress_bar(console or SafeConsole(stderr=True))
        self._tasks: dict[str, TaskID] = {}

    def on_build(self, stage: str, done: int, total: int) -> None:
        """Show the progress of a dataset build."""
        self._show(f"build {stage}", done, total)

    def on_progress(self, snapshot: SweepSnapshot) -> None:
        """Show the progress of the sweep and of each running trial."""
        self._show(snapshot.name, snapshot.progress.done, snapshot.progress.planned)
        for trial in snapshot.running[:MOST_BARS]:
            note = "" if trial.value is None else f"{100 * trial.value:.1f} %"
            self._show(_name(trial), trial.step, trial.max_steps, note)

    def on_trial_end(self, trial: TrialSnapshot, progress: SweepProgress) -> None:
        """Remove the bar of a trial."""
        task = self._tasks.pop(_name(trial), None)
        if task is not None:
            self._progress.remove_task(task)

    def on_train_report(self, report: TrialReport, max_steps: int) -> None:
        """Show a single training run with its newest loss and accuracy."""
        shown = [(name, report.metrics[name]) for name in ("loss", "exact_accuracy") if name in report.metrics]
        self._show("train", report.step, max_steps, "  ".join(f"{name} {value:.3f}" for name, value in shown))

    def on_message(self, text: str) -> None:
        """Print one line above the bars."""
        self._progress.console.print(text)

    def close(self) -> None:
        """Leave the bars as they are."""
        self._progress.stop()

    def _show(self, name: str, done: int, total: int, note: str = "") -> None:
        task = self._tasks.get(name)
        if task is None:
            self._progress.start()
            task = self._tasks[name] = self._progress.add_task(name, total=max(total, 1), note=note)
        self._progress.update(task, completed=done, total=max(total, 1))
        if note:
            self._progress.update(task, note=note)


def _name(trial: TrialSnapshot) -> str:
    return f"  {trial.family} seed {trial.seed}"
