"""Named, complete configurations: the published settings and small ones for a laptop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trm_data.config import DataConfig
from trm_data.errors import ConfigError, nearest
from trm_model.config import EvaluationConfig, ModelConfig, OptimizerConfig, RuntimeConfig, TrainConfig, TrialConfig

_MINI_MODEL = ModelConfig(
    mixer="mlp",
    positions="none",
    hidden_size=64,
    num_heads=4,
    cycles=2,
    latent_steps=2,
    supervision_steps=4,
    puzzle_embedding_len=1,
)
_MINI_OPTIMIZER = OptimizerConfig(lr=2e-3, weight_decay=0.1, warmup_steps=50, ema_rate=0.99)


def sudoku_mini() -> TrialConfig:
    """Generated 6x6 Sudoku with 18 blanks: learned in about half a minute on a laptop."""
    return TrialConfig(
        data=DataConfig(benchmark="sudoku-6x6", blanks=18, num_train=5000, num_validation=500, num_test=1000),
        model=_MINI_MODEL,
        optimizer=_MINI_OPTIMIZER,
        train=TrainConfig(batch_size=64, max_steps=400),
        runtime=RuntimeConfig(num_threads=1, evaluate_every=50, evaluate_puzzles=256),
    )


def sudoku_9x9_mini() -> TrialConfig:
    """Generated 9x9 Sudoku with 28 blanks: the vocabulary and pipeline of Sudoku-Extreme in about two minutes."""
    base = sudoku_mini()
    data = DataConfig(benchmark="sudoku-9x9", blanks=28, num_train=5000, num_validation=500, num_test=1000)
    return base.model_copy(update={"data": data, "train": TrainConfig(batch_size=64, max_steps=600)})


def sudoku_extreme() -> TrialConfig:
    """TRM with the MLP mixer on Sudoku-Extreme, 1,000 training puzzles (paper, section 6): 87.4 % expected."""
    return TrialConfig(
        data=DataConfig(benchmark="sudoku-extreme", num_augmentations=1000, num_train=1000),
        model=ModelConfig(mixer="mlp", positions="none"),
        optimizer=OptimizerConfig(weight_decay=1.0, puzzle_embedding_lr=1e-4, puzzle_embedding_weight_decay=1.0),
        train=TrainConfig(max_steps=65_104),
        evaluation=EvaluationConfig(split="test"),
    )


def maze_hard() -> TrialConfig:
    """TRM with attention on Maze-Hard (official README: n = 4): 85.3 % expected."""
    return TrialConfig(
        data=DataConfig(benchmark="maze-hard"),
        model=ModelConfig(latent_steps=4),
        optimizer=OptimizerConfig(weight_decay=1.0, puzzle_embedding_lr=1e-4, puzzle_embedding_weight_decay=1.0),
        train=TrainConfig(max_steps=65_104),
        evaluation=EvaluationConfig(split="test"),
    )


def _arc(benchmark: str, max_steps: int) -> TrialConfig:
    return TrialConfig(
        data=DataConfig(benchmark=benchmark, num_augmentations=1000),
        model=ModelConfig(latent_steps=4),
        optimizer=OptimizerConfig(weight_decay=0.1, puzzle_embedding_lr=1e-2, puzzle_embedding_weight_decay=0.1),
        train=TrainConfig(max_steps=max_steps),
        evaluation=EvaluationConfig(split="test"),
    )


def arc_agi_1() -> TrialConfig:
    """TRM on ARC-AGI-1 (official README: n = 4): 44.6 % within two tries expected."""
    return _arc("arc-agi-1", 518_071)


def arc_agi_2() -> TrialConfig:
    """TRM on ARC-AGI-2 (official README: n = 4): 7.8 % within two tries expected."""
    return _arc("arc-agi-2", 723_914)


def _as_hrm(base: Callable[[], TrialConfig], **changes: Any) -> Callable[[], TrialConfig]:
    """HRM's published shape on the same data: two networks, T = 2, n = 2, gradient of the last two updates."""

    def recipe() -> TrialConfig:
        config = base()
        model = config.model.model_copy(
            update={"variant": "hrm", "cycles": 2, "latent_steps": 2, "puzzle_embedding_len": 1, **changes}
        )
        return config.model_copy(update={"model": ModelConfig.model_validate(model.model_dump())})

    return recipe


def _as_direct(base: Callable[[], TrialConfig], **changes: Any) -> Callable[[], TrialConfig]:
    """Direct prediction with deep supervision on the same data: one pass per supervision step."""

    def recipe() -> TrialConfig:
        config = base()
        model = config.model.model_copy(
            update={"variant": "direct", "cycles": 1, "latent_steps": 1, "puzzle_embedding_len": 1, **changes}
        )
        return config.model_copy(update={"model": ModelConfig.model_validate(model.model_dump())})

    return recipe


_ATTENTION = {"mixer": "attention", "positions": "rotary", "num_layers": 4}

RECIPES: dict[str, Callable[[], TrialConfig]] = {
    "sudoku-mini": sudoku_mini,
    "sudoku-mini.hrm": _as_hrm(sudoku_mini, num_layers=1),
    "sudoku-mini.direct": _as_direct(sudoku_mini),
    "sudoku-9x9-mini": sudoku_9x9_mini,
    "sudoku-9x9-mini.hrm": _as_hrm(sudoku_9x9_mini, num_layers=1),
    "sudoku-9x9-mini.direct": _as_direct(sudoku_9x9_mini),
    "sudoku-extreme": sudoku_extreme,
    "sudoku-extreme.hrm": _as_hrm(sudoku_extreme, **_ATTENTION),
    "sudoku-extreme.direct": _as_direct(sudoku_extreme, **_ATTENTION | {"num_layers": 8}),
    "maze-hard": maze_hard,
    "maze-hard.hrm": _as_hrm(maze_hard, **_ATTENTION),
    "maze-hard.direct": _as_direct(maze_hard, **_ATTENTION | {"num_layers": 8}),
    "arc-agi-1": arc_agi_1,
    "arc-agi-1.hrm": _as_hrm(arc_agi_1, **_ATTENTION),
    "arc-agi-1.direct": _as_direct(arc_agi_1, **_ATTENTION | {"num_layers": 8}),
    "arc-agi-2": arc_agi_2,
    "arc-agi-2.hrm": _as_hrm(arc_agi_2, **_ATTENTION),
    "arc-agi-2.direct": _as_direct(arc_agi_2, **_ATTENTION | {"num_layers": 8}),
}


def get_recipe(name: str) -> TrialConfig:
    """The configuration of a name.

    Raises:
        ConfigError: no such recipe; names the nearest one.
    """
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}", nearest(name, RECIPES))
    return RECIPES[name]().model_copy(update={"recipe": name})
