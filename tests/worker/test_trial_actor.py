"""The process of a trial as its actor sees it: it may exit once it has reported its end, and is killed otherwise."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.worker import trial_actor
from orchestrator.worker.fork_server import ForkedProcess
from orchestrator.worker.job import Job, TrialReport
from orchestrator.worker.trial_actor import TrialActor, TrialProcess
from tests.support.infra import wait_until_ended
from tests.support.trial_processes import HERE

PRELOAD = ["orchestrator.worker.job"]


def begin(
    entry_point: str,
    storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    fork_server_name: str,
    placement: dict[str, Any] | None = None,
) -> TrialProcess:
    """Return a process for a job whose storage is the file that it writes."""
    monkeypatch.setattr(trial_actor, "ENTRY_POINT", f"{HERE}:{entry_point}")
    job = Job(str(storage), "s", "t", {"seed": 1}, "d", placement or {})
    return TrialProcess(ForkedProcess(fork_server_name, PRELOAD), Job.from_json(job.to_json()))


def first_report(process: TrialProcess) -> TrialReport:
    until = time.monotonic() + 300
    while (report := process.wait(0.2)) is None:
        assert time.monotonic() < until, "the process reports nothing"
    return report


def test_trial_that_has_reported_its_end_is_waited_for(
    tmp_path: Path, fork_server_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = begin("ends_and_tidies_up", tmp_path / "left", monkeypatch, fork_server_name)
    assert first_report(process) == TrialReport(7, {"exact_accuracy": 0.5}, "end", "finished")
    process.end(graceful=False)
    assert (tmp_path / "left").read_text() == "tidy"


def test_trial_that_is_stopped_early_is_killed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork_server_name: str
) -> None:
    process = begin("never_ends", tmp_path / "left", monkeypatch, fork_server_name)
    report = first_report(process)
    assert (report.step, report.kind) == (3, "progress")
    process.end(graceful=False)
    assert not (tmp_path / "left").exists()


def test_grace_for_the_last_checkpoint_follows_the_measured_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork_server_name: str
) -> None:
    monkeypatch.setattr(trial_actor, "GRACE_S", 0.1)
    monkeypatch.setattr(trial_actor, "LONGEST_GRACE_S", 65.0)
    process = begin("stops_slowly", tmp_path / "left", monkeypatch, fork_server_name)
    first_report(process)
    assert process.grace_s == 65.0  # 10 s and twice what it takes, at most the limit
    report = process.end(graceful=True)
    assert report is not None and report.reason == "asked to stop at step 4, with a checkpoint"
    assert (tmp_path / "left").read_text() == "checkpoint"


def test_trial_that_does_not_stop_within_its_grace_is_killed_and_reports_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork_server_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    process = begin("ignores_a_stop", tmp_path / "left", monkeypatch, fork_server_name)
    first_report(process)
    assert process.grace_s == trial_actor.GRACE_S
    report = process.end(graceful=True, limit_s=0.2)
    assert report is None or report.kind == "progress"
    assert "killed, it did not stop within 0 s" in caplog.text


def test_death_of_a_process_is_an_error_of_the_actor_and_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork_server_name: str
) -> None:
    process = begin("dies", tmp_path / "left", monkeypatch, fork_server_name)
    with pytest.raises(RuntimeError, match="exit code -9"):
        process.wait(300)
    process.end(graceful=False)


@pytest.mark.parametrize(("gpu_ids", "visible"), [([], ""), (["2", "3"], "2,3")])
def test_trial_without_gpus_sees_none_of_the_machines(
    gpu_ids: list[str], visible: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork_server_name: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")  # as an actor without GPUs may have inherited it
    placement = {"gpu_ids": gpu_ids}
    process = begin("reports_its_gpus", tmp_path / "left", monkeypatch, fork_server_name, placement)
    assert first_report(process).status == visible
    process.end(graceful=False)


class Actor(TrialActor):
    """An actor outside Ray."""

    def __init__(self, job: Job) -> None:
        self.setup({"job": job.to_json()})


@pytest.fixture
def actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork_server_name: str) -> Any:
    where = {"node_id": "node-a", "gpu_type": None, "gpu_ids": [], "market": None}
    monkeypatch.setattr(trial_actor, "_placement", lambda: where)
    monkeypatch.setattr(trial_actor, "next_process", lambda: ForkedProcess(fork_server_name, PRELOAD))
    monkeypatch.setattr(trial_actor, "ENTRY_POINT", f"{HERE}:stops_slowly")
    monkeypatch.setattr(trial_actor, "HEARTBEAT_S", 0.5)
    actor = Actor(Job(str(tmp_path / "left"), "s", "t", {}, "d"))
    yield actor
    actor.cleanup()


def step_with_report(actor: Any) -> dict[str, Any]:
    """Return the result of the first step in which the trial's process has reported something."""
    until = time.monotonic() + 300
    while (result := actor.step())["trial_step"] is None:
        assert time.monotonic() < until, "the process reports nothing"
    return dict(result)


