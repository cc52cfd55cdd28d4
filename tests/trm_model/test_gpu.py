"""What only a CUDA device shows: `make test-gpu`. Needs neither ray, optuna nor mlflow, except for the attempt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trm_model.test_train import assert_same, final_tensors, run, tiny
from trm_data import Dataset, build
from trm_model import cost
from trm_model.checkpoints.store import LocalCheckpoints, newest_checkpoint
from trm_model.config import TrialConfig
from trm_model.training.events import Event, Finished, Trained
from trm_model.training.loop import OutOfMemoryError
from trm_model.training.trainer import Trainer

pytestmark = pytest.mark.gpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
VARIANTS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "attention": {"mixer": "attention", "positions": "rotary"},
    "learned": {"mixer": "attention", "positions": "learned"},
    "one latent": {"num_latents": 0},
    "many latents": {"num_latents": 3},
    "two networks": {"shared_network": False},
    "hrm": {"variant": "hrm"},
    "direct": {"variant": "direct"},
}


def on_gpu(**sections: dict[str, Any]) -> TrialConfig:
    return tiny(**{**sections, "runtime": {"device": "cuda", **sections.get("runtime", {})}})


def losses(events: list[Event]) -> list[float]:
    return [event.metrics["loss"] for event in events if isinstance(event, Trained)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(tiny().data.request(), tmp_path_factory.mktemp("data"))


@pytest.fixture
def whole_gpu() -> Iterator[None]:
    """A test may cap this process's memory, of which earlier tests hold none; afterwards it has all of it again."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("name", VARIANTS)
def test_training_on_a_gpu_follows_the_cpu(name: str, dataset: Dataset) -> None:
    """Losses and gradients of the first steps; later ones part, since AdamAtan2 moves a weight by its gradient's sign,
    and a gradient near zero has that from rounding."""
    here, there = (
        Trainer(make(model=VARIANTS[name]), dataset, device) for make, device in ((tiny, CPU), (on_gpu, CUDA))
    )
    for step in range(3):
        losses_here, losses_there = here.train_step(), there.train_step()
        assert losses_there[0] == pytest.approx(losses_here[0], rel=1e-5 if step == 0 else 1e-3)
        own, other = here.flat.grad, there.flat.grad.cpu()
        assert float((own - other).norm() / own.norm()) < (1e-5 if step == 0 else 0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float32-fast"])
@pytest.mark.parametrize("mixer", ["mlp", "attention"])
def test_resumed_run_on_a_gpu_equals_a_straight_run(mixer: str, dtype: str, dataset: Dataset, tmp_path: Path) -> None:
    config = on_gpu(model={"mixer": mixer}, train={"dtype": dtype})
    run(config, dataset, tmp_path / "straight")
    run(config, dataset, tmp_path / "resumed", stop_at=4)
    run(config, dataset, tmp_path / "resumed")
    assert_same(final_tensors(tmp_path / "straight"), final_tensors(tmp_path / "resumed"))


def test_run_that_began_on_a_gpu_goes_on_on_a_cpu(dataset: Dataset, tmp_path: Path) -> None:
    run(on_gpu(), dataset, tmp_path, stop_at=4)
    begun = newest_checkpoint(LocalCheckpoints(tmp_path))
    assert begun is not None and begun.step < 10
    events = run(tiny(), dataset, tmp_path)
    straight = run(tiny(), dataset, tmp_path / "straight")
    assert isinstance(events[-1], Finished)
    assert losses(events)[-1] == pytest.approx(losses(straight)[-1], rel=1e-3)


def test_accumulation_on_a_gpu_leaves_the_result_unchanged(dataset: Dataset, tmp_path: Path) -> None:
    whole = run(on_gpu(), dataset, tmp_path / "whole")
    parts = run(on_gpu(runtime={"micro_batch_size": 3}), dataset, tmp_path / "parts")
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)


@pytest.mark.parametrize("mixer", ["mlp", "attention"])
def test_compiled_network_trains_as_the_eager_one(mixer: str, dataset: Dataset, tmp_path: Path) -> None:
    eager = run(on_gpu(model={"mixer": mixer}), dataset, tmp_path / "eager")
    compiled = run(on_gpu(model={"mixer": mixer}, runtime={"compile": True}), dataset, tmp_path / "compiled")
    assert losses(compiled) == pytest.approx(losses(eager), rel=1e-3)


