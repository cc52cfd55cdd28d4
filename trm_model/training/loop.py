"""Training as one plain loop that yields events. It owns no tracker, no scheduler and no clock of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from resource import RUSAGE_SELF, getrusage
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from trm_data.dataset.loader import first_rows
from trm_data.errors import ConfigError, UserError, first_line
from trm_model.checkpoints.store import CheckpointStore, RunCheckpoints, name_of
from trm_model.config import TrialConfig
from trm_model.cost import peak_bytes
from trm_model.device import resolve_device
from trm_model.evaluation.evaluate import check_evaluation
from trm_model.evaluation.outcomes import EvalResult
from trm_model.training.events import Checkpointed, Diverged, Evaluated, Event, Finished, Interrupted, Started, Trained
from trm_model.training.supervision import SUMS
from trm_model.training.trainer import Trainer

if TYPE_CHECKING:
    from trm_data import Dataset

Clock = Callable[[], float]
_COMPILER = ("torch._inductor", "torch._dynamo")
_LOSSES = {"answer_loss", "halt_loss", "continue_loss"}


@dataclass(slots=True)
class _Window:
    """Sums over the steps since the last `Trained` event. Saved too: a mean over steps that were cut in two is the
    same as over steps in one piece."""

    steps: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    flops: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0] * len(SUMS))

    def add(self, loss: float, sums: NDArray[np.float64], seconds: float, flops: float) -> None:
        self.steps += 1
        self.seconds += seconds
        self.loss += loss
        self.flops += flops
        self.sums = [before + new for before, new in zip(self.sums, sums.tolist(), strict=True)]

    def means(self, batch_size: int) -> dict[str, float]:
        """Return losses per example; the rest per sequence that halted (absent where none did)."""
        sums = dict(zip(SUMS, self.sums, strict=True))
        halted = sums.pop("count")
        metrics = {"loss": self.loss / self.steps}
        for name, value in sums.items():
            if name in _LOSSES:
                metrics[name] = value / (self.steps * batch_size)
            elif halted:
                metrics[name] = value / halted
        seconds = max(self.seconds, 1e-9)
        return metrics | {"examples_per_s": self.steps * batch_size / seconds, "flops_per_s": self.flops / seconds}


@dataclass(slots=True)
class _Progress:
    """Progress that outlives an attempt, in addition to the trainer's own state."""

    train_s: float = 0.0
    best_step: int | None = None
    best_score: float = -1.0
    window: _Window = field(default_factory=_Window)

    @classmethod
    def of(cls, saved: dict[str, Any]) -> _Progress:
        """From a checkpoint; those of earlier versions hold no window."""
        return cls(**{**saved, "window": _Window(**saved.get("window", {}))})


class OutOfMemoryError(UserError):
    """The device's memory does not hold the run."""


class CompileError(UserError):
    """`torch.compile` lacks something on this machine."""


def never() -> bool:
    """Return the `should_stop` of a run that is not to be interrupted."""
    return False


def train(
    config: TrialConfig,
    dataset: Dataset,
    *,
    checkpoints: CheckpointStore,
    should_stop: Callable[[], bool] = never,
    clock: Clock = time.time,
    timer: Clock = time.perf_counter,
) -> Iterator[Event]:
    """Train and score one configuration, going on from the newest checkpoint in `checkpoints` if there is one.

    `clock` gives seconds since the epoch, `timer` measures durations.

    Raises:
        UserError: a checkpoint of another run, an empty split, no such device, not enough memory.
    """
    _check_final_score(config, dataset)
    runtime = config.runtime
    if runtime.num_threads:
        torch.set_num_threads(runtime.num_threads)
    trainer = Trainer(config, dataset, resolve_device(runtime.device))
    progress = _Progress()
    kept = RunCheckpoints(checkpoints)
    found = kept.newest()
    if found is not None:
        trainer.load(found)
        progress = _Progress.of(found.header["progress"])
    yield Started(trainer.step, trainer.flat.num_parameters, found is not None)

    has_curve = dataset.counts.get("validation", 0) > 0 and _has_answers(dataset, "validation", _curve_puzzles(config))
    evaluate_every = runtime.evaluate_every or max(1, config.train.max_steps // 10)
    saved_at, save_s = timer(), 0.0
    while not trainer.is_done:
        if trainer.ranks.broadcast_flag(should_stop()):
            yield _save(trainer, progress, kept)
            yield Interrupted(trainer.step)
            return
        started, flops = timer(), trainer.flops
        loss, sums = _step(trainer)
        seconds = timer() - started
        if not math.isfinite(loss):
            yield Diverged(trainer.step, f"the loss of step {trainer.step + 1} is not finite; {kept.describe_last()}")
            return
        progress.train_s += seconds
        progress.window.add(loss, sums, seconds, trainer.flops - flops)
        is_last = trainer.is_done
        if trainer.step % runtime.log_every == 0 or is_last:
            yield Trained(trainer.step, progress.window.means(config.train.batch_size) | _position(trainer, progress))
            progress.window = _Window()
        improved = False
        if has_curve and (trainer.step % evaluate_every == 0 or is_last):
            metrics = _curve_point(trainer)
            improved = metrics["exact_accuracy"] > progress.best_score
            if improved:
                progress.best_step, progress.best_score = trainer.step, metrics["exact_accuracy"]
            yield Evaluated(trainer.step, "validation", metrics | _position(trainer, progress))
        is_due = trainer.ranks.broadcast_flag(timer() - saved_at >= max(runtime.checkpoint_every_s, 20 * save_s))
        if improved or is_last or is_due:
            started = timer()
            saved = _save(trainer, progress, kept)
            saved_at = timer()
            save_s = saved_at - started
            yield saved
    yield Finished(trainer.step, *_result(trainer, progress, clock))


def _check_final_score(config: TrialConfig, dataset: Dataset) -> None:
    """Refuse before the first step what would fail after the last one: the final evaluation.

    Raises:
        ConfigError: the split is empty or has no known answers, or there are more votes than views.
    """
    evaluation = config.evaluation
    check_evaluation(dataset, evaluation.split, evaluation, config.data.num_augmentations)
    if not _has_answers(dataset, evaluation.split, evaluation.max_puzzles):
        raise ConfigError(
            f"no {evaluation.split} puzzle of {dataset.benchmark} has a known answer, so that nothing could be scored",
            "Set evaluation.split to a split with answers",
        )


def _has_answers(dataset: Dataset, split: str, max_puzzles: int | None) -> bool:
    return bool(dataset.is_answered[first_rows(dataset, split, max_puzzles)].any())


def _curve_puzzles(config: TrialConfig) -> int | None:
    """Return how many validation puzzles a point of the curve is scored on; None means all."""
    return config.runtime.evaluate_puzzles or config.evaluation.max_puzzles


def _step(trainer: Trainer) -> tuple[float, NDArray[np.float64]]:
    try:
        return trainer.train_step()
    except (MemoryError, RuntimeError) as error:
        if type(error).__module__.startswith(_COMPILER):
            raise CompileError(
                f"torch.compile fails on this machine: {first_line(error)}",
                "Install a C++ compiler and Python's headers (apt: g++ python3-dev), or set runtime.compile=false",
            ) from error
        if not _lacks_memory(error):
            raise
        predicted = peak_bytes(
            trainer.config,
            seq_len=trainer.dataset.seq_len,
            vocab_size=trainer.dataset.vocab_size,
            num_identifiers=trainer.num_identifiers,
            device=trainer.device.type,
        )
        on_gpu = trainer.device.type == "cuda"
        held = torch.cuda.max_memory_allocated() if on_gpu else 1024 * getrusage(RUSAGE_SELF).ru_maxrss
        raise OutOfMemoryError(
            f"out of memory at step {trainer.step + 1}: {predicted / 2**30:.2f} GiB predicted, "
            f"{held / 2**30:.2f} GiB held before",
            "Set runtime.micro_batch_size to a part of the batch (the result stays the same), or take a larger "
            + ("GPU" if on_gpu else "machine"),
        ) from error


def _lacks_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")
    )


