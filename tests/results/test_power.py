"""Power and sample sizes: beside statsmodels, G*Power's tables, and simulations of the very tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from scipy.integrate import quad
from statsmodels.stats.power import TTestIndPower, TTestPower

from orchestrator.results.power import PairedPower, WelchPower, detectable_gap, seeds_needed
from orchestrator.results.seed_test import SeedTest
from orchestrator.results.stats import Comparison


@pytest.mark.parametrize("seeds", [10, 26, 64])
def test_power_of_equal_groups_is_that_of_the_t_test(seeds: int) -> None:
    """With equal spreads and sizes Welch's test loses almost nothing against Student's from ten values on."""
    power = WelchPower((1.0, 1.0), (seeds, seeds), 0.05)
    for effect in (0.3, 0.8, 1.5):
        expected = TTestIndPower().power(effect, nobs1=seeds, alpha=0.05)
        assert power(effect) == pytest.approx(expected, abs=0.008)


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 394), (0.5, 64), (0.8, 26)])
def test_seeds_needed_are_those_of_cohens_classes(effect: float, seeds: int) -> None:
    """G*Power 3.1, two-sided t test, alpha 0.05, power 0.80: 394, 64, 26 per group for Cohen's small, medium, large."""
    needed = seeds_needed(effect, lambda count: WelchPower((1.0, 1.0), (count, count), 0.05))
    assert needed == pytest.approx(seeds, abs=1)


@pytest.mark.parametrize("count", [8, 20])
def test_paired_power_equals_statsmodels(count: int) -> None:
    power = PairedPower(2.0, count, 0.05)
    for difference in (0.5, 1.5, 3.0):
        assert power(difference) == pytest.approx(
            TTestPower().power(difference / 2.0, nobs=count, alpha=0.05), abs=1e-5
        )
    assert power(power.detectable()) == pytest.approx(0.8, abs=1e-6)
    assert PairedPower(1.0, 10, 0.05)(1_000) == 1.0


@pytest.mark.parametrize("level", [0.05, 0.05 / 12, 0.001])
@pytest.mark.parametrize("count", [2, 3, 4, 10])
def test_paired_power_is_that_of_the_test_however_large_the_difference(count: int, level: float) -> None:
    """scipy's noncentral t gives no number for some of these, and with two seeds the power is far from 1: integrated
    here over the chi distribution of the sample deviation."""
    critical = scipy_stats.t.isf(level / 2, count - 1)
    for shift in (1.0, critical, critical + 2, critical + 11.9, critical + 12.1, 1.5 * critical, 3 * critical):
        difference = shift / math.sqrt(count)

        def significant(u: float, shift: float = shift) -> float:
            margin = critical * math.sqrt(scipy_stats.chi2.ppf(u, count - 1) / (count - 1))
            return float(scipy_stats.norm.sf(margin - shift) + scipy_stats.norm.cdf(-margin - shift))

        expected, _ = quad(significant, 0, 1, limit=200)
        assert PairedPower(1.0, count, level)(difference) == pytest.approx(expected, abs=3e-4)


def test_paired_power_of_two_seeds_is_never_stated_as_certain() -> None:
    """At a level of 0.001 two differences need 815 standard errors; 650 are significant in 69 % of all cases."""
    power = PairedPower(math.sqrt(2), 2, 0.001)
    assert power.detectable() == pytest.approx(815.8, abs=0.5) and power(650) == pytest.approx(0.693, abs=1e-3)
    assert seeds_needed(650, lambda count: PairedPower(math.sqrt(2), count, 0.001)) == 3


@pytest.mark.parametrize(
    ("difference", "level", "seeds"), [(0.37, 0.001, 131), (0.8, 0.001, 33), (3.64, 0.05 / 12, 5), (2.82, 0.05 / 12, 6)]
)
def test_seeds_needed_by_paired_runs_are_the_fewest_with_80_per_cent_power(
    difference: float, level: float, seeds: int
) -> None:
    """scipy's noncentral t, which gives no number for some of the numbers tried, led to 222, 64, 4 and 8 seeds."""
    assert seeds_needed(difference, lambda count: PairedPower(1.0, count, level)) == seeds
    rng, rounds = np.random.default_rng(9), 20_000
    for count, low, high in ((seeds, 0.79, 1.0), (seeds - 1, 0.0, 0.81)):
        pairs = rng.normal(difference, 1.0, (rounds, count))
        t = pairs.mean(axis=1) / (pairs.std(axis=1, ddof=1) / math.sqrt(count))
        assert low <= np.mean(np.abs(t) > scipy_stats.t.isf(level / 2, count - 1)) <= high


@pytest.mark.parametrize("resolution", [0.5, 1.5])
def test_paired_power_counts_the_smallest_deviation_that_the_test_uses(resolution: float) -> None:
    """Simulated: the test of `stats.paired` with the same resolution."""
    power, rng = PairedPower(1.0, 4, 0.05, resolution), np.random.default_rng(6)
    truth, spread = power.detectable(), max(1.0, resolution)
    margin = scipy_stats.t.isf(0.025, 3) / 2
    means = rng.normal(truth, spread / 2, 100_000)
    deviations = np.sqrt(rng.chisquare(3, 100_000) / 3)
    assert 0.79 <= np.mean(np.abs(means) > margin * np.maximum(deviations, resolution)) <= 0.81


