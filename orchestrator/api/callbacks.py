"""Define the callbacks of a run or a training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from orchestrator.execution import options as execution
from orchestrator.execution.callbacks import CallbackList
from orchestrator.worker.job import TrialReport


class Callback(execution.Callback):
    """Receive the events of `run` and `train`. Override the methods that matter; each does nothing here.

    What a method raises is logged once and never stops the run.
    """

    def on_train_report(self, report: TrialReport, max_steps: int) -> None:
        """Handle a report of `train`: means of training, an evaluation, or the end."""

    def close(self) -> None:
        """Release the resources of the callback. Called once when the run is over, even if it failed."""


@contextmanager
def open_callbacks(callbacks: Sequence[execution.Callback]) -> Iterator[CallbackList]:
    """Yield a list that calls every callback; close them at the end."""
    try:
        yield CallbackList(callbacks)
    finally:
        # Those of `orchestrator.execution` know the events of a sweep alone.
        CallbackList([callback for callback in callbacks if isinstance(callback, Callback)]).call("close")
