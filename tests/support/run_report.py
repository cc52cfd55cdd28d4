"""Write which tests a run executed, one line of JSON each, for `python -m tests.claims`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

RANK = {"passed": 0, "skipped": 1, "failed": 2}
"""What counts if the phases of a test end differently: the highest."""


class RunReport:
    """Write the outcome of each test when it has ended. With pytest-xdist it belongs into the controlling process,
    which gets the reports of all workers."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._outcomes: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a phase, and write the test after its last one."""
        name = report.nodeid
        self._outcomes[name] = max(self._outcomes.get(name, "passed"), report.outcome, key=lambda o: RANK[o])
        self._seconds[name] = self._seconds.get(name, 0.0) + report.duration
        # A report about a worker that died has no phase, and no teardown follows it.
        if report.when not in ("setup", "call"):
            row = {"test": name, "outcome": self._outcomes.pop(name), "seconds": round(self._seconds.pop(name), 2)}
            with self._file.open("a") as file:
                file.write(json.dumps(row) + "\n")