@pytest.mark.parametrize("spreads", [(1.0, 1.0), (4.0, 0.5)])
@pytest.mark.parametrize("level", [0.05, 0.05 / 12])
@pytest.mark.parametrize("counts", [(3, 3), (5, 5), (4, 9)])
def test_detectable_difference_is_significant_in_80_per_cent(
    spreads: tuple[float, float], counts: tuple[int, int], level: float
) -> None:
    """Simulated with scipy's own Welch test."""
    truth = WelchPower(spreads, counts, level).detectable()
    rng, rounds = np.random.default_rng(3), 20_000
    first = rng.normal(truth, spreads[0], (rounds, counts[0]))
    second = rng.normal(0, spreads[1], (rounds, counts[1]))
    p_values = scipy_stats.ttest_ind(first, second, axis=1, equal_var=False).pvalue
    assert 0.785 <= np.mean(p_values < level) <= 0.815


@pytest.mark.parametrize(("share", "items"), [(0.05, 120), (0.4, 400), (0.874, 1_000), (0.02, 100), (0.9, 20_000)])
def test_detectable_gap_is_significant_in_80_per_cent(share: float, items: int) -> None:
    """Simulated counts and a z test written out here; small counts are discrete, so the power has steps."""
    gap = detectable_gap(share, items)
    centre = min(max(share, gap / 2), 1 - gap / 2)
    rng = np.random.default_rng(4)
    first, second = (rng.binomial(items, centre + side * gap / 2, 200_000) for side in (1, -1))
    pooled = (first + second) / (2 * items)
    error = np.sqrt(2 * pooled * (1 - pooled) / items)
    z = np.divide(first / items - second / items, error, out=np.zeros(len(error)), where=error > 0)
    assert 0.77 <= np.mean(np.abs(z) > 1.959964) <= 0.83


@pytest.mark.parametrize(("share", "items", "gap"), [(0.4, 400, 9.7), (0.85, 1000, 4.5), (0.874, 422_786, 0.2)])
def test_detectable_gap_of_the_public_test_sets(share: float, items: int, gap: float) -> None:
    """Two-sided z test of proportions, alpha 0.05, power 0.80; e.g. R: power.prop.test(400, .351, power = .8)."""
    assert 100 * detectable_gap(share, items) == pytest.approx(gap, abs=0.06)


@pytest.mark.parametrize(("items", "least"), [(1, 1.0), (2, 0.8), (5, 0.6)])
def test_few_items_detect_large_gaps_only_or_none(items: int, least: float) -> None:
    assert least <= detectable_gap(0.5, items) <= 1.0


def test_seeds_needed_at_the_edges() -> None:
    assert seeds_needed(0.0, lambda count: WelchPower((1.0, 1.0), (count, count), 0.05)) is None
    assert seeds_needed(100.0, lambda count: WelchPower((1.0, 1.0), (count, count), 0.05)) == 2


def of(scores: list[float], level: float) -> tuple[SeedTest, Comparison]:
    first = dict(enumerate(scores))
    second = {seed: score - 2.0 + 0.1 * (-1) ** seed for seed, score in first.items()}
    test = SeedTest(first, second, resolution=0.1)
    return test, test.compare(level)


def test_paired_and_welch_have_the_power_of_the_test_that_was_chosen() -> None:
    scores = [90.0, 84.0, 88.0, 80.0, 93.0, 86.0, 82.0, 91.0]
    paired, compared = of(scores, 0.01)
    assert paired.method == "paired by seed" and not compared.interval.low <= 0 <= compared.interval.high
    assert paired.detectable(0.01) < 0.3 and paired.seeds_needed(2.0, 0.01) in (2, 3)
    welch, _ = of(scores[:4], 0.01)
    assert welch.method == "Welch" and welch.detectable(0.01) > 10
    assert welch.detectable(0.01) > welch.detectable(0.05)


def test_paired_seeds_that_differ_by_less_than_the_resolution_have_the_power_that_it_leaves() -> None:
    """Their deviation is 0.1, the test takes 0.5: it needs t = 2.365 standard errors, and 0.84 more for 80 %."""
    first = dict(enumerate([90.0, 84.0, 88.0, 80.0, 93.0, 86.0, 82.0, 91.0]))
    second = {seed: score - 2.0 + 0.1 * (-1) ** seed for seed, score in first.items()}
    test = SeedTest(first, second, resolution=0.5)
    assert test.method == "paired by seed"
    assert test.detectable(0.05) == pytest.approx((2.3646 + 0.8416) * 0.5 / math.sqrt(8), abs=1e-3)


def test_power_of_two_groups_has_the_spread_and_the_number_of_seeds_of_each() -> None:
    """Three unsteady runs beside nine steady ones: simulated with scipy's own Welch test."""
    wide, narrow = [84.0, 88.0, 92.0], [90.0, 90.5, 91.0, 90.0, 90.5, 91.0, 90.0, 90.5, 91.0]
    test = SeedTest(dict(enumerate(wide)), dict(enumerate(narrow)), resolution=0.01)
    truth, rng, rounds = test.detectable(0.05), np.random.default_rng(8), 20_000
    first = rng.normal(truth, np.std(wide, ddof=1), (rounds, 3))
    second = rng.normal(0, np.std(narrow, ddof=1), (rounds, 9))
    p_values = scipy_stats.ttest_ind(first, second, axis=1, equal_var=False).pvalue
    assert 0.785 <= np.mean(p_values < 0.05) <= 0.815


def test_runs_without_spread_have_the_power_that_their_resolution_leaves() -> None:
    test = SeedTest({0: 95.0, 1: 95.0}, {0: 92.0, 1: 92.0}, resolution=0.5)
    compared = test.compare(0.05)
    assert compared.p_value > 0 and math.isfinite(test.detectable(0.05)) and test.detectable(0.05) > 0.5
