"""Sweeps on a real GPU of this machine, as a user starts them: `make test-gpu`."""

from __future__ import annotations

import json
import signal
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.records.reader import read_trials
from orchestrator.records.schema import GPU_ENERGY, SYSTEM_SPLIT, Status, TrialRecord
from orchestrator.resources import catalogue
from orchestrator.storage import open_storage
from tests.execution.test_run import TRM, trm, wait_for
from tests.support.sweeps import set_options

pytestmark = pytest.mark.gpu

SMALL: dict[str, Any] = {
    "data.num_train": 500,
    "data.num_validation": 100,
    "data.num_test": 100,
    "model.hidden_size": 256,
    "train.batch_size": 256,
    "train.dtype": "bfloat16",
    "runtime.checkpoint_every_s": 1,
}
CELLS = ("--vary", "T=1,2", "--vary", "n=2,4", "--seeds", "2")


def sweep(storage: Path, *more: str, **settings: Any) -> list[str]:
    """A study of 2 x 2 cells x 2 seeds."""
    sets = set_options({**SMALL, **settings})
    named = ["--name", "shared", "--storage", str(storage), "--tracking", "none"]
    return ["sweep", "run", "--recipe", "sudoku-mini", *CELLS, *sets, *named, "--gpu", "any", *more]


def records(storage: Path) -> list[TrialRecord]:
    return read_trials(open_storage(str(storage)), "shared")


def spans(found: list[TrialRecord]) -> list[tuple[float, float]]:
    last = [record.attempts[-1] for record in found]
    return [(attempt.start.started_s, attempt.end.ended_s) for attempt in last if attempt.end]


@pytest.fixture(scope="module")
def shared_gpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("shared") / "runs"
    done = trm(*sweep(storage, "--share-gpus", **{"train.max_steps": 300}))
    assert "complete: 8 finished" in done.stdout
    return storage


def test_trials_share_a_real_gpu_each_within_its_part_of_the_memory(shared_gpu: Path) -> None:
    found = records(shared_gpu)
    gpu = catalogue.gpu(torch.cuda.get_device_name())
    for record in found:
        start, end = record.attempts[0].start, record.attempts[0].end
        assert record.status is Status.FINISHED and len(record.attempts) == 1
        assert (start.device, start.gpu_type, start.gpu_name) == (
            "cuda", gpu.ray_type, torch.cuda.get_device_name()
        )  # fmt: skip
        assert 0 < start.gpu_count < 1
        assert end and 0 < end.gpu_peak_bytes <= start.gpu_count * start.gpu_memory_bytes
    assert len({record.attempts[0].start.pid for record in found}) == 8
    ordered = sorted(spans(found))
    assert any(later[0] < earlier[1] for earlier, later in pairwise(ordered))


def test_energy_of_a_trial_is_its_part_of_the_gpus(shared_gpu: Path) -> None:
    for record in records(shared_gpu):
        used = [
            row.metrics[GPU_ENERGY] for row in record.rows if row.split == SYSTEM_SPLIT and GPU_ENERGY in row.metrics
        ]
        assert used and used == sorted(used) and used[-1] > 0


def test_plan_is_calibrated_on_what_ran_on_the_gpu(shared_gpu: Path) -> None:
    gpu_type = catalogue.gpu(torch.cuda.get_device_name()).ray_type
    changed = {"--tracking": [], "none": [], "any": [gpu_type]}
    words = sweep(shared_gpu, **{"train.max_steps": 300})
    command = [new for word in words for new in changed.get(word, [word])]
    planned = trm("sweep", "plan", *command[2:], "--share-gpus", "--json")
    found = json.loads(planned.stdout)
    [device] = [device for device in found["devices"] if device["gpus"]]
    assert device["speed"]["is_measured"] and device["speed"]["basis"] == "measured on 8 trials"
    assert found["slots"] == {device["name"]: round(1 / device["gpus"])}


def test_driver_that_is_killed_goes_on_with_the_trials_on_the_gpu(tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    command = sweep(storage, "--share-gpus", **{"train.max_steps": 200})
    with subprocess.Popen([*TRM, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        wait_for(lambda: any(storage.glob("sweeps/shared/trials/*/checkpoints/step-*")), "a checkpoint")
        driver.send_signal(signal.SIGKILL)
    assert "complete: 8 finished" in trm(*command).stdout
    found = records(storage)
    assert [record.status for record in found] == [Status.FINISHED] * 8
    assert any(len(record.attempts) > 1 for record in found)
