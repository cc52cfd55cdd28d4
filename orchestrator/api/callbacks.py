"""Callbacks of a run: the interface, and the list that keeps a failing one from harming the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.execution import options as execution
from orchestrator.records.schema import TrialRecord
from orchestrator.search.planner import Planner
from orchestrator.worker.job import TrialReport

logger = logging.getLogger(__name__)


class Callback(execution.Callback):
    """Receive the events of `run` and `train`. Every method does nothing here: override those that matter."""

    def trained(self, report: TrialReport, max_steps: int) -> None:
        """Called by `train` for every report of its attempt: means of training, an evaluation, the end."""

    def close(self) -> None:
        """Called once when the run is over, also where it failed: release what the callback holds."""


class CallbackList(Callback):
    """Pass every event to all callbacks. What a callback raises is logged and never reaches the run.

    with CallbackList([LiveView(), MyCallback()]) as callbacks:
        callbacks.remark("one line for the user")
    """

    def __init__(self, callbacks: Sequence[execution.Callback]) -> None:
        self._callbacks = list(callbacks)
        self._failed: set[tuple[int, str]] = set()

    def __enter__(self) -> CallbackList:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def building(self, stage: str, done: int, total: int) -> None:
        self._call("building", stage, done, total)

    def started(self, planner: Planner, slots: int) -> None:
        self._call("started", planner, slots)

    def refresh(self, planner: Planner) -> None:
        self._call("refresh", planner)

    def trial_ended(self, planner: Planner, record: TrialRecord) -> None:
        self._call("trial_ended", planner, record)

    def remark(self, text: str) -> None:
        self._call("remark", text)

    def trained(self, report: TrialReport, max_steps: int) -> None:
        self._call("trained", report, max_steps)

    def close(self) -> None:
        self._call("close")

    def _call(self, event: str, *arguments: Any) -> None:
        for callback in self._callbacks:
            method: Callable[..., None] | None = getattr(callback, event, None)
            if method is None:  # a callback of `orchestrator.execution` knows only the events of sweeps
                continue
            try:
                method(*arguments)
            except Exception as error:
                # A display that breaks on one odd name must not end hours of training. Once per event is enough:
                # `refresh` is called several times a second.
                if (id(callback), event) not in self._failed:
                    self._failed.add((id(callback), event))
                    name = type(callback).__name__
                    logger.warning("%s.%s failed, the run continues: %s", name, event, error, exc_info=_debug())


def _debug() -> bool:
    return logger.isEnabledFor(logging.DEBUG)
