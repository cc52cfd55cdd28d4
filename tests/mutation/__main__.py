"""Check whether the tests notice small changes of the code: random mutants, each met by the tests that execute it.

    make mutation SEED=1 COUNT=300
    python -m tests.mutation --seed 1 --count 300 --minutes 9    # a part; the same command goes on where it ended

The first run traces every test file once (about ten minutes). Results are lines of JSON in build/mutation. Mutants that
change no behaviour are listed with the reason in tests/mutation/equivalent.toml and are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from tests.mutation import harness
from tests.mutation.contexts import Contexts
from tests.mutation.mutants import Mutant, draw

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "mutation"
MODULES = (
    # Numbers and statements about them.
    "orchestrator/results/*.py",
    "orchestrator/results/leaderboard/*.py",
    "orchestrator/results/baselines/*.py",
    "orchestrator/evaluation/*.py",
    "orchestrator/evaluation/llm/*.py",
    "trm_model/evaluation/*.py",
    # Money, time and memory.
    "orchestrator/resources/*.py",
    "orchestrator/execution/budget.py",
    "trm_model/cost.py",
    # What runs next, what stops, what counts as failed.
    "orchestrator/search/*.py",
    "orchestrator/sweep/*.py",
    "orchestrator/records/failures.py",
    "orchestrator/records/progress.py",
    "orchestrator/records/reuse.py",
    "orchestrator/records/rows.py",
    "orchestrator/execution/scheduler.py",
    "orchestrator/execution/allocator.py",
    "orchestrator/execution/failures.py",
    # The model and its training.
    "trm_model/model/*.py",
    "trm_model/training/*.py",
    # Data.
    "datasets/trm_data/jit.py",
    "datasets/trm_data/puzzles/*.py",
    "datasets/trm_data/puzzles/kinds/*.py",
    "datasets/trm_data/dataset/*.py",
    "datasets/trm_data/building/*.py",
    "datasets/trm_data/generators/*.py",
)
"""Modules that decide numbers, money, data and stopping."""
NOT_MUTATED = (
    "orchestrator/results/notebook.py",
    "datasets/trm_data/dataset/render.py",
    "datasets/trm_data/puzzles/drawing.py",
    "trm_model/training/launch.py",
)
"""Text, pictures, and the processes of a distributed run, which only slow tests start."""
NOT_RUN = (
    # They start Ray or other processes, where no line is seen and no fork is saved.
    *("tests/execution/test_chaos.py", "tests/execution/test_cluster_placement.py", "tests/execution/test_run.py"),
    *("tests/execution/test_cluster_sweep.py", "tests/execution/test_ray_cluster.py", "tests/trm_model/test_launch.py"),
    *("tests/execution/test_gpu_sweep.py", "tests/worker/", "tests/web/", "tests/tracking/", "tests/project/"),
    *("tests/results/test_browser.py", "tests/trm_model/test_gpu.py", "tests/trm_model/test_distributed.py"),
)
FIRST_TESTS = 30
"""Tests that a mutant meets first; most die here, and the others are collected only for those that do not."""


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seed", type=int, required=True, help="decides which mutants are drawn")
    parser.add_argument("--count", type=int, default=300, help="mutants to draw")
    parser.add_argument("--minutes", type=float, default=None, help="stop after this time; run again to go on")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="mutants at a time")
    parser.add_argument("--again", action="store_true", help="run survivors again, after tests were added")
    parser.add_argument("--only", default="", help="run only mutants of paths that contain this text")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes if arguments.minutes else float("inf")
    paths = modules()
    results = BUILD / f"seed-{arguments.seed}.jsonl"
    mutants = [m for m in draw(ROOT, paths, arguments.seed, arguments.count) if arguments.only in m.path]
    done = read(results)
    harness.import_libraries()
    session = Session(ROOT, BUILD, paths, arguments.jobs, end)
    if session.trace(files_of_tests()):
        session.meet([m for m in mutants if _is_open(done.get(session.key(m)), arguments.again)], results)
    return report({session.key(m) for m in mutants}, read(results), session.contexts.failed())


def modules() -> list[str]:
    """Return the paths of the modules that are mutated."""
    found = {str(p.relative_to(ROOT)) for pattern in MODULES for p in ROOT.glob(pattern)}
    return sorted(found - set(NOT_MUTATED))


def files_of_tests() -> list[str]:
    """Return the test files that mutants meet."""
    found = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))
    return [path for path in found if not path.startswith(NOT_RUN)]


class Session:
    """Run test files and mutants, some at a time, each of them in a copy of the tree of its own."""

    def __init__(self, root: Path, folder: Path, paths: list[str], jobs: int = 1, end: float = float("inf")) -> None:
        self._root, self._paths, self._end = root, paths, end
        self._copies = [harness.Copy(root, folder / str(number)) for number in range(jobs)]
        self.contexts = Contexts(root, folder / "contexts", paths)

    def key(self, mutant: Mutant) -> str:
        """Return the name under which the result of a mutant is kept."""
        return mutant.key((self._root / mutant.path).read_bytes())

    def trace(self, tests: list[str]) -> bool:
        """Trace the test files that have changed, or whose modules have; return whether all are known then."""
        waiting = self.contexts.stale(tests)[::-1]
        running: dict[int, tuple[str, harness.Child]] = {}
        while waiting or running:
            for slot, copy in enumerate(self._copies):
                if slot not in running and waiting and time.monotonic() < self._end:
                    test = waiting.pop()
                    options: dict[str, Any] = {"limit": 300.0, "per_test": 200.0, "trace": self._paths}
                    running[slot] = (test, harness.start(copy, [test], **options))
            for slot, (test, child) in list(running.items()):
                if (result := child.finished()) is not None:
                    del running[slot]
                    self.contexts.add(test, result)
                    print(f"traced {test}: {len(result.get('tests', {}))} tests, {result['seconds']} s", flush=True)
                    print(result.get("output", ""), end="")
            if not running and time.monotonic() >= self._end:
                return not waiting
            time.sleep(0.02)
        return True

    def meet(self, mutants: list[Mutant], results: Path) -> None:
        """Let each mutant meet its tests and append what happened to the file of results."""
        waiting = mutants[::-1]
        running = [self._one(copy, waiting) for copy in self._copies]
        while running:
            for process in list(running):
                try:
                    row = next(process)
                except StopIteration:
                    running.remove(process)
                    continue
                if row is not None:
                    with results.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(f"{row['status']:<12} {row['path']}:{row['line']} {row['operator']}", flush=True)
            time.sleep(0.02)

    def _one(self, copy: harness.Copy, waiting: list[Mutant]) -> Any:
        """Yield None while a mutant's tests run, and its row when they have ended; end when none is left."""
        while waiting and time.monotonic() < self._end:
            mutant = waiting.pop()
            source = (self._root / mutant.path).read_bytes()
            row: dict[str, Any] = {"key": self.key(mutant), "path": mutant.path, "line": mutant.line}
            row |= {"operator": mutant.operator, "diff": mutant.diff(source)}
            chosen, row["left_out"] = self.contexts.select(mutant)
            row["tests"] = len(chosen)
            changed = mutant.apply(source)
            try:
                compile(changed, mutant.path, "exec")
            except SyntaxError:
                yield row | {"status": "not compiled"}
                continue
            if not chosen:
                yield row | {"status": "not executed"}
                continue
            fresh = mutant.compiled or (mutant.at_import and b"jit" in source)
            with copy.changed(mutant.path, changed):
                result: dict[str, Any] = {"code": 0}
                for part in (chosen[:FIRST_TESTS], chosen[FIRST_TESTS:]):
                    if not part or result["code"] != 0:
                        continue
                    slowest, extra = max(seconds for _, seconds in part), 120 if fresh else 0
                    limit = 60 + extra + 4 * sum(seconds for _, seconds in part)
                    names = [name for name, _ in part]
                    options: dict[str, Any] = {"limit": limit, "per_test": 20 + extra + 5 * slowest, "fresh": fresh}
                    child = harness.start(copy, names, **options)
                    while (ended := child.finished()) is None:
                        yield None
                    result = ended
            yield row | {"status": status_of(result), "test": result.get("test", "")} | _output(result)


