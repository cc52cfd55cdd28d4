"""Register confirmed winners in MLflow: weights as safetensors, code as text, a signature. Nothing is pickled.

    register(client, winner(records), ...)
    mlflow.pyfunc.load_model("models:/trm-sudoku-6x6-generated/1").predict(grids)

Only what a leaderboard accepts is registered: the confirm stage of a search or the cells of a study, finished, scored
on the test split, with at least three seeds.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import trm_data
import trm_model
from orchestrator.records.schema import TrialRecord
from orchestrator.results.leaderboard.confirmed import RANKED_METRICS, label, refusal
from trm_data.errors import UserError
from trm_data.files import private_folder, temporary_folder
from trm_model.checkpoints.trained import Trained, pack_weights

MIN_SEEDS = 3
PACKAGES = ("torch", "numpy", "safetensors", "pydantic", "pyarrow", "numba", "scipy", "mlflow")
"""Packages that the copied code imports; their versions are pinned in the model's requirements."""
SERVED = Path(__file__).with_name("served_model.py")


class RegistryError(UserError):
    """Raised for a sweep without a winner that may be registered."""


@dataclass(frozen=True, slots=True)
class Winner:
    """Describe the confirmed configuration with the highest mean, and the trial that represents it."""

    record: TrialRecord
    """The trial with the lowest seed: not chosen by its score."""
    metric: str
    scores: tuple[float, ...]
    """One per seed, between 0 and 1."""
    rivals: int
    """Other confirmed configurations of the sweep."""

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))


def winner(records: Sequence[TrialRecord], sweep_name: str) -> Winner:
    """Return the best confirmed configuration of a sweep.

    Raises:
        RegistryError: no configuration is confirmed with `MIN_SEEDS` seeds, or they were scored on different puzzles.
    """
    families: dict[str, list[TrialRecord]] = defaultdict(list)
    for record in records:
        if refusal(record) is None:
            families[record.family].append(record)
    enough = {name: group for name, group in families.items() if len(group) >= MIN_SEEDS}
    if not enough:
        most = max(map(len, families.values()), default=0)
        raise RegistryError(
            f"sweep {sweep_name!r} has no winner: {most} confirmed seeds of one configuration at most, not {MIN_SEEDS}",
            "Only the confirm stage of a search and the cells of a study count, finished and scored on test",
        )
    if len({record.dataset.fingerprint for group in enough.values() for record in group}) > 1:
        raise RegistryError(
            f"sweep {sweep_name!r} compares datasets: its scores are of different puzzles and cannot be compared",
            "Run a sweep on one of the datasets",
        )
    first = next(iter(enough.values()))[0]
    metric = next(name for name in RANKED_METRICS if first.result and name in first.result.metrics)
    scores = {name: tuple(_score(record, metric) for record in group) for name, group in enough.items()}
    best = max(scores, key=lambda name: (np.mean(scores[name]), name))
    chosen = min(enough[best], key=lambda record: record.config.seed)
    if chosen.config.model.recursion is not None:
        raise RegistryError(
            f"{best!r} has a recursion of its own, and loading a registered model must not run code that it names",
            "Keep the checkpoint with its recursion.py instead",
        )
    return Winner(chosen, metric, scores[best], len(families) - 1)


def _score(record: TrialRecord, metric: str) -> float:
    assert record.result is not None, "a candidate is finished"
    return record.result.metrics[metric]


def name_of(record: TrialRecord) -> str:
    """Return the name of the registered model: one per benchmark."""
    return "trm-" + re.sub(r"[^A-Za-z0-9_.-]+", "-", label(record))


@contextmanager
def packed(trained: Trained, won: Winner) -> Iterator[Path]:
    """Write the model in MLflow's format to a temporary folder."""
    weights = pack_weights(
        trained.model, trained.config, step=trained.step, id_map_hash=trained.id_map_hash, fingerprint=_fingerprint(won)
    )
    with temporary_folder(private_folder("models")) as place:
        checkpoint = Path(place, "weights.safetensors")
        checkpoint.write_bytes(weights)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow complains of annotations in its own code
            _save(Path(place, "model"), checkpoint, trained.model.num_cells, _facts(won))
        for cache in list(Path(place, "model").rglob("__pycache__")):
            shutil.rmtree(cache)
        yield Path(place, "model")


def _save(folder: Path, checkpoint: Path, num_cells: int, facts: dict[str, str]) -> None:
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types.schema import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    side = round(num_cells**0.5)
    grid = Schema([TensorSpec(np.dtype(np.int64), (-1, side, side))])
    params = ParamSchema([ParamSpec(name, DataType.long, 0) for name in ("supervision_steps", "puzzle_id")])
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(SERVED),
        artifacts={"checkpoint": str(checkpoint)},
        signature=ModelSignature(grid, grid, params),
        code_paths=[str(Path(str(package.__file__)).parent) for package in (trm_model, trm_data)],
        pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in PACKAGES],
        metadata=facts,
    )


def _fingerprint(won: Winner) -> str:
    return won.record.dataset.fingerprint


def _facts(won: Winner) -> dict[str, str]:
    """Return the tags of a version: its origin and scores."""
    record = won.record
    return {
        "sweep": record.sweep,
        "family": record.family,
        "trial_id": record.trial_id,
        "seed": str(record.config.seed),
        "benchmark": label(record),
        "fingerprint": _fingerprint(won),
        "metric": won.metric,
        "mean": f"{won.mean:.6g}",
        "scores": " ".join(f"{score:.6g}" for score in won.scores),
        "seeds": str(len(won.scores)),
        "rivals": str(won.rivals),
    }


def register(client: Any, run_id: str, won: Winner, trained: Trained) -> tuple[str, int, bool]:
    """Register a trial once; return the model's name, its version, and whether it is new."""
    from mlflow.exceptions import MlflowException

    name = name_of(won.record)
    for known in client.search_model_versions(f"name = '{name}'"):
        if known.tags.get("trial_id") == won.record.trial_id:
            return name, int(known.version), False
    try:
        client.create_registered_model(name, description="Recursive puzzle solvers, confirmed with several seeds")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    with packed(trained, won) as folder:
        client.log_artifacts(run_id, str(folder), "model")
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    description = f"{won.record.family}: mean {100 * won.mean:.1f} % {won.metric} over {len(won.scores)} seeds"
    made = client.create_model_version(name, source, run_id, tags=_facts(won), description=description)
    return name, int(made.version), True
