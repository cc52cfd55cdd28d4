"""Train in one plain loop that yields events, without a tracker, a scheduler or a clock of its own."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from resource import RUSAGE_SELF, getrusage
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from trm_data.dataset.loader import first_rows
from trm_data.errors import ConfigError, UserError, first_line, is_of_machine, is_out_of_memory, is_out_of_space
from trm_model.checkpoints.run_checkpoints import RunCheckpoints
from trm_model.checkpoints.start import read_start
from trm_model.checkpoints.store import CheckpointError, CheckpointStore, name_of
from trm_model.config import TrialConfig
from trm_model.cost import peak_bytes
from trm_model.device import resolve_device
from trm_model.evaluation.evaluate import EvaluationStoppedError, check_evaluation, never
from trm_model.evaluation.outcomes import EvalResult
from trm_model.training.events import (
    Checkpointed,
    CheckpointFailed,
    Diverged,
    Evaluated,
    Event,
    Finished,
    Interrupted,
    Run,
    Saving,
    Started,
    Trained,
)
from trm_model.training.supervision import SUMS
from trm_model.training.trainer import Trainer

if TYPE_CHECKING:
    from trm_data import Dataset

Clock = Callable[[], float]
_COMPILER = ("torch._inductor", "torch._dynamo")
_LOSSES = {"answer_loss", "halt_loss", "continue_loss"}


@dataclass(slots=True)
class _Window:
    """Sum up the steps since the last `Trained` event. Checkpointed, so that a mean over interrupted steps is the
    same as over uninterrupted ones."""

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
    """Hold the progress that outlives an attempt, in addition to the trainer's own state."""

    train_s: float = 0.0
    best_step: int | None = None
    best_score: float = -1.0
    window: _Window = field(default_factory=_Window)
    is_evaluation_due: bool = False
    """Whether the evaluation at the current step is still to be done, because a stop cut it off."""

    @classmethod
    def of(cls, saved: dict[str, Any]) -> _Progress:
        """Restore from a checkpoint; those of earlier versions contain no window."""
        return cls(**{**saved, "window": _Window(**saved.get("window", {}))})


class OutOfMemoryError(UserError):
    """Raised if the device's memory does not hold the run."""


class CompileError(UserError):
    """Raised if this machine lacks something that `torch.compile` needs, a compiler or the space for its cache."""


