"""Compute power, detectable differences and sample sizes, for exactly the tests that `stats` applies.

Each function takes the significance level of its test, so a correction for several comparisons is part of the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from orchestrator.results import distributions

POWER = 0.80
_GRID = 64
"""Quantiles per sample variance in the integral of Welch's power: within 0.2 % of 400,000 simulated experiments."""
_FINE_GRID = 4_096
"""Quantiles of the one variance of a paired test: within 0.00002 of the noncentral t distribution."""
_MOST_SEEDS = 10_000


class _Power:
    """Compute the power of a two-sided test that compares a normal difference with a margin.

    The margin depends on the data through sample variances, which are independent of the means and follow scaled
    chi-squared distributions. The power is therefore a normal probability averaged over a grid of their quantiles.
    """

    def __init__(self, margin: NDArray[np.float64], error: float) -> None:
        self._margin, self._error = margin, error

    def __call__(self, difference: float) -> float:
        """Return the probability that a true `difference` of the means is significant."""
        above = distributions.normal_sf((self._margin - difference) / self._error)
        below = distributions.normal_cdf((-self._margin - difference) / self._error)
        return float(np.mean(above + below))

    def detectable(self, power: float = POWER) -> float:
        """Return the smallest true difference that is significant with this probability."""
        return _smallest(self, power, start=self._error)


class WelchPower(_Power):
    """Compute the power of Welch's two-sided test for normal groups with given standard deviations and sizes."""

    def __init__(
        self, deviations: tuple[float, float], counts: tuple[int, int], level: float, resolution: float = 0.0
    ) -> None:
        sampled = [_sample_variances(d, n, resolution, _GRID) / n for d, n in zip(deviations, counts, strict=True)]
        first, second = (part.ravel() for part in np.meshgrid(*sampled))
        total = first + second
        degrees = np.square(total) / (np.square(first) / (counts[0] - 1) + np.square(second) / (counts[1] - 1))
        variance = sum(max(d, resolution) ** 2 / n for d, n in zip(deviations, counts, strict=True))
        super().__init__(-distributions.t_ppf(level / 2, degrees) * np.sqrt(total), math.sqrt(variance))


class PairedPower(_Power):
    """Compute the power of the two-sided paired t test for `count` normal differences with this standard deviation."""

    def __init__(self, deviation: float, count: int, level: float, resolution: float = 0.0) -> None:
        variances = _sample_variances(deviation, count, resolution, _FINE_GRID)
        critical = -float(distributions.t_ppf(level / 2, count - 1))
        super().__init__(critical * np.sqrt(variances / count), max(deviation, resolution) / math.sqrt(count))


def _sample_variances(deviation: float, count: int, resolution: float, size: int) -> NDArray[np.float64]:
    """Return quantiles of the variance that `count` normal values show, which the test does not let fall below the
    square of `resolution`."""
    quantiles = (np.arange(size) + 0.5) / size
    variances = deviation**2 * distributions.chi2_ppf(quantiles, count - 1) / (count - 1)
    return np.asarray(np.maximum(variances, resolution**2), dtype=float)


def seeds_needed(
    difference: float, power_at: Callable[[int], Callable[[float], float]], power: float = POWER
) -> int | None:
    """Return the number of runs per configuration at which a true `difference` is significant with this probability.

    Args:
        power_at: the power function of the test with that many runs on each side.

    Returns:
        None above 10,000 runs.
    """
    low, high = 1, 2
    while power_at(high)(difference) < power:
        low, high = high, high * 2
        if high > _MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_at(middle)(difference) >= power else (middle, high)
    return high


@cache
def detectable_gap(proportion: float, items: int, level: float = 0.05, power: float = POWER) -> float:
    """Return the smallest true gap between two independent scores over `items` that is significant with this power.

    The test is the two-sided z test of two proportions with a pooled variance. The gap lies around `proportion`, moved
    inwards where it would reach below 0 or above 1.
    """
    critical = -float(distributions.normal_ppf(level / 2))
    return _smallest(lambda gap: _proportions_power(proportion, gap, items, critical), power, 1 / items, most=1.0)


def _proportions_power(proportion: float, gap: float, items: int, critical: float) -> float:
    """Return the exact probability that the counts of two binomials differ significantly."""
    centre = min(max(proportion, gap / 2), 1 - gap / 2)
    high, low = min(1.0, centre + gap / 2), max(0.0, centre - gap / 2)
    if items > 5_000:  # the normal approximation is exact enough, and the tables of counts become large
        pooled = math.sqrt(2 * centre * (1 - centre) / items)
        error = math.sqrt((high * (1 - high) + low * (1 - low)) / items)
        return float(distributions.normal_sf((critical * pooled - gap) / error)) if error else float(gap > 0)
    first, second = (_likely_counts(share, items) for share in (high, low))
    a, b = first[:, None], second[None, :]
    pooled_share = (a + b) / (2 * items)
    margin = critical * np.sqrt(2 * pooled_share * (1 - pooled_share) / items)
    significant = np.abs(a - b) / items > margin
    return float(
        distributions.binomial_pmf(first, items, high) @ significant @ distributions.binomial_pmf(second, items, low)
    )


def _likely_counts(share: float, items: int) -> NDArray[np.int64]:
    """Return the counts that hold all but 1e-9 of a binomial distribution."""
    low, high = (distributions.binomial_ppf(q, items, share) for q in (5e-10, 1 - 5e-10))
    return np.arange(low, high + 1)


def _smallest(power_of: Callable[[float], float], power: float, start: float, most: float = math.inf) -> float:
    """Return the smallest argument at which an increasing power function reaches `power`, to a millionth of it; `most`
    if it never does."""
    low, high = 0.0, start
    while high < most and power_of(high) < power:
        low, high = high, min(2 * high, most)
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if power_of(middle) < power else (low, middle)
    return high
