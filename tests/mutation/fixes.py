"""Check that a test fails when the fix of a bug is taken back.

    python -m tests.mutation.fixes                 # all of them; make fixes
    python -m tests.mutation.fixes --only A2 A3    # two

Each entry of tests/mutation/bugs/*.toml names a bug, the lines that fix it, the lines as they would be without the
fix, and the tests that must fail then. Every entry is applied to a copy of the tree; it may have several edits.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mutation.harness import Copy

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "bugs"
TEST_FAILED = 1
"""Exit code of pytest where tests ran and failed: anything else, such as a syntax error in an edit, shows nothing."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Hold one place of a fix."""

    file: str
    fixed: str
    """Lines as they are, found once in the file."""
    reverted: str

    def applied(self, root: Path) -> str:
        """Return the text of the file without the fix.

        Raises:
            ValueError: the lines are not in the file, or more than once.
        """
        text = (root / self.file).read_text()
        if text.count(self.fixed) != 1:
            raise ValueError(f"{self.file} has the lines {text.count(self.fixed)} times:\n{self.fixed}")
        return text.replace(self.fixed, self.reverted)


@dataclass(frozen=True, slots=True)
class Fix:
    """Hold a bug whose fix can be taken back."""

    id: str
    bug: str
    """What went wrong without the fix."""
    tests: tuple[str, ...]
    edits: tuple[Edit, ...]


def load() -> list[Fix]:
    """Return every entry, in the order of the files."""
    entries: list[dict[str, Any]] = []
    for path in sorted(FOLDER.glob("*.toml")):
        entries += tomllib.loads(path.read_text()).get("fix", [])
    return [Fix(e["id"], e["bug"], tuple(e["tests"]), tuple(Edit(**edit) for edit in e["edit"])) for e in entries]


def check(fix: Fix, copy: Copy) -> str:
    """Take a fix back in a copy of the tree; return an empty text if each of its tests fails, else what happened."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (copy.folder, copy.folder / "datasets")))}
    with ExitStack() as stack:
        for file in {edit.file for edit in fix.edits}:
            text = (copy.folder / file).read_text()
            for edit in fix.edits:
                if edit.file == file:
                    text = text.replace(edit.fixed, edit.reverted)
            stack.enter_context(copy.changed(file, text.encode()))
        for test in fix.tests:
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "", "-p", "no:cacheprovider", test]
            done = subprocess.run(command, cwd=copy.folder, env=environment, capture_output=True, text=True)
            if done.returncode != TEST_FAILED:
                last = (done.stdout.strip().splitlines() or ["no output"])[-1]
                return f"{test} did not fail (exit code {done.returncode}): {last}"
    return ""


def main() -> int:
    """Check the entries and report; the exit code is 1 if a test passes without its fix."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation.fixes", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--only", nargs="*", default=[], help="ids of entries")
    arguments = parser.parse_args()
    fixes = [fix for fix in load() if not arguments.only or fix.id in arguments.only]
    problems = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(ROOT, Path(folder, "copy"))
        for fix in fixes:
            for edit in fix.edits:
                edit.applied(ROOT)
            began_s = time.monotonic()
            problem = check(fix, copy)
            problems += bool(problem)
            print(
                f"{fix.id:6s} {time.monotonic() - began_s:4.0f} s  {problem or 'fails without the fix'}: {fix.bug}",
                flush=True,
            )
    print(f"{len(fixes) - problems} of {len(fixes)} fixes have a test that fails without them")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
