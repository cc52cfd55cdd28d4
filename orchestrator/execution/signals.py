"""Handle SIGINT and SIGTERM as requests to stop."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ECHO_S = 2.0
"""Signals within this time count as one: `timeout` and `make` repeat the signal that a terminal has sent."""


@contextmanager
def stop_signals(stopping: threading.Event) -> Iterator[Callable[[], None]]:
    """Set `stopping` on the first signal while the block runs; a later one ends the process immediately.

    In an interactive session, whose variables would be lost, a later one does what it did before the block: SIGINT
    raises KeyboardInterrupt.

    Yields:
        A function that takes the signals back from a library that has installed handlers of its own since.
    """
    first_s: float | None = None  # `stopping` may have been set for another reason: the first signal only joins it

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal first_s
        if first_s is not None and time.monotonic() - first_s > ECHO_S:
            signal.signal(number, before[number] if hasattr(sys, "ps1") else signal.SIG_DFL)
            signal.raise_signal(number)
        if first_s is None:
            first_s = time.monotonic()
        stopping.set()

    def install() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, handle)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    numbers = (signal.SIGINT, signal.SIGTERM)  # their handlers are None if they were not set from Python
    before: dict[int, Any] = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}
    install()
    try:
        yield install
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
