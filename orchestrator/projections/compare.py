"""What a tracker says of a trial beside what its record says. Pure: no tracker here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

MAX_VALUE = 1.7976931348623157e308
NAMED_STEPS = 5
"""So many steps are named where a curve differs."""


class Key(NamedTuple):
    """What tells one point of a curve from another."""

    step: int
    timestamp_ms: int
    value: float | str


class Difference(NamedTuple):
    """Where a tracker does not say what a record says."""

    trial_id: str
    what: str
    """A metric's name, or which other part of the run it is."""
    missing: int = 0
    """Points of the record that the run does not have."""
    surplus: int = 0
    """Points of the run that the record does not have: another value at the same step, or a step it never took."""
    note: str = ""

    def __str__(self) -> str:
        counts = [f"{count} {word}" for count, word in ((self.missing, "missing"), (self.surplus, "too many")) if count]
        return f"{self.trial_id}: {self.what}: {', '.join([*counts, *filter(None, [self.note])])}"


def compare(trial_id: str, name: str, expected: Sequence[Key], there: Sequence[Key]) -> Difference | None:
    """One curve of a record beside that of its run; None if each point is there exactly once."""
    lost, extra = Counter(expected) - Counter(there), Counter(there) - Counter(expected)
    if not lost and not extra:
        return None
    steps = sorted({key.step for key in [*lost, *extra]})
    more = " ..." if len(steps) > NAMED_STEPS else ""
    note = f"at step {', '.join(map(str, steps[:NAMED_STEPS]))}{more}"
    return Difference(trial_id, name, lost.total(), extra.total(), note)


def key_of(step: int, timestamp_ms: int, value: float) -> Key:
    """A point as MLflow keeps it: infinity becomes the largest number, and NaN has to equal itself."""
    if math.isnan(value):
        return Key(step, timestamp_ms, "nan")
    return Key(step, timestamp_ms, math.copysign(MAX_VALUE, value) if math.isinf(value) else value)
