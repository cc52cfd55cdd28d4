"""Compare two configurations over seeds: one test, with its interval, power and number of seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from orchestrator.results import power, stats

PAIRED_SEEDS = 8
PAIRED_CORRELATION = 0.7
"""Fewest common seeds, and least correlation over them, for a paired test. Choosing the test by a look at the data
raises false alarms: 6 seeds and 0.5 gave 6.4 % instead of 5 in 40,000 simulated pairs of equal groups; this gives 5.2.
"""


class SeedTest:
    """Compare two configurations with Welch's test, or the paired t test if both ran the same seeds and are correlated.

    Args:
        first: score by seed; at least two.
        second: the same of the other configuration.
        resolution: smallest standard deviation that is used, in the unit of the scores.
    """

    def __init__(self, first: Mapping[int, float], second: Mapping[int, float], resolution: float) -> None:
        self._scores = list(first.values()), list(second.values())
        self._resolution = resolution
        self._pairs = _common_seeds(first, second)
        self.method: Literal["Welch", "paired by seed"] = "Welch" if self._pairs is None else "paired by seed"

    def compare(self, level: float) -> stats.Comparison:
        """Return difference, p value, and the interval that excludes zero exactly if the p value is below `level`."""
        if self._pairs is not None:
            return stats.paired(*self._pairs, resolution=self._resolution, confidence=1 - level)
        return stats.welch(*self._scores, resolution=self._resolution, confidence=1 - level)

    def detectable(self, level: float) -> float:
        """Return the true difference that these numbers of seeds detect with 80 % power, for the observed spreads."""
        return self._power(len(self._scores[0]), len(self._scores[1]), level).detectable()

    def seeds_needed(self, difference: float, level: float) -> int | None:
        """Return the runs of each configuration that detect `difference` with 80 % power; None above 10,000."""
        return power.seeds_needed(difference, lambda count: self._power(count, count, level))

    def _power(self, first: int, second: int, level: float) -> power.WelchPower | power.PairedPower:
        if self._pairs is not None:
            deviation = float(np.std(np.subtract(*self._pairs), ddof=1))
            return power.PairedPower(deviation, first, level, self._resolution)
        spreads = [float(np.std(scores, ddof=1)) for scores in self._scores]
        return power.WelchPower((spreads[0], spreads[1]), (first, second), level, self._resolution)


def _common_seeds(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[list[float], list[float]] | None:
    """Return the scores paired by seed where a paired test is used, else None."""
    if set(first) != set(second) or len(first) < PAIRED_SEEDS:
        return None
    one, two = list(first.values()), [second[seed] for seed in first]
    # Two groups without spread have no correlation; Welch's test handles them with its resolution.
    if min(np.ptp(one), np.ptp(two)) > 0 and np.corrcoef(one, two)[0, 1] >= PAIRED_CORRELATION:
        return one, two
    return None
