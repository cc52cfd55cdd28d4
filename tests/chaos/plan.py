"""What is broken, and when: a list that depends on the seed and the duration alone."""

from __future__ import annotations

import random
from enum import StrEnum
from typing import NamedTuple

FIRST_S, LAST_S = 15.0, 10.0
"""Seconds without a fault, while the first trials start, and before the end."""
EVERY_S = 12.0
"""Mean time between two faults of a long run. A short one breaks more often, so that everything is broken once."""


class Fault(StrEnum):
    """What can be broken."""

    DRIVER_KILLED = "driver killed"
    DRIVER_TERMINATED = "SIGTERM to a driver's process group"
    DRIVER_INTERRUPTED = "SIGINT to a driver's process group"
    RAYLET_KILLED = "raylet killed"
    GCS_KILLED = "GCS killed"
    FORK_SERVER_KILLED = "fork server killed"
    TRIAL_KILLED = "trial killed"
    TRACKER_KILLED = "tracker killed"
    ENDPOINT_KILLED = "S3 endpoint killed"
    REQUESTS_FAIL = "20 % of the S3 requests fail"
    BODIES_CUT = "S3 bodies and answers cut off"
    DISK_FULL = "disk filled"
    CLOCK_STEPPED = "clock stepped"
    CHECKPOINT_CORRUPTED = "newest checkpoint corrupted"
    RECORD_CORRUPTED = "record corrupted"


TWICE = (Fault.DRIVER_KILLED, Fault.TRIAL_KILLED, Fault.CLOCK_STEPPED)
"""What is broken twice as often as the rest."""


class Planned(NamedTuple):
    """One fault. `pick`, between 0 and 1, chooses its target among what is there at the time."""

    at_s: float
    fault: Fault
    pick: float


def plan(seed: int, duration_s: float) -> list[Planned]:
    """Return the faults of a run in order. Each occurs before any occurs for the third time."""
    rng = random.Random(seed)
    span_s = max(0.0, duration_s - FIRST_S - LAST_S)
    count = max(len(Fault) + len(TWICE), round(span_s / EVERY_S))
    deck: list[Fault] = []
    planned = []
    for number in range(count):
        if not deck:
            deck = [*Fault, *TWICE]
            rng.shuffle(deck)
        planned.append(Planned(FIRST_S + span_s * (number + rng.random()) / count, deck.pop(), rng.random()))
    return planned
