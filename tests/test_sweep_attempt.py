"""One attempt at a trial: what goes wrong in it is its result and never its machine's failure."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sweep_doubles import tiny_config

from orchestrator.attempt import run_attempt
from orchestrator.datasets import provide
from orchestrator.identity import trial_id
from orchestrator.job import Job, News
from orchestrator.record import Status, dump, read_trial
from orchestrator.recorded import trial_folder
from orchestrator.storage import LocalStorage


def test_missing_gpu_is_a_result_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It once killed the trial's process without a word: 21 times, then 'its machine was lost'."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = tiny_config(**{"runtime.device": "cuda"})
    storage = LocalStorage(tmp_path)
    dataset = provide(storage, config.data.request())
    name = trial_id(config, dataset.fingerprint)
    planned = {
        "stage": "study",
        "family": "",
        "config": config.plain(),
        "dataset": {"fingerprint": dataset.fingerprint},
    }
    trial_folder(storage, "s", name).create("trial.json", dump(planned))
    heard: list[News] = []
    where = {"gpu_type": "L40S", "gpu_count": 1}
    run_attempt(Job(storage.url, "s", name, config.plain(), dataset.path.name, where), heard.append, lambda: False)
    record = read_trial(storage, "s", name)
    assert record.status is Status.FAILED and "no usable CUDA" in record.reason
    assert record.attempts[0].start["device"] == "cuda" and record.attempts[0].start["gpu_type"] == "L40S"
    assert [(news.kind, news.status) for news in heard] == [("end", "failed")]
