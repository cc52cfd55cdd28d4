"""Statistics against published worked examples and a second library; the source of each value is named in its test."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as distributions
from scipy.stats import binom
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from orchestrator.results import stats

# Student's sleep data as shipped with R (`datasets::sleep`): extra hours of ten patients under two drugs.
SLEEP_1 = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
SLEEP_2 = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)


@pytest.mark.parametrize(
    ("solved", "items", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_the_table_of_newcombe_1998(solved: int, items: int, low: float, high: float) -> None:
    """R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    interval = stats.wilson(solved / items, items)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


@given(st.integers(1, 5_000), st.floats(0, 1))
def test_wilson_equals_statsmodels_and_stays_inside(items: int, share: float) -> None:
    solved = round(share * items)
    interval = stats.wilson(solved / items, items)
    assert interval == pytest.approx(proportion_confint(solved, items, method="wilson"), abs=1e-9)
    assert 0 <= interval.low <= solved / items + 1e-12 and solved / items - 1e-12 <= interval.high <= 1


def test_wilson_refuses_what_is_no_proportion() -> None:
    with pytest.raises(ValueError, match=r"proportion=87.4 must be in 0..1"):
        stats.wilson(87.4, 100)
    with pytest.raises(ValueError, match="items=0 at least 1"):
        stats.wilson(0.5, 0)


def test_welch_equals_r_on_the_sleep_data() -> None:
    """R: t.test(extra ~ group, data = sleep): t = -1.8608, df = 17.776, p = 0.07939, -3.3654832 to 0.2054832."""
    result = stats.welch(SLEEP_1, SLEEP_2)
    assert result.difference == pytest.approx(-1.58)
    assert result.degrees == pytest.approx(17.776, abs=5e-4)
    assert result.p_value == pytest.approx(0.07939, abs=5e-6)
    assert result.interval == pytest.approx((-3.3654832, 0.2054832), abs=5e-8)


def test_paired_equals_r_on_the_sleep_data() -> None:
    """R: t.test(..., paired = TRUE): df = 9, p = 0.002833, -2.4598858 to -0.7001142."""
    result = stats.paired(SLEEP_1, SLEEP_2)
    assert result.p_value == pytest.approx(0.002833, abs=5e-7)
    assert result.interval == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)


def test_one_seed_has_neither_spread_nor_interval() -> None:
    assert stats.spread([0.9]) is None
    with pytest.raises(ValueError, match="at least two values"):
        stats.welch([0.9], [0.8, 0.7])


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_holm_equals_statsmodels(count: int) -> None:
    p_values = np.random.default_rng(count).beta(0.3, 1, count).tolist()
    assert stats.holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_holm_of_ties_and_of_nothing() -> None:
    assert stats.holm([0.02, 0.02, 1.0]) == [0.06, 0.06, 1.0] and stats.holm([]) == []


def test_holm_levels_are_those_at_which_the_procedure_tests() -> None:
    """Holm (1979): 0.05/3, then 0.05/2; it stops there, so 0.03 is not significant although it is below 0.05."""
    assert stats.holm_levels([0.04, 0.001, 0.03]) == pytest.approx([0.025, 0.05 / 3, 0.025])
    assert stats.holm_levels([]) == []


@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=8))
def test_holm_levels_agree_with_statsmodels_about_what_is_significant(p_values: list[float]) -> None:
    # A p value that equals its level is significant there and not here, where the interval then ends at zero.
    assume(not any(abs(p - 0.05 / left) < 1e-12 for p in p_values for left in range(1, 9)))
    with patch("gc.collect"):  # statsmodels collects garbage in every call: half a second each in a large process
        rejected = multipletests(p_values, alpha=0.05, method="holm")[0]
    assert [p < level for p, level in zip(p_values, stats.holm_levels(p_values), strict=True)] == list(rejected)


def test_spread_is_the_sample_standard_deviation_from_two_values_on() -> None:
    assert stats.spread([1.0, 3.0]) == pytest.approx(2**0.5)  # divided by n - 1
    assert stats.spread([1.0, 2.0, 6.0]) == pytest.approx(7**0.5)
    assert stats.spread([4.0]) is None and stats.spread([]) is None


