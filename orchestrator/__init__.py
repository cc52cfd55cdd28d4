"""Plan, run, record and compare trials of recursive puzzle solvers.

    from orchestrator import Sweep, choice, get_recipe, leaderboard, load_results, plan, run

    sweep = Sweep(name="depth", base=get_recipe("sudoku-mini"), space={"T": choice(1, 2), "n": choice(2, 4)}, seeds=3)
    print(plan(sweep).wall_s)
    outcome = run(sweep)
    frame = load_results("depth")

Names are imported when they are first used: `import orchestrator` loads no library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trm_data.lazy import lazy_names

if TYPE_CHECKING:
    from orchestrator.api.lifecycle import (
        Deletion,
        delete_sweep,
        extend_sweep,
        prune_checkpoints,
        rename_sweep,
        retry_trials,
        stop_sweep,
    )
    from orchestrator.api.plan import plan
    from orchestrator.api.read import read_trials, write_report
    from orchestrator.api.run import run
    from orchestrator.api.status import SweepState, status
    from orchestrator.api.train import TrainOutcome, train
    from orchestrator.errors import ClusterError, SweepError
    from orchestrator.evaluation.bundle import Bundle, write_bundle
    from orchestrator.evaluation.verify import Verification, verify_bundle
    from orchestrator.execution.options import Callback, SweepOutcome, SweepSnapshot, SweepStatus, TrialSnapshot
    from orchestrator.records.progress import SweepProgress
    from orchestrator.records.retention import Pruning
    from orchestrator.records.schema import Status, TrialRecord
    from orchestrator.resources.estimate import Estimate
    from orchestrator.resources.published import recipe_for_gpu, reproduction_sweep, table_variants
    from orchestrator.results.dataframe import load_results
    from orchestrator.results.notebook import AblationResult, Leaderboard, ablate, leaderboard
    from orchestrator.storage import Storage, open_storage
    from orchestrator.sweep.budget import Budget
    from orchestrator.sweep.definition import Confirm, ResourceRule, Resources, Stopping, Sweep, Variant
    from orchestrator.sweep.domains import choice, integers, log_uniform, uniform
    from orchestrator.sweep.settings import configure
    from orchestrator.worker.job import TrialReport
    from trm_data.errors import UserError
    from trm_model.config import TrialConfig
    from trm_model.recipes import get_recipe

__all__ = [
    "AblationResult",
    "Budget",
    "Bundle",
    "Callback",
    "ClusterError",
    "Confirm",
    "Deletion",
    "Estimate",
    "Leaderboard",
    "Pruning",
    "ResourceRule",
    "Resources",
    "Status",
    "Stopping",
    "Storage",
    "Sweep",
    "SweepError",
    "SweepOutcome",
    "SweepProgress",
    "SweepSnapshot",
    "SweepState",
    "SweepStatus",
    "TrainOutcome",
    "TrialConfig",
    "TrialRecord",
    "TrialReport",
    "TrialSnapshot",
    "UserError",
    "Variant",
    "Verification",
    "ablate",
    "choice",
    "configure",
    "delete_sweep",
    "extend_sweep",
    "get_recipe",
    "integers",
    "leaderboard",
    "load_results",
    "log_uniform",
    "open_storage",
    "plan",
    "prune_checkpoints",
    "read_trials",
    "recipe_for_gpu",
    "rename_sweep",
    "reproduction_sweep",
    "retry_trials",
    "run",
    "status",
    "stop_sweep",
    "table_variants",
    "train",
    "uniform",
    "verify_bundle",
    "write_bundle",
    "write_report",
]

__getattr__ = lazy_names(
    globals(),
    {
        "orchestrator.api.lifecycle": (
            "Deletion",
            "delete_sweep",
            "extend_sweep",
            "prune_checkpoints",
            "rename_sweep",
            "retry_trials",
            "stop_sweep",
        ),
        "orchestrator.api.plan": ("plan",),
        "orchestrator.api.read": ("read_trials", "write_report"),
        "orchestrator.api.run": ("run",),
        "orchestrator.api.status": ("SweepState", "status"),
        "orchestrator.api.train": ("TrainOutcome", "train"),
        "orchestrator.errors": ("ClusterError", "SweepError"),
        "orchestrator.evaluation.bundle": ("Bundle", "write_bundle"),
        "orchestrator.evaluation.verify": ("Verification", "verify_bundle"),
        "orchestrator.execution.options": (
            "Callback",
            "SweepOutcome",
            "SweepSnapshot",
            "SweepStatus",
            "TrialSnapshot",
        ),
        "orchestrator.records.progress": ("SweepProgress",),
        "orchestrator.records.retention": ("Pruning",),
        "orchestrator.records.schema": ("Status", "TrialRecord"),
        "orchestrator.resources.estimate": ("Estimate",),
        "orchestrator.resources.published": ("recipe_for_gpu", "reproduction_sweep", "table_variants"),
        "orchestrator.sweep.budget": ("Budget",),
        "orchestrator.results.dataframe": ("load_results",),
        "orchestrator.results.notebook": ("AblationResult", "Leaderboard", "ablate", "leaderboard"),
        "orchestrator.storage": ("Storage", "open_storage"),
        "orchestrator.sweep.definition": ("Confirm", "ResourceRule", "Resources", "Stopping", "Sweep", "Variant"),
        "orchestrator.sweep.domains": ("choice", "integers", "log_uniform", "uniform"),
        "orchestrator.sweep.settings": ("configure",),
        "orchestrator.worker.job": ("TrialReport",),
        "trm_data.errors": ("UserError",),
        "trm_model.config": ("TrialConfig",),
        "trm_model.recipes": ("get_recipe",),
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
