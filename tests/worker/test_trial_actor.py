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
