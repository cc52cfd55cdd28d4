"""Intervals and tests. Two units are kept apart everywhere:

* **items**: the puzzles of one test set. Intervals and tests over items speak of *checkpoints*.
* **seeds**: independent training runs. Intervals and tests over seeds speak of *configurations*.

Proportions and scores are fractions here; percentages are a matter of display.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.95
POWER = 0.80


class Interval(NamedTuple):
    """A two-sided interval."""

    low: float
    high: float


class Comparison(NamedTuple):
    """A difference with its interval and two-sided p value."""

    difference: float
    interval: Interval
    p_value: float
    degrees: float
    """Degrees of freedom of the t distribution."""


def wilson(proportion: float, items: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson score interval of a proportion over `items` (Wilson 1927). It stays inside 0..1 and works at 0 and 1."""
    if not 0 <= proportion <= 1 or items < 1:
        raise ValueError(f"proportion={proportion} must be in 0..1 and items={items} at least 1")
    z = _z(confidence)
    centre = (proportion + z * z / (2 * items)) / (1 + z * z / items)
    half = z / (1 + z * z / items) * math.sqrt(proportion * (1 - proportion) / items + z * z / (4 * items * items))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def proportion_error(proportion: float, items: int) -> float:
    """Standard error of a proportion that is not zero at 0 and 1: that of Agresti and Coull's adjusted estimate."""
    z = _z(CONFIDENCE)
    adjusted_items = items + z * z
    adjusted = (proportion * items + z * z / 2) / adjusted_items
    return math.sqrt(adjusted * (1 - adjusted) / adjusted_items)


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def pooled_spread(*groups: Sequence[float]) -> float:
    """Common standard deviation of groups with their own means; 0.0 where no group has two values."""
    squares = [np.var(group, ddof=1) * (len(group) - 1) for group in groups if len(group) > 1]
    degrees = sum(len(group) - 1 for group in groups if len(group) > 1)
    return math.sqrt(float(sum(squares)) / degrees) if degrees else 0.0


def mean_interval(
    values: Sequence[float], *, resolution: float = 0.0, confidence: float = CONFIDENCE
) -> Interval | None:
    """Student's t interval of a mean, the interval over seeds; None for fewer than two values.

    `resolution` is the smallest spread that the values may claim: runs that solve the same number of puzzles by chance
    have no spread at all, and would make their mean look certain.
    """
    deviation = spread(values)
    if deviation is None:
        return None
    half = _t(confidence, len(values) - 1) * max(deviation, resolution) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return Interval(mean - half, mean + half)


def bootstrap_mean(
    values: ArrayLike, rng: np.random.Generator, *, resamples: int = 5_000, confidence: float = CONFIDENCE
) -> Interval:
    """Percentile bootstrap of a mean over tasks, for scores that are not 0 or 1 (an ARC task can be half solved)."""
    sample = np.asarray(values, dtype=float)
    # A multinomial draw of counts is the same resampling as drawing indices, at a tenth of the memory traffic.
    counts = rng.multinomial(len(sample), np.full(len(sample), 1 / len(sample)), size=resamples)
    tail = (1 - confidence) / 2
    low, high = np.quantile(counts @ sample / len(sample), [tail, 1 - tail])
    return Interval(float(low), float(high))


