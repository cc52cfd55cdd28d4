"""Signals as requests to stop, in a process of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import SweepStatus
from orchestrator.execution.options import RunOptions
from orchestrator.execution.run import run_sweep
from orchestrator.storage import open_storage
from tests.support.execution import FakeCluster, StandIn
from tests.support.sweeps import study

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


NOTEBOOK = """
import signal, sys, threading, time
from orchestrator.execution import signals
sys.ps1, signals.ECHO_S = "In : ", 0.0
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with signals.stop_signals(threading.Event()):
        signal.raise_signal(signal.SIGINT)
        print("first survived", flush=True)
        time.sleep(0.1)
        signal.raise_signal(signal.SIGINT)
        print("second survived", flush=True)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_second_interrupt_in_a_notebook_raises_keyboard_interrupt() -> None:
    """The end of its process would lose all variables."""
    done = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "first survived\ninterrupted\n")


OF_ANOTHER_LANGUAGE = """
import signal, threading
from orchestrator.execution import signals
signal.getsignal = lambda number: None  # what Python answers for a handler that it has not set
stopping = threading.Event()
with signals.stop_signals(stopping):
    signal.raise_signal(signal.SIGTERM)
print(stopping.is_set())
"""


def test_handler_that_was_not_set_from_python_ends_no_run_with_an_error() -> None:
    done = subprocess.run([sys.executable, "-c", OF_ANOTHER_LANGUAGE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_ray_starts_stops_the_sweep_before_anything_ran(number: signal.Signals, tmp_path: Path) -> None:
    class Interrupted(FakeCluster):
        def start(self) -> None:
            signal.raise_signal(number)

    cluster, tune, storage = Interrupted(), StandIn(lambda *_: "finish"), open_storage(str(tmp_path))
    outcome = run_sweep(study(), storage, RunOptions(), cluster=cluster, execute=tune.fit)
    assert outcome.status is SweepStatus.STOPPED and not tune.order
    assert len(cluster.shutdowns) == 1, "Ray is left behind"
    outcome = run_sweep(study(), storage, RunOptions(), cluster=FakeCluster(), execute=tune.fit)
    assert outcome.status is SweepStatus.COMPLETE
