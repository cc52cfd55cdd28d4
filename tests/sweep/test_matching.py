"""The axis of a comparison decides how long each trial runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.resources.estimate import estimate
from orchestrator.storage import LocalStorage
from orchestrator.sweep import Stopping, Sweep, Variant, choice, configure
from orchestrator.sweep.matching import training_flops
from orchestrator.sweep.trials import PlannedTrial, study_trials
from tests.support.sweeps import fingerprint
from trm_data.errors import ConfigError
from trm_model.recipes import get_recipe

BASE = configure(get_recipe("sudoku-mini"), {"train.max_steps": 600, "runtime.evaluate_every": 60})
RIVALS = (
    Variant(name="HRM", settings={"model.variant": "hrm", "model.num_layers": 1}),
    Variant(name="direct", settings={"model.variant": "direct", "T": 1, "n": 1}),
    Variant(name="curriculum", settings={}),
)


def _study(axis: str, **changes: object) -> Sweep:
    return Sweep.parse({"name": "equal", "base": BASE, "space": {"T": choice(1, 2, 3)}, "equal": axis} | changes)


def _trials(sweep: Sweep) -> list[PlannedTrial]:
    return list(study_trials(sweep, fingerprint))


def test_equal_flops_gives_every_cell_the_compute_of_the_base() -> None:
    trials = _trials(_study("flops", variants=RIVALS))
    assert len({trial.config.train.max_steps for trial in trials}) == 5
    for trial in trials:
        assert training_flops(trial.config) == pytest.approx(training_flops(BASE), rel=0.005), trial.family
        evaluations = trial.config.train.max_steps / (trial.config.runtime.evaluate_every or 1)
        assert evaluations == pytest.approx(10, abs=0.5)


def test_equal_steps_leaves_every_cell_its_steps() -> None:
    assert {trial.config.train.max_steps for trial in _trials(_study("steps"))} == {600}


def test_curriculum_counts_each_stretch_at_its_own_depth() -> None:
    shallow = configure(BASE, {"T": 1, "n": 1})
    half = BASE.train.model_copy(update={"depth_curriculum": ((0.0, 1, 1), (0.5, 2, 2))})
    both = training_flops(BASE.model_copy(update={"train": half}))
    assert both == pytest.approx((training_flops(shallow) + training_flops(BASE)) / 2)
    assert training_flops(BASE.model_copy(update={"train": half}), 300) == pytest.approx(training_flops(shallow) / 2)


def test_plan_shows_the_steps_that_will_run(tmp_path: Path) -> None:
    sweep = _study("flops")
    planned = {trial.family: trial.config.train.max_steps for trial in _trials(sweep)}
    assert {cell.family: cell.steps for cell in estimate(sweep, LocalStorage(tmp_path)).cells} == planned


@pytest.mark.parametrize(
    ("axis", "changes", "message"),
    [
        ("puzzles", {}, "equal='puzzles' needs to know how many. Set train.max_puzzles in the base"),
        ("flops", {"space": {"train.max_steps": choice(1, 2)}}, "leave train.max_steps to the base"),
        ("flops", {"variants": (Variant(name="x", settings={"train.max_puzzles": 5}),)}, "train.max_puzzles"),
        (
            "flops",
            {"kind": "search", "trials": 2, "stopping": Stopping(rule="halving")},
            "early stopping compares equal steps",
        ),
    ],
)
def test_axis_that_cannot_hold_is_refused(axis: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _study(axis, **changes)
