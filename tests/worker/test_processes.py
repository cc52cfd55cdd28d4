"""Processes of trials, forked by a server or spawned: the same behaviour on Linux and, with a stand-in, elsewhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.execution.watchdog import open_driver
from orchestrator.worker import trial_actor
from orchestrator.worker.fork_server import ForkedProcess
from orchestrator.worker.job import Job, TrialReport
from orchestrator.worker.processes import ChildProcess, next_process
from orchestrator.worker.spawned import SpawnedProcess
from orchestrator.worker.trial_actor import TrialProcess
from tests.support.trial_processes import HERE
from trm_data import files

PRELOAD = ["orchestrator.worker.job"]


@pytest.fixture(params=["forked", "spawned"])
def start(request: pytest.FixtureRequest, fork_server_name: str) -> Callable[[], ChildProcess]:
    return SpawnedProcess if request.param == "spawned" else lambda: ForkedProcess(fork_server_name, PRELOAD)


@pytest.fixture
def child(start: Callable[[], ChildProcess]) -> Iterator[ChildProcess]:
    process = start()
    yield process
    process.kill()
    process.close()


def test_process_gets_environment_and_folder_and_its_end_is_told(
    child: ChildProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    child.run(f"{HERE}:tells_about_itself", environment={"CUDA_VISIBLE_DEVICES": "3"})
    assert child.poll(300)
    facts = child.receive()
    assert facts["gpu"] == "3" and facts["folder"] == str(tmp_path) and facts["pid"] != os.getpid()
    with pytest.raises(ChildProcessError, match="exit code 0"):
        child.receive()
    assert child.join(300)


def test_death_is_noticed_with_its_signal(child: ChildProcess) -> None:
    child.run(f"{HERE}:waits")
    assert child.poll(300)
    os.kill(child.receive(), signal.SIGKILL)
    assert child.poll(300)
    with pytest.raises(ChildProcessError, match="exit code -9"):
        child.receive()


def test_exception_of_the_entry_point_is_told(child: ChildProcess) -> None:
    child.run(f"{HERE}:there_is_none")
    assert child.poll(300)
    with pytest.raises(ChildProcessError, match="failed: AttributeError"):
        child.receive()


def test_process_without_work_ends_with_its_connection(start: Callable[[], ChildProcess]) -> None:
    before = set(psutil.Process().children(recursive=True))
    process = start()
    assert not process.poll(0.0)
    process.close()
    psutil.wait_procs(set(psutil.Process().children(recursive=True)) - before, timeout=300)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_kill_ends_a_process_at_once(child: ChildProcess) -> None:
    child.run(f"{HERE}:waits")
    child.receive()
    child.kill()
    assert child.join(300)
    with pytest.raises(ChildProcessError, match="exit code -9"):
        child.receive()


class TestElsewhere:
    """A stand-in for macOS: `sys.platform`, and no `/proc`, affinities or descriptors of processes."""

    @pytest.fixture(autouse=True)
    def _platform(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.platform", "darwin")
        for name in ("sched_getaffinity", "pidfd_open"):
            monkeypatch.delattr(os, name)

    def test_trials_are_spawned_and_their_reports_arrive(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        process = next_process()
        assert isinstance(process, SpawnedProcess)
        monkeypatch.setattr(trial_actor, "ENTRY_POINT", f"{HERE}:ends_and_tidies_up")
        trial = TrialProcess(process, Job(str(tmp_path / "left"), "s", "t", {"seed": 1}, "d", {}))
        assert trial.wait(300) == TrialReport(7, {"exact_accuracy": 0.5}, "end", "finished")
        trial.end(graceful=False)
        assert (tmp_path / "left").read_text() == "tidy"

    def test_processes_are_told_apart_by_their_start(self) -> None:
        this = files.this_process()
        assert this.start and this.is_alive()
        assert not this._replace(start=this.start - 100).is_alive()
        assert files.start_of(2**22 + 1) == 0
        assert files.usable_cores() == os.cpu_count()

    def test_only_the_driver_of_a_lease_is_signalled(self) -> None:
        """The process itself and one that does not run are never signalled."""
        for pid in (os.getpid(), 2**22 + 1):
            with open_driver({"pid": pid, "started_s": 0.0, "process_start": files.start_of(pid)}) as send:
                assert send is None
