"""Provide named, complete configurations, each with its origin and its expected score.

Where the TRM paper (arXiv 2510.04871) and its code disagree, both exist: `.paper` follows section 6 (n = 6, 60,000
epochs, one puzzle token), `.readme` the commands of the official repository (n = 4 for mazes and ARC, 50,000 epochs,
16 puzzle tokens). Both train with AdamAtan2, as the code does; the paper says AdamW. An epoch visits every training
puzzle once, in one of its augmented copies, so 1,000 puzzles at batch 768 give 1.302 steps per epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trm_data.config import DataConfig
from trm_data.errors import ConfigError, nearest
from trm_model.config import EvaluationConfig, ModelConfig, OptimizerConfig, RuntimeConfig, TrainConfig, TrialConfig

TRM = "arXiv 2510.04871"
HRM = "arXiv 2506.21734"
CGAR = "arXiv 2511.08653"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hold a configuration, its origin, and the exact accuracy in percent that its source reports."""

    config: TrialConfig
    source: str
    expected: float | None
    """None where the source reports no score (or, for TRM's k = 6, that it ran out of memory)."""

    @property
    def summary(self) -> str:
        """Return origin and expected score in one line."""
        return self.source if self.expected is None else f"{self.source}: {self.expected} %"


def _puzzles(benchmark: str, *, epochs: int, model: ModelConfig, **optimizer: Any) -> TrialConfig:
    """Configure Sudoku-Extreme or Maze-Hard: 1,000 training puzzles, weight decay 1, no validation puzzles held out."""
    augmentations = 1000 if benchmark == "sudoku-extreme" else 0  # the official maze command builds no copies
    settings = {"weight_decay": 1.0, "puzzle_embedding_lr": 1e-4, "puzzle_embedding_weight_decay": 1.0} | optimizer
    return TrialConfig(
        data=DataConfig(benchmark=benchmark, num_augmentations=augmentations, num_validation=0),
        model=model,
        optimizer=OptimizerConfig.model_validate(settings),
        train=TrainConfig(max_steps=epochs * 1000 // 768),
        evaluation=EvaluationConfig(split="test"),
    )


def _arc(benchmark: str, *, steps: int, model: ModelConfig) -> TrialConfig:
    """Configure ARC-AGI with 1,000 augmentations per task."""
    return TrialConfig(
        data=DataConfig(benchmark=benchmark, num_augmentations=1000),
        model=model,
        optimizer=OptimizerConfig(weight_decay=0.1, puzzle_embedding_lr=1e-2, puzzle_embedding_weight_decay=0.1),
        train=TrainConfig(max_steps=steps),
        evaluation=EvaluationConfig(split="test"),
    )


def _mlp(**changes: Any) -> ModelConfig:
    return ModelConfig.model_validate({"mixer": "mlp", "positions": "none"} | changes)


def _att(**changes: Any) -> ModelConfig:
    return ModelConfig.model_validate(changes)


def _hrm(**changes: Any) -> ModelConfig:
    shape = {"variant": "hrm", "num_layers": 4, "cycles": 2, "latent_steps": 2, "puzzle_embedding_len": 1}
    return ModelConfig.model_validate(shape | changes)


def _direct(**changes: Any) -> ModelConfig:
    """Configure direct prediction: one pass of eight layers (27 M parameters, as HRM) per supervision step."""
    return ModelConfig.model_validate({"variant": "direct", "num_layers": 8, "puzzle_embedding_len": 1} | changes)


def _mini(data: DataConfig, *, steps: int, **model: Any) -> TrialConfig:
    """Configure small puzzles for a laptop: one thread, hidden width 64."""
    shape = {
        "mixer": "mlp",
        "positions": "none",
        "hidden_size": 64,
        "num_heads": 4,
        "expansion": 2.0,
        "inner_multiple": 64,
        "cycles": 2,
        "latent_steps": 2,
        "supervision_steps": 4,
        "puzzle_embedding_len": 1,
    }
    return TrialConfig(
        data=data,
        model=ModelConfig.model_validate(shape | model),
        optimizer=OptimizerConfig(lr=5e-3, weight_decay=0.1, warmup_steps=50, ema_rate=0.99),
        train=TrainConfig(batch_size=64, max_steps=steps),
        runtime=RuntimeConfig(num_threads=1, evaluate_every=50, evaluate_puzzles=200),
    )


def _minis() -> dict[str, Recipe]:
    own = _mini(DataConfig(benchmark="sudoku-4x4"), steps=300)
    made = {"mini": Recipe(own, "any small puzzles, as many as data.benchmark has, for a laptop", None)}
    queens = DataConfig(benchmark="n-queens-9", num_augmentations=7)
    origin = "generated n-queens-9, any placement counts"
    made["n-queens-mini"] = Recipe(_mini(queens, steps=1000), f"{origin}, for a laptop", None)
    hrm = _mini(queens, steps=1000, variant="hrm", num_layers=1)
    made["n-queens-mini.hrm"] = Recipe(hrm, f"{origin}, HRM of the same size", None)
    direct = _mini(queens, steps=1000, variant="direct")
    made["n-queens-mini.direct"] = Recipe(direct, f"{origin}, direct prediction", None)
    for name, benchmark, blanks, steps in (
        ("sudoku-mini", "sudoku-6x6", 18, 300),
        ("sudoku-9x9-mini", "sudoku-9x9", 28, 400),
        ("maze-unique-mini", "maze-unique-9x9", None, 800),
    ):
        origin = f"generated {benchmark}" if blanks is None else f"generated {benchmark}, {blanks} blanks"
        data = DataConfig(benchmark=benchmark, blanks=blanks, num_train=5000, num_validation=500, num_test=1000)
        made[name] = Recipe(_mini(data, steps=steps), f"{origin}, for a laptop", None)
        hrm = _mini(data, steps=steps, variant="hrm", num_layers=1)
        made[f"{name}.hrm"] = Recipe(hrm, f"{origin}, HRM of the same size", None)
        direct = _mini(data, steps=steps, variant="direct")
        made[f"{name}.direct"] = Recipe(direct, f"{origin}, direct prediction", None)
    return made


def _published() -> dict[str, Recipe]:
    """Return the main results of TRM's Tables 4 and 5, and their controls."""
    sudoku, maze, paper = "sudoku-extreme", "maze-hard", {"puzzle_embedding_len": 1}
    readme = f"{TRM}, official README"
    section = f"{TRM}, section 6"
    made = {
        "sudoku-mlp.paper": Recipe(_puzzles(sudoku, epochs=60_000, model=_mlp(**paper)), section, 87.4),
        "sudoku-mlp.readme": Recipe(_puzzles(sudoku, epochs=50_000, model=_mlp()), readme, 87.4),
        "sudoku-att.paper": Recipe(_puzzles(sudoku, epochs=60_000, model=_att(**paper)), section, 74.7),
        "sudoku-att.readme": Recipe(_puzzles(sudoku, epochs=50_000, model=_att()), readme, 74.7),
        "sudoku.direct": Recipe(_puzzles(sudoku, epochs=60_000, model=_direct()), f"{TRM}, Table 4", 0.0),
        "maze-att.paper": Recipe(_puzzles(maze, epochs=60_000, model=_att(**paper)), section, 85.3),
        "maze-att.readme": Recipe(_puzzles(maze, epochs=50_000, model=_att(latent_steps=4)), readme, 85.3),
        "maze-mlp.paper": Recipe(_puzzles(maze, epochs=60_000, model=_mlp(**paper)), f"{TRM}, Table 4", 0.0),
        "maze.direct": Recipe(_puzzles(maze, epochs=60_000, model=_direct()), f"{TRM}, Table 4", 0.0),
        "hrm.sudoku": Recipe(_puzzles(sudoku, epochs=20_000, model=_hrm(), ema_rate=0.0), f"{HRM}, README", 55.0),
        "hrm.maze": Recipe(_puzzles(maze, epochs=20_000, model=_hrm(), ema_rate=0.0), f"{HRM}, README", 74.5),
    }
    for number, steps, scores in ((1, 518_071, (44.6, 29.6, 40.3, 21.0)), (2, 723_914, (7.8, 2.4, 5.0, 0.0))):
        benchmark = name = f"arc-agi-{number}"
        table = f"{TRM}, Table 5, within two tries"
        made |= {
            f"{name}.paper": Recipe(_arc(benchmark, steps=steps, model=_att(**paper)), table, scores[0]),
            f"{name}.readme": Recipe(_arc(benchmark, steps=steps, model=_att(latent_steps=4)), readme, scores[0]),
            f"{name}.mlp": Recipe(_arc(benchmark, steps=steps, model=_mlp(latent_steps=4)), table, scores[1]),
            f"hrm.{name}": Recipe(_arc(benchmark, steps=steps, model=_hrm()), f"{HRM}, README", scores[2]),
            f"{name}.direct": Recipe(_arc(benchmark, steps=steps, model=_direct()), table, scores[3]),
        }
    return made


def _tables() -> dict[str, Recipe]:
    """Return every row of TRM's Tables 1 to 3 (all on Sudoku-Extreme, one run each), and the CGAR curriculum."""

    def row(table: int, model: ModelConfig, expected: float | None, **optimizer: Any) -> Recipe:
        config = _puzzles("sudoku-extreme", epochs=60_000, model=model, **optimizer)
        return Recipe(config, f"{TRM}, Table {table}", expected)

    one = {"puzzle_embedding_len": 1}
    made = {
        "table1.trm": row(1, _mlp(**one), 87.4),
        "table1.act-continue": row(1, _mlp(**one, halting="continue"), 86.1),
        "table1.separate-networks": row(1, _mlp(**one, shared_network=False), 82.4),
        "table1.no-ema": row(1, _mlp(**one), 79.9, ema_rate=0.0),
        "table1.four-layers": row(1, _mlp(**one, num_layers=4, latent_steps=3), 79.5),
        "table1.attention": row(1, _att(**one), 74.7),
        "table1.t2-n2": row(1, _mlp(**one, cycles=2, latent_steps=2), 73.7),
        "table1.one-step-gradient": row(1, _mlp(**one, gradient="step"), 56.5),
        "table1.hrm": row(1, _hrm(), 55.0),
        "table2.answer-and-latent": row(2, _mlp(**one), 87.4),
        "table2.many-latents": row(2, _mlp(**one, num_latents=6), 77.6),
        "table2.one-state": row(2, _mlp(**one, num_latents=0), 71.9),
    }
    grid = (
        # k, T, HRM, TRM; HRM has n = k, TRM n = 2k. TRM ran out of memory at k = 6.
        (1, 1, 46.4, 63.2),
        (2, 2, 55.0, 81.9),
        (3, 3, 61.6, 87.4),
        (4, 4, 59.5, 84.2),
        (6, 3, 62.3, None),
        (3, 6, 58.8, 85.8),
        (6, 6, 57.5, None),
    )
    for k, cycles, hrm, trm in grid:
        made[f"table3.hrm-k{k}-t{cycles}"] = row(3, _hrm(cycles=cycles, latent_steps=k), hrm)
        made[f"table3.trm-k{k}-t{cycles}"] = row(3, _mlp(**one, cycles=cycles, latent_steps=2 * k), trm)
    base = made["table1.trm"].config
    curriculum = base.train.model_copy(update={"depth_curriculum": ((0.0, 1, 2), (0.3, 2, 4), (0.6, 3, 6))})
    made["cgar-depth"] = Recipe(base.model_copy(update={"train": curriculum}), f"{CGAR}, curriculum alone", 85.47)
    return made


CATALOGUE: dict[str, Recipe] = _minis() | _published() | _tables()
_SHORT = {
    "sudoku-extreme": "sudoku-mlp.readme",
    "maze-hard": "maze-att.readme",
    "arc-agi-1": "arc-agi-1.readme",
    "arc-agi-2": "arc-agi-2.readme",
}
CATALOGUE |= {short: CATALOGUE[long] for short, long in _SHORT.items()}


def get_recipe(name: str) -> TrialConfig:
    """Return the configuration of a name, labelled with it.

    Raises:
        ConfigError: no such recipe; names the nearest one.
    """
    if name not in CATALOGUE:
        raise ConfigError(f"unknown recipe {name!r}", nearest(name, CATALOGUE))
    return CATALOGUE[name].config.model_copy(update={"recipe": name})


def _maker(name: str, recipe: Recipe) -> Callable[[], TrialConfig]:
    def make() -> TrialConfig:
        return get_recipe(name)

    make.__doc__ = recipe.summary
    return make


RECIPES: dict[str, Callable[[], TrialConfig]] = {name: _maker(name, recipe) for name, recipe in CATALOGUE.items()}
"""A maker per name; its docstring is the recipe's summary."""
