"""The training loop: what it yields, how it resumes, stops, diverges and refuses."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from trm_data import Dataset, build
from trm_model.checkpoints.store import (
    Checkpoint,
    CheckpointError,
    CheckpointStore,
    LocalCheckpoints,
    newest_checkpoint,
    pack,
    read_header,
    step_of,
    unpack,
)
from trm_model.checkpoints.trained import load_trained
from trm_model.config import TrialConfig
from trm_model.evaluation import evaluate
from trm_model.evaluation.outcomes import unpack_items
from trm_model.model.precision import product_error
from trm_model.training.events import (
    Checkpointed,
    CheckpointFailed,
    Diverged,
    Evaluated,
    Event,
    Finished,
    Interrupted,
    Started,
    Trained,
)
from trm_model.training.loop import CompileError, OutOfMemoryError, train
from trm_model.training.trainer import Trainer

TINY: dict[str, Any] = {
    "data": {
        "benchmark": "sudoku-4x4",
        "blanks": 6,
        "num_train": 40,
        "num_validation": 10,
        "num_test": 10,
        "num_augmentations": 3,
    },
    "model": {
        "mixer": "mlp",
        "positions": "none",
        "hidden_size": 16,
        "num_heads": 2,
        "cycles": 2,
        "latent_steps": 2,
        "supervision_steps": 3,
        "puzzle_embedding_len": 1,
        "inner_multiple": 32,
    },
    "optimizer": {"lr": 2e-3, "weight_decay": 0.1, "warmup_steps": 3, "ema_rate": 0.9},
    "train": {"batch_size": 8, "max_steps": 10, "dtype": "float32"},
    "runtime": {"device": "cpu", "num_threads": 1, "evaluate_every": 5, "log_every": 2, "checkpoint_every_s": 1e9},
}


def tiny(**sections: dict[str, Any]) -> TrialConfig:
    return TrialConfig.parse(
        {name: {**TINY.get(name, {}), **sections.get(name, {})} for name in TINY.keys() | sections}
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(tiny().data.request(), tmp_path_factory.mktemp("data"))


def run(
    config: TrialConfig, dataset: Dataset, place: Path | CheckpointStore, stop_at: int | None = None
) -> list[Event]:
    """Train; with `stop_at`, be interrupted at the first `Trained` event from that step on."""
    seen: list[Event] = []
    store = LocalCheckpoints(place) if isinstance(place, Path) else place
    for event in train(config, dataset, checkpoints=store, should_stop=lambda: stopped(seen, stop_at)):
        seen.append(event)
    return seen


def stopped(seen: list[Event], stop_at: int | None) -> bool:
    # Whatever followed it: whether a checkpoint did depends on how long the last one took.
    return stop_at is not None and any(isinstance(event, Trained) and event.step >= stop_at for event in seen)


def final_tensors(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = newest_checkpoint(LocalCheckpoints(folder))
    assert checkpoint is not None
    return checkpoint.tensors


def crew_of(parent: int | None = None) -> list[psutil.Process]:
    """The processes of a run in several that `parent`, or this process, has started."""
    return [child for child in psutil.Process(parent).children() if _is_rank(child)]


def _is_rank(process: psutil.Process) -> bool:
    with suppress(psutil.Error):  # it has just ended, or is a zombie that nobody has waited for
        return any("rank_main" in part for part in process.cmdline())
    return False


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert not different


@pytest.mark.parametrize("variant", ["trm", "hrm", "direct"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resumed_run_equals_straight_run_bit_for_bit(
    variant: str, dtype: str, dataset: Dataset, tmp_path: Path
) -> None:
    config = tiny(model={"variant": variant}, train={"dtype": dtype})
    straight = run(config, dataset, tmp_path / "straight")
    first = run(config, dataset, tmp_path / "resumed", stop_at=4)
    second = run(config, dataset, tmp_path / "resumed")
    assert isinstance(first[-1], Interrupted)
    assert second[0] == Started(first[-1].step, straight[0].num_parameters, True)  # type: ignore[union-attr]
    assert_same(final_tensors(tmp_path / "straight"), final_tensors(tmp_path / "resumed"))
    ends = [events[-1] for events in (straight, second)]
    assert all(isinstance(end, Finished) for end in ends)
    assert ends[0].result["per_item"] == ends[1].result["per_item"]  # type: ignore[union-attr]


def test_means_over_steps_that_were_cut_in_two_are_those_of_a_straight_run(dataset: Dataset, tmp_path: Path) -> None:
    def curve(*runs: list[Event]) -> list[tuple[int, dict[str, float]]]:
        timed = ("examples_per_s", "flops_per_s", "train_s")
        return [
            (event.step, {name: value for name, value in event.metrics.items() if name not in timed})
            for events in runs
            for event in events
            if isinstance(event, Trained)
        ]

    config = tiny(runtime={"log_every": 4})
    straight = run(config, dataset, tmp_path / "straight")
    asked = count()
    store = LocalCheckpoints(tmp_path / "resumed")
    first = list(train(config, dataset, checkpoints=store, should_stop=lambda: next(asked) >= 5))
    assert first[-1] == Interrupted(5), "in the midst of what is averaged"
    assert curve(first, run(config, dataset, tmp_path / "resumed")) == curve(straight)


def test_run_resumed_in_a_new_process_equals_straight_run(dataset: Dataset, tmp_path: Path) -> None:
    config = tiny()
    run(config, dataset, tmp_path / "straight")
    run(config, dataset, tmp_path / "resumed", stop_at=4)
    program = (
        "import sys; from pathlib import Path; from trm_data import open_dataset\n"
        "from trm_model.config import TrialConfig\n"
        "from trm_model.checkpoints.store import LocalCheckpoints; from trm_model.training.loop import train\n"
        "config = TrialConfig.model_validate_json(sys.argv[1]); data = open_dataset(Path(sys.argv[2]))\n"
        "print(len(list(train(config, data, checkpoints=LocalCheckpoints(Path(sys.argv[3]))))))"
    )
    arguments = [config.model_dump_json(), str(dataset.path), str(tmp_path / "resumed")]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)
    assert_same(final_tensors(tmp_path / "straight"), final_tensors(tmp_path / "resumed"))


def test_run_yields_its_events_in_order_with_a_complete_result(dataset: Dataset, tmp_path: Path) -> None:
    events = run(tiny(evaluation={"split": "test"}), dataset, tmp_path)
    assert [type(event) for event in events if isinstance(event, Started | Finished)] == [Started, Finished]
    assert [event.step for event in events if isinstance(event, Trained)] == [2, 4, 6, 8, 10]
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    assert [event.step for event in evaluated] == [5, 10]
    wanted = {"exact_accuracy", "cell_accuracy", "raw_cell_accuracy", "raw_exact_accuracy", "train_s"}
    assert wanted <= evaluated[0].metrics.keys()
    assert {"loss", "lr", "puzzles_presented", "examples_per_s"} <= events[1].metrics.keys()  # type: ignore[union-attr]
    result = events[-1].result  # type: ignore[union-attr]
    exact = unpack_items(result["per_item"], result["items"])
    assert result["split"] == "test"
    assert result["items"] == len(exact) == 10
    assert exact.mean() == pytest.approx(result["metrics"]["exact_accuracy"])
    assert result["train_flops"] > 0


def test_means_of_a_run_are_per_sequence_that_halted_and_losses_per_example(dataset: Dataset, tmp_path: Path) -> None:
    events = run(tiny(model={"supervision_steps": 1}, runtime={"log_every": 5}), dataset, tmp_path)
    first, second = [event.metrics for event in events if isinstance(event, Trained)]
    for metrics in (first, second):
        assert metrics["halting_steps"] == 1 and 0 < metrics["cell_accuracy"] < 1
        assert metrics["loss"] == pytest.approx(metrics["answer_loss"] + 0.5 * metrics["halt_loss"], rel=1e-5)
    assert (first["puzzles_presented"], second["puzzles_presented"]) == (5 * 8, 10 * 8)
    assert 0 < first["train_s"] < second["train_s"]


@pytest.mark.parametrize(("weights", "rate"), [("raw", 0.9), ("raw", 0.0), ("ema", 0.0)])
def test_curve_without_an_average_is_that_of_the_raw_weights(
    weights: str, rate: float, dataset: Dataset, tmp_path: Path
) -> None:
    config = tiny(evaluation={"weights": weights}, optimizer={"ema_rate": rate}, runtime={"evaluate_every": 10})
    (point,) = [event.metrics for event in run(config, dataset, tmp_path) if isinstance(event, Evaluated)]
    assert point["cell_accuracy"] == point["raw_cell_accuracy"] and point["items"] == 10


def test_curve_with_an_average_is_that_of_the_average(dataset: Dataset, tmp_path: Path) -> None:
    config = tiny(evaluation={"weights": "ema"}, optimizer={"ema_rate": 0.99, "lr": 1e-2})
    points = [event.metrics for event in run(config, dataset, tmp_path) if isinstance(event, Evaluated)]
    assert any(point["cell_accuracy"] != point["raw_cell_accuracy"] for point in points)


def test_loss_falls_and_puzzles_are_learned(dataset: Dataset, tmp_path: Path) -> None:
    config = tiny(train={"max_steps": 150, "batch_size": 32}, model={"hidden_size": 32}, runtime={"evaluate_every": 75})
    losses = [event.metrics["loss"] for event in run(config, dataset, tmp_path) if isinstance(event, Trained)]
    assert losses[-1] < 0.5 * losses[0]


def test_float32_with_rounded_products_follows_float32_at_first_and_leaves_other_runs_exact(
    dataset: Dataset, tmp_path: Path
) -> None:
    def losses(dtype: str) -> list[float]:
        events = run(tiny(train={"dtype": dtype}, optimizer={"lr": 5e-4}), dataset, tmp_path / dtype)
        return [event.metrics["loss"] for event in events if isinstance(event, Trained)]

    rounded, exact = losses("float32-fast"), losses("float32")
    assert rounded[0] == pytest.approx(exact[0], rel=0.01)  # two steps; later the recursion amplifies the difference
    assert product_error() < 1e-5


def test_non_finite_loss_ends_as_diverged_before_the_weights_are_spoilt(dataset: Dataset, tmp_path: Path) -> None:
    config = tiny(optimizer={"lr": 1e30, "warmup_steps": 0})
    events = run(config, dataset, tmp_path)
    assert isinstance(events[-1], Diverged)
    saved = [event.name for event in events if isinstance(event, Checkpointed)]
    assert not saved
    assert f"step {events[-1].step + 1} is not finite; there is no checkpoint before it" in events[-1].reason


def test_diverged_run_names_its_last_good_checkpoint(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.train_step

    def spoilt(self: Trainer) -> Any:
        loss, sums = step(self)
        return (float("nan"), sums) if self.step == 5 else (loss, sums)

    monkeypatch.setattr(Trainer, "train_step", spoilt)
    end = run(tiny(runtime={"checkpoint_every_s": 1e-9}), dataset, tmp_path)[-1]
    assert isinstance(end, Diverged)
    last = LocalCheckpoints(tmp_path).names()[-1]
    assert end.reason.endswith(f"the last good checkpoint is {last}")
    assert unpack((tmp_path / last).read_bytes()).step < 5


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_out_of_memory_tells_what_was_predicted_what_was_held_and_the_remedy(
    error: Exception, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(self: Trainer) -> None:
        raise error

    monkeypatch.setattr(Trainer, "train_step", exhausted)
    words = r"step 1: 0\.\d+ GiB predicted, (\d+\.\d+) GiB held before\. Set runtime\.micro_batch_size"
    with pytest.raises(OutOfMemoryError, match=words) as told:
        run(tiny(), dataset, tmp_path)
    held = re.search(words, str(told.value))
    assert held is not None and float(held[1]) > 0.1


@pytest.mark.filterwarnings("ignore")  # of torch, while it traces
def test_compiler_that_is_not_there_is_named_with_the_remedy(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nowhere/c++",))
    with pytest.raises(CompileError, match=r"torch\.compile fails on this machine: .*c\+\+") as found:
        run(tiny(runtime={"compile": True}), dataset, tmp_path)
    assert "runtime.compile=false" in str(found.value)


def test_error_that_is_no_lack_of_memory_is_not_called_one(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(trainer: Trainer) -> None:
        raise NotImplementedError("not on this device")  # a RuntimeError, as those of a lost GPU or of NCCL are

    monkeypatch.setattr(Trainer, "train_step", fail)
    with pytest.raises(NotImplementedError, match="not on this device"):
        run(tiny(), dataset, tmp_path)


def test_checkpoints_keep_the_best_and_the_last(dataset: Dataset, tmp_path: Path) -> None:
    events = run(tiny(runtime={"checkpoint_every_s": 1e-9}), dataset, tmp_path)
    store = LocalCheckpoints(tmp_path)
    assert len([event for event in events if isinstance(event, Checkpointed)]) >= 2
    names = store.names()
    best = read_header(store.read(names[-1]))["progress"]["best_step"]
    assert names == sorted({f"step-{best:08d}.safetensors", "step-00000010.safetensors"})


def test_checkpoint_of_another_configuration_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    run(tiny(), dataset, tmp_path)
    with pytest.raises(CheckpointError, match="another model configuration"):
        run(tiny(model={"latent_steps": 3}), dataset, tmp_path)


def cut(data: bytes) -> bytes:
    return data[:-100]


def with_another_carry(data: bytes) -> bytes:
    """A file that can be read, but whose carry is outside the vocabulary."""
    found = unpack(data)
    return pack(found.tensors | {"carry/inputs_BC": found.tensors["carry/inputs_BC"].clone().fill_(200)}, found.header)


@pytest.mark.parametrize("damage", [cut, with_another_carry])
def test_run_whose_newest_checkpoint_is_damaged_resumes_from_the_one_before_and_ends_bit_for_bit_the_same(
    damage: Callable[[bytes], bytes], dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(runtime={"checkpoint_every_s": 1e-9, "evaluate_every": 100})
    run(config, dataset, tmp_path / "straight")
    run(config, dataset, tmp_path / "damaged", stop_at=6)
    store = LocalCheckpoints(tmp_path / "damaged")
    *_, before, newest_name = store.names()
    store.write(newest_name, damage(store.read(newest_name)))
    started = run(config, dataset, store)[0]
    assert isinstance(started, Started) and started.resumed and started.step == step_of(before)
    assert f"{newest_name} is not usable" in caplog.text
    assert_same(final_tensors(tmp_path / "straight"), final_tensors(tmp_path / "damaged"))


class AskedDuringEvaluation:
    """A `should_stop` that becomes true at the `nth` batch of evaluation, counted over the run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
        self._batches, self._nth, answer = 0, nth, evaluate.final_answers

        def counted(*arguments: Any, **options: Any) -> Any:
            self._batches += 1
            return answer(*arguments, **options)

        monkeypatch.setattr(evaluate, "final_answers", counted)

    def __call__(self) -> bool:
        return self._batches >= self._nth


