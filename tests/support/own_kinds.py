"""The example of docs/how-to/own-puzzle-kind.md, as a file and as an installed package."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/how-to/own-puzzle-kind.md"
NAME = "latin.py:Latin"


def latin() -> str:
    """The text of the page's `latin.py`."""
    found = re.search(r'^```python title="latin.py"\n(.*?)^```', PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, "the page has no latin.py"
    return found[1]


def install(folder: Path, points: dict[str, str], version: str = "1.0") -> None:
    """Write a distribution `my-puzzles` that has these entry points; `folder` has to be on the path."""
    info = folder / f"my_puzzles-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: my-puzzles\nVersion: {version}\n")
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[trm.puzzle_kinds]\n{lines}")
