"""The examples of the documentation run as they are written, and every name that they import exists."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from trm_data.own_code import distrust_all

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, heading: str | None = None) -> list[str]:
    """The Python examples of a page, or of one of its sections."""
    text = (DOCS / page).read_text()
    if heading is not None:
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no example under {heading!r}"
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of an example, with the recursion file of docs/model.md."""
    distrust_all()
    [code] = [block for block in blocks("model.md") if "class SeesInputTwice" in block]
    (tmp_path / "seen_twice.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "seen_twice", raising=False)
    return tmp_path


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md") if "```python" in path.read_text()))
def test_names_that_examples_import_exist(page: str, folder: Path) -> None:
    for block in blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page}: {node.module}.{alias.name}"


@pytest.mark.parametrize(
    ("page", "heading", "written"),
    [
        ("data.md", "Use from Python", "puzzle.png"),
        ("model.md", "Use from Python", "checkpoints"),
        ("model.md", "Settings select the member of the family", "seen_twice.py"),
        ("python.md", "A recursion of your own", "seen_twice.py"),
    ],
)
def test_example_runs(page: str, heading: str, written: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "example"}
    for block in blocks(page, heading):
        exec(compile(block, f"{page}, {heading}", "exec"), names)
    assert (folder / written).exists()
    assert capsys.readouterr().out.strip()


def test_cells_are_encoded_as_the_documentation_says(folder: Path) -> None:
    import numpy as np

    from trm_data import DataRequest, build
    from trm_data.puzzles.kinds import kind_of

    dataset = build(DataRequest(benchmark="sudoku-4x4", num_train=8), folder)
    puzzle, solution = (kind_of("sudoku").write(cells[0], 4) for cells in (dataset.inputs, dataset.labels))
    codes = {".": 1, **{str(digit): digit + 1 for digit in range(1, 5)}}
    for text, cells in ((puzzle, dataset.inputs[0]), (solution, dataset.labels[0])):
        assert [codes[letter] for row in text for letter in row] == np.asarray(cells).tolist()
