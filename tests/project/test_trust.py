"""The page on trust: every row names tests that exist, and what no other test shows is shown here."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.commands import call
from tests.trm_model.test_recursion_file import write_code

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "trust.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| ---")]


def test_every_row_of_the_page_names_tests_that_exist() -> None:
    headings = [line for line in ROWS if line.endswith("| shown by |")]
    rows = [line for line in ROWS if line not in headings]
    assert len(headings) == len(re.findall("^## ", PAGE, re.MULTILINE)) and len(rows) > 25
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", row.rstrip("| ").rpartition(" | ")[2])
        assert named, row
        for file, path in named:
            scope: list[ast.stmt] = ast.parse((ROOT / file).read_text()).body
            for name in path.split("::"):
                found = [n for n in scope if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name]
                assert found, f"{file}::{path}"
                assert not any("skip" in ast.unparse(mark) for mark in found[0].decorator_list), path
                scope = found[0].body


def test_prose_of_the_page_claims_nothing_that_a_table_does_not_show() -> None:
    prose = [line for line in PAGE.splitlines() if line and not line.startswith(("|", "#"))]
    assert len(prose) == 1, "put the sentence into a table, with the test that shows it"


def test_sweep_file_is_run_as_a_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sweep.py"
    file.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'marker')!r}).touch()\nraise SystemExit('x')\n")
    code, _, _ = call(capsys, "sweep", "plan", str(file), "--storage", str(tmp_path / "runs"))
    assert code == 2 and (tmp_path / "marker").exists()


def test_recursion_that_a_plan_names_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marker, plan = tmp_path / "marker", tmp_path / "plan.jsonl"
    code_file = write_code(tmp_path / "mine.py", marker=marker)
    at = ["--storage", str(tmp_path / "runs")]
    words = ["--recipe", "sudoku-mini", "--set", f"model.recursion={code_file}:Mine", "--vary", "lr=0.1,0.01"]
    assert call(capsys, "sweep", "plan", *words, "--out", str(plan), *at)[0] == 0
    marker.unlink(missing_ok=True)
    for verb in (["plan"], ["run", "--tracking", "none"]):
        code, _, err = call(capsys, "sweep", verb[0], str(plan), *verb[1:], *at)
        assert not marker.exists()
    assert code == 2 and "--trust" in err
