"""Limit the final evaluation of a short CPU run, so that scoring does not outlast training.

Two steps of the ARC recipe take half a minute on two cores; scoring its 400 tasks afterwards would take hours.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from orchestrator.resources.runtime import ASSUMED_CORE_FLOPS
from orchestrator.sweep.domains import Value
from orchestrator.sweep.settings import replace_settings
from trm_data import Dataset
from trm_model import cost
from trm_model.config import TrialConfig

LEAST_SCORING_S = 60.0
"""Scoring that takes no longer than this, or than three times the training, is not limited."""


class Limited(NamedTuple):
    """Pair a configuration with a message about its limit for the user (empty if there is none)."""

    config: TrialConfig
    remark: str


def limit_evaluation(config: TrialConfig, dataset: Dataset) -> Limited:
    """Limit the number of scored puzzles if scoring would take longer than training, by the model's FLOPs.

    A configuration that sets `evaluation.max_puzzles` itself is returned as it is.
    """
    shape = {"seq_len": dataset.seq_len, "vocab_size": dataset.vocab_size}
    flops_per_s = ASSUMED_CORE_FLOPS * (config.runtime.num_threads or os.cpu_count() or 1)
    train_flops = cost.train_flops(config.model, **shape) * config.train.batch_size * config.train.max_steps
    steps = config.evaluation.supervision_steps or config.model.supervision_steps
    puzzle_s = cost.forward_flops(config.model, **shape) * steps / flops_per_s
    affordable = max(1, int(max(LEAST_SCORING_S, 3 * train_flops / flops_per_s) / puzzle_s))
    scored = dataset.counts[config.evaluation.split]
    if config.evaluation.max_puzzles is not None or scored <= affordable:
        return Limited(config, "")
    settings: dict[str, Value] = {"evaluation.max_puzzles": affordable}
    if config.runtime.evaluate_puzzles is None:
        settings["runtime.evaluate_puzzles"] = max(1, affordable // 10)
    remark = (
        f"scores {affordable} of {scored} {config.evaluation.split} puzzles: all of them would take about "
        f"{scored * puzzle_s / 3600:.1f} h on this machine (evaluation.max_puzzles={scored} scores them)"
    )
    return Limited(replace_settings(config, settings), remark)
