"""Build, train and evaluate recursive puzzle solvers: TRM, HRM and direct prediction. Independent of sweeps.

Names are imported when they are first used: `import trm_model` does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trm_data.lazy import lazy_names

if TYPE_CHECKING:
    from trm_model.checkpoints.store import Checkpoint, LocalCheckpoints, newest_checkpoint
    from trm_model.checkpoints.trained import Trained, load_trained, pack_weights
    from trm_model.config import EvaluationConfig, ModelConfig, OptimizerConfig, RuntimeConfig, TrainConfig, TrialConfig
    from trm_model.evaluation.evaluate import evaluate
    from trm_model.evaluation.outcomes import EvalResult
    from trm_model.evaluation.solve import Solution, solve, solve_text
    from trm_model.model.recursion import Model, Recursion, build_model
    from trm_model.recipes import get_recipe
    from trm_model.training.loop import train
    from trm_model.training.trainer import Trainer

__all__ = [
    "Checkpoint",
    "EvalResult",
    "EvaluationConfig",
    "LocalCheckpoints",
    "Model",
    "ModelConfig",
    "OptimizerConfig",
    "Recursion",
    "RuntimeConfig",
    "Solution",
    "TrainConfig",
    "Trained",
    "Trainer",
    "TrialConfig",
    "build_model",
    "evaluate",
    "get_recipe",
    "load_trained",
    "newest_checkpoint",
    "pack_weights",
    "solve",
    "solve_text",
    "train",
]

__getattr__ = lazy_names(
    globals(),
    {
        ".checkpoints.store": ("Checkpoint", "LocalCheckpoints", "newest_checkpoint"),
        ".checkpoints.trained": ("Trained", "load_trained", "pack_weights"),
        ".config": (
            "EvaluationConfig",
            "ModelConfig",
            "OptimizerConfig",
            "RuntimeConfig",
            "TrainConfig",
            "TrialConfig",
        ),
        ".evaluation.evaluate": ("evaluate",),
        ".evaluation.outcomes": ("EvalResult",),
        ".evaluation.solve": ("Solution", "solve", "solve_text"),
        ".model.recursion": ("Model", "Recursion", "build_model"),
        ".recipes": ("get_recipe",),
        ".training.loop": ("train",),
        ".training.trainer": ("Trainer",),
    },
)
