"""Check that a test fails when the fix of a bug is reverted.

    python -m tests.mutation.fixes                  # all of them; make fixes
    python -m tests.mutation.fixes --only A2 'B1*'  # some

Each entry of tests/mutation/bugs/*.toml names a bug, the lines that fix it, the lines as they would be without the
fix, and the tests that must fail then. Every entry is applied to a copy of the tree; it may have several edits.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tests.mutation import harness

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "bugs"
LONGEST_S = 300.0
"""Until a test is killed."""
TEST_FAILED = 1
"""Exit code of pytest where tests ran and failed: anything else, such as a syntax error in an edit, shows nothing."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Hold one place of a fix."""

    file: str
    fixed: str
    """Lines as they are, found once in the file."""
    reverted: str


@dataclass(frozen=True, slots=True)
class Fix:
    """Hold a bug whose fix can be reverted."""

    id: str
    bug: str
    """What went wrong without the fix."""
    tests: tuple[str, ...]
    edits: tuple[Edit, ...]

    def reverted(self, root: Path) -> dict[str, str]:
        """Return the texts of the changed files without the fix, by path.

        Raises:
            ValueError: the lines of an edit are not in the file, or more than once.
        """
        texts: dict[str, str] = {}
        for edit in self.edits:
            text = texts.get(edit.file) or (root / edit.file).read_text()
            if text.count(edit.fixed) != 1:
                raise ValueError(f"{edit.file} has the lines {text.count(edit.fixed)} times:\n{edit.fixed}")
            texts[edit.file] = text.replace(edit.fixed, edit.reverted)
        return texts


def load() -> list[Fix]:
    """Return every entry, in the order of the files."""
    entries: list[dict[str, Any]] = []
    for path in sorted(FOLDER.glob("*.toml")):
        entries += tomllib.loads(path.read_text()).get("fix", [])
    return [Fix(e["id"], e["bug"], tuple(e["tests"]), tuple(Edit(**edit) for edit in e["edit"])) for e in entries]


class Checker:
    """Run the tests of fixes in forks, with and without the fix, in a copy of the tree."""

    def __init__(self, folder: Path) -> None:
        self._copy = harness.Copy(ROOT, folder / "copy")
        self._passed: dict[str, str] = {}

    def check(self, fix: Fix) -> str:
        """Revert a fix; return an empty text if each of its tests passes before and fails then, else what happened."""
        try:
            texts = fix.reverted(ROOT)
        except ValueError as error:
            return str(error)
        for test in fix.tests:
            if test not in self._passed:
                self._passed[test] = self._run(test, expected=0)
            if self._passed[test]:
                return f"with the fix, {self._passed[test]}"
        with ExitStack() as stack:
            for file, text in texts.items():
                stack.enter_context(self._copy.changed(file, text.encode()))
            # A function that numba compiled and cached may call one that has changed.
            fresh = any("jit" in text for text in texts.values())
            problems = (self._run(test, expected=TEST_FAILED, fresh=fresh) for test in fix.tests)
            return next(filter(None, problems), "")

    def _run(self, test: str, expected: int, *, fresh: bool = False) -> str:
        """Return an empty text if the run of a test ends with this exit code of pytest, else what happened."""
        child = harness.start(self._copy, ["-m", "", test], limit=LONGEST_S, per_test=LONGEST_S, fresh=fresh)
        while (result := child.finished()) is None:
            time.sleep(0.05)
        if result["code"] == expected:
            return ""
        return f"{test} ended with exit code {result['code']} instead of {expected}: {result.get('output', '')[-300:]}"


def main() -> int:
    """Check the entries and report; the exit code is 1 if a test passes without its fix."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation.fixes", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--only", nargs="*", default=[], help="ids of entries, or the beginnings of ids with a *")
    arguments = parser.parse_args()
    fixes = [fix for fix in load() if not arguments.only or any(fnmatch(fix.id, each) for each in arguments.only)]
    if not fixes:
        parser.error(f"no entry is named {' or '.join(arguments.only)}")
    harness.import_libraries()
    problems = 0
    with tempfile.TemporaryDirectory() as folder:
        checker = Checker(Path(folder))
        for fix in fixes:
            began_s = time.monotonic()
            problem = checker.check(fix)
            problems += bool(problem)
            outcome = f"{time.monotonic() - began_s:4.0f} s  {problem or 'fails without the fix'}"
            print(f"{fix.id:6s} {outcome}: {fix.bug}", flush=True)
    print(f"{len(fixes) - problems} of {len(fixes)} fixes have a test that fails without them")
    return int(problems > 0)


if __name__ == "__main__":
    sys.exit(main())
