"""Made-up records of a sweep, shaped like real ones: learning curves that stay flat and jump, early stops, seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from orchestrator.records.schema import (
    Attempt,
    AttemptEnd,
    AttemptStart,
    DatasetInfo,
    Row,
    Status,
    TrialRecord,
    TrialResult,
)
from orchestrator.sweep.settings import configure
from trm_data.config import DataConfig
from trm_data.settings import digest
from trm_model.config import EvaluationConfig, ModelConfig, OptimizerConfig, RuntimeConfig, TrainConfig, TrialConfig

START_S = 1_790_000_000.0
DATASET = DatasetInfo(
    benchmark="sudoku-6x6",
    fingerprint="3f9c2a71d0b84e55a6c1",
    generated=True,
    counts={"train": 400, "validation": 200, "test": 500},
    source="generator sudoku 6x6, 18 blanks",
)


def make_config(
    *, cycles: int = 2, latent: int = 4, steps: int = 8, augmentations: int = 30, variant: str = "trm", seed: int = 0
) -> TrialConfig:
    return TrialConfig(
        recipe="sudoku-mini",
        data=DataConfig(benchmark="sudoku-6x6", blanks=18, num_augmentations=augmentations),
        model=ModelConfig(
            variant=variant,
            mixer="mlp",
            positions="none",
            hidden_size=64,
            cycles=cycles,
            latent_steps=latent,
            supervision_steps=steps,
            puzzle_embedding_len=0,
        ),
        optimizer=OptimizerConfig(lr=2e-3, ema_rate=0.99, warmup_steps=50),
        train=TrainConfig(batch_size=64, max_steps=1_200, dtype="float32"),
        evaluation=EvaluationConfig(split="test"),
        runtime=RuntimeConfig(device="cpu"),
        seed=seed,
    )


def make_record(
    config: TrialConfig,
    *,
    score: float,
    stage: str = "explore",
    family: str = "",
    status: Status = Status.FINISHED,
    split: str | None = None,
    items: int = 500,
    points: int = 24,
    stop_at: float = 1.0,
    dataset: DatasetInfo | None = None,
    sweep: str = "demo",
    metrics: dict[str, float] | None = None,
) -> TrialRecord:
    """A trial whose exact accuracy ends at `score` (0..1) after a late jump; `stop_at` is the share of steps run."""
    dataset = dataset or DATASET
    rng = np.random.default_rng([config.seed, int(1e4 * score), config.model.cycles, config.model.latent_steps])
    last = round(config.train.max_steps * stop_at)
    rows = list(_curve(score, config.train.max_steps, last, points, rng))
    depth = config.model.cycles * (config.model.latent_steps + 1) * config.model.num_layers
    train_s = 0.02 * depth / 10 * last / 10
    split = split or ("validation" if stage == "explore" else "test")
    result = None
    if status is Status.FINISHED:
        values = {
            "split": split,
            "items": items,
            "metrics": metrics
            or {"exact_accuracy": round(score * items) / items, "cell_accuracy": 1 - (1 - score) / 5},
            "supervision_steps": config.model.supervision_steps,
            "weights": "ema",
            "num_parameters": 148_000 + 90_000 * (config.model.variant == "hrm"),
            "puzzles_presented": last * config.train.batch_size * 4 / config.model.supervision_steps,
            "train_flops": 3e9 * depth * last,
            "train_s": train_s,
            "ended_s": START_S + train_s,
            "per_item": np.packbits(rng.random(items) < score).tobytes().hex(),
        }
        result = TrialResult.parse(values)
    start = {
        "host": "node-7",
        "device": "cpu",
        "gpu_type": None,
        "gpu_count": 0,
        "started_s": START_S,
        "from_step": 0,
        "git": {"commit": "748ea00c55aa4f3f9b1e", "dirty": False},
        "versions": {"torch": "2.13.0"},
    }
    end = {"status": str(status), "step": last, "ended_s": START_S + train_s, "train_s": train_s, "reason": ""}
    return TrialRecord(
        trial_id=digest([sweep, stage, family, config.plain(), dataset.fingerprint]),
        sweep=sweep,
        stage=stage,
        family=family
        or f"T={config.model.cycles} n={config.model.latent_steps} N_sup={config.model.supervision_steps}",
        config=config,
        dataset=dataset,
        status=status,
        step=last,
        rows=rows,
        attempts=[Attempt(number=1, start=AttemptStart.parse(start), end=AttemptEnd.parse(end))],
        result=result,
    )


def _curve(score: float, max_steps: int, last: int, points: int, rng: np.random.Generator) -> Iterator[Row]:
    for index in range(1, points + 1):
        step = round(max_steps * index / points)
        if step > last:
            return
        progress = 1 / (1 + math.exp(-14 * (index / points - 0.55)))
        exact = float(np.clip(score * progress / 0.998 + rng.normal(0, 0.012) * progress, 0, 1))
        metrics = {"exact_accuracy": exact, "cell_accuracy": 0.45 + 0.55 * exact**0.3, "loss": 2 - 1.6 * exact}
        yield Row(step=step, time_s=START_S + step / 10, split="validation", metrics=metrics)


def scored_at(steps: int, score: float, first: float | None, seed: int = 0, **options: str) -> TrialRecord:
    """A trial of a study that was scored with D steps."""
    config = configure(make_config(seed=seed), {"evaluation.supervision_steps": steps})
    metrics = {"exact_accuracy": score} | ({} if first is None else {"first_step_accuracy": first})
    family = options.get("family", f"T=2 D={steps}")
    record = make_record(config, score=score, stage=options.get("stage", "study"), family=family, metrics=metrics)
    assert record.result is not None
    return replace(record, result=record.result.model_copy(update={"supervision_steps": steps}))


def demo_records() -> list[TrialRecord]:
    """A search of 12 trials and the confirmation of three families with three seeds each."""
    rng = np.random.default_rng(7)
    records = []
    grid = [(1, 2, 4, 0), (2, 2, 4, 10), (3, 2, 8, 30), (1, 4, 8, 100), (2, 4, 8, 30), (3, 4, 16, 100)]
    grid += [(1, 6, 16, 10), (2, 6, 8, 100), (3, 6, 8, 30), (2, 4, 16, 100), (3, 4, 4, 10), (2, 6, 4, 0)]
    for cycles, latent, steps, augmentations in grid:
        quality = 0.02 + 0.13 * cycles + 0.05 * latent + 0.11 * math.log10(1 + augmentations) + 0.008 * steps
        score = float(np.clip(quality + rng.normal(0, 0.03), 0.02, 0.985))
        stopped = score < 0.6
        config = make_config(cycles=cycles, latent=latent, steps=steps, augmentations=augmentations)
        records.append(
            make_record(
                config,
                score=score,
                status=Status.STOPPED if stopped else Status.FINISHED,
                stop_at=0.5 if stopped else 1.0,
                items=200,
            )
        )
    confirmed = [
        ("best", make_config(cycles=3, latent=6, augmentations=100), (0.962, 0.954, 0.974)),
        ("hrm", make_config(cycles=2, latent=2, variant="hrm", augmentations=100), (0.861, 0.902, 0.842)),
        ("direct", make_config(cycles=1, latent=1, variant="direct", augmentations=100), (0.318, 0.302, 0.336)),
    ]
    for family, config, scores in confirmed:
        for seed, score in enumerate(scores):
            seeded = config.model_copy(update={"seed": seed})
            records.append(make_record(seeded, score=score, stage="confirm", family=family))
    return records


def large_records(trials: int, points: int) -> list[TrialRecord]:
    """Many trials of one search, for measuring."""
    rng = np.random.default_rng(3)
    records = []
    for index in range(trials):
        config = make_config(
            cycles=int(rng.integers(1, 5)),
            latent=int(rng.integers(1, 9)),
            steps=int(rng.choice([1, 2, 4, 8, 16])),
            augmentations=int(rng.choice([0, 10, 30, 100, 300])),
            seed=index % 3,
        )
        confirmed = index % 5 == 0
        records.append(
            make_record(
                config,
                score=float(np.clip(0.3 + 0.1 * config.model.cycles + rng.normal(0, 0.05), 0, 1)),
                stage="confirm" if confirmed else "explore",
                family=f"cell {index // 15}" if confirmed else "",
                points=points,
                sweep=f"large-{index}",
            )
        )
    return records


def ablation_records() -> list[TrialRecord]:
    """A study of four changes with four seeds each, one of them within the noise of the control."""
    base = make_config(cycles=3, latent=6, augmentations=100)
    changes: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
        "base": ({}, (0.952, 0.961, 0.948, 0.966)),
        "no EMA": ({"optimizer": {"ema_rate": 0.0}}, (0.874, 0.842, 0.893, 0.861)),
        "T=2 n=4": ({"model": {"cycles": 2, "latent_steps": 4}}, (0.941, 0.955, 0.962, 0.938)),
        "one-step gradient": ({"model": {"gradient": "step"}}, (0.702, 0.668, 0.731, 0.655)),
        "single latent": ({"model": {"num_latents": 0}}, (0.934, 0.951, 0.902, 0.946)),
    }
    records = []
    for family, (change, scores) in changes.items():
        updated = {group: getattr(base, group).model_copy(update=values) for group, values in change.items()}
        for seed, score in enumerate(scores):
            config = base.model_copy(update={**updated, "seed": seed})
            records.append(make_record(config, score=score, stage="study", family=family, sweep="ablation"))
    return records


def demo_gallery(record: TrialRecord) -> bytes:
    """Eight 6x6 Sudoku, four of them solved: wrong cells become fewer from step to step."""
    solution = np.array([[(3 * (r % 2) + r // 2 + c) % 6 + 2 for c in range(6)] for r in range(6)]).reshape(-1)
    return made_gallery(record, solution, (6, 6), lambda rng, label: np.where(rng.random(label.size) < 0.5, 1, label))


def maze_gallery(record: TrialRecord) -> bytes:
    """8x8 mazes with a path along two sides."""
    label = np.where(np.random.default_rng(4).random((8, 8)) < 0.3, 1, 2)
    label[0, :], label[:, 7] = 5, 5
    label[0, 0], label[7, 7] = 3, 4
    return made_gallery(record, label.reshape(-1), (8, 8), lambda _, cells: np.where(cells == 5, 2, cells), "maze-8x8")


def arc_gallery(record: TrialRecord) -> bytes:
    """ARC grids of 5 x 7 in their frame."""
    label = np.zeros((30, 30), int)
    label[:5, :7] = np.random.default_rng(5).integers(2, 12, (5, 7))
    label[5, :7], label[:5, 7] = 1, 1
    return made_gallery(record, label.reshape(-1), (30, 30), lambda _, cells: cells, "arc-agi-1")


def made_gallery(
    record: TrialRecord,
    label: np.ndarray,
    shape: tuple[int, int],
    ask: Callable[[np.random.Generator, np.ndarray], np.ndarray],
    benchmark: str = "sudoku-6x6-generated",
) -> bytes:
    """`gallery.json` with eight puzzles of one solution, every other one solved at the end."""
    rng = np.random.default_rng(record.config.seed)
    steps = record.config.model.supervision_steps
    puzzles = []
    for item in range(8):
        given, exact = ask(rng, label), item % 2 == 0
        order = rng.permutation(
            np.flatnonzero((label > 1) & (given != label)) if (given != label).any() else label.size
        )
        answers = []
        for step in range(1, steps + 1):
            left = order[round(len(order) * min(1.0, step / (0.6 * steps))) if exact else len(order) * 2 // 3 :]
            answer = label.copy()
            answer[left] = rng.integers(2, max(3, label.max() + 1), len(left))
            answers.append(answer.tolist())
        halt = [round(float((0.97 if exact else 0.3) * step / steps), 4) for step in range(1, steps + 1)]
        puzzle = {"item": 50 * item, "input": given.tolist(), "label": label.tolist(), "answers": answers}
        puzzles.append({**puzzle, "halt": halt, "exact": exact})
    return json.dumps({"benchmark": benchmark, "grid_shape": shape, "puzzles": puzzles}).encode()
