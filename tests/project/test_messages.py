"""Messages name only what exists: no file of the repository that a wheel lacks, and no extra of a package index."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from orchestrator.sweep.packaged import packaged_sweeps

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"\b(?:sweeps|infra|docs|benchmarks)/[\w./-]*\.(?:py|ya?ml|md|csv|txt|sbatch|sh|json)\b")
COMMAND = re.compile(r"\btrm sweep (?:run|plan) (?!--)(\S+)")


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a module that may be printed: all but docstrings, and those too where they are the help of `trm`."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    is_help = path.is_relative_to(ROOT / "orchestrator/cli/commands")
    silent = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(body := getattr(node, "body", None), list)
        for statement in body
        if isinstance(statement, ast.Expr) and not (is_help and isinstance(node, documented[2:]))
    }
    named = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "project_file"
        for argument in node.args
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent | named:
            yield node.lineno, node.value


def all_strings() -> list[tuple[str, str]]:
    folders = [ROOT / name for name in ("orchestrator", "trm_model", "datasets/trm_data")]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py")) if "scaffold" not in path.parts]
    return [(f"{path.relative_to(ROOT)}:{line}", text) for path in paths for line, text in strings(path)]


def test_messages_name_no_file_that_a_wheel_lacks_and_no_extra() -> None:
    found = [(where, text) for where, text in all_strings() if FILE.search(text) or "trm-orchestrator[" in text]
    assert not found, "name a packaged sweep, use project_file(), or name the packages to install"


def test_sweeps_that_messages_name_are_packaged_or_files_of_the_user() -> None:
    named = [(where, word.rstrip("`.")) for where, text in all_strings() for word in COMMAND.findall(text)]
    words = {word for _, word in named}
    assert {"demo", "table1"} <= words
    unknown = [(where, word) for where, word in named if word not in {*packaged_sweeps(), "plan.jsonl", "FILE", "NAME"}]
    assert not unknown


def test_files_that_messages_name_exist() -> None:
    sources = [path.read_text() for path in sorted((ROOT / "orchestrator").rglob("*.py"))]
    named = {name for text in sources for name in re.findall(r"project_file\(['\"]([^'\"]+)['\"]\)", text)}
    assert named and all((ROOT / name).is_file() for name in named)