def welch(
    first: Sequence[float], second: Sequence[float], *, resolution: float = 0.0, confidence: float = CONFIDENCE
) -> Comparison:
    """mean(first) - mean(second) for independent groups with their own variances (Welch 1947).

    `resolution` is the smallest spread that a group may claim, as in `mean_interval`.

    Raises:
        ValueError: a group with fewer than two values.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError("Welch's test needs at least two values in each group")
    parts = [max(float(np.var(group, ddof=1)), resolution**2) / len(group) for group in (first, second)]
    degrees = _welch_degrees(parts, [len(first) - 1, len(second) - 1])
    return _compare(float(np.mean(first) - np.mean(second)), math.sqrt(sum(parts)), degrees, confidence)


def paired(first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE) -> Comparison:
    """mean(first - second) for values that belong together: the same seeds, or the same puzzles."""
    if len(first) != len(second) or len(first) < 2:
        raise ValueError("a paired test needs two groups of the same length, at least two")
    differences = np.subtract(first, second)
    error = float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    return _compare(float(np.mean(differences)), error, len(differences) - 1, confidence)


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """Exact two-sided p value for two checkpoints on the same items (0/1 each): only discordant items count."""
    one, two = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only_first, only_second = int(np.sum(one & ~two)), int(np.sum(~one & two))
    discordant = only_first + only_second
    return 1.0 if discordant == 0 else float(stats.binomtest(only_first, discordant).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number (Holm 1979), in the order given."""
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def rank_ranges(
    scores: Sequence[float],
    errors: Sequence[float],
    degrees: Sequence[float] | None = None,
    confidence: float = CONFIDENCE,
) -> list[tuple[int, int]]:
    """For each score, the ranks (1 = highest) that its data leave possible.

    The marginal confidence set of Mogstad, Romano, Shaikh and Wilhelm (2024): a row's best rank is one more than the
    number of rows surely above it, "surely" meaning a two-sided test corrected for the number of rows (Bonferroni).
    `errors` are standard errors, `degrees` their degrees of freedom (infinite where they come from many items).
    """
    value, variance = np.asarray(scores, dtype=float), np.square(np.asarray(errors, dtype=float))
    count = len(value)
    if count < 2:
        return [(1, 1)] * count
    freedom = np.full(count, np.inf) if degrees is None else np.asarray(degrees, dtype=float)
    total = variance[:, None] + variance[None, :]
    shares = np.square(variance) / freedom
    with np.errstate(divide="ignore", invalid="ignore"):
        joint = np.square(total) / (shares[:, None] + shares[None, :])
    joint = np.where(np.isfinite(joint), joint, 1e9)
    critical = stats.t.ppf(1 - (1 - confidence) / (2 * (count - 1)), joint)
    difference, margin = value[:, None] - value[None, :], critical * np.sqrt(total)
    above, below = (difference < -margin).sum(axis=1), (difference > margin).sum(axis=1)
    return [(int(1 + a), int(count - b)) for a, b in zip(above, below, strict=True)]


def detectable_gap(proportion: float, items: int, confidence: float = CONFIDENCE, power: float = POWER) -> float:
    """Smallest true gap near `proportion` that two independent scores over `items` would show with this power."""
    sigma = math.sqrt(2 * proportion * (1 - proportion) / items)
    return (_z(confidence) + float(stats.norm.ppf(power))) * sigma


def detectable_effect(deviation: float, seeds: int, confidence: float = CONFIDENCE, power: float = POWER) -> float:
    """Smallest true difference of two means that `seeds` runs each, of this spread, would show with this power."""
    if seeds < 2:
        return math.inf
    low, high = 0.0, 1.0
    while t_test_power(high, seeds, confidence) < power:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if t_test_power(middle, seeds, confidence) < power else (low, middle)
    return high * deviation


def seeds_needed(
    difference: float, deviation: float, confidence: float = CONFIDENCE, power: float = POWER, most: int = 10_000
) -> int | None:
    """Runs per configuration at which a true `difference` would be seen with this power; None above `most`."""
    if deviation == 0:
        return 2
    low, high = 1, 2
    while high < most and t_test_power(abs(difference) / deviation, high, confidence) < power:
        low, high = high, high * 2
    if high >= most:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = t_test_power(abs(difference) / deviation, middle, confidence) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def t_test_power(effect: float, per_group: int, confidence: float = CONFIDENCE) -> float:
    """Power of the two-sided two-sample t test; `effect` is the difference in standard deviations."""
    degrees, shift = 2 * (per_group - 1), effect * math.sqrt(per_group / 2)
    critical = _t(confidence, degrees)
    # nct of the far tail is numerically empty for large shifts; there the power is 1.
    if shift > critical + 12:
        return 1.0
    return float(stats.nct.sf(critical, degrees, shift) + stats.nct.cdf(-critical, degrees, shift))


def _compare(difference: float, error: float, degrees: float, confidence: float) -> Comparison:
    half = _t(confidence, degrees) * error
    if error == 0:
        p_value = 1.0 if difference == 0 else 0.0
    else:
        p_value = float(2 * stats.t.sf(abs(difference) / error, degrees))
    return Comparison(difference, Interval(difference - half, difference + half), p_value, degrees)


def _welch_degrees(parts: Sequence[float], degrees: Sequence[int]) -> float:
    below = sum(part * part / count for part, count in zip(parts, degrees, strict=True))
    return sum(parts) ** 2 / below if below > 0 else float(sum(degrees))


def _z(confidence: float) -> float:
    return float(stats.norm.ppf(0.5 + confidence / 2))


def _t(confidence: float, degrees: float) -> float:
    return float(stats.t.ppf(0.5 + confidence / 2, degrees))
