"""Signals as requests to stop, in a process of their own."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

CODE = """
import signal, sys, threading, time
from orchestrator.execution import signals
stopping = threading.Event()
is_stopping, pause_s, number = sys.argv[1] == "stopping", float(sys.argv[2]), int(sys.argv[3])
signals.ECHO_S = 0.2
with signals.stop_signals(stopping):
    if is_stopping:
        stopping.set()  # for a budget, or a request of `trm sweep stop`
    signal.raise_signal(number)
    time.sleep(pause_s)
    print("first survived", flush=True)
    if pause_s:
        signal.raise_signal(number)
        print("second survived", flush=True)
print(stopping.is_set())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("state", ["running", "stopping"])
def test_the_first_signal_stops_cleanly_even_if_the_sweep_already_stops_and_a_later_one_ends_at_once(
    state: str, number: signal.Signals
) -> None:
    def end(pause_s: float) -> tuple[int, str]:
        command = [sys.executable, "-c", CODE, state, str(pause_s), str(int(number))]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout

    assert end(0.0) == (0, "first survived\nTrue\n")
    assert end(0.5) == (-number, "first survived\n")
