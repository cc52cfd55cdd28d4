"""Serve a registered model. MLflow executes this file when the model is loaded (models-from-code, nothing pickled).

It is registered with copies of `trm_model` and `trm_data`, and imports nothing of the orchestrator.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch

from trm_model.checkpoints.store import unpack
from trm_model.checkpoints.trained import load_trained
from trm_model.evaluation.inference import supervision_steps


class TrmModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Answer puzzles: take and return grids (N, H, W) of cells, encoded as in the dataset."""

    def load_context(self, context: Any) -> None:
        """Read the safetensors file."""
        path = Path(context.artifacts["checkpoint"])
        self.model = load_trained(unpack(path.read_bytes(), path.name), "raw").model.eval()

    @torch.no_grad()
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return the answers (N, H, W) after `supervision_steps` steps (0: as many as in training).

        It has no annotations, because MLflow would take them for a signature of its own.
        """
        grids = np.asarray(model_input)
        cells_NC = torch.tensor(grids.reshape(len(grids), -1).astype(np.uint8))
        settings = params or {}
        ids_N = torch.full((len(grids),), int(settings.get("puzzle_id", 0)))
        steps = int(settings.get("supervision_steps", 0)) or self.model.config.supervision_steps
        weights = dict(self.model.named_parameters())
        *_, last = islice(supervision_steps(self.model, weights, cells_NC, ids_N, dtype=torch.float32), steps)
        return last.cells_BC.numpy().astype(np.int64).reshape(grids.shape)


mlflow.models.set_model(TrmModel())
