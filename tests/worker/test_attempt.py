"""One attempt at a trial: what goes wrong in it is its result and never its machine's failure."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.records.schema import Status
from orchestrator.storage import LocalStorage
from orchestrator.worker.job import TrialReport
from tests.support.sweeps import attempted, tiny_config


def test_missing_gpu_is_a_result_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It once killed the trial's process without a word: 21 times, then 'its machine was lost'."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    heard: list[TrialReport] = []
    config = tiny_config(**{"runtime.device": "cuda"})
    record = attempted(LocalStorage(tmp_path), config, {"gpu_type": "L40S", "gpu_count": 1}, heard.append)
    assert record.status is Status.FAILED and "no usable CUDA" in record.reason
    assert record.attempts[0].start.device == "cuda" and record.attempts[0].start.gpu_type == "L40S"
    assert [(news.kind, news.status) for news in heard] == [("end", "failed")]
