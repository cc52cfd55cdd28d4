"""Compute intervals and tests. Two units are never mixed:

* **items**: the puzzles of one test set. Intervals and tests over items are statements about *checkpoints*.
* **seeds**: independent training runs. Intervals and tests over seeds are statements about *configurations*.

Power and sample sizes for the same tests are in `power`, intervals over seeds in `seeds`. Proportions and scores are
fractions; callers convert them to percentages for display.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.results import distributions

CONFIDENCE = 0.95
MIN_DISTINCT = 5
"""Tasks that must differ from the most common score before a bootstrap over tasks is used."""


class Interval(NamedTuple):
    """Hold a two-sided interval."""

    low: float
    high: float


class Comparison(NamedTuple):
    """Hold a difference with its interval and two-sided p value."""

    difference: float
    interval: Interval
    p_value: float
    degrees: float
    """Degrees of freedom of the t distribution."""


def wilson(proportion: float, items: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the Wilson score interval of a proportion over `items` (Wilson 1927), which stays inside 0..1."""
    if not 0 <= proportion <= 1 or items < 1:
        raise ValueError(f"proportion={proportion} must be in 0..1 and items={items} at least 1")
    z = _z(confidence)
    centre = (proportion + z * z / (2 * items)) / (1 + z * z / items)
    half = z / (1 + z * z / items) * math.sqrt(proportion * (1 - proportion) / items + z * z / (4 * items * items))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def proportion_error(proportion: float, items: int) -> float:
    """Return the standard error of Agresti and Coull's adjusted proportion, which is positive at 0 and 1 too."""
    z = _z(CONFIDENCE)
    adjusted_items = items + z * z
    adjusted = (proportion * items + z * z / 2) / adjusted_items
    return math.sqrt(adjusted * (1 - adjusted) / adjusted_items)


def least_deviation(shares: Sequence[float], items: int) -> float:
    """Return the smallest standard deviation over seeds that scores on `items` puzzles can show.

    It is one puzzle where the scores differ. Seeds with equal scores agree by chance and do not show their spread; for
    them it is the binomial error of one run.
    """
    if len(set(shares)) == 1:
        return max(1 / items, proportion_error(shares[0], items))
    return 1 / items


def spread(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation; None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def bootstrap_mean(
    values: ArrayLike, rng: np.random.Generator, *, resamples: int = 5_000, confidence: float = CONFIDENCE
) -> Interval:
    """Return the percentile bootstrap interval of a mean over tasks whose scores lie in 0..1 (ARC: shares of inputs).

    A bootstrap draws from the sample alone, so three unsolved tasks would give [0, 0]. Where fewer than `MIN_DISTINCT`
    tasks differ from the most common score, the Wilson interval is returned: no score in 0..1 varies more than a
    proportion with the same mean, so it is not too narrow.
    """
    sample = np.asarray(values, dtype=float)
    counts = np.unique(sample, return_counts=True)[1]
    if len(sample) - counts.max() < MIN_DISTINCT:
        return wilson(float(sample.mean()), len(sample), confidence)
    # Drawing multinomial counts is the same as drawing indices with replacement and needs a tenth of the memory.
    draws = rng.multinomial(len(sample), np.full(len(sample), 1 / len(sample)), size=resamples)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws @ sample / len(sample), [tail, 1 - tail])
    return Interval(float(low), float(high))


def welch(
    first: Sequence[float], second: Sequence[float], *, resolution: float = 0.0, confidence: float = CONFIDENCE
) -> Comparison:
    """Compare mean(first) with mean(second) for independent groups with their own variances (Welch 1947).

    `resolution` is the smallest standard deviation of a group that is used: runs that solve the same number of puzzles
    by chance have a sample deviation of zero, which would make their difference look certain.

    Raises:
        ValueError: a group with fewer than two values.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError("Welch's test needs at least two values in each group")
    parts = [max(float(np.var(group, ddof=1)), resolution**2) / len(group) for group in (first, second)]
    degrees = _welch_degrees(parts, [len(first) - 1, len(second) - 1])
    return _compare(float(np.mean(first) - np.mean(second)), math.sqrt(sum(parts)), degrees, confidence)


def paired(
    first: Sequence[float], second: Sequence[float], *, resolution: float = 0.0, confidence: float = CONFIDENCE
) -> Comparison:
    """Compare values that belong together (the same seeds, or the same puzzles) with the paired t test.

    `resolution` is the smallest standard deviation of the differences that is used, as in `welch`.

    Raises:
        ValueError: groups of different lengths, or with fewer than two values.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError("a paired test needs two groups of the same length, at least two")
    differences = np.subtract(first, second)
    deviation = max(float(np.std(differences, ddof=1)), resolution)
    return _compare(
        float(np.mean(differences)), deviation / math.sqrt(len(differences)), len(differences) - 1, confidence
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm 1979), in the order given."""
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def holm_levels(p_values: Sequence[float], level: float = 1 - CONFIDENCE) -> list[float]:
    """Return the significance level at which Holm's procedure tests each comparison, in the order given.

    A comparison is significant after Holm's correction exactly if its p value is below its level, and exactly if its
    interval with confidence 1 - level excludes zero. The procedure divides `level` by the number of comparisons that
    are left and stops at the first that is not significant; all later ones share the level of that step.
    """
    levels = [0.0] * len(p_values)
    left, stopped = len(p_values), False
    for index in sorted(range(len(p_values)), key=lambda i: p_values[i]):
        levels[index] = level / left
        stopped = stopped or p_values[index] >= levels[index]
        left -= not stopped
    return levels


def rank_ranges(
    scores: Sequence[float],
    errors: Sequence[float],
    degrees: Sequence[float] | None = None,
    *,
    simultaneous: bool = False,
    confidence: float = CONFIDENCE,
) -> list[tuple[int, int]]:
    """Return, for each score, the ranks (1 = highest) that its data allow.

    These are the confidence sets of Mogstad, Romano, Shaikh and Wilhelm (2024) with Bonferroni's correction: a row's
    best possible rank is one more than the number of rows that are significantly above it.

    Args:
        errors: standard errors of the scores.
        degrees: their degrees of freedom; infinite for errors that come from many items.
        simultaneous: correct for all pairs, so that all ranges hold together. Needed for statements about a row that
            was picked by its score; otherwise each range holds by itself.
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
    comparisons = count * (count - 1) / 2 if simultaneous else count - 1
    critical = distributions.t_ppf(1 - (1 - confidence) / (2 * comparisons), joint)
    difference, margin = value[:, None] - value[None, :], critical * np.sqrt(total)
    above, below = (difference < -margin).sum(axis=1), (difference > margin).sum(axis=1)
    return [(int(1 + a), int(count - b)) for a, b in zip(above, below, strict=True)]


def _compare(difference: float, error: float, degrees: float, confidence: float) -> Comparison:
    half = _t(confidence, degrees) * error
    if error == 0:
        p_value = 1.0 if difference == 0 else 0.0
    else:
        p_value = float(2 * distributions.t_sf(abs(difference) / error, degrees))
    return Comparison(difference, Interval(difference - half, difference + half), p_value, degrees)


def _welch_degrees(parts: Sequence[float], degrees: Sequence[int]) -> float:
    below = sum(part * part / count for part, count in zip(parts, degrees, strict=True))
    return sum(parts) ** 2 / below if below > 0 else float(sum(degrees))


def _z(confidence: float) -> float:
    return float(distributions.normal_ppf(0.5 + confidence / 2))


def _t(confidence: float, degrees: float) -> float:
    return float(distributions.t_ppf(0.5 + confidence / 2, degrees))
