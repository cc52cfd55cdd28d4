"""Score trained checkpoints in several ways: supervision steps, votes, rollouts, ensembles."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from orchestrator.results.stats import Interval, bootstrap_mean, wilson
from orchestrator.sweep.ranges import list_whole_numbers
from trm_data import Dataset
from trm_data.errors import ConfigError, nearest
from trm_model.checkpoints.store import Checkpoint
from trm_model.checkpoints.trained import Trained, load_trained
from trm_model.config import ALIASES, EvaluationConfig, ModelConfig
from trm_model.cost import forward_flops
from trm_model.device import DTYPES, resolve_device
from trm_model.evaluation.embeddings import Embedding, check_embedding, replace_embeddings
from trm_model.evaluation.evaluate import ensemble, evaluate
from trm_model.evaluation.outcomes import EvalResult
from trm_model.model.precision import choose_products
from trm_model.model.recursion import Model

SHORT = {"D": "supervision_steps", "steps": "supervision_steps", "K": "rollouts", "sigma": "noise"}
"""Short names of what can be varied."""
VARIABLE = ("supervision_steps", "votes", "rollouts", "noise", "choose", "halt", "weights", "embedding")
_SHOWN = {"supervision_steps": "D", "rollouts": "K"}


@dataclass(frozen=True, slots=True)
class Cell:
    """Describe one way to score."""

    label: str
    evaluation: EvaluationConfig
    weights: str
    """ema, raw, or the rate of a further average."""
    embedding: Embedding = "trained"
    """Anything else is an ablation, whose score no table ranks."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Hold the score of one checkpoint, or of several that voted together, for one cell."""

    cell: Cell
    checkpoint: str
    """Its path; `ensemble of N` for several."""
    result: EvalResult
    seconds: float
    flops: float

    @property
    def prefix(self) -> str:
        """Return the prefix of the names of an ensemble's metrics."""
        return "" if "exact_accuracy" in self.result.metrics else "ensemble_"

    def metric(self, name: str) -> float | None:
        """Return a metric by its plain name; None if this evaluation does not have it."""
        return self.result.metrics.get(self.prefix + name)

    def interval(self, name: str) -> Interval | None:
        """Return the 95 % interval of a metric: over items (Wilson); by bootstrap pass@k, over tasks, and coverage."""
        value, result = self.metric(name), self.result
        if value is None:
            return None
        if name == "coverage":
            return bootstrap_mean(result.columns[name], np.random.default_rng(0))
        if name.startswith("task_pass@"):
            return wilson(value, len(result.tasks))
        if name.startswith("pass@"):
            return bootstrap_mean(result.shares(int(name.removeprefix("pass@"))), np.random.default_rng(0))
        return wilson(value, result.items)

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        passed = (name.removeprefix(self.prefix) for name in self.result.metrics if "pass@" in name)
        names = ("exact_accuracy", "valid_accuracy", "coverage", *passed)
        return {
            "checkpoint": self.checkpoint,
            "cell": self.cell.label,
            "evaluation": {**self.cell.evaluation.plain(), "weights": self.cell.weights},
            "embedding": self.cell.embedding,
            "supervision_steps": self.result.supervision_steps,
            "split": self.result.split,
            "items": self.result.items,
            "unscored": self.result.unscored,
            "metrics": self.result.metrics,
            "intervals": {self.prefix + name: list(found) for name in names if (found := self.interval(name))},
            "seconds": self.seconds,
            "flops": self.flops,
        }


def expand(
    base: EvaluationConfig,
    weights: str,
    models: Sequence[ModelConfig],
    vary: Mapping[str, Sequence[str]],
    embedding: str = "trained",
) -> list[Cell]:
    """Return every combination of the values once, in which `4..16` stands for the numbers from 4 to 16.

    Rollouts differ by their noise alone, so K = 1 has no noise.

    Raises:
        ConfigError: a setting that cannot be varied at evaluation, or a value that it does not take.
    """
    listed = {name: list_whole_numbers(f"--vary {name}", values) for name, values in vary.items()}
    settings = {name: values for name, values in listed.items() if not _is_trained(name, values, models)}
    _require_once(settings)
    cells: dict[tuple[EvaluationConfig, str, Embedding], Cell] = {}
    for values in itertools.product(*settings.values()):
        chosen = dict(zip((SHORT.get(name, name) for name in settings), values, strict=True))
        kept, rows = chosen.pop("weights", weights), check_embedding(chosen.pop("embedding", embedding))
        evaluation = _parsed(base, chosen, settings)
        if evaluation.rollouts == 1 or evaluation.noise == 0:
            evaluation = evaluation.model_copy(update={"rollouts": 1, "noise": 0.0})
            chosen = {name: value for name, value in chosen.items() if name not in ("rollouts", "noise")}
        shown = {**chosen, **({"weights": kept} if "weights" in settings else {})}
        if rows != "trained" or "embedding" in settings:
            shown["embedding"] = rows
        label = " ".join(f"{_SHOWN.get(name, name)}={value}" for name, value in shown.items())
        cells.setdefault((evaluation, kept, rows), Cell(label or "one answer", evaluation, kept, rows))
    if {"K", "rollouts", "noise", "sigma"} & settings.keys() and all(e.rollouts == 1 for e, _, _ in cells):
        raise ConfigError("rollouts differ by their noise alone", "Give both: --vary K=1,10 --vary noise=0.3")
    return list(cells.values())


