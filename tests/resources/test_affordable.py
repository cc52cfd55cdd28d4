"""The inverse of a plan: which part of a sweep a sum of money pays for, and at which provider."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import plan as plan_sweep
from orchestrator.resources import catalogue
from orchestrator.resources.affordable import affordable
from orchestrator.resources.estimate import Estimate
from orchestrator.resources.pricing import Pricing, providers
from orchestrator.sweep.definition import Resources, Sweep
from orchestrator.sweep.domains import choice
from orchestrator.sweep.settings import configure
from tests.support.commands import call
from trm_data.errors import ConfigError
from trm_model.recipes import get_recipe


def plan_of(tmp_path: Path, **options: object) -> Estimate:
    base = configure(get_recipe("sudoku-mini"), {"train.max_steps": 50_000})
    space = {"T": choice(1, 2, 3)}
    gpu = Resources(cpus=1, gpus=1, gpu_type="H100")
    sweep = Sweep(name="s", base=base, space=space, seeds=3, resources=gpu)
    return plan_sweep(sweep, str(tmp_path), **options)  # type: ignore[arg-type]


def usd_of(plan: Estimate) -> float:
    [cost] = [cost for cost in plan.costs if cost.device == "H100"]
    assert cost.usd is not None
    return cost.usd


def test_plan_takes_the_prices_of_the_named_provider(tmp_path: Path) -> None:
    hours = {one: usd_of(plan_of(tmp_path, provider=one)) for one in ("aws", "lambda")}
    prices = {one: catalogue.usd_per_gpu_hour("H100", "on-demand", one) for one in hours}
    assert hours["lambda"] / hours["aws"] == pytest.approx(prices["lambda"] / prices["aws"])
    assert usd_of(plan_of(tmp_path, usd_per_gpu_hour=1.0)) == pytest.approx(hours["aws"] / prices["aws"])
    assert plan_of(tmp_path, provider="verda").costs[-1].usd is None  # it has no H100
    with pytest.raises(ConfigError, match="no prices of this provider"):
        plan_of(tmp_path, provider="nobody")


def test_sum_buys_the_whole_then_seeds_then_cells_and_steps(tmp_path: Path) -> None:
    plan, dollar = plan_of(tmp_path), [Pricing(usd_per_gpu_hour=1.0)]
    whole = usd_of(plan_of(tmp_path, usd_per_gpu_hour=1.0))
    [found] = affordable(plan, whole * 1.001, dollar)
    assert found.is_whole and found.num_trials == 9 and found.usd == pytest.approx(whole)
    [found] = affordable(plan, whole * 0.7, dollar)
    assert not found.is_whole and (found.num_cells, found.seeds, found.num_trials) == (3, 2, 6)
    assert found.usd == pytest.approx(whole * 2 / 3)
    [found] = affordable(plan, whole / 5, dollar)  # 0.6 of one seed of all cells, and T=3 takes half of that
    assert (found.num_cells, found.seeds) == (2, 1)
    assert found.steps_share == pytest.approx(0.6) and found.usd <= whole / 5
    [found] = affordable(plan, whole / 1e6, dollar)
    assert found.num_trials == 0 and found.usd == 0


@pytest.mark.parametrize(("cpus", "trials_at_once"), [(0.5, 4), (1, 4), (3, 1), (4, 1)])
def test_machine_runs_as_many_trials_at_once_as_its_cores_hold(
    cpus: float, trials_at_once: int, tmp_path: Path
) -> None:
    base = configure(get_recipe("sudoku-mini"), {"train.max_steps": 50_000})
    plan = plan_sweep(Sweep(name="s", base=base, space={"T": choice(1)}), str(tmp_path))
    host = catalogue.host_prices()[0].model_copy(update={"instance": "x", "num_vcpus": 4, "usd_per_hour": 2.0})
    [found] = affordable(plan, 1e6, [], [host], cpus=cpus)
    hours = plan.cells[0].seconds["this machine"] / 3600
    assert found.usd == pytest.approx(hours * 2.0 / trials_at_once) and found.device == "x (4 vCPUs)"
    assert affordable(plan, 1e6, [], [host])[0].usd == pytest.approx(hours * 2.0 / 4), "one core where none are named"


def test_sum_for_a_part_of_a_sampled_study_buys_cells_at_their_mean_price(tmp_path: Path) -> None:
    """Of 4,096 cells a sample is planned; a quarter of the price of one seed buys a quarter of the cells."""
    base = configure(get_recipe("sudoku-mini"), {"train.max_steps": 50_000})
    space = {path: choice(*range(1, 17)) for path in ("T", "n", "N_sup")}
    gpu = Resources(cpus=1, gpus=1, gpu_type="H100")
    sweep = Sweep(name="s", base=base, space=space, seeds=2, resources=gpu)
    plan = plan_sweep(sweep, str(tmp_path), usd_per_gpu_hour=1.0)
    whole, dollar = usd_of(plan), [Pricing(usd_per_gpu_hour=1.0)]
    assert len(plan.cells) < plan.num_cells == 4_096
    [found] = affordable(plan, whole * 1.001, dollar)
    assert found.is_whole and (found.num_cells, found.seeds, found.num_trials) == (4_096, 2, 8_192)
    assert found.usd == pytest.approx(whole)
    [found] = affordable(plan, whole / 8, dollar)
    assert not found.is_whole and (found.seeds, found.num_trials) == (1, found.num_cells)
    assert found.num_cells in (1_023, 1_024) and found.steps_share == pytest.approx(0.25)
    assert whole / 8 * 0.998 <= found.usd <= whole / 8 * (1 + 1e-9)


def test_cells_that_no_gpu_of_the_type_holds_are_not_bought(tmp_path: Path) -> None:
    base, space = get_recipe("arc-agi-1.readme"), {"n": choice(4, 20)}
    gpu = Resources(cpus=1, gpus=1, gpu_type="L40S")
    plan = plan_sweep(Sweep(name="s", base=base, space=space, resources=gpu), str(tmp_path))
    fitting = [cell for cell in plan.cells if "L40S" not in cell.does_not_fit]
    [found] = affordable(plan, 1e9, [Pricing(usd_per_gpu_hour=1.0)])
    assert (found.num_cells, found.num_trials, found.is_whole) == (len(fitting), len(fitting), len(fitting) == 2)
    assert found.usd == pytest.approx(sum(cell.seconds["L40S"] for cell in fitting) / 3600)


def test_providers_are_compared_and_the_most_trials_come_first(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    sum_usd = usd_of(plan) * 0.5  # at AWS's price, the dearest but one
    found = affordable(plan, sum_usd, [Pricing(provider=name) for name in providers()])
    assert len({one.source for one in found}) > 3
    assert [one.num_trials for one in found] == sorted((one.num_trials for one in found), reverse=True)
    assert found[0].usd_per_hour < 6 and all(one.usd <= sum_usd for one in found)
    assert "20" in found[0].source  # the date


def test_machines_without_a_gpu_are_in_the_table(tmp_path: Path) -> None:
    base = configure(get_recipe("sudoku-mini"), {"train.max_steps": 50_000})
    sweep = Sweep(name="s", base=base, space={"T": choice(1, 2, 3)}, seeds=3, resources=Resources(cpus=2))
    plan = plan_sweep(sweep, str(tmp_path))
    found = affordable(plan, 1e6, [], catalogue.host_prices(), cpus=2)
    assert [(one.device, one.usd_per_hour) for one in found] == [
        ("m7i.xlarge (4 vCPUs)", 0.2016),
        ("m7i.2xlarge (8 vCPUs)", 0.4032),
    ]
    hours = 3 * sum(cell.seconds["this machine"] for cell in plan.cells) / 3600
    assert [one.usd for one in found] == pytest.approx([hours * 0.1008] * 2), "two trials at once on the smaller one"
    assert affordable(plan, 1e6, [], catalogue.host_prices(), cpus=16) == []


def test_the_command_shows_machines_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("sweep", "plan", "--recipe", "sudoku-mini", "--max-usd", "5", "--storage", str(tmp_path))
    assert "m7i.xlarge" in call(capsys, *words)[1]
    assert "m7i.xlarge" not in call(capsys, *words, "--gpu", "H100")[1]


def test_a_search_is_bought_by_the_trial_and_never_more_than_it_has(tmp_path: Path) -> None:
    base = configure(get_recipe("sudoku-mini"), {"train.max_steps": 50_000})
    space = {"T": choice(1, 2, 3), "n": choice(1, 2, 3, 4), "aug": choice(0, 10, 100)}
    gpu = Resources(cpus=1, gpus=1, gpu_type="H100")
    search = Sweep(name="s", kind="search", base=base, space=space, trials=8, sampler="qmc", resources=gpu)
    plan, dollar = plan_sweep(search, str(tmp_path), usd_per_gpu_hour=1.0), [Pricing(usd_per_gpu_hour=1.0)]
    whole = usd_of(plan)
    [found] = affordable(plan, whole * 1.001, dollar)
    assert found.is_whole and found.num_trials == plan.num_trials and found.usd == pytest.approx(whole)
    assert found.steps_share == 1.0
    assert found.seeds == 1, "of each explored trial"
    [found] = affordable(plan, whole / 2, dollar)
    assert not found.is_whole and found.num_trials == plan.num_trials // 2
    assert found.usd <= whole / 2 and found.steps_share == pytest.approx(0.5)
