"""Generated datasets, their batches and what official builders read are, to the bit, those of earlier versions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.golden import OFFICIAL
from tests.support.recorded import compare
from trm_data import DataRequest, Dataset, TrainLoader, build, eval_batches, export_official, list_benchmarks
from trm_data.puzzles.arc import pair_keys

TASKS = str(OFFICIAL / "tasks/mini")
REQUESTS = {
    **{
        benchmark.name: DataRequest(benchmark=benchmark.name, num_train=12, num_validation=3, num_test=6)
        for benchmark in list_benchmarks()
        if benchmark.generated
    },
    "arc": DataRequest(benchmark="arc-agi-1", source=TASKS, num_validation=1),
    "arc, numbered as upstream": DataRequest(
        benchmark="arc-agi-1", source=TASKS, ids="upstream", upstream_augmentations=4, num_validation=0
    ),
}


def digest(*arrays: Any) -> str:
    parts = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return hashlib.sha256(parts).hexdigest()[:16]


def batches(dataset: Dataset) -> dict[str, str]:
    copies = 4 if dataset.is_listed else 7
    found = {}
    for translation in ("none", "fixed", "fresh"):
        if translation == "none" or dataset.manifest.family == "arc":
            loader = TrainLoader(
                dataset, batch_size=16, num_augmentations=copies, seed=11, translation=translation  # type: ignore[arg-type]
            )  # fmt: skip
            drawn = [loader.fetch(step, np.arange(16)) for step in (0, 1, 40)]
            found[f"training, {translation}"] = digest(*(part for batch in drawn for part in batch))
    views = list(eval_batches(dataset, "test", 64, num_augmentations=copies))
    found["views"] = digest(*(part for batch in views for part in (batch.inputs, batch.labels)))
    return found


def test_datasets_and_their_batches_are_as_recorded(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for name, request in REQUESTS.items():
        dataset = build(request, tmp_path)
        found[name] = {
            "fingerprint": dataset.fingerprint,
            "names": dataset.names[:3],
            "cells": digest(dataset.inputs, dataset.labels, dataset.shapes),
            "keys": digest(dataset.keys),
            "puzzles": digest(dataset.puzzle, dataset.split),
            **batches(dataset),
        }
        if dataset.manifest.family == "arc":
            found[name]["pairs"] = digest(pair_keys(dataset.inputs, dataset.labels, dataset.shapes))
        if not (dataset.is_listed and dataset.manifest.ids == "native"):
            folder = tmp_path / f"official {name}"
            export_official(dataset, folder, 4)
            found[name]["official"] = digest(*(np.load(path) for path in sorted(folder.rglob("*.npy"))))
    compare("datasets", found)
