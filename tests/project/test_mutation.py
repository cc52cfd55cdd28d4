"""The mutation check: what it changes, and what it says about tests that notice and tests that do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.__main__ import ROOT, equivalent, files_of_tests, modules, status_of, summarise
from tests.mutation.mutants import Mutant, draw, mutants_of

SOURCE = '''"""Docstring with 7."""
import logging
LIMIT: int = 10
def is_large(value: int, least: int = 3) -> bool:
    """Return 1."""
    logging.info("value %d", 5)
    if value < least and not value == 0:
        raise ValueError(f"{value + 1}")
    return value > LIMIT
'''


def changes(source: str) -> set[tuple[str, str]]:
    """What stands in the changed lines, as (operator, line)."""
    found = mutants_of("m.py", source.encode())
    return {(m.operator, m.diff(source.encode()).splitlines()[-1].lstrip("+ ")) for m in found}


def test_each_kind_of_change_is_made_once_and_texts_are_left_alone() -> None:
    found = changes(SOURCE)
    assert {
        ("constant", "LIMIT: int = 11"),
        ("default argument", "def is_large(value: int, least: int = 2) -> bool:"),
        ("comparison", "if (value <= least) and not value == 0:"),
        ("boundary", "if value < (least + 1) and not value == 0:"),
        ("boolean", "if (value < least or not value == 0):"),
        ("boolean", "if (value < least):"),
        ("removed not", "if value < least and (value == 0):"),
        ("inverted condition", "if (not (value < least and (not value == 0))):"),
        ("removed statement", "pass"),
        ("inverted return", "return (not (value > LIMIT))"),
    } <= found
    assert not any("Docstring" in line or "info" in line or "Return" in line for _, line in found)


@pytest.mark.parametrize(
    ("statement", "operator", "changed"),
    [
        ("x = a + b", "arithmetic", "x = (a - b)"),
        ("x = a ** 2", "arithmetic", "x = (a * 2)"),
        ("x += 1.5", "arithmetic", "x -= 1.5"),
        ("x = max(a, b)", "min, max, any, all", "x = min(a, b)"),
        ("x = a if c else b", "swapped alternatives", "x = ((b) if (c) else (a))"),
        ("return a, b", "swapped return", "return (b, a)"),
        ("x = [a for a in b if a]", "inverted condition", "x = [a for a in b if (not (a))]"),
        ("x = -a", "sign", "x = (a)"),
        ("a[0] = b", "removed statement", "pass"),
        ("x = 0.5", "constant", "x = 1.0"),
        ("x = a is None", "comparison", "x = (a is not None)"),
        ("x = 'ä' and a < b", "comparison", "x = 'ä' and (a <= b)"),
    ],
)
def test_kinds_of_change(statement: str, operator: str, changed: str) -> None:
    assert (operator, changed) in changes(f"def f(a, b, c, x):\n    {statement}\n")


def test_drawn_mutants_can_be_compiled_and_the_same_seed_draws_the_same() -> None:
    assert len(modules()) > 100
    paths = modules()[::12]
    drawn = draw(ROOT, paths, 3, 50)
    assert drawn == draw(ROOT, paths, 3, 50) and drawn != draw(ROOT, paths, 4, 50)
    for mutant in drawn:
        source = (ROOT / mutant.path).read_bytes()
        assert mutant.apply(source) != source
        compile(mutant.apply(source), mutant.path, "exec")


def test_result_is_known_after_lines_were_added_above() -> None:
    def keys(source: str) -> list[str]:
        return [m.key(source.encode()) for m in mutants_of("m.py", source.encode())]

    assert keys(SOURCE) == keys(SOURCE.replace("import logging", "import logging\nimport math"))


PROJECT = {
    "trm_model/__init__.py": "",
    "trm_model/number.py": (
        "def is_large(value):\n    return value > 10\n\n\ndef never_called(value):\n    return value - 1\n"
    ),
    "tests/__init__.py": "",
    "tests/test_number.py": (
        "from trm_model.number import is_large\n\n\n"
        "def test_far_from_the_limit():\n    assert is_large(20) and not is_large(5)\n"
    ),
    "pyproject.toml": "",
}
SCRIPT = """
import sys
from pathlib import Path
from tests.mutation.__main__ import Session
from tests.mutation.mutants import mutants_of
root = Path(sys.argv[1])
path = "trm_model/number.py"
session = Session(root, root / "build", [path])
assert session.trace(["tests/test_number.py"])
session.meet(mutants_of(path, (root / path).read_bytes()), root / "results.jsonl")
"""


def test_weak_test_lets_mutants_survive_and_the_tree_stays_as_it_is(tmp_path: Path) -> None:
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / ".gitignore").write_text("build/\nresults.jsonl\n")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    ended = {row["diff"].splitlines()[-1]: row["status"] for row in rows}
    assert ended == {
        "+    return (value >= 10)": "survived",
        "+    return (value <= 10)": "killed",
        "+    return (not (value > 10))": "killed",
        "+    return value > (10 + 1)": "survived",
        "+    return value > (10 - 1)": "survived",
        "+    return value > 11": "survived",
        "+    return value > 9": "survived",
        "+    return (value + 1)": "survived",
        "+    return value - 2": "survived",
        "+    return value - 0": "survived",
    }
    killed = next(row for row in rows if row["status"] == "killed")
    assert killed["test"] == "tests/test_number.py::test_far_from_the_limit"
    assert {name: (tmp_path / name).read_text() for name in PROJECT} == PROJECT


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ({"code": 0}, "survived"),
        ({"code": 1, "test": "a"}, "killed"),
        ({"code": 1, "timed_out": True}, "timed out"),
        ({"code": None}, "timed out"),
        ({"code": -11}, "killed"),
        ({"code": 2}, "not imported"),
        ({"code": 4}, "not imported"),
        ({"code": 3}, "error"),
        ({"code": 5}, "error"),
    ],
)
def test_end_of_a_test_run_is_named(result: dict[str, object], status: str) -> None:
    assert status_of(result) == status


def test_survivors_that_are_listed_as_equivalent_are_not_counted() -> None:
    rows = [
        {"path": "a.py", "diff": "-x\n+y", "status": "survived"},
        {"path": "b.py", "diff": "-x\n+y", "status": "survived"},
        {"path": "b.py", "diff": "-x\n+z", "status": "killed"},
        {"path": "b.py", "diff": "-x\n+w", "status": "not executed"},
    ]
    counts, survivors = summarise(rows, [{"path": "a.py", "diff": "-x\n+y\n", "reason": "the same"}])
    assert counts == {"equivalent": 1, "survived": 1, "killed": 1, "not executed": 1}
    assert [row["path"] for row in survivors] == ["b.py", "b.py"]


def test_listed_equivalent_mutants_name_real_modules_and_lines_and_give_a_reason() -> None:
    for entry in equivalent():
        lines = (ROOT / entry["path"]).read_text().splitlines()
        removed = [line.removeprefix("-") for line in entry["diff"].strip().splitlines() if line.startswith("-")]
        assert removed and all(line in lines for line in removed), entry
        assert len(entry["reason"]) > 10


def test_files_that_are_named_exist() -> None:
    assert len(files_of_tests()) > 60
    assert all(isinstance(m, Mutant) for m in mutants_of("m.py", SOURCE.encode()))