def _position(trainer: Trainer, progress: _Progress) -> dict[str, float]:
    position = {
        "lr": trainer.learning_rate(trainer.config.optimizer.lr),
        "puzzles_presented": float(trainer.puzzles_presented),
        "train_s": progress.train_s,
    }
    return position | _energy(trainer)


def _energy(trainer: Trainer) -> dict[str, float]:
    joules = trainer.energy_j()
    return {} if joules is None else {"energy_j": joules}


def _curve_point(trainer: Trainer) -> dict[str, float]:
    """Return scores of the weights that the evaluation names and, since an average lags, of the raw weights."""
    config = trainer.config
    limit = _curve_puzzles(config)
    raw = trainer.score("validation", weights="raw", max_puzzles=limit)
    chosen = raw
    if config.evaluation.weights == "ema" and config.optimizer.ema_rate:
        chosen = trainer.score("validation", weights="ema", max_puzzles=limit)
    return chosen.metrics | {
        "raw_exact_accuracy": raw.metrics["exact_accuracy"],
        "raw_cell_accuracy": raw.metrics["cell_accuracy"],
        "items": float(chosen.items),
    }


def _save(trainer: Trainer, progress: _Progress, kept: RunCheckpoints) -> Checkpointed:
    state = trainer.state({"progress": asdict(progress)})  # all processes have a part in it, the first one writes
    if trainer.ranks.rank > 0:
        return Checkpointed(trainer.step, name_of(trainer.step), 0)
    written = kept.write(state)
    kept.prune(keep=trainer.config.runtime.keep_checkpoints, best_step=progress.best_step)
    return Checkpointed(trainer.step, written.name, written.num_bytes)


def _result(trainer: Trainer, progress: _Progress, clock: Clock) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Take the final score; return it as plain data, with the files that accompany it."""
    config = trainer.config
    evaluation = config.evaluation
    score: EvalResult = trainer.score(evaluation.split, weights=evaluation.weights, max_puzzles=evaluation.max_puzzles)
    further = {
        f"exact_accuracy@ema={rate}": trainer.score(
            evaluation.split, weights=str(rate), max_puzzles=evaluation.max_puzzles
        ).metrics["exact_accuracy"]
        for rate in config.optimizer.further_ema_rates
    }
    files = {"outcomes.arrow": score.arrow(), "gallery.json": trainer.gallery(score)}
    result = {
        "split": score.split,
        "items": score.items,
        "unscored": score.unscored,
        "metrics": score.metrics | further,
        "supervision_steps": score.supervision_steps,
        "weights": evaluation.weights if config.optimizer.ema_rate else "raw",
        "num_parameters": trainer.flat.num_parameters,
        "steps": trainer.step,
        "puzzles_presented": trainer.puzzles_presented,
        "train_flops": trainer.flops,
        "train_s": progress.train_s,
        "ended_s": clock(),
        "per_item": score.per_item,
        **_energy(trainer),
    }
    if score.tasks:
        result["per_task"] = {f"pass@{k}": score.shares(k).tolist() for k in (1, 2)}
    return result, files
