"""Watch a pytest session from inside: which lines each test executes, which test fails first."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

Lines = dict[str, list[int]]


class FirstFailure:
    """Remember the test that failed first."""

    def __init__(self) -> None:
        self.test = ""
        self.timed_out = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the first report that failed."""
        if report.failed and not self.test:
            self.test = report.nodeid
            self.timed_out = "Timeout (>" in str(report.longrepr)


class Tracer:
    """Record the lines of some modules that each test executes, apart from those that its fixtures execute.

    A fixture may serve other tests of its file, so lines of the setup belong to the whole file.
    """

    def __init__(self, root: Path, paths: list[str]) -> None:
        self._files = {str(root / path): path for path in paths}
        self._hits: set[tuple[str, int]] = set()
        self._known: dict[CodeType, bool] = {}
        self.tests: dict[str, dict[str, Any]] = {}
        self.setup: set[tuple[str, int]] = set()

    def start(self) -> None:
        """Trace this thread and those that start later."""
        threading.settrace(self._called)
        sys.settrace(self._called)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        known = self._known.get(code)
        if known is None:
            known = self._known[code] = code.co_filename in self._files
        return self._line if known else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self._hits.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Measure the time of a test with its setup."""
        self.tests[item.nodeid] = {"outcome": "passed", "seconds": time.perf_counter(), "lines": {}}
        result = yield
        self.tests[item.nodeid]["seconds"] = round(time.perf_counter() - self.tests[item.nodeid]["seconds"], 3)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        """Take the lines of fixtures."""
        self._hits.clear()
        sys.settrace(self._called)
        result = yield
        self.setup |= self._hits
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Take the lines of the test itself."""
        self._hits.clear()
        sys.settrace(self._called)
        result = yield
        self.tests[item.nodeid]["lines"] = self.by_file(self._hits)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the outcome."""
        if report.outcome != "passed" and report.nodeid in self.tests:
            self.tests[report.nodeid]["outcome"] = report.outcome

    def by_file(self, hits: set[tuple[str, int]]) -> Lines:
        """Return sorted lines by path."""
        lines: Lines = {}
        for file, line in sorted(hits):
            lines.setdefault(self._files[file], []).append(line)
        return lines
