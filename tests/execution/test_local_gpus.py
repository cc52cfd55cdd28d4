"""Sweeps on the GPUs of this machine, which are stand-ins: how many trials at once, what each sees, what is counted."""

from __future__ import annotations

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ClusterError
from orchestrator.execution.options import RunOptions, SweepStatus
from orchestrator.execution.run import run_sweep
from orchestrator.records.index import find_definition
from orchestrator.records.reader import read_trials
from orchestrator.resources.gpu_choice import choose_gpus
from orchestrator.resources.placement import parse_gpu
from orchestrator.resources.usage import Budget, spending
from orchestrator.storage import open_storage
from orchestrator.sweep import Sweep
from tests.support import execution
from tests.support.execution import FakeCluster, Recorder, StandIn
from tests.support.gpus import RTX_4090, pretend
from tests.support.sweeps import study, tiny_config
from trm_data.own_code import pin

X9000 = ("NVIDIA Imaginary X9000", 2048)  # holds three processes, of 600 MB each
TYPE_4090, TYPE_X9000 = "GeForce-RTX-4090", "Imaginary-X9000"
LOOK = """
import json, os
from pathlib import Path
from trm_model.recursion import Recursion

class Seen(Recursion):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        (Path(__file__).parent / f"seen-{os.getpid()}").write_text(json.dumps(seen))
"""


@pytest.mark.parametrize(
    ("gpus", "visible", "node", "at_once", "share"),
    [
        ([RTX_4090], None, (TYPE_4090, 1), 8, 0.05),  # 20 by memory, 8 by cores
        ([X9000, X9000], None, (TYPE_X9000, 2), 6, 0.3),
        ([RTX_4090, X9000, X9000], "2", (TYPE_X9000, 1), 3, 0.3),
        ([], None, ("", 0), 8, 0),
        ([RTX_4090], "", ("", 0), 8, 0),
    ],
)
def test_trials_share_what_the_machine_has_by_memory(
    gpus: list[tuple[str, int]],
    visible: str | None,
    node: tuple[str, int],
    at_once: int,
    share: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, *gpus, visible=visible)
    monkeypatch.setattr(execution, "NODES", [("a", *node)])
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    storage, tune, recorder = open_storage(str(tmp_path)), StandIn(lambda *_: "finish"), Recorder()
    options = RunOptions(max_concurrent=8, budget=Budget(gpu_hours=100))
    ran = run_sweep(study(), storage, options, [recorder], cluster=FakeCluster(), execute=tune.fit)
    assert ran.status is SweepStatus.COMPLETE
    assert tune.most == {"a": at_once}
    said = [text for text in recorder.messages if "trials use" in text]
    assert len(said) == bool(share)
    found = read_trials(storage, "study")
    assert {record.attempts[0].start.gpu_count for record in found} == {share}
    assert {record.attempts[0].start.gpu_type for record in found} == {node[0] or None}
    if share:
        assert spending(found, 1e9).gpu_hours == pytest.approx(8 * share), "eight trials of an hour each"


def test_a_sweep_that_began_on_a_gpu_can_be_resumed_on_a_machine_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(str(tmp_path))
    pretend(monkeypatch, RTX_4090)
    monkeypatch.setattr(execution, "NODES", [("a", TYPE_4090, 1)])
    run_sweep(study(), storage, cluster=FakeCluster(), execute=StandIn(lambda *_: "finish").fit)
    stored = find_definition(storage, "study")
    assert stored is not None and stored.resources.gpus is None
    pretend(monkeypatch)
    assert choose_gpus(stored).sweep.resources.gpus == 0


def test_a_named_gpu_that_the_machine_lacks_is_one_line_that_says_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, RTX_4090)
    monkeypatch.setattr(execution, "NODES", [("a", TYPE_4090, 1)])
    with pytest.raises(ClusterError, match=r"needs 1 CPU, 1 GPU.*=H100, and there is .*GPU, GeForce.*--gpu auto"):
        run_sweep(
            study(resources=parse_gpu("H100")),
            open_storage(str(tmp_path)),
            cluster=FakeCluster(),
            execute=StandIn(lambda *_: "finish").fit,
        )


def really(folder: Path, gpu: str, visible: str) -> tuple[list[str], list[dict[str, Any]], float]:
    """What trials on a real private Ray saw, how their attempts began, and the GPU-hours of the sweep."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        pretend(patch, *[X9000] * 6, visible=visible)
        file = folder / "seen.py"
        file.write_text(LOOK)
        base = tiny_config(**{"model.recursion": pin("seen.py:Seen", folder), "train.max_steps": 4})
        sweep = Sweep(name="real", base=base, seeds=2, resources=parse_gpu(gpu))
        storage = open_storage(str(folder / gpu))
        ran = run_sweep(sweep, storage)
        assert ran.status is SweepStatus.COMPLETE, ran.reason
        records = read_trials(storage, "real")
        seen = [json.loads(path.read_text()) for path in folder.glob("seen-*")]
        return seen, [record.attempts[0].start.plain() for record in records], spending(records, 0.0).gpu_hours


def in_a_fresh_process(*arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(really, *arguments).result()


@pytest.mark.slow
def test_each_trial_sees_one_gpu_of_those_that_the_user_made_visible(tmp_path: Path) -> None:
    seen, starts, gpu_hours = in_a_fresh_process(tmp_path, "auto", "3,5")
    assert set(seen) <= {"3", "5"} and len(seen) >= 2
    assert {len(start["gpu_ids"]) for start in starts} == {1} and {start["gpu_count"] for start in starts} == {0.3}
    assert {start["gpu_type"] for start in starts} == {TYPE_X9000}
    assert gpu_hours > 0


@pytest.mark.slow
def test_no_device_is_visible_to_a_trial_that_is_to_use_the_cpu(tmp_path: Path) -> None:
    seen, starts, gpu_hours = in_a_fresh_process(tmp_path, "none", "3,5")
    assert set(seen) == {""} and len(seen) >= 2
    assert all(start["gpu_count"] == 0 and start["device"] == "cpu" and not start["gpu_ids"] for start in starts)
    assert gpu_hours == 0