def test_error_of_a_proportion_is_that_of_agresti_and_coull() -> None:
    """Two successes and two failures more (z^2 / 2 of each): never zero, and the same for errors as for scores."""
    for solved, items in ((90, 100), (0, 20), (20, 20), (1, 1)):
        adjusted = (solved + 1.959964**2 / 2) / (items + 1.959964**2)
        expected = (adjusted * (1 - adjusted) / (items + 1.959964**2)) ** 0.5
        assert stats.proportion_error(solved / items, items) == pytest.approx(expected, rel=1e-6)
        assert stats.proportion_error(1 - solved / items, items) == pytest.approx(expected, rel=1e-6)
    low, high = proportion_confint(90, 100, method="agresti_coull")
    assert stats.proportion_error(0.9, 100) == pytest.approx((high - low) / 2 / 1.959964, rel=1e-6)


def test_least_deviation_is_one_puzzle_and_of_equal_seeds_the_binomial_error() -> None:
    assert stats.least_deviation([0.9, 0.91], 100) == 0.01 == stats.least_deviation([0.1, 0.9, 0.9], 100)
    assert stats.least_deviation([0.9, 0.9], 100) == stats.proportion_error(0.9, 100) > 0.03
    assert stats.least_deviation([1.0, 1.0], 10_000) == pytest.approx(1.385e-4, rel=1e-3)
    assert stats.least_deviation([0.0, 0.0], 1) == 1.0, "at least one puzzle"


@pytest.mark.parametrize("solved", [0, 3, 1])
def test_bootstrap_of_tasks_that_are_almost_all_alike_admits_ignorance(solved: int) -> None:
    """3 tasks: a bootstrap of equal scores would give a single point, and one of three tasks the whole range."""
    shares = [1.0] * solved + [0.0] * (3 - solved)
    interval = stats.bootstrap_mean(shares, np.random.default_rng(0))
    assert interval == pytest.approx(proportion_confint(solved, 3, method="wilson"), abs=1e-9)


@pytest.mark.parametrize(("solved", "is_bootstrap"), [(4, False), (5, True), (60, True), (95, True), (96, False)])
def test_bootstrap_is_used_from_five_tasks_on_that_differ_from_the_others(solved: int, is_bootstrap: bool) -> None:
    shares = [1.0] * solved + [0.0] * (100 - solved)
    interval = stats.bootstrap_mean(shares, np.random.default_rng(0))
    wilson = proportion_confint(solved, 100, method="wilson")
    assert (interval != pytest.approx(wilson, abs=1e-9)) == is_bootstrap
    # The bootstrap draws a binomial share; its quantiles are whole numbers of tasks.
    low, high = distributions.binom.ppf([0.025, 0.975], 100, solved / 100) / 100
    assert (interval == pytest.approx((low, high), abs=0.011)) or not is_bootstrap


def test_bootstrap_of_one_half_solved_task_of_120_is_not_narrower_than_its_proportion() -> None:
    interval = stats.bootstrap_mean([0.5] + [0.0] * 119, np.random.default_rng(0))
    assert interval.high > 0.03  # Wilson of 0.5 in 120; the bootstrap ends at 0.0125


def test_paired_test_needs_two_groups_of_the_same_length() -> None:
    for first, second in (([0.1, 0.2, 0.3], [0.1]), ([0.1], [0.1]), ([0.1, 0.2], [0.1, 0.2, 0.3])):
        with pytest.raises(ValueError, match="two groups of the same length, at least two"):
            stats.paired(first, second)


def test_paired_test_with_equal_differences_is_not_certain() -> None:
    first, second = [0.5, 0.6, 0.7], [0.4, 0.5, 0.6]
    assert stats.paired(first, second).p_value < 1e-9
    careful = stats.paired(first, second, resolution=0.1)
    assert careful.p_value > 0.05 and careful.interval.low < 0


def test_equal_values_without_a_resolution_are_no_difference_and_any_other_difference_is_certain() -> None:
    for compare in (stats.paired, stats.welch):
        for difference, p_value in ((0.0, 1.0), (0.25, 0.0), (1.0, 0.0), (-1.0, 0.0)):
            compared = compare([0.5 + difference] * 3, [0.5] * 3)
            assert compared[:3] == (difference, (difference, difference), p_value)


