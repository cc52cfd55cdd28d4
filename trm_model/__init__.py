"""Build, train and evaluate recursive puzzle solvers: TRM, HRM and direct prediction. Independent of sweeps.

Names are imported when they are first used: `import trm_model` does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trm_model.checkpoints.trained import Trained, load_trained, pack_weights
    from trm_model.config import EvaluationConfig, ModelConfig, OptimizerConfig, RuntimeConfig, TrainConfig, TrialConfig
    from trm_model.evaluation.evaluate import evaluate
    from trm_model.evaluation.solve import Solution, solve, solve_text
    from trm_model.model.recursion import Model, Recursion, build_model
    from trm_model.recipes import get_recipe
    from trm_model.training.loop import train

_HOMES = {
    "checkpoints.trained": ("Trained", "load_trained", "pack_weights"),
    "config": ("EvaluationConfig", "ModelConfig", "OptimizerConfig", "RuntimeConfig", "TrainConfig", "TrialConfig"),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.solve": ("Solution", "solve", "solve_text"),
    "model.recursion": ("Model", "Recursion", "build_model"),
    "recipes": ("get_recipe",),
    "training.loop": ("train",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "EvaluationConfig",
    "Model",
    "ModelConfig",
    "OptimizerConfig",
    "Recursion",
    "RuntimeConfig",
    "Solution",
    "TrainConfig",
    "Trained",
    "TrialConfig",
    "build_model",
    "evaluate",
    "get_recipe",
    "load_trained",
    "pack_weights",
    "solve",
    "solve_text",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
