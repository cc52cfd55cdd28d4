"""Two processes with half the batch each follow one process with the whole batch, as micro-batches do.

Both add up the same gradients in another order, so that they differ by rounding, which the recursion amplifies from
step to step: by as much as if one weight had been changed in its last bit, which is the measure here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trm_model.test_train import TINY, crew_of, final_tensors, run, tiny
from trm_data import Dataset, build
from trm_model.checkpoints.run_checkpoints import RunCheckpoints
from trm_model.checkpoints.store import CheckpointError, LocalCheckpoints, checkpoint_names
from trm_model.config import TrialConfig
from trm_model.training.events import (
    Checkpointed,
    CheckpointFailed,
    Event,
    Finished,
    Interrupted,
    Saving,
    Started,
    Trained,
    handle,
)
from trm_model.training.launch import train_in_processes
from trm_model.training.loop import train
from trm_model.training.trainer import Trainer

STEPS = 20


def slow_learner(**sections: Any) -> TrialConfig:
    fixed = {"train": {"max_steps": STEPS}, "optimizer": {"lr": 5e-4}, "evaluation": {"batch_size": 3}}
    return tiny(**fixed, runtime={"evaluate_every": STEPS, **sections})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(tiny().data.request(), tmp_path_factory.mktemp("data"))


def eager(config: TrialConfig, dataset: Dataset) -> Trainer:
    """A run whose every sequence wants to halt at once, so that exploration alone decides when it leaves its slot."""
    made = Trainer(config, dataset, torch.device("cpu"))
    with torch.no_grad():
        made.model.halt_bias.fill_(5.0)
    return made


def distance(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((two.double() - one.double()).norm() / one.double().norm().clamp_min(1e-12))


def change_one_bit(trainer: Trainer) -> None:
    weight = trainer.flat.vector.data[100:101]
    weight.copy_(torch.nextafter(weight, torch.tensor(torch.inf)))


def drift(dataset: Dataset) -> float:
    """How far one changed bit takes a run: it depends on the processor and its threads, whose sums differ in order."""
    whole, nudged = (Trainer(slow_learner(), dataset, torch.device("cpu")) for _ in range(2))
    change_one_bit(nudged)
    for _ in range(STEPS):
        whole.train_step()
        nudged.train_step()
    return distance(whole.flat.vector.data, nudged.flat.vector.data)


def test_micro_batches_follow_the_whole_batch_as_closely_as_a_run_changed_in_one_bit(dataset: Dataset) -> None:
    cpu = torch.device("cpu")
    whole, parts, nudged = (
        Trainer(config, dataset, cpu) for config in (slow_learner(), slow_learner(micro_batch_size=3), slow_learner())
    )
    change_one_bit(nudged)
    for step in range(1, STEPS + 1):
        for trainer in (whole, parts, nudged):
            trainer.train_step()
        measures = [
            (distance(whole.flat.grad, other.flat.grad), distance(whole.flat.vector.data, other.flat.vector.data))
            for other in (parts, nudged)
        ]
        for found, allowed in zip(*measures, strict=True):
            assert found < 10 * allowed + 1e-6, f"step {step}: {measures}"
        assert torch.equal(whole.carry.halted_B, parts.carry.halted_B)
        assert torch.equal(whole.carry.inputs_BC, parts.carry.inputs_BC)


EXPLORING: dict[str, Any] = {"model": {"supervision_steps": 6, "halt_exploration": 0.5}, "train": {"batch_size": 32}}


def test_exploration_draws_the_same_for_micro_batches_as_for_the_whole_batch(dataset: Dataset) -> None:
    whole = eager(tiny(**EXPLORING), dataset)
    parts = eager(tiny(**EXPLORING, runtime={"micro_batch_size": 8}), dataset)
    mixed = 0
    for step in range(1, 9):
        for trainer in (whole, parts):
            trainer.train_step()
        for name in ("halted_B", "steps_B", "inputs_BC", "labels_BC"):
            assert torch.equal(getattr(whole.carry, name), getattr(parts.carry, name)), f"{name} of step {step}"
        mixed += bool(whole.carry.halted_B.any() and not whole.carry.halted_B.all())
    assert whole.puzzles_presented == parts.puzzles_presented
    assert mixed >= 6, "some must leave their slots and others stay, or nothing is tested"


def test_exploration_draws_the_same_for_two_processes_as_for_one(dataset: Dataset, tmp_path: Path) -> None:
    config = tiny(**EXPLORING, runtime={"evaluate_every": 10})
    start = eager(config, dataset).state({"progress": {}})
    for name, processes in (("one", 1), ("two", 2)):
        store = LocalCheckpoints(tmp_path / name)
        RunCheckpoints(store).write(start)
        seen = list(train_in_processes(config, dataset, processes=processes, checkpoints=store))
        assert isinstance(seen[0], Started) and seen[0].resumed and isinstance(seen[-1], Finished)
    one, two = final_tensors(tmp_path / "one"), final_tensors(tmp_path / "two")
    assert one["carry/halted_B"].any() and not one["carry/halted_B"].all()
    for name in ("halted_B", "steps_B", "inputs_BC", "labels_BC"):
        assert torch.equal(one[f"carry/{name}"], two[f"carry/{name}"]), name


@pytest.mark.parametrize("processes", [1, 2])
def test_a_checkpoint_is_put_off_while_the_points_before_it_cannot_be_stored(
    processes: int, dataset: Dataset, tmp_path: Path
) -> None:
    store, seen = LocalCheckpoints(tmp_path), list[Event]()

    def take(event: Event) -> bool | None:
        seen.append(event)
        if isinstance(event, Saving):
            assert not checkpoint_names(store), "it is written after this"
            return False
        return None

    handle(train_in_processes(tiny(), dataset, processes=processes, checkpoints=store), take)
    assert isinstance(seen[-1], Finished) and any(isinstance(event, Saving) for event in seen)
    assert not any(isinstance(event, Checkpointed) for event in seen) and not checkpoint_names(store)
    failed = [event.reason for event in seen if isinstance(event, CheckpointFailed)]
    assert set(failed) == {"the points before it could not be stored"}


def test_two_processes_follow_one_over_twenty_steps_stop_at_one_step_and_share_the_evaluation(
    dataset: Dataset, tmp_path: Path
) -> None:
    config, store = slow_learner(), LocalCheckpoints(tmp_path / "two")
    seen: list[Event] = []

    def stop() -> bool:
        return bool(seen) and seen[-1].step >= 4

    for event in train_in_processes(config, dataset, processes=2, checkpoints=store, should_stop=stop):
        seen.append(event)
    assert [type(event) for event in seen] == [Started, Trained, Trained, Saving, Checkpointed, Interrupted]
    assert {event.step for event in seen[2:]} == {4}
    seen = list(train_in_processes(config, dataset, processes=2, checkpoints=store))
    assert isinstance(seen[0], Started) and seen[0].resumed and seen[0].step == 4
    assert not crew_of()

    run(config, dataset, tmp_path / "one")
    one, two = final_tensors(tmp_path / "one"), final_tensors(tmp_path / "two")
    assert one["carry/halted_B"].shape == (TINY["train"]["batch_size"],)
    assert one.keys() == two.keys()
    allowed = 10 * drift(dataset)
    for name, value in one.items():
        tolerance = allowed + (1e-4 if name.startswith(("model/", "ema/")) else 1e-2)
        assert distance(value, two[name]) < tolerance, name
    for name in ("halted_B", "steps_B", "inputs_BC", "labels_BC"):
        assert torch.equal(one[f"carry/{name}"], two[f"carry/{name}"])

    # Their last checkpoint, scored by one process alone, has the scores that the two took together.
    (alone,) = [event for event in train(config, dataset, checkpoints=store) if isinstance(event, Finished)]
    together = seen[-1]
    assert isinstance(together, Finished)
    assert alone.result["items"] == 10
    for name in ("metrics", "per_item"):
        assert alone.result[name] == together.result[name]


class DamagedForTheSecondProcess(LocalCheckpoints):
    """Checkpoints of which the newest is damaged where the second process reads it."""

    def read(self, name: str) -> bytes:
        data = super().read(name)
        is_second = torch.distributed.is_initialized() and torch.distributed.get_rank() == 1
        return data[:-100] if is_second and name == self.names()[-1] else data


def test_processes_that_read_different_checkpoints_do_not_train(dataset: Dataset, tmp_path: Path) -> None:
    config = tiny(runtime={"checkpoint_every_s": 1e-9, "evaluate_every": 100})
    run(config, dataset, tmp_path, stop_at=4)
    store = DamagedForTheSecondProcess(tmp_path)
    with pytest.raises(CheckpointError, match="the processes read checkpoints of different steps"):
        list(train_in_processes(config, dataset, processes=2, checkpoints=store))