def _parsed(base: EvaluationConfig, chosen: Mapping[str, str], names: Iterable[str]) -> EvaluationConfig:
    """Return the base with chosen values. Raises ConfigError with the name that was typed: `D`."""
    try:
        return EvaluationConfig.parse({**base.plain(), **chosen})
    except ConfigError as error:
        field, _, rest = error.what.partition("=")
        typed = next((name for name in names if SHORT.get(name, name) == field), None)
        raise ConfigError(error.what if typed is None else f"--vary {typed}={rest}", error.remedy) from None


def _require_once(names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(SHORT.get(name, name), name)
        if other != name:
            raise ConfigError(f"--vary {other} and --vary {name} are the same setting", "Give all values at once")


def _is_trained(name: str, values: Sequence[str], models: Sequence[ModelConfig]) -> bool:
    """Return whether `name` is a model setting with the value that the models were trained with.

    Raises:
        ConfigError: it has another value, or there is no setting of this name.
    """
    if SHORT.get(name, name) in VARIABLE:
        return False
    path = ALIASES.get(name, name)
    field = path.removeprefix("model.")
    if not path.startswith("model.") or field not in ModelConfig.model_fields:
        raise ConfigError(f"--vary {name!r} is not a setting of an evaluation", nearest(name, {*VARIABLE, *SHORT}))
    for model, value in itertools.product(models, values):
        own = model.plain()
        if ModelConfig.parse({**own, field: value}).plain()[field] != own[field]:
            raise ConfigError(
                f"{name}={value}, but the checkpoint was trained with {name}={own[field]}",
                "Another depth of the network ruins the score silently; D, votes, K and noise can be varied",
            )
    return True


def score(
    cells: Sequence[Cell],
    checkpoints: Mapping[str, Checkpoint],
    dataset: Dataset,
    split: str,
    *,
    device: str,
    seed: int | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    timer: Callable[[], float] = time.perf_counter,
) -> Iterator[Scored]:
    """Score every checkpoint in every way and, if there are several, also all of them voting together.

    Args:
        seed: of the noise and of drawn embeddings; None takes each checkpoint's own.
        progress: called with the label of the cell, forward passes done, and forward passes in all.

    Raises:
        UserError: a checkpoint of another dataset, more votes than trained views, no such weights.
    """
    for cell in cells:
        members: list[Scored] = []
        for where, checkpoint in checkpoints.items():
            trained = load_trained(checkpoint, cell.weights)
            started, own_seed = timer(), trained.config.seed if seed is None else seed
            model = _ready(trained, dataset, device)
            replace_embeddings(model, dataset, trained.config.data.num_augmentations, cell.embedding, own_seed)
            result = evaluate(
                model,
                dataset,
                split,
                cell.evaluation,
                dtype=DTYPES[trained.config.train.dtype],
                trained_augmentations=trained.config.data.num_augmentations,
                seed=own_seed,
                keep_votes=len(checkpoints) > 1,
                progress=partial(progress, cell.label),
            )
            shape = {"seq_len": dataset.seq_len, "vocab_size": dataset.vocab_size}
            flops = float(result.forward_passes * forward_flops(trained.config.model, **shape))
            members.append(Scored(cell, where, result, timer() - started, flops))
            yield members[-1]
        if len(members) > 1:
            together = ensemble([member.result for member in members], dataset, cell.evaluation)
            seconds, flops = sum(member.seconds for member in members), sum(member.flops for member in members)
            yield Scored(cell, f"ensemble of {len(members)}", together, seconds, flops)


def _ready(trained: Trained, dataset: Dataset, device: str) -> Model:
    """Return the model on its device.

    Raises:
        CheckpointError: the dataset was encoded differently in training.
    """
    copies, runtime = trained.config.data.num_augmentations, trained.config.runtime
    trained.check_dataset(dataset.id_map_hash(copies), dataset.vocab_size, dataset.seq_len)
    where = resolve_device(device)
    choose_products(where, rounded=trained.config.train.dtype == "float32-fast")
    if where.type == "cpu" and runtime.num_threads:
        torch.set_num_threads(runtime.num_threads)
    return trained.model.to(where)
