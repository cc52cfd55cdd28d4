"""Confirmed winners in the model registry: only they enter, and a fresh process predicts with them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.cli import main
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.storage import open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.tracking.registry import MIN_SEEDS, RegistryError, name_of, winner
from tests.support.sweeps import study, tiny_config
from tests.support.tracking import finished, write_record
from trm_model.checkpoints.trained import pack_weights
from trm_model.evaluation.inference import supervision_steps
from trm_model.model.recursion import build_model


def confirmed(family: str, seed: int, score: float, **changes: Any) -> TrialRecord:
    """A scored cell of a study."""
    config = tiny_config(**{"model.latent_steps": 1 + (family == "good")}).model_copy(update={"seed": seed})
    record = finished(seed, steps=2)
    assert record.result is not None
    result = record.result.model_copy(update={"metrics": {"exact_accuracy": score}, "weights": "raw"})
    values = {"trial_id": f"{family}-{seed}", "family": family, "config": config, "result": result}
    return dataclasses.replace(record, **{**values, **changes})


GOOD = [confirmed("good", seed, score) for seed, score in enumerate((0.80, 0.90, 0.85))]
POOR = [confirmed("poor", seed, score) for seed, score in enumerate((0.20, 0.99, 0.30))]


def test_winner_has_the_highest_mean_and_is_represented_by_its_lowest_seed() -> None:
    won = winner([*POOR, *reversed(GOOD)], "depth")
    assert won.record is GOOD[0] and won.rivals == 1
    assert won.mean == pytest.approx(0.85) and sorted(won.scores) == [0.80, 0.85, 0.90]
    assert name_of(won.record) == "trm-sudoku-6x6-generated"


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "explore"},
        {"status": Status.STOPPED, "result": None},
        {"result": GOOD[0].result and GOOD[0].result.model_copy(update={"split": "validation"})},
    ],
    ids=["search stage", "not finished", "validation"],
)
def test_what_no_leaderboard_takes_does_not_count(change: dict[str, Any]) -> None:
    with pytest.raises(RegistryError, match=f"{MIN_SEEDS - 1} confirmed seeds of one configuration at most"):
        winner([dataclasses.replace(GOOD[0], **change), *GOOD[1:]], "depth")


def test_scores_on_different_puzzles_have_no_winner() -> None:
    other = [
        dataclasses.replace(record, dataset=record.dataset.model_copy(update={"fingerprint": "0" * 64}))
        for record in POOR
    ]
    with pytest.raises(RegistryError, match="compares datasets"):
        winner([*GOOD, *other], "depth")


LOAD = """
import json, sys
import numpy as np
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_registry_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
grids = np.array(json.loads(sys.argv[3]))
out = {"one": model.predict(grids, params={"supervision_steps": 1}).tolist(), "all": model.predict(grids).tolist()}
out["orchestrator"] = "orchestrator" in sys.modules
try:
    model.predict(np.zeros((1, 5)))
except mlflow.exceptions.MlflowException as error:
    out["refused"] = "schema" in str(error)
print(json.dumps(out))
"""


def test_registered_winner_predicts_in_a_fresh_process(
    migrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = open_storage(str(tmp_path / "runs"))
    storage.write("sweeps/depth/sweep.json", to_json_bytes(study(name="depth").plain()))
    shutil.copy(migrated, tmp_path / "runs" / "mlflow.db")
    for record in [*GOOD, *POOR]:
        write_record(storage, record)
    config = GOOD[0].config
    model = build_model(config.model, vocab_size=8, seq_len=36, num_identifiers=1, seed=3).requires_grad_(False)
    weights = pack_weights(model, config, step=20, id_map_hash="h")
    storage.write(f"sweeps/depth/trials/{GOOD[0].trial_id}/checkpoints/step-00000020.safetensors", weights)

    def register() -> Any:
        with pytest.raises(SystemExit) as ended:
            main(["track", "register", "depth", "--storage", storage.url, "--json"])
        assert ended.value.code == 0
        return json.loads(capsys.readouterr().out)

    expected = {"name": "trm-sudoku-6x6-generated", "version": 1, "trial_id": "good-0"}
    assert register() == {**expected, "new": True}
    assert register() == {**expected, "new": False}, "the same trial is registered once"
    place = migrated.parent / "mlflow-artifacts"  # where the experiment of the copied database keeps its files
    files = [path.name for path in place.rglob("*") if path.is_file()]
    assert "weights.safetensors" in files and "served_model.py" in files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".pyc"))]

    grids = np.random.default_rng(0).integers(1, 8, (3, 6, 6))
    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    arguments = [uri, "models:/trm-sudoku-6x6-generated/1", json.dumps(grids.tolist())]
    done = subprocess.run([sys.executable, "-c", LOAD, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    cells, ids = torch.tensor(grids.reshape(3, 36).astype(np.uint8)), torch.zeros(3, dtype=torch.int64)
    with torch.no_grad():
        steps = supervision_steps(model, dict(model.named_parameters()), cells, ids, dtype=torch.float32)
        answers = [next(steps).cells_BC.reshape(3, 6, 6).tolist() for _ in range(config.model.supervision_steps)]
    assert (found["one"], found["all"]) == (answers[0], answers[-1])
    assert found["refused"] and not found["orchestrator"]
