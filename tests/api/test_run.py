"""`orchestrator.run`: what it composes, without a cluster (`tests/execution` runs real sweeps)."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import orchestrator
from orchestrator.api import run as api_run
from orchestrator.execution.callbacks import CallbackList, open_callbacks
from orchestrator.execution.options import Callback, RunArguments, RunOptions, SweepOutcome, SweepSnapshot, SweepStatus
from orchestrator.records.index import request_stop, sweep_folder
from orchestrator.records.progress import SweepProgress
from orchestrator.storage import LocalStorage, Storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep import Sweep
from tests.support.sweeps import study
from trm_data.errors import UserError

Call = dict[str, Any]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """`run_sweep` is replaced by one that records how it was called and ends as the test says."""
    made: list[Call] = []

    def run_sweep(
        sweep: Sweep,
        storage: Storage,
        options: RunOptions,
        callbacks: Sequence[Callback],
        *,
        is_stored: bool,
    ) -> SweepOutcome:
        made.append({"sweep": sweep, "storage": storage, "options": options, "is_stored": is_stored})
        CallbackList(callbacks).call("on_message", "a message [/x]")
        if isinstance(ending := made[0].get("ends", ENDING[0]), Exception):
            raise ending
        progress = SweepProgress(planned=4, done=0, failed=0)
        return SweepOutcome(ending, SweepSnapshot(sweep.name, sweep.metric, progress, ()))

    monkeypatch.setattr(api_run, "run_sweep", run_sweep)
    return made


ENDING: list[Any] = [SweepStatus.COMPLETE]


@pytest.fixture(autouse=True)
def ending() -> Any:
    """How the replaced `run_sweep` ends; a test may change it."""
    ENDING[0] = SweepStatus.COMPLETE
    yield ENDING
    ENDING[0] = SweepStatus.COMPLETE


def hook(tmp_path: Path) -> list[str]:
    """A notification command that appends what it is sent to `tmp_path/sent`."""
    code = f"import sys; open({str(tmp_path / 'sent')!r}, 'a').write(sys.stdin.read() + chr(10))"
    return [f'{sys.executable} -c "{code}"']


def sent(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (tmp_path / "sent").read_text().splitlines()]


def test_options_reach_the_driver_and_unknown_ones_are_named(calls: list[Call], tmp_path: Path) -> None:
    budget = orchestrator.Budget(usd=5)
    outcome = orchestrator.run(
        study(), tmp_path, tracking="none", callbacks=[], budget=budget, max_concurrent=3, reuse=True
    )
    assert outcome.status is SweepStatus.COMPLETE
    assert calls[0]["options"] == RunOptions(budget=budget, max_concurrent=3, reuse=True)
    assert calls[0]["storage"] == LocalStorage(tmp_path)
    with pytest.raises(orchestrator.SweepError, match=r"'max_concurent'.*Did you mean 'max_concurrent'"):
        orchestrator.run(study(), tmp_path, tracking="none", max_concurent=3)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_concurrent": -1}, "max_concurrent=-1: input should be greater than or equal to 1"),
        ({"max_concurrent": 0}, "max_concurrent=0: "),
        ({"max_gpus": 0}, "max_gpus=0: input should be greater than 0"),
        ({"max_gpus": math.nan}, "max_gpus=nan: input should be a finite number"),
        ({"prefer": "speed"}, "prefer='speed': input should be 'cost' or 'time'"),
        ({"retries": -3}, "retries=-3: input should be greater than or equal to 0"),
        ({"max_failures": 0}, "max_failures=0: input should be greater than or equal to 1"),
        ({"budget": {"usd": -1}}, "budget.usd=-1: input should be greater than 0"),
    ],
)
def test_option_that_is_not_allowed_is_refused_before_anything_starts(
    options: dict[str, Any], message: str, calls: list[Call], tmp_path: Path
) -> None:
    with pytest.raises(orchestrator.SweepError, match=f"^{message}"):
        orchestrator.run(study(), tmp_path, tracking="none", callbacks=[], **options)
    assert calls == [] and list(tmp_path.iterdir()) == []


def test_plan_checks_its_options_as_a_run_does(tmp_path: Path) -> None:
    with pytest.raises(orchestrator.SweepError, match=r"^max_concurrent=-1: "):
        orchestrator.plan(study(), tmp_path, max_concurrent=-1)


def test_every_option_is_known_to_editors_and_type_checkers() -> None:
    hints = get_type_hints(RunOptions)
    assert get_type_hints(RunArguments) == {name: hints[name] for name in RunOptions.model_fields}


def recorded(tmp_path: Path) -> LocalStorage:
    """A storage that holds the study's definition."""
    storage = LocalStorage(tmp_path / "runs")
    sweep_folder(storage, "study").write("sweep.json", to_json_bytes(study().plain()))
    return storage


