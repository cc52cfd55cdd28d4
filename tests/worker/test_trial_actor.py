"""A slot's trial process: it is left to leave once it has told its end, and killed if it has not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.worker import trial_actor
from orchestrator.worker.fork_server import ForkedProcess
from orchestrator.worker.job import Job, TrialReport
from tests.support.trial_processes import dies, ends_and_tidies_up, never_ends

PRELOAD = ["orchestrator.worker.job"]


def begin(child: Any, left: Path, monkeypatch: pytest.MonkeyPatch, fork_server_name: str) -> trial_actor.TrialProcess:
    """A process for a job whose storage is the file that it leaves."""
    monkeypatch.setattr(trial_actor, "child_main", child)
    job = Job(storage_url=str(left), sweep="s", trial_id="t", config={"seed": 1}, dataset="d")
    return trial_actor.TrialProcess(ForkedProcess(fork_server_name, PRELOAD), Job.from_json(job.to_json()))


def test_a_trial_that_told_its_end_is_waited_for(
    tmp_path: Path, fork_server_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = begin(ends_and_tidies_up, tmp_path / "left", monkeypatch, fork_server_name)
    assert process.wait(30) == TrialReport(7, {"exact_accuracy": 0.5}, "end", "finished")
    process.end(graceful=False)
    assert (tmp_path / "left").read_text() == "tidy"


def test_a_trial_that_was_stopped_early_is_killed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork_server_name: str
) -> None:
    process = begin(never_ends, tmp_path / "left", monkeypatch, fork_server_name)
    news = process.wait(2)
    assert news is not None and (news.step, news.kind) == (3, "progress")
    process.end(graceful=False)
    assert not (tmp_path / "left").exists()


def test_a_process_that_dies_without_a_word_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork_server_name: str
) -> None:
    process = begin(dies, tmp_path / "left", monkeypatch, fork_server_name)
    with pytest.raises(RuntimeError, match="exit code -9"):
        process.wait(30)
    process.end(graceful=False)


def test_a_job_is_the_same_after_its_travel() -> None:
    job = Job("s3://b/p", "depth", "ab12", {"model": {"T": 3}, "seed": 2}, "sudoku-1", {"gpu_count": 0.5}, 2, "cd34")
    assert Job.from_json(job.to_json()) == job


class Reporting:
    """A forked process that says how long its checkpoints take."""

    def __init__(self, grace_s: float) -> None:
        self.joined: list[float] = []
        self._report = TrialReport(4, {}, "progress", grace_s=grace_s)

    def run(self, *_: Any) -> None:
        pass

    def poll(self, timeout_s: float) -> bool:
        return True

    def receive(self) -> TrialReport:
        return self._report

    def send(self, word: str) -> None:
        pass

    def join(self, timeout_s: float = -1.0) -> bool:
        self.joined.append(timeout_s)
        return True

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("measured_s", "grace_s"), [(0.0, 20.0), (5.0, 20.0), (30.0, 60.0), (300.0, 100.0)])
def test_time_for_a_last_checkpoint_follows_what_checkpoints_have_taken(measured_s: float, grace_s: float) -> None:
    child = Reporting(measured_s)
    process = trial_actor.TrialProcess(child, Job("", "s", "t", {}, "d"))  # type: ignore[arg-type]
    process.wait(0.01)
    process.end(graceful=True)
    assert child.joined[0] == grace_s