def large(mixer: str, dtype: str, batch_size: int, *, compiled: bool = False) -> TrialConfig:
    positions = "none" if mixer == "mlp" else "rotary"
    shape = {"mixer": mixer, "positions": positions, "hidden_size": 256, "num_heads": 4, "latent_steps": 4}
    train = {"dtype": dtype, "batch_size": batch_size, "max_steps": 3}
    return on_gpu(model=shape, train=train, runtime={"compile": compiled})


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mixer", ["mlp", "attention"])
def test_memory_is_within_fifteen_percent_of_the_prediction(
    mixer: str, dtype: str, compiled: bool, dataset: Dataset
) -> None:
    config = large(mixer, dtype, 4096, compiled=compiled)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    trainer = Trainer(config, dataset, CUDA)
    for _ in range(3):
        trainer.train_step()
    measured = torch.cuda.max_memory_allocated() - before
    shape = {"seq_len": dataset.seq_len, "vocab_size": dataset.vocab_size}
    predicted = cost.peak_bytes(config, num_identifiers=trainer.num_identifiers, **shape)
    assert measured > 1e9
    assert measured == pytest.approx(predicted, rel=0.15)


@pytest.mark.usefixtures("whole_gpu")
def test_lack_of_memory_names_both_figures_and_the_remedy(dataset: Dataset, tmp_path: Path) -> None:
    torch.cuda.set_per_process_memory_fraction(0.01)
    with pytest.raises(OutOfMemoryError, match=r"out of memory at step 1: \d+\.\d\d GiB predicted.*held") as found:
        run(large("mlp", "float32", 8192), dataset, tmp_path)
    assert "micro_batch_size" in str(found.value) and "larger GPU" in str(found.value)


@pytest.mark.usefixtures("whole_gpu")
def test_trial_that_needs_more_than_its_share_is_out_of_memory(tmp_path: Path) -> None:
    from orchestrator.records.schema import Status
    from orchestrator.storage import LocalStorage
    from tests.support.sweeps import attempted

    storage = LocalStorage(tmp_path)
    found = {}
    for share, batch_size in ((0.01, 8192), (0.05, 64)):
        where = {"gpu_type": "H100", "gpu_count": share, "memory_share": share}
        found[share] = attempted(storage, large("mlp", "float32", batch_size), where)
    assert found[0.01].status is Status.OUT_OF_MEMORY and "GiB predicted" in found[0.01].reason
    assert found[0.05].status is Status.FINISHED
    attempt = found[0.05].attempts[0]
    assert attempt.start.gpu_name == torch.cuda.get_device_name() and attempt.start.gpu_memory_bytes > 1e9
    assert attempt.end is not None
    assert 0 < attempt.end.gpu_peak_bytes <= 0.05 * attempt.start.gpu_memory_bytes


def test_gpu_is_one_of_the_catalogue_and_its_meters_answer() -> None:
    from orchestrator.records.schema import GPU_ENERGY
    from orchestrator.resources import catalogue
    from orchestrator.worker.telemetry import SystemMetrics, gpus_of

    assert catalogue.gpu(torch.cuda.get_device_name()).memory_bytes == pytest.approx(
        torch.cuda.get_device_properties(0).total_memory, rel=0.1
    )
    monitor = SystemMetrics(gpus_of("cuda"), 0.5)
    meter = gpus_of("cuda")
    assert meter is not None
    before_j = meter.energy_j()
    square = torch.randn(4096, 4096, device=CUDA)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        square = torch.nn.functional.normalize(square @ square)
        torch.cuda.synchronize()
    sample, after_j = monitor.sample(), meter.energy_j()
    assert before_j is not None and after_j is not None
    joules = after_j - before_j
    assert joules > 100
    assert sample[GPU_ENERGY] == pytest.approx(joules / 2, rel=0.2)
    assert sample["gpu_0_power_usage_watts"] > 50 and sample["gpu_0_utilization_percentage"] > 10
