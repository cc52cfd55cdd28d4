"""Know which tests execute which lines, from a traced run of each test file, repeated only when files change."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path
from typing import Any

from tests.mutation.mutants import Mutant

MOST_SECONDS = 150.0
"""Expected time of the tests that one mutant meets; slower ones are left out and counted."""


class Contexts:
    """Hold, for each test file, what its tests execute.

    Args:
        root: the working tree.
        folder: where the recorded runs are kept.
        modules: the modules whose lines were recorded.
    """

    def __init__(self, root: Path, folder: Path, modules: list[str]) -> None:
        self._root, self._folder, self._modules = root, folder, modules
        self._runs: dict[str, dict[str, Any]] = {}

    def stale(self, tests: list[str]) -> list[str]:
        """Read what is recorded, and return the test files that must run again."""
        old = []
        for test in tests:
            file = self._file(test)
            run = json.loads(file.read_text()) if file.exists() else None
            if run is None or run["files"] != self._digests(run["files"]):
                old.append(test)
            else:
                self._runs[test] = run
        return old

    def add(self, test: str, result: dict[str, Any]) -> None:
        """Record a traced run; one that did not end is recorded as too long.

        Raises:
            RuntimeError: pytest could not run these tests.
        """
        if result["code"] not in (None, 0, 1, 5):
            raise RuntimeError(f"{test} cannot be run: {result.get('output', '')}")
        tests, setup = result.get("tests", {}), result.get("setup", {})
        touched = {path for run in tests.values() for path in run["lines"]} | set(setup)
        run = {"files": self._digests([test, *touched]), "tests": tests, "setup": setup, "code": result["code"]}
        self._runs[test] = run
        self._file(test).parent.mkdir(parents=True, exist_ok=True)
        self._file(test).write_text(json.dumps(run))

    def failed(self) -> list[str]:
        """Return the tests that fail, and the files that do not end, without any mutant; no mutant meets them."""
        unfinished = [test for test, run in self._runs.items() if run["code"] not in (0, 1, 5)]
        failing = [n for run in self._runs.values() for n, t in run["tests"].items() if t["outcome"] == "failed"]
        return sorted([*unfinished, *failing])

    def select(self, mutant: Mutant) -> tuple[list[tuple[str, float]], int]:
        """Return the tests that a mutant meets with their expected seconds, the best first, and how many are left out.

        A line in a function is met by the tests that execute it. Code that runs at import, and code that numba
        compiles, is met by every test that executes a line of its module or of one that imports it; so is a line that
        no test executes, since the import of a module may call its functions.
        """
        if not (mutant.at_import or mutant.compiled):
            chosen, left_out = self._select(mutant, anywhere=False)
            if chosen:
                return chosen, left_out
        return self._select(mutant, anywhere=True)

    def _select(self, mutant: Mutant, *, anywhere: bool) -> tuple[list[tuple[str, float]], int]:
        paths = {mutant.path, *(self._importers(mutant.path) if anywhere else ())}
        lines = None if anywhere else set(range(mutant.lines[0], mutant.lines[1] + 1))
        found: dict[str, float] = {}
        for run in self._runs.values():
            whole_file = any(_hit(run["setup"], path, lines) for path in paths)
            for name, test in run["tests"].items():
                hit = whole_file or any(_hit(test["lines"], path, lines) for path in paths)
                if hit and test["outcome"] == "passed":
                    found[name] = test["seconds"]
        stem = Path(mutant.path).stem
        ordered = sorted(found.items(), key=lambda item: (f"test_{stem}" not in item[0], item[1], item[0]))
        chosen: list[tuple[str, float]] = []
        for name, seconds in ordered:
            if sum(s for _, s in chosen) + seconds <= MOST_SECONDS:
                chosen.append((name, seconds))
        return chosen, len(ordered) - len(chosen)

    def _importers(self, path: str) -> list[str]:
        """Return the recorded modules that import this one, directly or through others that are recorded."""
        found = {path}
        while True:
            names = {_dotted(p) for p in found}
            more = {p for p in self._modules if p not in found and names & _imports(self._root / p)}
            if not more:
                return sorted(found - {path})
            found |= more

    def _digests(self, paths: Any) -> dict[str, str]:
        files = {path: self._root / path for path in paths}
        return {p: hashlib.sha256(f.read_bytes()).hexdigest()[:16] for p, f in sorted(files.items()) if f.exists()}

    def _file(self, test: str) -> Path:
        return self._folder / f"{test.replace('/', '.')}.json"


def _hit(executed: dict[str, list[int]], path: str, lines: set[int] | None) -> bool:
    return path in executed and (lines is None or not lines.isdisjoint(executed[path]))


def _dotted(path: str) -> str:
    return path.removeprefix("datasets/").removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def _imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names
