"""A short run on a CPU is a try, not a result: its scoring is kept in proportion.

Two steps of the ARC recipe take half a minute on two cores; scoring its 400 tasks afterwards would take hours.
"""

from __future__ import annotations

import os

from orchestrator.resources.runtime import ASSUMED_CORE_FLOPS
from orchestrator.sweep.domains import Value
from orchestrator.sweep.settings import configure
from trm_data import Dataset
from trm_model import cost
from trm_model.config import TrialConfig

PATIENCE_S = 60.0
"""Scoring that takes no longer than this, or than three times the training, is left alone."""


def in_proportion(config: TrialConfig, dataset: Dataset) -> tuple[TrialConfig, str]:
    """The configuration with its scoring limited where that would dwarf the training, and what to tell the user.

    A configuration that says how many puzzles to score is taken at its word.
    """
    shape = {"seq_len": dataset.seq_len, "vocab_size": dataset.vocab_size}
    rate = ASSUMED_CORE_FLOPS * (config.runtime.num_threads or os.cpu_count() or 1)
    training_s = cost.train_flops(config.model, **shape) * config.train.batch_size * config.train.max_steps / rate
    steps = config.evaluation.supervision_steps or config.model.supervision_steps
    puzzle_s = cost.forward_flops(config.model, **shape) * steps / rate
    affordable = max(1, int(max(PATIENCE_S, 3 * training_s) / puzzle_s))
    scored = dataset.counts[config.evaluation.split]
    if config.evaluation.max_puzzles is not None or scored <= affordable:
        return config, ""
    settings: dict[str, Value] = {"evaluation.max_puzzles": affordable}
    if config.runtime.evaluate_puzzles is None:
        settings["runtime.evaluate_puzzles"] = max(1, affordable // 10)
    words = (
        f"scores {affordable} of {scored} {config.evaluation.split} puzzles: all of them would take about "
        f"{scored * puzzle_s / 3600:.1f} h here (--set evaluation.max_puzzles={scored} scores them)"
    )
    return configure(config, settings), words
