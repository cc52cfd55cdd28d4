"""Small ARC tasks of random grids, no two of which hold the same pair."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SMALL: dict[str, Any] = {
    "data.num_validation": 0,
    "data.num_augmentations": 2,
    "model.hidden_size": 16,
    "model.num_heads": 1,
    "T": 1,
    "n": 1,
    "N_sup": 1,
    "train.batch_size": 2,
    "train.dtype": "float32",
}
"""Settings of a model and a dataset for a few tasks, trained in a second."""


def pair(seed: int, *, answered: bool = True) -> dict[str, Any]:
    """Return an example whose output is its input upside down, or one without an output."""
    grid = np.random.default_rng(seed).integers(0, 10, (4, 5)).tolist()
    return {"input": grid, "output": grid[::-1]} if answered else {"input": grid}


def task(seed: int, *, tests: int = 1, unanswered: int = 0) -> dict[str, Any]:
    """Return a task with two demonstrations, and test inputs of which the last `unanswered` have no output."""
    questions = [pair(100 * seed + number, answered=number <= tests - unanswered) for number in range(1, tests + 1)]
    return {"train": [pair(100 * seed + 50), pair(100 * seed + 51)], "test": questions}


def write_tasks(folder: Path, tasks: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write tasks as `FOLDER/PATH.json`, by path below the folder, and return the folder."""
    for name, content in tasks.items():
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return folder