def test_recorded_sweep_and_sweep_file_are_run_by_name(calls: list[Call], tmp_path: Path) -> None:
    storage = recorded(tmp_path)
    orchestrator.run("study", storage, tracking="none", callbacks=[])
    file = tmp_path / "mine.py"
    file.write_text(
        "from orchestrator import Sweep, get_recipe\nsweep = Sweep(name='mine', base=get_recipe('sudoku-mini'))\n"
    )
    orchestrator.run(file, storage, tracking="none", callbacks=[])
    assert [call["sweep"].name for call in calls] == ["study", "mine"] and calls[0]["sweep"] == study()
    assert [call["is_stored"] for call in calls] == [True, False]
    with pytest.raises(orchestrator.SweepError, match=r"no sweep 'study2'.*Did you mean 'study'"):
        orchestrator.run("study2", storage, tracking="none", callbacks=[])


def test_packaged_sweep_is_planned_by_name(tmp_path: Path) -> None:
    assert orchestrator.plan("demo", tmp_path).num_trials > 0 and list(tmp_path.iterdir()) == []


def test_end_is_judged_against_the_plan(calls: list[Call], ending: list[Any], tmp_path: Path) -> None:
    """No trial is recorded, so that nothing is unfinished: by the records alone the sweep would be complete."""
    ending[0] = SweepStatus.STOPPED
    storage = recorded(tmp_path)
    orchestrator.run("study", storage, tracking="none", notify=hook(tmp_path), callbacks=[])
    assert [event["event"] for event in sent(tmp_path)] == ["stopped"]


def test_stop_by_the_watchdogs_budget_is_told_with_its_reason(
    calls: list[Call], ending: list[Any], tmp_path: Path
) -> None:
    ending[0] = SweepStatus.STOPPED
    storage = recorded(tmp_path)
    request_stop(sweep_folder(storage, "study"), "50.1 of 50 USD used")
    orchestrator.run("study", storage, tracking="none", notify=hook(tmp_path), callbacks=[])
    (event,) = sent(tmp_path)
    assert event["event"] == "budget" and "50.1 of 50 USD used" in event["text"]


def test_undelivered_notification_is_a_remark(
    calls: list[Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.tracking.notifications.WEBHOOK_PAUSES_S", (0.0,))
    noted = Noted()
    orchestrator.run("study", recorded(tmp_path), tracking="none", notify=["http://127.0.0.1:1/"], callbacks=[noted])
    assert any("not delivered: 127.0.0.1" in text for text in noted.heard)


def test_failure_is_notified_and_raised(calls: list[Call], ending: list[Any], tmp_path: Path) -> None:
    ending[0] = orchestrator.SweepError("the disk is full", "Make room")
    with pytest.raises(orchestrator.SweepError):
        orchestrator.run(study(), tmp_path / "runs", tracking="none", notify=hook(tmp_path), callbacks=[])
    (event,) = sent(tmp_path)
    assert event["event"] == "failed" and "the disk is full" in event["text"]


def test_wrong_target_is_refused_before_anything_starts(calls: list[Call], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such program"):
        orchestrator.run(study(), tmp_path / "runs", tracking="none", notify=["no-such-program"])
    assert not calls and not (tmp_path / "runs").exists()


class Broken(Callback):
    """Raises in every method."""

    def on_message(self, text: str) -> None:
        raise KeyError(text)

    def close(self) -> None:
        raise ValueError("closing")


class Noted(Callback):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_message(self, text: str) -> None:
        self.heard.append(text)

    def close(self) -> None:
        self.heard.append("closed")


def test_callback_that_raises_stops_neither_the_run_nor_the_other_callbacks(
    calls: list[Call], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noted = Noted()
    with caplog.at_level(logging.WARNING, "orchestrator.execution.callbacks"):
        outcome = orchestrator.run(study(), tmp_path, tracking="none", callbacks=[Broken(), noted])
    assert outcome.status is SweepStatus.COMPLETE
    assert noted.heard == ["a message [/x]", "closed"]
    assert "Broken.on_message failed" in caplog.text and "Broken.close failed" in caplog.text


def test_callbacks_are_closed_where_the_run_fails() -> None:
    noted = Noted()
    with pytest.raises(KeyboardInterrupt), open_callbacks([Broken(), noted]):
        raise KeyboardInterrupt
    assert noted.heard == ["closed"]


def test_budget_of_the_driver_is_notified_as_such(calls: list[Call], ending: list[Any], tmp_path: Path) -> None:
    ending[0] = SweepStatus.OUT_OF_BUDGET
    storage = recorded(tmp_path)
    orchestrator.run("study", storage, tracking="none", notify=hook(tmp_path), callbacks=[])
    assert [event["event"] for event in sent(tmp_path)] == ["budget"]
