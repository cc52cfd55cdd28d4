"""The public names: frozen, lazy, and cheap to import."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import orchestrator

PUBLIC = {
    "orchestrator": """
        AblationResult Budget Bundle Callback ClusterError Confirm Deletion Estimate Leaderboard Pruning
        ResourceRule Resources Status Stopping Storage Sweep SweepError SweepOutcome SweepProgress SweepSnapshot
        SweepState SweepStatus TrainOutcome TrialConfig TrialRecord TrialReport TrialSnapshot UserError Variant
        Verification ablate choice configure delete_sweep extend_sweep get_recipe integers leaderboard
        load_results log_uniform open_storage plan prune_checkpoints read_trials recipe_for_gpu rename_sweep
        reproduction_sweep retry_trials run status stop_sweep table_variants train uniform verify_bundle
        write_bundle write_report
    """,
    "trm_model": """
        Checkpoint EvalResult EvaluationConfig LocalCheckpoints Model ModelConfig OptimizerConfig Recursion
        RuntimeConfig Solution TrainConfig Trained Trainer TrialConfig build_model evaluate get_recipe load_trained
        newest_checkpoint pack_weights solve solve_text train
    """,
    "trm_data": """
        Batch Benchmark DataConfig DataRequest Dataset EvalBatch PuzzleKind TrainLoader build draw eval_batches
        export_official find fingerprint import_official list_benchmarks open_dataset resolve_benchmark save_png verify
    """,
}
HEAVY = ("torch", "ray", "mlflow", "optuna", "numba", "pyarrow", "numpy", "pandas", "pydantic", "rich", "scipy")


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names_are_these_and_each_can_be_imported(package: str) -> None:
    """A name is added here on purpose; one that goes or changes breaks users' code."""
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(PUBLIC[package].split())
    for name in module.__all__:
        assert getattr(module, name) is not None, name
        assert name in dir(module)


@pytest.mark.parametrize(
    ("name", "subject"),
    {
        **dict.fromkeys(("run", "plan", "status", "read_trials", "load_results", "ablate", "write_bundle"), "sweep"),
        **dict.fromkeys(("stop_sweep", "extend_sweep", "retry_trials", "rename_sweep", "delete_sweep"), "sweep"),
        **{"prune_checkpoints": "sweep", "train": "config", "leaderboard": "benchmark"},
        **{"write_report": "path", "verify_bundle": "path"},
    }.items(),
)
def test_function_takes_its_subject_then_the_storage_and_the_rest_by_keyword(name: str, subject: str) -> None:
    parameters = inspect.signature(getattr(orchestrator, name)).parameters
    positional = [key for key, parameter in parameters.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    assert positional == [subject, "storage"]
    assert parameters["storage"].default == "runs"


@pytest.mark.parametrize("package", PUBLIC)
def test_unknown_name_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = importlib.import_module(package).no_such_name


@pytest.mark.parametrize("package", PUBLIC)
def test_import_loads_no_library(package: str) -> None:
    code = f"import sys; before = set(sys.modules); import {package}; new = set(sys.modules) - before\n"
    code += f"print(sorted(set({HEAVY!r}) & new), len(new))"
    found = subprocess.run([sys.executable, "-I", "-c", _with_path(code)], capture_output=True, text=True, check=True)
    heavy, _, count = found.stdout.strip().rpartition(" ")
    assert heavy == "[]"
    assert int(count) < 60, "modules of the standard library that the import adds to a bare interpreter"


def _with_path(code: str) -> str:
    return f"import sys; sys.path[:0] = {sys.path!r}\n{code}"