def train(
    config: TrialConfig,
    dataset: Dataset,
    *,
    checkpoints: CheckpointStore,
    start: CheckpointStore | None = None,
    should_stop: Callable[[], bool] = never,
    clock: Clock = time.time,
    timer: Clock = time.perf_counter,
) -> Run:
    """Train and score one configuration, resuming from the newest checkpoint in `checkpoints` if there is one.

    This is a generator: nothing runs until the events are iterated.

    Args:
        start: holds what `train.start_from` names (`checkpoints.start.copy_start`); None reads the file itself.
        clock: gives seconds since the epoch.
        timer: measures durations.

    Raises:
        UserError: a checkpoint of another run, an empty split, no such device, not enough memory.
    """
    _check_final_score(config, dataset)
    runtime = config.runtime
    if runtime.num_threads:
        torch.set_num_threads(runtime.num_threads)
    trainer = Trainer(config, dataset, resolve_device(runtime.device))
    kept = RunCheckpoints(checkpoints)
    progress, event = _begin(trainer, kept, start)
    yield event

    has_curve = dataset.counts.get("validation", 0) > 0 and _has_answers(dataset, "validation", _curve_puzzles(config))
    evaluate_every = runtime.evaluate_every or max(1, config.train.max_steps // 10)
    saved_at, save_s = timer(), 0.0
    while not trainer.is_done or progress.is_evaluation_due:
        if trainer.ranks.broadcast_flag(should_stop()):
            yield from _stop(trainer, progress, kept, timer)
            return
        if not progress.is_evaluation_due:
            if not _advance(trainer, progress, timer):
                yield Diverged(
                    trainer.step, f"the loss of step {trainer.step + 1} is not finite; {kept.describe_last()}"
                )
                return
            if trainer.step % runtime.log_every == 0 or trainer.is_done:
                means = progress.window.means(config.train.batch_size)
                yield Trained(trainer.step, means | _position(trainer, progress))
                progress.window = _Window()
            is_rung = trainer.step % evaluate_every == 0 or trainer.is_done
            progress.is_evaluation_due = is_rung and has_curve
        improved = False
        if progress.is_evaluation_due:
            try:
                metrics = _curve_point(trainer, should_stop)
            except EvaluationStoppedError:  # its checkpoint says that the evaluation is due
                yield from _stop(trainer, progress, kept, timer)
                return
            progress.is_evaluation_due = False
            improved = metrics["exact_accuracy"] > progress.best_score
            if improved:
                progress.best_step, progress.best_score = trainer.step, metrics["exact_accuracy"]
            yield Evaluated(trainer.step, "validation", metrics | _position(trainer, progress))
        is_due = trainer.ranks.broadcast_flag(timer() - saved_at >= max(runtime.checkpoint_every_s, 20 * save_s))
        if improved or trainer.is_done or is_due:
            saved = yield from _save(trainer, progress, kept, timer)
            saved_at = timer()
            save_s = saved.seconds if isinstance(saved, Checkpointed) else save_s
            yield saved
    try:
        yield Finished(trainer.step, *_result(trainer, progress, clock, should_stop))
    except EvaluationStoppedError:
        yield from _stop(trainer, progress, kept, timer)


def _begin(trainer: Trainer, kept: RunCheckpoints, start: CheckpointStore | None) -> tuple[_Progress, Started]:
    """Resume from a checkpoint of the run, else begin with the weights that its configuration names."""
    found, address, started_from = kept.restore(trainer.load), trainer.config.train.start_from, ""
    _check_same_step(trainer)
    progress = _Progress() if found is None else _Progress.of(found.header["progress"])
    if found is None and address is not None:
        started_from = trainer.start_from(read_start(address, start))
    is_resumed, skipped = found is not None, kept.skipped
    return progress, Started(trainer.step, trainer.flat.num_parameters, is_resumed, started_from, skipped)


def _check_same_step(trainer: Trainer) -> None:
    """Raise CheckpointError if a checkpoint was readable for some of the processes only."""
    steps = set(trainer.ranks.gather(torch.tensor([trainer.step], device=trainer.device)).tolist())
    if len(steps) > 1:
        raise CheckpointError(
            f"the processes read checkpoints of different steps ({', '.join(map(str, sorted(steps)))})",
            "Start the run again, or delete the newest checkpoint",
        )


def _check_final_score(config: TrialConfig, dataset: Dataset) -> None:
    """Raise an error before the first step for settings with which the final evaluation would fail.

    Puzzles of which none has a known answer are trained for a submission, and give no score.

    Raises:
        ConfigError: the split is empty or has no known answers, or there are more votes than views.
    """
    evaluation = config.evaluation
    check_evaluation(dataset, evaluation.split, evaluation, config.data.num_augmentations)
    is_submission = not any(_has_answers(dataset, split, None) for split in ("validation", "test"))
    if not is_submission and not _has_answers(dataset, evaluation.split, evaluation.max_puzzles):
        raise ConfigError(
            f"no {evaluation.split} puzzle of {dataset.benchmark} has a known answer, so that nothing could be scored",
            "Set evaluation.split to a split with answers",
        )


def _has_answers(dataset: Dataset, split: str, max_puzzles: int | None) -> bool:
    if not dataset.counts.get(split, 0):
        return False
    return bool(dataset.is_answered[first_rows(dataset, split, max_puzzles)].any())


def _curve_puzzles(config: TrialConfig) -> int | None:
    """Return how many validation puzzles are scored for a point of the curve; None means all."""
    return config.runtime.evaluate_puzzles or config.evaluation.max_puzzles


def _advance(trainer: Trainer, progress: _Progress, timer: Clock) -> bool:
    """Train one step. Returns whether its loss is finite."""
    started, flops = timer(), trainer.flops
    with _memory_explained(trainer):
        loss, sums = trainer.train_step()
    if not math.isfinite(loss):
        return False
    seconds = timer() - started
    progress.train_s += seconds
    progress.window.add(loss, sums, seconds, trainer.flops - flops)
    return True


@contextmanager
def _memory_explained(trainer: Trainer) -> Iterator[None]:
    """Raise a lack of memory, and a compiler that does not work, as errors with a remedy.

    Raises:
        OutOfMemoryError: with the predicted memory and what was held before.
        CompileError: `torch.compile` fails.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if type(error).__module__.startswith(_COMPILER):
            raise _compile_error(error) from error
        if not is_out_of_memory(error):
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


def _compile_error(error: Exception) -> Exception:
    """Return why `torch.compile` fails, with the remedy."""
    if is_of_machine(error):
        return error
    if is_out_of_space(error):
        folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()
        what, remedy = "cannot write its cache", f"Free some space in {folder}, or name another TORCHINDUCTOR_CACHE_DIR"
    else:
        what = "fails on this machine"
        remedy = "Install a C++ compiler and Python's headers (apt: g++ python3-dev), or set runtime.compile=false"
    return CompileError(f"torch.compile {what}: {first_line(error)}", remedy)


def _position(trainer: Trainer, progress: _Progress) -> dict[str, float]:
    return {
        "lr": trainer.learning_rate(trainer.config.optimizer.lr),
        "puzzles_presented": float(trainer.puzzles_presented),
        "train_s": progress.train_s,
    }


def _curve_point(trainer: Trainer, should_stop: Callable[[], bool]) -> dict[str, float]:
    """Return scores of the weights that the evaluation names and, since an average lags, of the raw weights."""
    config = trainer.config
    limit = _curve_puzzles(config)
    with _memory_explained(trainer):
        raw = trainer.score("validation", weights="raw", max_puzzles=limit, should_stop=should_stop)
        chosen = raw
        if config.evaluation.weights == "ema" and trainer.averages:
            chosen = trainer.score("validation", weights="ema", max_puzzles=limit, should_stop=should_stop)
    return chosen.metrics | {
        "raw_exact_accuracy": raw.metrics["exact_accuracy"],
        "raw_cell_accuracy": raw.metrics["cell_accuracy"],
        "items": float(chosen.items),
    }


def _stop(trainer: Trainer, progress: _Progress, kept: RunCheckpoints, timer: Clock) -> Run:
    """Write a last checkpoint, with a second attempt if the first fails."""
    saved = yield from _save(trainer, progress, kept, timer)
    if trainer.ranks.broadcast_flag(isinstance(saved, CheckpointFailed) and not saved.is_out_of_space):
        yield saved
        saved = yield from _save(trainer, progress, kept, timer)
    yield saved
    yield Interrupted(trainer.step, is_saved=isinstance(saved, Checkpointed))


def _save(
    trainer: Trainer, progress: _Progress, kept: RunCheckpoints, timer: Clock
) -> Generator[Event, bool | None, Checkpointed | CheckpointFailed]:
    # A run that resumes from this checkpoint does not report earlier points again, so they are stored before it.
    if trainer.ranks.broadcast_flag((yield Saving(trainer.step)) is False):
        return CheckpointFailed(trainer.step, "the points before it could not be stored", is_out_of_space=False)
    started = timer()
    state = trainer.state({"progress": asdict(progress)})  # all processes contribute, the first one writes
    if trainer.ranks.rank > 0:
        return Checkpointed(trainer.step, name_of(trainer.step), 0)
    try:
        written = kept.write(state)
    except (OSError, UserError) as error:  # a disk or a storage failed, and training need not wait for it
        return CheckpointFailed(trainer.step, f"{type(error).__name__}: {first_line(error)}", is_out_of_space(error))
    with suppress(OSError, UserError):  # checkpoints that are not deleted now are deleted after the next one
        kept.prune(keep=trainer.config.runtime.keep_checkpoints, best_step=progress.best_step)
    return Checkpointed(trainer.step, written.name, written.num_bytes, timer() - started)


def _result(
    trainer: Trainer, progress: _Progress, clock: Clock, should_stop: Callable[[], bool]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Compute the final score; return it as plain data, with the files that accompany it."""
    config = trainer.config
    evaluation = config.evaluation
    limits: dict[str, Any] = {"max_puzzles": evaluation.max_puzzles, "should_stop": should_stop}
    with _memory_explained(trainer):
        score: EvalResult = trainer.score(evaluation.split, weights=evaluation.weights, **limits)
        further = {
            f"exact_accuracy@ema={rate}": trainer.score(evaluation.split, weights=str(rate), **limits).metrics[
                "exact_accuracy"
            ]
            for rate in config.optimizer.further_ema_rates
            if score.items
        }
        files = {"outcomes.arrow": score.arrow(), "gallery.json": trainer.gallery(score)}
    result = {
        "split": score.split,
        "items": score.items,
        "unscored": score.unscored,
        "metrics": score.metrics | further,
        "supervision_steps": score.supervision_steps,
        "weights": evaluation.weights if trainer.averages else "raw",
        "num_parameters": trainer.flat.num_parameters,
        "steps": trainer.step,
        "puzzles_presented": trainer.puzzles_presented,
        "train_flops": trainer.flops,
        "train_s": progress.train_s,
        "ended_s": clock(),
        "per_item": score.per_item,
    }
    if score.tasks:
        result["per_task"] = {f"pass@{k}": score.shares(k).tolist() for k in (1, 2)}
    return result, files
