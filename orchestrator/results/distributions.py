"""Evaluate the normal, t, chi-squared and binomial distributions.

The formulas are those of `scipy.stats` in terms of `scipy.special`, whose import takes a quarter of the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Values = Any
"""A float where all arguments are floats, otherwise an array."""


def normal_cdf(x: ArrayLike) -> Values:
    """Return the probability that a standard normal value is at most `x`."""
    return special.ndtr(x)


def normal_sf(x: ArrayLike) -> Values:
    """Return the probability that a standard normal value is above `x`."""
    return special.ndtr(np.negative(x))


def normal_ppf(q: ArrayLike) -> Values:
    """Return the quantiles of the standard normal distribution."""
    return special.ndtri(q)


def t_sf(x: ArrayLike, degrees: ArrayLike) -> Values:
    """Return the probability that a t value with these degrees of freedom is above `x`."""
    return special.stdtr(degrees, np.negative(x))


def t_ppf(q: ArrayLike, degrees: ArrayLike) -> Values:
    """Return the quantiles of Student's t distribution."""
    return special.stdtrit(degrees, q)


def chi2_ppf(q: ArrayLike, degrees: float) -> Values:
    """Return the quantiles of the chi-squared distribution."""
    return 2 * special.gammaincinv(degrees / 2, q)


def binomial_pmf(counts: NDArray[np.int64], trials: int, share: float) -> NDArray[np.float64]:
    """Return the probabilities of these counts of successes."""
    log_ways = special.gammaln(trials + 1) - special.gammaln(counts + 1) - special.gammaln(trials - counts + 1)
    found: NDArray[np.float64] = np.exp(
        log_ways + special.xlogy(counts, share) + special.xlog1py(trials - counts, -share)
    )
    return found


def binomial_ppf(q: float, trials: int, share: float) -> int:
    """Return the smallest count that is not exceeded with probability `q`."""
    if share in (0, 1):
        return round(share * trials)
    count = int(np.ceil(special.bdtrik(q, trials, share)))
    below = max(count - 1, 0)  # the root may lie a rounding error above the integer
    return below if special.bdtr(below, trials, share) >= q else count