def status_of(result: dict[str, Any]) -> str:
    """Return what a test run says about its mutant."""
    if result["code"] is None or result.get("timed_out"):
        return "timed out"
    if result["code"] == 0:
        return "survived"
    if result["code"] in (2, 4):  # a test file, or the fixtures of all of them, could not be imported
        return "not imported"
    return "killed" if result["code"] == 1 or result["code"] < 0 else "error"


def _output(result: dict[str, Any]) -> dict[str, str]:
    return {"output": result["output"]} if "output" in result else {}


def _is_open(row: dict[str, Any] | None, again: bool) -> bool:
    return row is None or row["status"] == "error" or (again and row["status"] in ("survived", "not executed"))


def read(results: Path) -> dict[str, dict[str, Any]]:
    """Return the last row of each mutant."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {row["key"]: row for row in map(json.loads, lines)}


def equivalent() -> list[dict[str, str]]:
    """Return the mutants that change no behaviour, each with its path, diff and reason."""
    listed: list[dict[str, str]] = tomllib.loads((Path(__file__).parent / "equivalent.toml").read_text())["mutant"]
    return listed


def summarise(rows: list[dict[str, Any]], listed: list[dict[str, str]]) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Return how many mutants ended in which way, and the survivors that are not listed as equivalent."""
    known = {(entry["path"], entry["diff"].strip()) for entry in listed}
    counts: Counter[str] = Counter()
    survivors = []
    for row in rows:
        alive = row["status"] in ("survived", "not executed")
        if alive and (row["path"], row["diff"].strip()) in known:
            counts["equivalent"] += 1
            continue
        counts[row["status"]] += 1
        if alive:
            survivors.append(row)
    return counts, survivors


def report(keys: set[str], done: dict[str, dict[str, Any]], failed: list[str]) -> int:
    """Print the summary with the survivors; return 1 if a mutant survived or is left to run."""
    rows = [row for key, row in done.items() if key in keys]
    counts, survivors = summarise(rows, equivalent())
    for row in survivors:
        print(f"\n{row['path']}:{row['line']}  {row['operator']}, {row['status']}, {row['tests']} tests", end="")
        print(f", {row['left_out']} left out" if row["left_out"] else "")
        print(row["diff"])
    noticed = counts["killed"] + counts["timed out"]
    counted = noticed + len(survivors)
    print(f"\n{len(rows)} of {len(keys)} mutants: " + ", ".join(f"{n} {name}" for name, n in counts.most_common()))
    if counted:
        print(f"noticed: {noticed} of {counted} ({100 * noticed / counted:.1f} %)")
    if failed:
        print("fail without a mutant, so they meet none: " + ", ".join(failed))
    return int(bool(survivors) or len(rows) < len(keys))


if __name__ == "__main__":
    sys.exit(main())
