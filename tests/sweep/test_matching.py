"""The axis of a comparison decides how long each trial runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.resources.estimate import estimate
from orchestrator.storage import LocalStorage
from orchestrator.sweep import Stopping, Sweep, Variant, choice, configure
from orchestrator.sweep.matching import shape_of, training_flops
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


def test_longer_steps_leave_at_least_one_evaluation_and_one_step() -> None:
    base = configure(BASE, {"train.max_steps": 2, "runtime.evaluate_every": 1})
    sweep = Sweep.parse({"name": "equal", "base": base, "space": {"T": choice(1, 8)}, "equal": "flops"})
    shortest = min((trial.config for trial in _trials(sweep)), key=lambda config: config.train.max_steps)
    assert (shortest.train.max_steps, shortest.runtime.evaluate_every) == (1, 1)


def test_equal_flops_gives_every_cell_the_compute_of_the_base() -> None:
    trials = _trials(_study("flops", variants=RIVALS))
    assert len({trial.config.train.max_steps for trial in trials}) == 5
    for trial in trials:
        assert training_flops(trial.config) == pytest.approx(training_flops(BASE), rel=0.005), trial.family
        evaluations = trial.config.train.max_steps / (trial.config.runtime.evaluate_every or 1)
        assert evaluations == pytest.approx(10, abs=0.5)


def test_equal_steps_leaves_every_cell_its_steps() -> None:
    assert {trial.config.train.max_steps for trial in _trials(_study("steps"))} == {600}


@pytest.mark.parametrize(
    ("recipe", "seq_len", "vocab_size"),
    [
        ("sudoku-mini", 36, 8),  # 6x6: pad, blank, 1 to 6
        ("sudoku-mlp.readme", 81, 11),  # as in the official datasets of Sudoku-Extreme,
        ("maze-att.readme", 900, 6),  # Maze-Hard
        ("arc-agi-1.readme", 900, 12),  # and ARC-AGI
    ],
)
def test_shape_of_a_benchmark_is_that_of_its_official_dataset(recipe: str, seq_len: int, vocab_size: int) -> None:
    assert shape_of(get_recipe(recipe)) == {"seq_len": seq_len, "vocab_size": vocab_size}


def test_training_flops_are_six_per_weight_and_position_of_every_evaluated_layer() -> None:
    """MLP mixing without puzzle tokens, counted by hand: two FLOPs per weight forward, four backward."""
    base = configure(
        get_recipe("sudoku-mini"),
        {"model.puzzle_embedding_len": 0, "model.mixer": "mlp", "model.positions": "none", "model.num_layers": 1,
         "model.hidden_size": 64, "model.expansion": 4.0, "model.inner_multiple": 1, "T": 1, "n": 1,
         "train.max_steps": 10, "train.batch_size": 8},
    )  # fmt: skip

    def swiglu(width: int) -> int:
        inner = round(4 * width * 2 / 3)
        return 3 * width * inner

    layer = 36 * swiglu(64) + 64 * swiglu(36)  # over the features of every position, and over positions
    passes = 2  # the latent and the answer, both with gradient where T = 1
    head = 36 * 64 * 8
    expected = 10 * 8 * 6 * (passes * layer + head)
    assert training_flops(base) == pytest.approx(expected, rel=0.05)


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
