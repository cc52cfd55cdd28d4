"""One attempt at a trial: what goes wrong in it is its result and never its machine's failure."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.records.schema import Status
from orchestrator.storage import LocalStorage, StorageError
from orchestrator.worker import attempt
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


def _away(*_: Any) -> None:
    raise StorageError("the bucket is away")


def _full(*_: Any) -> None:
    raise StorageError("cannot write") from OSError(errno.EDQUOT, "Disk quota exceeded")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (_away, "StorageError: the bucket is away"),
        (_full, "No space left on device: StorageError: cannot write"),
    ],
)
def test_fault_of_the_storage_interrupts_a_trial_and_is_not_its_failure(
    fault: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "ensure_local", fault)
    record = attempted(LocalStorage(tmp_path), tiny_config(), {})
    assert (record.status, record.reason) == (Status.INTERRUPTED, reason)


def test_lack_of_memory_on_a_cpu_is_no_plain_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*_: Any) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(attempt, "ensure_local", allocate)
    assert attempted(LocalStorage(tmp_path), tiny_config(), {}).status is Status.OUT_OF_MEMORY
