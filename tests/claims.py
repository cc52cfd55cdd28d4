"""Say of each claim of docs/development/claims.md whether its tests were executed and passed.

    python -m tests.claims                                  # after make test: reads build/test-report.jsonl
    python -m tests.claims --record build/test-report-slow.jsonl   # after make test-slow: remembers when they ran

A claim is shown by a run in which all of its tests passed. One that was skipped or not executed is not shown, and the
command then ends with 1. Slow tests and tests for GPUs do not run every time; docs/development/slow-tests.json says
when each of them last did.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
CLAIMS = ROOT / "docs" / "development" / "claims.md"
SLOW = ROOT / "docs" / "development" / "slow-tests.json"
REPORT = ROOT / "build" / "test-report.jsonl"
RARE = ("slow", "gpu")
"""Marks of tests that `make test` leaves out."""


class Claim(NamedTuple):
    """Hold a row of the page."""

    text: str
    tests: list[str]
    """Without parameters."""
    shown_by: str


class Verdict(NamedTuple):
    """Hold what is known of a claim."""

    claim: Claim
    status: str
    """passed, failed, not shown, slow (all that run every time have passed), or record (it names no test)."""
    details: list[str]


def claims_of(page: str) -> list[Claim]:
    """Return the rows of the page's tables."""
    found = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 2 and cells[0] != "claim" and not set(cells[0]) <= set("-: "):
            tests = re.findall(r"`(tests/[\w/]+\.py::[\w:]+)`", cells[1])
            found.append(Claim(cells[0], list(dict.fromkeys(tests)), cells[1]))
    return found


def marks_of(test: str, root: Path = ROOT) -> list[str]:
    """Return the marks of a test, with those of its class and module.

    Raises:
        LookupError: no such test.
    """
    file, *names = test.split("::")
    if not (root / file).is_file():
        raise LookupError(f"{file} does not exist")
    scope: list[ast.stmt] = ast.parse((root / file).read_text()).body
    marks: list[str] = []
    for name in [*names, ""]:
        for node in scope:
            if isinstance(node, ast.Assign) and any(ast.unparse(target) == "pytestmark" for target in node.targets):
                marks.append(ast.unparse(node.value))
        if name:
            found = [n for n in scope if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name]
            if not found:
                raise LookupError(f"{test} does not exist")
            marks += [ast.unparse(decorator) for decorator in found[-1].decorator_list]
            scope = found[-1].body if isinstance(found[-1], ast.ClassDef) else []
    return marks


def is_rare(test: str, root: Path = ROOT) -> bool:
    """Return whether `make test` leaves this test out. A mark of one of its parameters does not count."""
    rare = re.compile(rf"^\[?(.*, )?pytest\.mark\.({'|'.join(RARE)})\b")
    return any(rare.search(found) for found in marks_of(test, root))


def outcomes_of(report: str) -> dict[str, str]:
    """Return the outcome of each test of a report, over all its parameters: the worst counts."""
    worst = {"passed": 0, "skipped": 1, "failed": 2}
    outcomes: dict[str, str] = {}
    for row in map(json.loads, report.splitlines()):
        test = row["test"].partition("[")[0]
        outcomes[test] = max(outcomes.get(test, "passed"), row["outcome"], key=lambda outcome: worst[outcome])
    return outcomes


def judge(claim: Claim, outcomes: Mapping[str, str], slow: Mapping[str, Mapping[str, str]], rare: set[str]) -> Verdict:
    """Return what a run, and the last runs of slow tests, show of a claim."""
    details, failed, missing = [], False, False
    for test in claim.tests:
        last = slow.get(test)
        if test in rare and test not in outcomes:
            when = f"{last['outcome']} on {last['date']} at {last['commit']}" if last else "no recorded run"
            details.append(f"{test}: {when}")
            failed = failed or (last is not None and last["outcome"] == "failed")
            continue
        outcome = outcomes.get(test, "not executed")
        if outcome != "passed":
            details.append(f"{test}: {outcome}")
            failed, missing = failed or outcome == "failed", missing or outcome != "failed"
    if not claim.tests:
        return Verdict(claim, "record", [claim.shown_by])
    status = "failed" if failed else "not shown" if missing else "slow" if details else "passed"
    return Verdict(claim, status, details)


def record(report: Path, file: Path) -> None:
    """Write into the file of slow tests when those of a report ran; skipped ones are as good as not run."""
    known = json.loads(file.read_text()) if file.exists() else {}
    for test, outcome in outcomes_of(report.read_text()).items():
        if outcome != "skipped":
            known[test] = {"date": datetime.date.today().isoformat(), "commit": _commit(), "outcome": outcome}
    file.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=7", "--dirty=+changes", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main(arguments: list[str] | None = None) -> int:
    """Print the verdicts; return 1 if a claim that should have been shown was not."""
    parser = argparse.ArgumentParser(prog="python -m tests.claims", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--report", type=Path, default=REPORT, help="what a test run has written")
    parser.add_argument("--record", type=Path, default=None, help="remember the tests of this report, and end")
    parser.add_argument("--all", action="store_true", help="list the claims that are shown, too")
    options = parser.parse_args(arguments)
    for path in (options.record or options.report,):
        if not path.is_file():
            print(f"{path} does not exist; run `make test` first", file=sys.stderr)
            return 2
    if options.record:
        record(options.record, SLOW)
        return 0
    claims = claims_of(CLAIMS.read_text())
    rare = {test for claim in claims for test in claim.tests if is_rare(test)}
    slow = json.loads(SLOW.read_text()) if SLOW.exists() else {}
    outcomes = outcomes_of(options.report.read_text())
    verdicts = [judge(claim, outcomes, slow, rare) for claim in claims]
    for status in ("record", "passed", "slow", "not shown", "failed"):
        chosen = [verdict for verdict in verdicts if verdict.status == status]
        if chosen and (options.all or status not in ("record", "passed")):
            print(f"\n{status}:")
            for verdict in chosen:
                print(f"- {verdict.claim.text}", *(f"    {detail}" for detail in verdict.details), sep="\n")
    counts = {status: sum(v.status == status for v in verdicts) for status in ("passed", "slow", "not shown", "failed")}
    others = len(verdicts) - sum(counts.values())
    print(
        f"\n{len(verdicts)} claims: {counts['passed']} passed, {counts['slow']} rest on slow tests or tests for GPUs, "
        f"{counts['not shown']} not shown, {counts['failed']} failed, {others} name a record instead of a test"
    )
    return int(counts["not shown"] + counts["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
