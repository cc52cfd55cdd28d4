"""The check of claims: a claim counts only if its tests were executed and passed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import claims
from tests.claims import Claim, judge, outcomes_of

ROOT = Path(__file__).parents[2]
FAST, OTHER, SLOW = "tests/a/test_a.py::test_fast", "tests/a/test_a.py::test_other", "tests/a/test_a.py::test_slow"


def line(test: str, outcome: str) -> str:
    return json.dumps({"test": test, "outcome": outcome, "seconds": 0.1}) + "\n"


@pytest.mark.parametrize(
    ("report", "status"),
    [
        (line(FAST, "passed") + line(OTHER, "passed"), "passed"),
        (line(FAST, "passed") + line(OTHER, "failed"), "failed"),
        (line(FAST, "passed") + line(OTHER, "skipped"), "not shown"),
        (line(FAST, "passed"), "not shown"),
        (line(FAST + "[a]", "passed") + line(FAST + "[b::c[]]", "skipped") + line(OTHER, "passed"), "not shown"),
        (line(FAST + "[a]", "failed") + line(FAST + "[b]", "passed") + line(OTHER, "passed"), "failed"),
        ("", "not shown"),
    ],
)
def test_claim_is_shown_only_if_every_test_was_executed_and_passed(report: str, status: str) -> None:
    claim = Claim("a claim", [FAST, OTHER], "")
    assert judge(claim, outcomes_of(report), {}, set()).status == status


def test_slow_tests_are_shown_with_their_last_run() -> None:
    claim = Claim("a claim", [FAST, SLOW], "")
    passed = {FAST: "passed"}
    assert judge(claim, passed, {}, {SLOW}).details == [f"{SLOW}: no recorded run"]
    last = {SLOW: {"date": "2026-11-29", "commit": "abc1234", "outcome": "passed"}}
    verdict = judge(claim, passed, last, {SLOW})
    assert verdict.status == "slow" and verdict.details == [f"{SLOW}: passed on 2026-11-29 at abc1234"]
    last[SLOW]["outcome"] = "failed"
    assert judge(claim, passed, last, {SLOW}).status == "failed"
    assert judge(claim, {FAST: "skipped"}, {}, {SLOW}).status == "not shown"


def test_rows_and_their_tests_are_found() -> None:
    page = (
        f"# Claims\n\n| claim | shown by |\n|---|---|\n| a \\| b | `{FAST}`, `{FAST}` (slow) |\n| c | **not shown** |\n"
    )
    first, second = claims.claims_of(page)
    assert first.text == "a \\| b" and first.tests == [FAST] and second.tests == []
    assert judge(second, {}, {}, set()).status == "record"


SUITE = """
import pytest
class TestGroup:
    pytestmark = pytest.mark.slow
    def test_in_class(self): pass
@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_fast(n): pass
@pytest.mark.slow
@pytest.mark.parametrize("n", [1])
def test_slow(n): pass
"""


def test_marks_of_tests_classes_and_modules_are_found(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(SUITE)
    (tmp_path / "test_b.py").write_text("import pytest\npytestmark = [pytest.mark.gpu]\ndef test_b(): pass\n")
    names = ["test_a.py::TestGroup::test_in_class", "test_a.py::test_slow", "test_b.py::test_b"]
    assert all(claims.is_rare(name, tmp_path) for name in names)
    assert not claims.is_rare("test_a.py::test_fast", tmp_path)
    for missing in ("test_a.py::test_gone", "test_gone.py::test_a"):
        with pytest.raises(LookupError, match="does not exist"):
            claims.marks_of(missing, tmp_path)


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_report_of_a_run_has_every_test_with_its_outcome(workers: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_configure\n")
    (tmp_path / "test_all.py").write_text(
        "import pytest\n"
        "def test_passes(): pass\n"
        "def test_fails(): assert False\n"
        "def test_skips(): pytest.skip('no reason')\n"
        "@pytest.fixture\n"
        "def broken():\n    yield\n    raise RuntimeError\n"
        "def test_fails_at_its_end(broken): pass\n"
    )
    environment = os.environ | {"TEST_REPORT": str(tmp_path / "report.jsonl"), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, str(tmp_path)]
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    outcomes = outcomes_of((tmp_path / "report.jsonl").read_text())
    assert outcomes == {
        "test_all.py::test_passes": "passed",
        "test_all.py::test_fails": "failed",
        "test_all.py::test_skips": "skipped",
        "test_all.py::test_fails_at_its_end": "failed",
    }


def test_recorded_run_replaces_the_one_before_and_a_skip_does_not(tmp_path: Path) -> None:
    report, file = tmp_path / "report.jsonl", tmp_path / "slow.json"
    report.write_text(line(SLOW + "[1]", "passed") + line(OTHER, "skipped"))
    claims.record(report, file)
    first = json.loads(file.read_text())
    assert set(first) == {SLOW} and first[SLOW]["outcome"] == "passed" and first[SLOW]["commit"]
    report.write_text(line(SLOW + "[1]", "passed") + line(SLOW + "[2]", "failed"))
    claims.record(report, file)
    assert json.loads(file.read_text())[SLOW]["outcome"] == "failed"


def test_command_fails_for_a_claim_that_a_run_did_not_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    test = "tests/project/test_claims.py::test_rows_and_their_tests_are_found"
    page, report = tmp_path / "claims.md", tmp_path / "report.jsonl"
    page.write_text(f"| claim | shown by |\n|---|---|\n| rows are found | `{test}` |\n")
    monkeypatch.setattr(claims, "CLAIMS", page)
    report.write_text(line(test, "passed"))
    assert claims.main(["--report", str(report)]) == 0
    report.write_text(line(test, "skipped"))
    assert claims.main(["--report", str(report)]) == 1
    assert "rows are found" in capsys.readouterr().out
    assert claims.main(["--report", str(tmp_path / "none.jsonl")]) == 2