@pytest.mark.parametrize(("nth", "step"), [(3, 5), (9, 10), (13, 10)])  # a curve point, the last one, the final score
def test_stop_is_noticed_between_batches_of_an_evaluation_which_is_repeated_after_the_resume(
    nth: int, step: int, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(evaluation={"batch_size": 4})  # 3 batches per score, 6 per curve point: raw and averaged weights
    straight = run(config, dataset, tmp_path / "straight")
    with monkeypatch.context() as patch:
        stop = AskedDuringEvaluation(patch, nth)
        store = LocalCheckpoints(tmp_path / "cut")
        first = list(train(config, dataset, checkpoints=store, should_stop=stop))
    assert first[-1] == Interrupted(step, is_saved=True)
    assert not any(isinstance(event, Evaluated) and event.step == step for event in first) or nth == 13
    second = run(config, dataset, tmp_path / "cut")

    def curve(events: list[Event]) -> list[tuple[int, float]]:
        return [(event.step, event.metrics["cell_accuracy"]) for event in events if isinstance(event, Evaluated)]

    assert curve(first) + curve(second) == curve(straight)
    assert_same(final_tensors(tmp_path / "cut"), final_tensors(tmp_path / "straight"))
    ends = [events[-1] for events in (second, straight)]
    assert all(isinstance(end, Finished) for end in ends)
    assert ends[0].result["metrics"] == ends[1].result["metrics"]  # type: ignore[union-attr]


class Failing(LocalCheckpoints):
    """A folder whose disk fails at the writes with these numbers, from 1."""

    def __init__(self, folder: Path, code: int, *numbers: int) -> None:
        super().__init__(folder)
        self.code, self.numbers, self.writes = code, numbers, 0

    def write(self, name: str, data: bytes) -> None:
        self.writes += 1
        if self.writes in self.numbers:
            raise OSError(self.code, os.strerror(self.code))
        super().write(name, data)


def test_checkpoint_that_cannot_be_written_does_not_end_training(dataset: Dataset, tmp_path: Path) -> None:
    config = tiny(runtime={"checkpoint_every_s": 1e-9, "keep_checkpoints": 20})
    events = run(config, dataset, Failing(tmp_path, errno.EIO, 1, 2))
    failed = [event for event in events if isinstance(event, CheckpointFailed)]
    assert len(failed) == 2 and "Input/output error" in failed[0].reason and not failed[0].is_out_of_space
    assert any(isinstance(event, Checkpointed) for event in events) and isinstance(events[-1], Finished)
    assert newest_checkpoint(LocalCheckpoints(tmp_path)) is not None


def test_last_checkpoint_of_a_stop_is_tried_twice_and_a_failure_is_reported(dataset: Dataset, tmp_path: Path) -> None:
    once = run(tiny(), dataset, Failing(tmp_path / "once", errno.EIO, 1), stop_at=2)
    tried = [event for event in once if isinstance(event, CheckpointFailed | Checkpointed)]
    assert isinstance(tried[-2], CheckpointFailed) and once[-1] == Interrupted(2, is_saved=True)
    full = run(tiny(), dataset, Failing(tmp_path / "full", errno.ENOSPC, 1), stop_at=2)
    assert isinstance(full[-2], CheckpointFailed) and full[-2].is_out_of_space
    assert full[-1] == Interrupted(2, is_saved=False)


def test_several_averages_are_kept_and_scored(dataset: Dataset, tmp_path: Path) -> None:
    events = run(tiny(optimizer={"further_ema_rates": [0.5, 0.99]}), dataset, tmp_path)
    assert {"exact_accuracy@ema=0.5", "exact_accuracy@ema=0.99"} <= events[-1].result["metrics"].keys()  # type: ignore[union-attr]
    names = final_tensors(tmp_path)
    assert {name.split("/")[1] for name in names if name.startswith("ema/")} == {"0.9", "0.5", "0.99"}
    alone = run(tiny(), dataset, tmp_path / "alone")
    assert alone[-1].result["per_item"] == events[-1].result["per_item"]  # type: ignore[union-attr]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_other_optimizers_learn(optimizer: str, dataset: Dataset, tmp_path: Path) -> None:
    config = tiny(optimizer={"name": optimizer}, train={"max_steps": 80, "batch_size": 32}, runtime={"log_every": 20})
    losses = [event.metrics["loss"] for event in run(config, dataset, tmp_path) if isinstance(event, Trained)]
    assert losses[-1] < 0.8 * losses[0]


def test_depth_curriculum_trains_at_each_depth_and_counts_its_flops(dataset: Dataset, tmp_path: Path) -> None:
    plain = run(tiny(), dataset, tmp_path / "plain")[-1].result["train_flops"]  # type: ignore[union-attr]
    shallow = tiny(train={"depth_curriculum": [[0.0, 1, 1], [0.5, 2, 2]]})
    assert 0.5 * plain < run(shallow, dataset, tmp_path / "cgar")[-1].result["train_flops"] < 0.9 * plain  # type: ignore[union-attr]


def test_run_ends_once_its_puzzles_have_been_presented(dataset: Dataset, tmp_path: Path) -> None:
    def presented(supervision_steps: int, folder: str, most: int = 40) -> tuple[int, int]:
        config = tiny(model={"supervision_steps": supervision_steps}, train={"max_puzzles": most, "max_steps": 100})
        end = run(config, dataset, tmp_path / folder)[-1]
        assert isinstance(end, Finished)
        return end.step, end.result["puzzles_presented"]

    (few, first), (many, second) = presented(1, "one"), presented(4, "four")
    assert 40 <= first < 48 and 40 <= second < 48  # at most a batch too many
    assert few == 5 < many < 100
    assert presented(1, "one more", 41) == (6, 48)


def test_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x\.safetensors is not a checkpoint"):
        unpack(b"nonsense", "x.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"step": None},
        {"step": "x"},
        {"vocab_size": -1},
        {"vocab_size": 2**40},
        {"seq_len": 2**40},
        {"num_identifiers": 2**40},
    ],
    ids=["no step", "step that is text", "negative size", "symbols", "cells", "puzzles"],
)
def test_header_that_describes_no_model_is_one_line(change: dict[str, Any]) -> None:
    header = {"step": 1, "vocab_size": 6, "seq_len": 16, "num_identifiers": 0, "id_map_hash": "", "config": {}}
    with pytest.raises(CheckpointError, match="the checkpoint is damaged"):
        load_trained(Checkpoint({}, header | change))
