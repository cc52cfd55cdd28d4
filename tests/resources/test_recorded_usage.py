"""GPU-hours, cost and energy of made-up trials are those of earlier versions."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from orchestrator.records.schema import Status
from orchestrator.resources.usage import attempt_usage, spending, trial_cost
from tests.resources.test_usage import HOUR, attempt, record, row
from tests.support.recorded import compare

STARTS: dict[str, dict[str, Any]] = {
    "H100": {},
    "half of one": {"gpu_count": 0.5},
    "four, spot": {"gpu_count": 4.0, "market": "spot"},
    "L40S": {"gpu_type": "L40S", "gpu_name": "NVIDIA L40S"},
    "CPU": {"device": "cpu", "gpu_type": None, "gpu_count": 0.0},
    "unknown": {"gpu_type": "Imaginary-9000"},
}
ENDS: dict[str, tuple[float | None, float | None]] = {
    "ended": (12 * HOUR, None),
    "suspended meanwhile": (19 * HOUR, 2 * HOUR),
    "clock set back": (9 * HOUR, 1.5 * HOUR),
    "killed": (None, None),
}


def test_usage_is_as_recorded() -> None:
    found: dict[str, Any] = {}
    for (kind, start), (end, (ended_s, elapsed_s)) in itertools.product(STARTS.items(), ENDS.items()):
        first, again = attempt(10 * HOUR, ended_s, elapsed_s, **start), attempt(20 * HOUR, 20.5 * HOUR, **start)
        rows = [row(10.25 * HOUR), row(11.25 * HOUR), row(20.25 * HOUR, energy_kwh=0.125)]
        trial = record(first, dataclasses.replace(again, number=2), rows=rows, status=Status.FINISHED)
        cost = trial_cost(trial)
        found[f"{kind}, {end}"] = {
            "attempts": [list(usage) for usage in attempt_usage(trial)],
            "cost": None if cost is None else dataclasses.asdict(cost),
            "spent": dataclasses.asdict(spending([trial], 21 * HOUR)),
            "spent while it runs": dataclasses.asdict(spending([record(first, rows=rows[:2])], 12 * HOUR)),
        }
    compare("usage", found)