def test_machine_that_leaves_ends_a_trial_with_its_own_report(actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = step_with_report(actor)
    assert (result["kind"], result["trial_step"], result["grace_s"], result["done"]) == ("progress", 3, 70.0, False)
    monkeypatch.setattr(trial_actor, "is_leaving", lambda node_id: node_id == "node-a")
    result = actor.step()  # before the actor falls silent, it says for how long
    assert (result["kind"], result["silence_s"], result["done"]) == ("progress", 70.0, False)
    result = actor.step()
    assert result["done"] and (result["kind"], result["status"]) == ("end", "interrupted")
    assert result["reason"] == "asked to stop at step 4, with a checkpoint"
    with pytest.raises(RuntimeError, match="will be terminated soon"):
        actor.reset_config({"job": Job("x", "s", "u", {}, "d").to_json()})


def test_trial_that_is_killed_on_a_machine_that_leaves_claims_no_checkpoint(
    actor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_actor, "ENTRY_POINT", f"{HERE}:ignores_a_stop")
    monkeypatch.setattr(trial_actor, "LEAVING_GRACE_S", 0.2)
    assert step_with_report(actor)["trial_step"] == 3
    monkeypatch.setattr(trial_actor, "is_leaving", lambda node_id: True)
    assert actor.step()["kind"] == "progress"
    result = actor.step()
    assert (result["kind"], result["status"], result["done"]) == ("end", "", True)
    assert result["reason"] == "killed before its last checkpoint: the machine ends"


def test_kill_of_server_and_waiting_process_costs_no_trial(actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_actor, "ENTRY_POINT", f"{HERE}:reports_its_gpus")
    assert step_with_report(actor)["status"] == ""  # its process reported that it sees no GPU
    assert actor._process._process.join(300)
    until = time.monotonic() + 300
    while (
        len(waiting := list(filter(is_forked_by_this_test, psutil.process_iter()))) < 2
    ):  # the server and the next one
        assert time.monotonic() < until
        time.sleep(0.02)
    for process in waiting:
        process.kill()
    wait_until_ended(waiting)
    actor.reset_config({"job": Job("x", "s", "u", {}, "d").to_json()})
    assert step_with_report(actor)["kind"] == "end"


def is_forked_by_this_test(process: psutil.Process) -> bool:
    """Return whether a process is a fork server, or was forked by one, that this test or its fixture has started."""

    def test_of(environment: Mapping[str, str]) -> str:
        return environment.get("PYTEST_CURRENT_TEST", "").partition(" (")[0]

    try:
        return PRELOAD[0] in process.cmdline() and test_of(process.environ()) == test_of(os.environ)
    except psutil.Error:
        return False


def test_job_is_the_same_after_its_transfer() -> None:
    job = Job("s3://b/p", "depth", "ab12", {"model": {"T": 3}, "seed": 2}, "sudoku-1", {"gpu_count": 0.5}, 2, "cd34")
    assert Job.from_json(job.to_json()) == job


class Reporting:
    """A forked process that reports how long a stop takes."""

    def __init__(self, stop_s: float) -> None:
        self._report = TrialReport(4, {}, "progress", stop_s=stop_s)

    def run(self, *_: Any, **__: Any) -> None: ...

    def poll(self, timeout_s: float) -> bool:
        return True

    def receive(self) -> TrialReport:
        return self._report


@pytest.mark.parametrize(("measured_s", "grace_s"), [(0.0, 20.0), (4.0, 20.0), (30.0, 70.0), (1000.0, 300.0)])
def test_grace_is_between_its_limits(measured_s: float, grace_s: float) -> None:
    process = TrialProcess(Reporting(measured_s), Job("", "s", "t", {}, "d"))  # type: ignore[arg-type]
    process.wait(0.01)
    assert process.grace_s == grace_s
