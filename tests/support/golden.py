"""Read the numbers of the official code in `tests/golden/official`; its README says how they were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OFFICIAL = Path(__file__).parents[1] / "golden/official"


def numbers() -> dict[str, Any]:
    """Return the numbers of functions and of the dataset builders, by topic."""
    loaded: dict[str, Any] = json.loads((OFFICIAL / "numbers.json").read_text())
    return loaded


def model_facts() -> dict[str, Any]:
    """Return the configuration and the optimizer's settings of every golden model."""
    loaded: dict[str, Any] = json.loads((OFFICIAL / "models.json").read_text())
    return loaded


def arrays(name: str) -> Any:
    """Return the arrays of a dataset builder or an evaluation, by name."""
    return np.load(OFFICIAL / f"{name}.npz")


def model_arrays(name: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of a golden model. `KEY@N` holds every N-th number of the flattened array KEY.

    The file has all numbers of a type together, the bytes of equal rank side by side, which compress better.
    """
    stored = np.load(OFFICIAL / f"{name}.npz")
    flat = {
        kind: values if values.ndim == 1 else np.ascontiguousarray(values.T).reshape(-1).view(kind)
        for kind, values in stored.items()
        if kind != "layout"
    }
    layout = json.loads(stored["layout"].tobytes())
    return {
        key: flat[kind][start : start + int(np.prod(shape, dtype=int))].reshape(shape)
        for key, (kind, start, shape) in layout.items()
    }
