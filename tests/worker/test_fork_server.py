"""The fork server: one for all trials of a machine, gone when nobody needs it, and nothing left behind."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.worker import fork_server
from orchestrator.worker.fork_server import ForkedProcess
from tests.support.infra import wait_until_ended
from tests.support.trial_processes import HERE

PRELOAD = ["orchestrator.worker.job", "json.tool"]


def facts_of(child: ForkedProcess) -> dict[str, object]:
    child.run(f"{HERE}:tells_about_itself")
    assert child.poll(300)
    found: dict[str, object] = child.receive()
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_children_of_one_server_are_processes_of_their_own(
    fork_server_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = [ForkedProcess(fork_server_name, PRELOAD) for _ in range(3)]
    facts = []
    for number, child in enumerate(children):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", str(number))
        facts.append(facts_of(child))
    assert len({fact["pid"] for fact in facts}) == 3 and {fact["parent"] for fact in facts} != {os.getpid()}
    assert len({fact["parent"] for fact in facts}) == 1
    assert [fact["gpu"] for fact in facts] == ["0", "1", "2"]  # of the actor that gave it work, not of the first
    assert all(fact["preloaded"] and fact["folder"] == str(Path.cwd()) for fact in facts)
    for child in children:
        assert child.join(300)
        with pytest.raises(ChildProcessError, match="exit code 0"):
            child.receive()
        child.close()


def test_server_exits_when_its_last_process_has_ended(fork_server_name: str) -> None:
    spare = ForkedProcess(fork_server_name, PRELOAD)  # the server forks in the order of the requests
    first = ForkedProcess(fork_server_name, PRELOAD)
    parent = psutil.Process(int(str(facts_of(first)["parent"])))
    first.close()
    time.sleep(0.2)  # in which the server may exit by mistake
    assert parent.is_running() and len(parent.children()) >= 1  # the one that waits for work
    spare.close()
    wait_for(lambda: not parent.is_running())
    second = ForkedProcess(fork_server_name, PRELOAD)  # the name is free again
    assert facts_of(second)["parent"] != parent.pid
    second.close()


def test_killed_server_is_noticed_and_replaced(fork_server_name: str) -> None:
    # The server forks in the order of the requests: the one that waits exists when the other one answers.
    spare, first = ForkedProcess(fork_server_name, PRELOAD), ForkedProcess(fork_server_name, PRELOAD)
    parent = int(str(facts_of(first)["parent"]))
    assert not spare.join(0.5)
    processes = [*psutil.Process(parent).children(), psutil.Process(parent)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # `first` has answered, and ends by itself
            process.kill()
    wait_until_ended(processes)
    with pytest.raises(OSError):
        for _ in range(3):
            spare.run(f"{HERE}:ends")
    # The server may have reaped it in the moment between the two kills.
    with pytest.raises(ChildProcessError, match=r"its fork server has exited|exit code -9"):
        spare.receive()
    assert spare.join(300)
    for child in (first, spare):
        child.close()
    other = ForkedProcess(fork_server_name, PRELOAD)
    assert facts_of(other)["parent"] != parent
    other.close()


def test_process_goes_on_without_its_server_and_its_death_is_still_noticed(fork_server_name: str) -> None:
    child = ForkedProcess(fork_server_name, PRELOAD)
    child.run(f"{HERE}:waits")
    process = psutil.Process(child.receive())
    server = process.parent()
    assert server is not None
    server.kill()
    wait_until_ended([server])  # else it would report the death of the process
    assert not child.poll(0.2)
    process.kill()
    assert child.poll(300)
    with pytest.raises(ChildProcessError, match="its fork server has exited"):
        child.receive()
    child.close()


def test_death_is_noticed_although_the_server_does_not_answer(
    fork_server_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped server reaps nobody and closes no connection, so that only the process's own descriptor tells."""
    monkeypatch.setattr(fork_server, "REAP_S", 0.1)
    child = ForkedProcess(fork_server_name, PRELOAD)
    child.run(f"{HERE}:waits")
    process = psutil.Process(child.receive())
    server = process.parent()
    assert server is not None
    server.suspend()
    try:
        process.kill()
        assert child.poll(300) and child.join(300)
        with pytest.raises(ChildProcessError, match="was killed, and its fork server does not answer"):
            child.receive()
    finally:
        server.resume()
        child.close()


