"""Plans, costs and sizes are those of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.resources.memory import num_identifiers
from orchestrator.resources.runtime import work_of
from orchestrator.sweep.matching import shape_of
from orchestrator.sweep.packaged import packaged_sweeps
from tests.support.commands import call
from tests.support.recorded import compare
from trm_model import cost
from trm_model.recipes import CATALOGUE, get_recipe

OPTIONS = {
    "here": (),
    "L40S": ("--gpu", "L40S"),
    "either, shared, 200 USD": ("--gpu", "L40S|H100", "--share-gpus", "--max-usd", "200", "--max-concurrent", "3"),
}


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores and 64 GB without a GPU."""
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=64 * 10**9))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.parametrize("options", OPTIONS)
def test_plans_of_the_packaged_sweeps_are_as_recorded(
    options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[str, Any] = {}
    for name in packaged_sweeps():
        code, out, err = call(
            capsys, "sweep", "plan", name, *OPTIONS[options], "--json", "--storage", str(tmp_path / "runs")
        )
        plan = json.loads(out) if code == 0 else {"error": err}
        found[name] = plan | {"cells": [plan["cells"][0], plan["cells"][-1]]} if "cells" in plan else plan
    compare(f"plans, {options}".replace(", ", "-").replace(" ", "-"), found)


def test_sizes_and_work_of_the_recipes_are_as_recorded() -> None:
    found = {}
    for name in CATALOGUE:
        config = get_recipe(name)
        shape = shape_of(config)
        whole = {**shape, "num_identifiers": num_identifiers(config)}
        found[name] = {
            "parameters": cost.num_parameters(config.model, **shape),
            "forward": cost.forward_flops(config.model, **shape),
            "train": cost.train_flops(config.model, **shape),
            "recompute": cost.recompute_flops(config, seq_len=shape["seq_len"]),
            "checkpoint": cost.checkpoint_bytes(config, **whole),
            "state": cost.state_bytes(config, **whole),
            **{f"peak on {device}": cost.peak_bytes(config, **whole, device=device) for device in ("cpu", "cuda")},
            "work": list(work_of(config)),
        }
    compare("recipes", found)
