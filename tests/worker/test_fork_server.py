"""The process that forks the trials of a machine: one for all, gone when nobody needs it, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from orchestrator.worker import fork_server
from orchestrator.worker.fork_server import ForkedProcess
from tests.support.trial_processes import ends, fails, tells_about_itself

PRELOAD = ["orchestrator.worker.job", "json.tool"]


def told(child: ForkedProcess) -> dict[str, object]:
    child.run(tells_about_itself)
    assert child.poll(30)
    found: dict[str, object] = child.receive()
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_children_of_one_zygote_are_processes_of_their_own(
    fork_server_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = [ForkedProcess(fork_server_name, PRELOAD) for _ in range(3)]
    facts = []
    for number, child in enumerate(children):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", str(number))
        facts.append(told(child))
    assert len({fact["pid"] for fact in facts}) == 3 and {fact["parent"] for fact in facts} != {os.getpid()}
    assert len({fact["parent"] for fact in facts}) == 1
    assert [fact["gpu"] for fact in facts] == ["0", "1", "2"]  # of the slot that gave it work, not of the first
    assert all(fact["preloaded"] and fact["folder"] == str(Path.cwd()) for fact in facts)
    for child in children:
        assert child.join(10)
        with pytest.raises(ChildProcessError, match="exit code 0"):
            child.receive()
        child.close()


def test_zygote_leaves_when_its_last_process_has_ended(fork_server_name: str) -> None:
    spare = ForkedProcess(fork_server_name, PRELOAD)
    first = ForkedProcess(fork_server_name, PRELOAD)
    parent = psutil.Process(int(str(told(first)["parent"])))
    first.close()
    time.sleep(0.2)
    assert parent.is_running() and len(parent.children()) == 1  # the one that waits for work
    spare.close()
    wait_for(lambda: not parent.is_running())
    second = ForkedProcess(fork_server_name, PRELOAD)  # the name is free again
    assert told(second)["parent"] != parent.pid
    second.close()


def test_killed_zygote_is_told_and_followed_by_another(fork_server_name: str) -> None:
    first, spare = ForkedProcess(fork_server_name, PRELOAD), ForkedProcess(fork_server_name, PRELOAD)
    parent = int(str(told(first)["parent"]))
    assert len(psutil.Process(parent).children()) == 2
    for process in [*psutil.Process(parent).children(), psutil.Process(parent)]:
        os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(parent))
    with pytest.raises(OSError):
        for _ in range(3):
            spare.run(ends)
    with pytest.raises(ChildProcessError, match="died with"):
        spare.receive()
    assert spare.join(1)
    for child in (first, spare):
        child.close()
    other = ForkedProcess(fork_server_name, PRELOAD)
    assert told(other)["parent"] != parent
    other.close()


def test_process_that_raises_says_what_and_by_its_exit_code_that_it_failed(fork_server_name: str) -> None:
    child = ForkedProcess(fork_server_name, PRELOAD)
    child.run(fails)
    with pytest.raises(ChildProcessError, match="failed: ValueError: no number"):
        child.receive()
    with pytest.raises(ChildProcessError, match="exit code 1"):
        child.receive()
    child.close()


def test_imports_that_fail_are_told_to_every_slot(fork_server_name: str) -> None:
    children = [ForkedProcess(fork_server_name, ["orchestrator.nowhere"], is_quiet=True) for _ in range(2)]
    for child in children:
        with suppress(OSError):
            child.run(ends)
        with pytest.raises(ChildProcessError, match="ModuleNotFoundError: No module named"):
            child.receive()
        assert child.join()
        child.close()


def test_process_is_killed_at_once_and_the_others_live(fork_server_name: str) -> None:
    victim, other = ForkedProcess(fork_server_name, PRELOAD), ForkedProcess(fork_server_name, PRELOAD)
    told(victim)
    victim.kill()
    assert victim.join(10)
    assert told(other)["preloaded"]
    for child in (victim, other):
        child.close()


def test_another_user_is_not_listened_to(fork_server_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(f"\0{fork_server_name}")
        theirs.listen()
        monkeypatch.setattr(fork_server.os, "getuid", lambda: 12345)
        with pytest.raises(PermissionError, match="another user"):
            ForkedProcess(fork_server_name, PRELOAD)