def test_process_that_never_starts_is_an_error_and_not_waited_for(
    fork_server_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, waits = fork_server.wait, itertools.count()

    def counted(*arguments: Any) -> Any:
        assert next(waits) < 100, "it is waited for without a limit"
        return wait(*arguments)

    monkeypatch.setattr(fork_server, "wait", counted)
    monkeypatch.setattr(fork_server, "START_S", 0.2)
    with socket.socket(socket.AF_UNIX) as hung:  # a server that hangs in its imports
        hung.bind(f"\0{fork_server_name}")
        hung.listen()
        child = ForkedProcess(fork_server_name, PRELOAD)
        with pytest.raises(ChildProcessError, match="has not started"):
            child.receive()
        child.kill()
        assert child.join(300)
        child.close()


def test_address_that_nobody_listens_on_is_not_waited_for(
    fork_server_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep, pauses = time.sleep, itertools.count()

    def counted(seconds: float) -> None:
        assert next(pauses) < 300, "it is waited for without a limit"
        sleep(seconds)

    monkeypatch.setattr(fork_server, "LISTEN_S", 0.1)
    monkeypatch.setattr(fork_server.time, "sleep", counted)
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(f"\0{fork_server_name}")
        with pytest.raises(OSError, match="in use"):
            ForkedProcess(fork_server_name, PRELOAD)


def test_handle_refers_to_its_process_and_to_no_later_one_of_the_same_number(fork_server_name: str) -> None:
    """The process has been reaped long before its first message is read: its number may belong to another one."""
    child = ForkedProcess(fork_server_name, PRELOAD)
    child.run(f"{HERE}:ends")
    other = ForkedProcess(fork_server_name, PRELOAD)  # keeps the server running
    other.run(f"{HERE}:waits")
    parent = psutil.Process(other.receive()).parent()
    assert parent is not None
    wait_for(lambda: len(parent.children()) <= 1)
    assert child.join(300)
    child.kill()
    with pytest.raises(ChildProcessError, match="exit code 0"):
        child.receive()
    for process in (child, other):
        process.close()


def test_process_that_raises_reports_what_and_exits_with_1(fork_server_name: str) -> None:
    child = ForkedProcess(fork_server_name, PRELOAD)
    child.run(f"{HERE}:fails")
    with pytest.raises(ChildProcessError, match="failed: ValueError: no number"):
        child.receive()
    with pytest.raises(ChildProcessError, match="exit code 1"):
        child.receive()
    child.close()


@pytest.mark.parametrize("entry_point", ["tests.support.nowhere:ends", f"{HERE}:no_such_function"])
def test_entry_point_that_does_not_exist_is_reported(entry_point: str, fork_server_name: str) -> None:
    child = ForkedProcess(fork_server_name, PRELOAD)
    child.run(entry_point)
    with pytest.raises(ChildProcessError, match=r"failed: (ModuleNotFoundError|AttributeError)"):
        child.receive()
    child.close()


def test_imports_that_fail_are_reported_to_all_who_connect(fork_server_name: str) -> None:
    children = [ForkedProcess(fork_server_name, ["orchestrator.nowhere"], is_quiet=True) for _ in range(2)]
    for child in children:
        with pytest.raises(ChildProcessError, match="ModuleNotFoundError"):
            while True:  # until the server has closed the connection
                child.run(f"{HERE}:ends")
                time.sleep(0.01)
        with pytest.raises(ChildProcessError, match="ModuleNotFoundError: No module named"):
            child.receive()
        assert child.join(300)
        child.close()


def test_process_is_killed_at_once_and_the_others_live(fork_server_name: str) -> None:
    victim, other = ForkedProcess(fork_server_name, PRELOAD), ForkedProcess(fork_server_name, PRELOAD)
    facts_of(victim)
    victim.kill()
    assert victim.join(300)
    assert facts_of(other)["preloaded"]
    for child in (victim, other):
        child.close()


def test_server_of_another_user_is_not_used(fork_server_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(f"\0{fork_server_name}")
        theirs.listen()
        monkeypatch.setattr(fork_server.os, "getuid", lambda: 12345)
        with pytest.raises(PermissionError, match="another user"):
            ForkedProcess(fork_server_name, PRELOAD)
