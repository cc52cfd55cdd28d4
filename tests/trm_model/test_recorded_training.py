"""Losses of short runs are those of earlier versions, to what processors differ by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.recorded import compare
from tests.trm_model.test_train import run, tiny
from trm_data import Dataset, build
from trm_model.training.events import Finished, Trained

ROW = ("loss", "answer_loss", "halt_loss", "continue_loss", "lr", "puzzles_presented")
"""Numbers that vary continuously: shares of cells may differ where two logits are nearly equal."""
VARIANTS: dict[str, dict[str, Any]] = {
    "trm": {},
    "attention": {"model": {"mixer": "attention", "positions": "rotary"}},
    "learned positions": {"model": {"mixer": "attention", "positions": "learned"}},
    "hrm": {"model": {"variant": "hrm", "mixer": "attention", "positions": "rotary"}},
    "direct": {"model": {"variant": "direct"}},
    "one latent": {"model": {"num_latents": 0}},
    "three latents": {"model": {"num_latents": 3, "gradient": "step"}},
    "continue": {"model": {"halting": "continue"}},
    "muon": {"optimizer": {"name": "muon", "lr_min_ratio": 0.1}},
    "adamw": {"optimizer": {"name": "adamw", "further_ema_rates": [0.5]}},
    "softmax": {"train": {"loss": "softmax"}, "optimizer": {"ema_rate": 0.0}},
    "curriculum": {"train": {"depth_curriculum": [[0.0, 1, 1], [0.5, 2, 1]]}, "runtime": {"micro_batch_size": 3}},
    "recomputed": {"runtime": {"recompute": "block"}, "model": {"hidden_size": 32, "num_layers": 1}},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(tiny().data.request(), tmp_path_factory.mktemp("data"))


def test_short_runs_are_as_recorded(dataset: Dataset, tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for name, sections in VARIANTS.items():
        config = tiny(**{**sections, "train": {"max_steps": 12, **sections.get("train", {})}})
        events = run(config, dataset, tmp_path / name)
        trained = [event.metrics for event in events if isinstance(event, Trained)]
        (end,) = (event.result for event in events if isinstance(event, Finished))
        found[name] = {
            "trained": [[metrics[key] for key in ROW] for metrics in (*trained[:2], trained[-1])],
            **{key: end[key] for key in ("num_parameters", "train_flops", "supervision_steps", "puzzles_presented")},
        }
    compare("training", found, precision=1e-3)
