"""Deliver the events of a sweep to callbacks, away from the thread that schedules trials."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from orchestrator.execution.options import Callback

logger = logging.getLogger(__name__)


@contextmanager
def open_callbacks(callbacks: Sequence[Callback]) -> Iterator[CallbackList]:
    """Yield a list that calls every callback; close them at the end."""
    events = CallbackList(callbacks)
    try:
        yield events
    finally:
        events.call("close")


class CallbackList:
    """Call several callbacks; an error in one of them is logged once and suppressed.

    `post` may be called from any thread and returns at once. The thread that runs the sweep calls `deliver`, so that a
    slow display never delays a trial.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = list(callbacks)
        self._events: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
        self._failed: set[tuple[int, str]] = set()
        self._thread = threading.get_ident()

    def post(self, method: str, *arguments: Any) -> None:
        """Queue an event for the next `deliver` call."""
        self._events.put((method, arguments))

    def send(self, method: str, *arguments: Any) -> None:
        """Call a method of every callback now in the thread that runs the sweep; queue the event in any other one."""
        (self.call if threading.get_ident() == self._thread else self.post)(method, *arguments)

    def deliver(self) -> None:
        """Call the callbacks for all queued events, in order."""
        while True:
            try:
                method, arguments = self._events.get_nowait()
            except queue.Empty:
                return
            self.call(method, *arguments)

    def call(self, method: str, *arguments: Any) -> None:
        """Call a method of every callback now."""
        for index, callback in enumerate(self._callbacks):
            try:
                getattr(callback, method)(*arguments)
            except Exception:
                # Once per method: a broken display would otherwise fill the log several times per second.
                if (index, method) not in self._failed:
                    self._failed.add((index, method))
                    name = f"{type(callback).__name__}.{method}"
                    logger.warning("callback %s failed, further failures are not logged", name, exc_info=True)