def test_bootstrap_agrees_with_the_t_interval_where_both_hold() -> None:
    rng = np.random.default_rng(1)
    sample = rng.normal(0.5, 0.1, 400)
    student = distributions.t.interval(0.95, 399, sample.mean(), distributions.sem(sample))
    assert stats.bootstrap_mean(sample, rng) == pytest.approx(student, abs=0.001)


def test_rank_ranges_separate_only_what_the_errors_allow() -> None:
    assert stats.rank_ranges([0.9, 0.5, 0.49], [0.01, 0.01, 0.01]) == [(1, 1), (2, 3), (2, 3)]
    assert stats.rank_ranges([0.9, 0.5], [0.5, 0.5]) == [(1, 2), (1, 2)]
    assert stats.rank_ranges([0.7], [0.1]) == [(1, 1)]
    assert stats.rank_ranges([], []) == []


def test_simultaneous_rank_ranges_correct_for_all_pairs() -> None:
    """Ten rows have 45 pairs: 2.9 standard errors are significant for one row (9 comparisons), not for all pairs."""
    scores = [0.829] + [0.80] * 9
    errors = [0.01 / 2**0.5] * 10
    assert stats.rank_ranges(scores, errors)[0] == (1, 1)
    assert stats.rank_ranges(scores, errors, simultaneous=True)[0] == (1, 10)


def test_rank_ranges_widen_with_few_seeds() -> None:
    scores, errors = [0.8, 0.7], [0.03, 0.03]
    assert stats.rank_ranges(scores, errors, [30.0, 30.0]) == [(1, 1), (2, 2)]
    assert stats.rank_ranges(scores, errors, [2.0, 2.0]) == [(1, 2), (1, 2)]


def test_welch_with_a_resolution_is_not_certain_about_equal_runs() -> None:
    assert stats.welch([0.5, 0.5], [0.4, 0.4]).p_value == 0.0
    careful = stats.welch([0.5, 0.5], [0.4, 0.4], resolution=0.05)
    assert careful.p_value > 0.05 and careful.interval.low < 0


@pytest.mark.slow
@pytest.mark.parametrize("items", [50, 100, 120, 400, 500, 1_000])
def test_wilson_coverage_is_near_its_promise(items: int) -> None:
    """Exact, not simulated: the binomial probability of the counts whose interval holds the truth, n*p and n*q >= 5.

    A binomial count is discrete, so the coverage saws up and down; below 120 items a few teeth pass the band by 0.2 %.
    """
    counts = np.arange(items + 1)
    low, high = np.array([stats.wilson(count / items, items) for count in counts]).T
    shares = np.linspace(5 / items, 1 - 5 / items, 401)
    coverage = [binom.pmf(counts, items, share)[(low <= share) & (share <= high)].sum() for share in shares]
    inside = [0.93 <= value <= 0.97 for value in coverage]
    assert np.mean(inside) >= (1.0 if items >= 120 else 0.99)
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.002)


@pytest.mark.slow
def test_rank_ranges_hold_the_true_rank_at_least_as_often_as_promised() -> None:
    rng = np.random.default_rng(5)
    truth = np.array([0.9, 0.86, 0.85, 0.8, 0.6, 0.59])
    held = np.zeros(len(truth))
    for _ in range(2_000):
        scores = rng.normal(truth, 0.02)
        ranges = stats.rank_ranges(scores.tolist(), [0.02] * len(truth))
        held += [low <= rank <= high for rank, (low, high) in enumerate(ranges, 1)]
    assert (held / 2_000 >= 0.95).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "shares"), [(120, (0.85, 0.1, 0.05)), (120, (0.5, 0.2, 0.3)), (400, (0.5, 0.1, 0.4))]
)
def test_bootstrap_over_tasks_coverage_is_near_its_promise(tasks: int, shares: tuple[float, float, float]) -> None:
    """Tasks of which none, half or all test inputs are solved, as many as the ARC evaluation sets have."""
    rng = np.random.default_rng(tasks)
    truth, held, rounds = 0.5 * shares[1] + shares[2], 0, 1_500
    for _ in range(rounds):
        low, high = stats.bootstrap_mean(rng.choice([0.0, 0.5, 1.0], tasks, p=shares), rng, resamples=600)
        held += low <= truth <= high
    assert 0.93 <= held / rounds <= 0.97
