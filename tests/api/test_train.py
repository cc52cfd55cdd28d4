"""`orchestrator.train`: the configuration that it records, whatever the machine."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

import orchestrator
from orchestrator import Callback, TrialConfig, UserError, train
from orchestrator.api import train as api_train
from orchestrator.errors import SweepError
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.lease import Lease
from tests.support.sweeps import TINY


class Messages(Callback):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_message(self, text: str) -> None:
        self.seen.append(text)


def test_machine_and_length_of_scoring_do_not_change_what_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the same command would start another trial on another machine instead of resuming."""
    short = {"train.max_steps": 1, "train.batch_size": 1, "runtime.num_threads": None, "runtime.device": "cpu"}
    config = orchestrator.configure(TrialConfig(), {**TINY, **short})
    assert config.evaluation.max_puzzles is None
    monkeypatch.setattr(api_train, "LONG_SCORING_S", 0.0)
    outcomes = []
    for cores in (2, 64):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        messages = Messages()
        outcomes.append(train(config, tmp_path / str(cores), callbacks=[messages]))
        told, begun = messages.seen
        assert "1 step of 1 puzzle, learning rate" in begun and outcomes[-1].location in begun
        assert "will take about" in told and "evaluation.max_puzzles=" in told
    assert outcomes[0].record.trial_id == outcomes[1].record.trial_id
    for outcome in outcomes:
        assert outcome.record.config.plain() == config.plain()
        assert outcome.record.result is not None and outcome.record.result.items == config.data.num_validation


def test_a_run_that_another_process_trains_is_waited_for_and_no_sweep_to_stop_is_named(tmp_path: Path) -> None:
    config = orchestrator.configure(TrialConfig(), {**TINY, "train.max_steps": 1, "runtime.device": "cpu"})
    storage = open_storage(str(tmp_path))
    other = ExitStack()
    real = api_train.write_head

    def begun_elsewhere(folder: Storage, *rest: object) -> None:
        real(folder, *rest)  # type: ignore[arg-type]
        other.enter_context(Lease(folder, "train"))

    with other, pytest.MonkeyPatch.context() as patch:
        patch.setattr(api_train, "write_head", begun_elsewhere)
        with pytest.raises(SweepError, match=r"is being run by process .*wait until it ends") as caught:
            train(config, storage, callbacks=[])
    assert "trm sweep" not in str(caught.value)


def test_a_trial_that_another_process_trains_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = orchestrator.configure(TrialConfig(), {**TINY, "runtime.device": "cpu"})
    entered: list[int] = []

    def train_again(*_: object) -> None:
        entered.append(1)
        with pytest.raises(UserError, match="is being run by process"):
            train(config, tmp_path, callbacks=[])
        raise UserError("the first one has had its turn")

    monkeypatch.setattr(api_train, "run_job", train_again)
    with pytest.raises(UserError, match="has had its turn"):
        train(config, tmp_path, callbacks=[])
    assert len(entered) == 1


@pytest.mark.parametrize("processes", [0, -1, 3])
def test_number_of_processes_that_cannot_share_the_batch_is_refused_before_anything_is_written(
    processes: int, tmp_path: Path
) -> None:
    config = orchestrator.configure(TrialConfig(), {**TINY, "runtime.device": "cpu"})
    with pytest.raises(UserError, match=f"processes={processes} is not|shared evenly by {processes} processes"):
        train(config, tmp_path / "runs", processes=processes, callbacks=[])
    assert not (tmp_path / "runs").exists()
