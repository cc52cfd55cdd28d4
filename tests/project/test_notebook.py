"""The notebook of the documentation runs, and the output that is committed with it is of the kind that it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def shown(notebook: dict[str, Any]) -> list[list[str]]:
    """The kinds of output of every cell of code; what a progress bar leaves behind is empty."""
    outputs = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    data = [[output["data"] for output in cell if "data" in output] for cell in outputs]
    return [sorted(kind for one in cell if one.get("text/html") != [] for kind in one) for cell in data]


def test_notebook_runs_and_shows_what_is_committed(tmp_path: Path) -> None:
    target = tmp_path / "notebook.ipynb"
    command = [sys.executable, str(ROOT / "docs" / "notebook.py"), str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    executed, committed = (json.loads(path.read_text()) for path in (target, ROOT / "docs" / "notebook.ipynb"))
    assert shown(executed) == shown(committed)
    assert {"image/png", "image/svg+xml", "text/html"} <= {kind for cell in shown(executed) for kind in cell}
    assert '"complete\\n"' in target.read_text(), "what the sweep ended with"
    assert str(Path.home()) not in json.dumps(committed)
