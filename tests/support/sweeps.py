"""Small sweeps and records for the tests of the orchestrator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.records.datasets import provide
from orchestrator.records.index import new_head, trial_folder
from orchestrator.records.reader import read_trial
from orchestrator.records.schema import (
    Attempt,
    AttemptEnd,
    AttemptStart,
    DatasetInfo,
    Row,
    Status,
    StopDecision,
    TrialRecord,
    TrialResult,
)
from orchestrator.storage import Storage
from orchestrator.sweep import Confirm, Stopping, Sweep, Variant, choice, configure
from orchestrator.sweep.identity import trial_id
from orchestrator.sweep.trials import PlannedTrial
from orchestrator.worker.job import Job, Listener
from tests.support.program import SETTINGS
from trm_data.config import DataRequest
from trm_model.config import TrialConfig
from trm_model.recipes import get_recipe

TINY: dict[str, Any] = {
    **SETTINGS,
    "train.max_steps": 12,
    "runtime.evaluate_every": 4,
    "runtime.checkpoint_every_s": 0.2,
}


def set_options(settings: Mapping[str, Any], *left_out: str) -> list[str]:
    """`--set path=value` for each but those."""
    kept = {path: value for path, value in settings.items() if path not in left_out}
    return [part for path, value in kept.items() for part in ("--set", f"{path}={value}")]


def tiny_config(**settings: Any) -> TrialConfig:
    """A run of a fraction of a second."""
    return configure(get_recipe("sudoku-mini"), {**TINY, **settings})


def fingerprint(request: DataRequest) -> str:
    """An identity for a dataset that nobody builds."""
    return f"dataset of {request.num_train}"


def search(**changes: Any) -> Sweep:
    """A search over 3 x 3 cells with two confirmed seeds."""
    values: dict[str, Any] = {
        "name": "search",
        "kind": "search",
        "base": tiny_config(),
        "space": {"T": choice(1, 2, 3), "n": choice(1, 2, 3)},
        "trials": 5,
        "sampler": "random",
        "stopping": Stopping(rule="none"),
        "confirm": Confirm(seeds=2, controls=(Variant(name="direct", settings={"model.variant": "direct"}),)),
    }
    return Sweep(**{**values, **changes})


def study(**changes: Any) -> Sweep:
    """A study of 2 x 2 cells with two seeds."""
    values: dict[str, Any] = {
        "name": "study",
        "base": tiny_config(),
        "space": {"T": choice(1, 2), "n": choice(1, 2)},
        "seeds": 2,
    }
    return Sweep(**{**values, **changes})


def record_of(trial: PlannedTrial, status: Status, value: float = 0.5, step: int | None = None) -> TrialRecord:
    """A record as if the trial had run."""
    last = trial.config.train.max_steps if step is None else step
    metrics = {"exact_accuracy": value, "cell_accuracy": value, "raw_cell_accuracy": value}
    result = TrialResult(split=trial.config.evaluation.split, items=16, metrics=metrics, train_flops=1e9, train_s=1.0)
    start = AttemptStart(from_step=0, started_s=0.0)
    end = None if status is Status.RUNNING else AttemptEnd(status=status, step=last, ended_s=0.0, train_s=1.0)
    return TrialRecord(
        trial_id=trial.trial_id,
        sweep="sweep",
        stage=trial.stage,
        family=trial.family,
        config=trial.config,
        dataset=DatasetInfo(benchmark="sudoku-4x4-generated", fingerprint="f", generated=True),
        status=status,
        step=last,
        rows=[Row(s, float(s), "validation", metrics) for s in range(4, last + 1, 4)],
        attempts=[] if status is Status.PENDING else [Attempt(1, start, end)],
        stopped=StopDecision(step=last, reason="rank") if status is Status.STOPPED else None,
        result=result if status is Status.FINISHED else None,
    )


def attempted(
    storage: Storage, config: TrialConfig, placement: dict[str, Any], listen: Listener = lambda news: None
) -> TrialRecord:
    """The record of one attempt at a trial, made in this process."""
    from orchestrator.worker.attempt import run_attempt  # imports torch

    dataset = provide(storage, config.data.request())
    name = trial_id(config, dataset.fingerprint)
    head = new_head("study", "", config, DatasetInfo.parse(dataset.describe()))
    trial_folder(storage, "s", name).create("trial.json", head.encode())
    run_attempt(Job(storage.url, "s", name, config.plain(), dataset.path.name, placement), listen, lambda: False)
    return read_trial(storage, "s", name)
