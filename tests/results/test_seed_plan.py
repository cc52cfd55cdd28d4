"""How many seeds a sweep needs before it runs: by the test, power and correction of an ablation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from orchestrator import Confirm, Sweep, Variant, choice, configure, get_recipe
from orchestrator.records.index import load_definition
from orchestrator.records.schema import TrialRecord
from orchestrator.results.leaderboard import PUBLISHED
from orchestrator.results.power import WelchPower
from orchestrator.results.seed_plan import assumed_spread, plan_seeds, recorded_spread
from orchestrator.storage import LocalStorage, open_storage
from tests.support.older import unpack_older
from tests.support.results import make_config, make_record


def study(seeds: int = 3) -> Sweep:
    return Sweep(name="a", base=get_recipe("sudoku-mini"), space={"T": choice(1, 2), "n": choice(2, 4)}, seeds=seeds)


def runs(cycles: int, scores: tuple[float, ...], stage: str = "study") -> list[TrialRecord]:
    return [
        make_record(make_config(cycles=cycles, seed=seed), score=score, stage=stage, items=1_000)
        for seed, score in enumerate(scores)
    ]


def test_seeds_needed_have_80_percent_power_at_the_level_of_holms_procedure(tmp_path: Path) -> None:
    plan = plan_seeds(study(), 4, LocalStorage(tmp_path))
    assert plan is not None and plan.comparisons == 3 and plan.level == pytest.approx(0.05 / 3)
    spread = plan.spread.points

    def power(difference: float, seeds: int) -> float:
        return WelchPower((spread, spread), (seeds, seeds), 0.05 / 3, 0.1)(difference)

    assert list(plan.needed) == [1.0, 2.0, 5.0, 10.0]
    for difference, seeds in plan.needed.items():
        assert seeds is not None and power(difference, seeds) >= 0.8
        assert seeds == 2 or power(difference, seeds - 1) < 0.8
    assert plan.detectable is not None and power(plan.detectable, 3) == pytest.approx(0.8, abs=1e-6)
    numbers, basis = plan.sentences
    assert "1 pt " in numbers and "10 pt " in numbers and "Holm for 3 comparisons" in numbers
    assert "assumed spread" in basis and f"3 seeds, as planned, detect {plan.detectable:.1f} points" in basis


def test_simulated_ablations_find_the_difference_as_often_as_planned(tmp_path: Path) -> None:
    from orchestrator.results import stats

    plan = plan_seeds(study(), 4, LocalStorage(tmp_path))
    assert plan is not None
    seeds = plan.needed[5.0]
    assert seeds is not None
    rng, hits = np.random.default_rng(5), 0
    for _ in range(1_000):
        control, *others = rng.normal([90, 85, 90, 90], plan.spread.points, (seeds, 4)).T.tolist()
        hits += stats.holm([stats.welch(other, control).p_value for other in others])[0] < 0.05
    assert hits / 1_000 >= 0.77


def test_recorded_spread_is_pooled_over_seeds_and_named_so(tmp_path: Path) -> None:
    records = [*runs(1, (0.90, 0.92, 0.94)), *runs(2, (0.80, 0.80))]
    spread = recorded_spread(records, 1_000)
    assert spread is not None and spread.is_recorded and spread.points == pytest.approx((8 / 3) ** 0.5)
    assert spread.basis == "pooled over 2 configurations and 5 runs on sudoku-6x6"


def test_spread_is_taken_from_the_confirmed_runs_of_the_storage(tmp_path: Path) -> None:
    folder = unpack_older("storage", tmp_path)
    store = open_storage(str(folder))
    for number, file in enumerate(sorted(folder.glob("sweeps/compared/trials/*/result.json"))):
        result = json.loads(file.read_text())
        result["metrics"]["exact_accuracy"] = (2 + number) / 16
        file.write_text(json.dumps(result))
    plan = plan_seeds(load_definition(store, "compared"), 2, store)
    assert plan is not None and plan.spread.is_recorded and "recorded spread over seeds" in plan.sentences[1]
    assert "pooled over 2 configurations and 6 runs" in plan.spread.basis


def test_runs_at_a_floor_and_single_runs_have_no_spread() -> None:
    assert recorded_spread([*runs(1, (0.0, 0.0, 0.0)), *runs(2, (0.5,)), *runs(3, (1.0, 1.0))], None) is None
    assert recorded_spread([], None) is None


def test_runs_more_than_a_puzzle_from_a_limit_or_with_half_as_many_puzzles_count() -> None:
    """Within one puzzle of all, and on fewer than half of the puzzles that will be scored, they do not."""
    [two, one] = [recorded_spread(runs(1, scores), None) for scores in ((0.998, 0.999), (0.9995, 0.9996))]
    assert two is not None and two.points == pytest.approx(0.1 / 2**0.5) and one is None
    [half, fewer] = [recorded_spread(runs(1, (0.8, 0.9)), items) for items in (2_000, 2_001)]
    assert half is not None and fewer is None


def test_runs_on_a_whole_published_set_have_no_sampling_error() -> None:
    whole = PUBLISHED["sudoku-extreme"].items
    assert assumed_spread(whole).points == 1.3 and "sampling error" not in assumed_spread(whole).basis
    assert "sampling error" in assumed_spread(whole - 1).basis


def test_assumed_spread_has_the_sampling_error_of_small_test_sets() -> None:
    assert assumed_spread(None).points == 1.3 and not assumed_spread(None).is_recorded
    assert assumed_spread(1_000).points == pytest.approx((1.3**2 + 100**2 * 0.87 * 0.13 / 1_000) ** 0.5)
    assert "the sampling error of 1,000 puzzles at 87 %" in assumed_spread(1_000).basis


def test_seeds_of_a_search_are_those_of_its_confirm_stage(tmp_path: Path) -> None:
    def search(top: int, *controls: Variant) -> Sweep:
        confirm = Confirm(top=top, seeds=4, controls=controls)
        space = {"T": choice(1, 2, 3)}
        return Sweep(name="s", kind="search", base=get_recipe("sudoku-mini"), space=space, trials=3, confirm=confirm)

    store = LocalStorage(tmp_path)
    assert plan_seeds(search(1), 3, store) is None
    plan = plan_seeds(search(1, Variant(name="direct", settings={"model.variant": "direct"})), 3, store)
    assert plan is not None and plan.comparisons == 1 and plan.seeds == 4 and "Holm" not in plan.sentences[0]


def test_one_seed_and_one_configuration_are_told(tmp_path: Path) -> None:
    store = LocalStorage(tmp_path)
    assert plan_seeds(study(), 1, store) is None
    plan = plan_seeds(study(seeds=1), 4, store)
    assert (
        plan is not None and plan.detectable is None and "one seed, as planned, cannot be tested" in plan.sentences[1]
    )


def test_seeds_that_detect_no_possible_difference_are_told(tmp_path: Path) -> None:
    """Two seeds of a thousand cells would need more than 100 points for their corrected test."""
    plan = plan_seeds(study(seeds=2), 1_000, LocalStorage(tmp_path))
    assert plan is not None and plan.detectable is None
    assert "2 seeds, as planned, detect nothing" in plan.sentences[1]


def test_puzzles_of_a_list_of_ones_own_are_not_those_of_the_published_set(tmp_path: Path) -> None:
    def basis(**settings: object) -> str:
        base = configure(get_recipe("sudoku-mlp.paper"), {f"data.{name}": value for name, value in settings.items()})
        plan = plan_seeds(Sweep(name="p", base=base, space={"T": choice(2, 3)}, seeds=2), 2, LocalStorage(tmp_path))
        assert plan is not None
        return plan.spread.basis

    assert "sampling error" not in basis(num_test=200)
    assert basis(source="list.csv", num_test=200).endswith("the sampling error of 200 puzzles at 87 %")


def test_part_of_a_published_test_set_counts_as_many_puzzles_as_are_scored(tmp_path: Path) -> None:
    base = configure(get_recipe("sudoku-mlp.paper"), {"evaluation.max_puzzles": 100})
    sweep = Sweep(name="p", base=base, space={"T": choice(2, 3)}, seeds=2)
    plan = plan_seeds(sweep, 2, LocalStorage(tmp_path))
    assert plan is not None and plan.spread.basis.endswith("the sampling error of 100 puzzles at 87 %")
