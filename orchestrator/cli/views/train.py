"""Show a training run of this process: a progress bar, or without a terminal lines of progress."""

from __future__ import annotations

import threading
import time

from rich.progress import TaskID

from orchestrator.api.train import TrainOutcome
from orchestrator.cli.views.console import PLAIN_EVERY_S, BuildBar, bar, err, line, out
from orchestrator.execution.options import Callback
from orchestrator.records.schema import Status
from orchestrator.worker.job import ASKED_TO_STOP, TrialReport
from trm_data.settings import strict_json


class TrainView(Callback):
    """Show the progress of a dataset build, then of the training. Without a terminal a thread prints what is done at
    least every 15 seconds, since a step or the scoring may take much longer than that."""

    def __init__(self) -> None:
        self._build: BuildBar | None = None
        self._bar = bar()
        self._task: TaskID | None = None
        self._state, self._printed_s = "starting", time.monotonic()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def on_build(self, stage: str, done: int, total: int) -> None:
        """Show the progress of a dataset build."""
        self._begin()
        if not err.is_terminal:
            is_first = not self._state.startswith("building")
            self._state = f"building the dataset: {stage}, {done}/{total}"
            if is_first:
                self._print()
            return
        if self._build is None:
            self._build = BuildBar().__enter__()
        self._build(stage, done, total)

    def on_train_report(self, report: TrialReport, max_steps: int) -> None:
        """Update the bar; without a terminal, print the first report and evaluations."""
        self._begin()
        self._close_build()
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("training", total=max_steps, note="")
        note = _note(report)
        self._bar.update(self._task, completed=report.step)
        if note:
            self._bar.update(self._task, note=note)
        is_first = not self._state.startswith(("step", "scoring"))
        self._state = f"step {report.step}/{max_steps}  {note}".rstrip()
        if not err.is_terminal and (report.kind == "rung" or (is_first and report.kind == "progress")):
            self._print()
        if report.step >= max_steps:
            self._state = f"scoring after step {report.step}"

    def on_message(self, text: str) -> None:
        """Print one line."""
        err.print(text)

    def close(self) -> None:
        """Remove the bars."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        self._close_build()
        self._bar.stop()

    def _begin(self) -> None:
        """Start the thread, unless it runs: from the first event on, `close` is certain to be called."""
        if self._thread is None and not err.is_terminal:
            self._thread = threading.Thread(target=self._print_regularly, daemon=True)
            self._thread.start()

    def _print(self) -> None:
        self._printed_s = time.monotonic()
        err.print(self._state)

    def _print_regularly(self) -> None:
        while not self._closed.wait(min(1.0, PLAIN_EVERY_S / 4)):
            if time.monotonic() - self._printed_s > PLAIN_EVERY_S - 1:
                self._print()

    def _close_build(self) -> None:
        if self._build is not None:
            self._build.__exit__()
            self._build = None


def _note(report: TrialReport) -> str:
    """Return the loss and the accuracy of a report, and of which puzzles: those of the batch, or validation puzzles."""
    parts = [f"loss {report.metrics['loss']:.3f}"] if "loss" in report.metrics else []
    if (exact := report.metrics.get("exact_accuracy")) is not None:
        parts.append(f"{100 * exact:.1f} % exact on {'validation' if report.kind == 'rung' else 'the batch'}")
    return "  ".join(parts)


def show_outcome(outcome: TrainOutcome, as_json: bool) -> int:
    """Print the scores, or why there are none. Return the exit code: 0 finished, 1 failed, 3 interrupted."""
    if outcome.status is not Status.FINISHED:
        is_interrupted = outcome.status is Status.INTERRUPTED
        # A request to stop needs no explanation; a storage that failed or is full does.
        why = "" if outcome.reason.startswith(ASKED_TO_STOP) else outcome.reason
        resumes = f"{why}; the same command resumes" if why else "the same command resumes"
        reason = resumes if is_interrupted else outcome.reason
        err.print(line((outcome.status.words, "yellow"), f" at step {outcome.step}: {reason}"))
        return 3 if is_interrupted else 1
    result = outcome.record.result
    assert result is not None
    if as_json:
        shown = {key: value for key, value in result.plain().items() if key != "per_item"}
        print(strict_json({"trial_id": outcome.record.trial_id, **shown}, indent=1))
        return 0
    if result.items:
        exact, cell = 100 * result.metrics["exact_accuracy"], 100 * result.metrics["cell_accuracy"]
        out.print(f"{exact:.1f} % of {result.items} {result.split} puzzles solved, {cell:.1f} % of cells right")
    else:
        out.print(f"no score: no answer of the {result.split} puzzles is known")
    out.print(f"record: {outcome.location}", soft_wrap=True)
    return 0
