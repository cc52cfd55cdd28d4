"""The cells of a space: the grid is what a brute-force filter leaves, and it is made one cell at a time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from orchestrator.resources.estimate import MAX_STUDY_CELLS, estimate
from orchestrator.search.optuna_trials import distribution
from orchestrator.storage import open_storage
from orchestrator.sweep import Confirm, Sweep, choice, integers, log_uniform, uniform
from orchestrator.sweep.domains import Choice, Condition
from orchestrator.sweep.settings import get_setting
from orchestrator.sweep.space import Space
from orchestrator.sweep.trials import cells
from tests.support.sweeps import search, study, tiny_config
from trm_data.errors import ConfigError

PATHS = ("model.cycles", "model.latent_steps", "model.supervision_steps", "seed")
BASE = tiny_config()
values = st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True)
conditions = st.dictionaries(
    st.sampled_from(PATHS),
    st.integers(1, 4) | st.lists(st.integers(1, 4), min_size=1, max_size=2).map(tuple),
    min_size=1,
)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    axes = {path: Choice(values=tuple(draw(values))) for path in PATHS if draw(st.booleans())}
    only_if: dict[str, Condition] = {}
    for index, path in enumerate(axes):
        earlier = list(axes)[:index]
        if earlier and draw(st.booleans()):
            only_if[path] = {draw(st.sampled_from(earlier)): draw(st.integers(1, 4))}
    return Space(BASE, axes, only_if, tuple(draw(st.lists(conditions, max_size=2))))


def brute_force(space: Space) -> list[dict[str, Any]]:
    """Every combination, without inactive axes, without forbidden ones, each once."""

    def holds(condition: Condition, cell: dict[str, Any]) -> bool:
        pairs = ((cell.get(path, get_setting(BASE, path)), wanted) for path, wanted in condition.items())
        return all(value in wanted if isinstance(wanted, tuple) else value == wanted for value, wanted in pairs)

    found: list[dict[str, Any]] = []
    for combination in itertools.product(*(domain.spread() for domain in space.axes.values())):
        cell: dict[str, Any] = {}
        for path, value in zip(space.axes, combination, strict=True):
            if path not in space.only_if or holds(space.only_if[path], cell):
                cell[path] = value
        if cell not in found and not any(holds(condition, cell) for condition in space.forbidden):
            found.append(cell)
    return found


@given(space=spaces(), seed=st.integers(0, 99))
def test_grid_size_sample_and_draws_are_those_of_the_filtered_product(space: Space, seed: int) -> None:
    expected = brute_force(space)
    assert list(space.grid()) == expected
    assert space.size() == len(expected) == space.max_cells()
    for count in (1, 2, 100):
        sample = space.sample(count, seed)
        assert len(sample) == min(count, len(expected)) and all(cell in expected for cell in sample)
        assert len({repr(cell) for cell in sample}) == len(sample)
    drawn = space.random(random.Random(seed))
    assert drawn in expected if expected else drawn is None


@given(space=spaces())
def test_every_cell_is_recognised_in_its_configuration(space: Space) -> None:
    for cell in space.grid():
        config = BASE.model_copy(update={"seed": cell.get("seed", BASE.seed)})
        model = {path.removeprefix("model."): value for path, value in cell.items() if path.startswith("model.")}
        config = config.model_copy(update={"model": config.model.model_copy(update=model)})
        assert space.cell_of(config) == cell and space.holds(cell)


def test_ranges_count_with_three_values_each_of_them_once() -> None:
    assert list(Space(BASE, {"model.cycles": integers(1, 2)}).grid()) == [{"model.cycles": 1}, {"model.cycles": 2}]
    assert Space(BASE, {"model.cycles": integers(1, 9)}).max_cells() == 9
    assert Space(BASE, {"optimizer.weight_decay": uniform(0, 1)}).max_cells() is None
    assert Space(BASE, {"optimizer.weight_decay": uniform(0, 1)}).size() == 3


def test_ranges_are_represented_by_their_ends_and_their_middle() -> None:
    assert uniform(2, 4).spread() == [2, 3, 4]
    assert uniform(1e-4, 1e-2, log=True) == log_uniform(1e-4, 1e-2)
    assert log_uniform(1e-4, 1e-2).spread() == pytest.approx([1e-4, 1e-3, 1e-2])
    assert integers(1, 5).spread() == [1, 3, 5] and integers(1, 2).spread() == [1, 2]


def test_ranges_hold_their_ends_and_nothing_beyond() -> None:
    axis = uniform(0.5, 2)
    assert axis.holds(0.5) and axis.holds(2) and axis.holds(1.1)
    assert not (axis.holds(0.49) or axis.holds(2.01) or axis.holds("1"))


@pytest.mark.parametrize(("low", "high", "step", "fits"), [(1, 10, 3, True), (2, 10, 3, False), (0.1, 0.9, 0.2, True)])
def test_a_range_has_a_whole_number_of_steps(low: float, high: float, step: float, fits: bool) -> None:
    if fits:
        assert uniform(low, high, step=step).count == round((high - low) / step) + 1
    else:
        with pytest.raises(ConfigError, match="is not a whole number of steps"):
            uniform(low, high, step=step)


def test_a_sampler_sees_the_same_values_as_a_grid() -> None:
    assert distribution(integers(1, 9, step=4)) == IntDistribution(1, 9, step=4)
    assert distribution(integers(1, 9)) == IntDistribution(1, 9)
    assert distribution(uniform(0.5, 2.0, step=0.5)) == FloatDistribution(0.5, 2.0, step=0.5)
    assert distribution(log_uniform(1e-4, 1.0)) == FloatDistribution(1e-4, 1.0, log=True)
    assert distribution(choice(3, 1)) == CategoricalDistribution((3, 1))


def test_draws_cover_a_range_evenly_and_a_logarithmic_one_by_order_of_magnitude() -> None:
    rng = random.Random(0)
    plain = [float(uniform(1, 100).draw(rng)) for _ in range(4_000)]  # type: ignore[arg-type]
    orders = [float(log_uniform(1, 100).draw(rng)) for _ in range(4_000)]  # type: ignore[arg-type]
    assert all(1 <= value <= 100 for value in plain + orders)
    assert sum(value < 50.5 for value in plain) / 4_000 == pytest.approx(0.5, abs=0.04)
    assert sum(value < 10 for value in orders) / 4_000 == pytest.approx(0.5, abs=0.04)
    assert {integers(1, 3).draw(rng) for _ in range(200)} == {1, 2, 3}


def test_cells_of_ranges_of_whole_numbers_are_counted_with_those_of_choices() -> None:
    axes = {"model.cycles": integers(1, 4), "model.latent_steps": integers(2, 4), "seed": choice(0, 1)}
    assert Space(BASE, axes).max_cells() == 4 * 3 * 2
    assert Space(BASE, axes | {"optimizer.weight_decay": uniform(0, 1)}).max_cells() is None


MILLION = {
    "T": choice(*range(1, 11)),
    "n": choice(*range(1, 11)),
    "N_sup": choice(*range(1, 11)),
    "aug": choice(*range(10)),
    "optimizer.warmup_steps": choice(*range(10)),
    "data.build_seed": choice(*range(10)),
}


def test_a_million_cells_are_planned_from_a_sample_and_expanded_one_by_one(tmp_path: Any) -> None:
    sweep = study(space=MILLION, seeds=3)
    plan = estimate(sweep, open_storage(str(tmp_path)), max_concurrent=2)
    assert (plan.num_cells, plan.num_trials, len(plan.cells)) == (10**6, 3 * 10**6, MAX_STUDY_CELLS)
    assert plan.total_steps == 12 * 3 * 10**6
    hours = plan.costs[0].device_hours
    assert plan.wall_s and hours and plan.wall_s == pytest.approx(3600 * hours / 2, rel=0.02)
    first = itertools.islice(cells(sweep), 2)
    assert [cell["data.build_seed"] for _, cell in first] == [0, 1]


@pytest.mark.parametrize(
    "define",
    [
        lambda: study(seeds=10**11),
        lambda: study(space=MILLION, seeds=11),
        lambda: study(space=MILLION, only_if={"aug": {"T": 1}}, seeds=100),
        lambda: search(space={"lr": log_uniform(1e-4, 1e-2)}, trials=10**12),
        lambda: search(confirm=Confirm(seeds=10**11)),
    ],
)
def test_more_trials_than_a_run_can_hold_are_refused_when_the_sweep_is_defined(define: Callable[[], Sweep]) -> None:
    with pytest.raises(ConfigError, match=r"more than 10,000,000 trials.*Give fewer seeds, trials or values"):
        define()


def test_many_trials_are_counted_as_they_run() -> None:
    assert study(space=MILLION, seeds=10).seeds == 10
    assert study(space=MILLION, forbidden=({"T": (1, 2)},), seeds=12).seeds == 12, "eight tenths of the cells are left"
    assert search(trials=10**12).trials == 10**12, "it has nine cells"


def test_a_million_cells_with_conditions_are_counted() -> None:
    space = study(space=MILLION, forbidden=({"T": (1, 2), "n": 1},), only_if={"aug": {"T": 1}}).search_space
    # 8 values of T without aug and 2 n ... : T=1 has aug; of T in (1, 2) one n in ten is forbidden.
    assert space.size() == (8 * 10 + 9) * 1000 + 9 * 10 * 1000


def test_counting_ends_where_there_are_too_many_cells() -> None:
    """A condition on every axis binds them all, so that ten thousand million cells would be counted one by one."""
    paths = ("T", "n", "N_sup", "train.batch_size", "data.build_seed")
    axes = study(space={path: choice(*range(1, 3)) for path in paths}).search_space.axes
    many = {path: choice(*range(1, 101)) for path in axes}
    space = Space(tiny_config(), many, forbidden=(dict.fromkeys(many, 1),))
    assert space.size(most=1_000) == 1_001
    assert replace(space, axes={path: many[path] for path in list(many)[:1]}).size(most=1_000) == 100
