"""The notebook of the documentation runs, and the output that is committed with it is of the kind that it prints."""

from __future__ import annotations

import json
import socket
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


CLASH = """
import runpy, sys
from pathlib import Path
import nbformat
from jupyter_client.connect import LocalPortCache

LocalPortCache.find_available_port = lambda self, ip: int(sys.argv[3])
one_cell = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("6 * 7")])
nbformat.read = lambda *_, **__: one_cell
runpy.run_path(sys.argv[1])["execute"](Path(sys.argv[2]))
"""


def test_kernel_needs_no_port_that_another_process_may_have_taken(tmp_path: Path) -> None:
    """Ports are chosen before the kernel starts, which then dies if one of them is in use."""
    target = tmp_path / "notebook.ipynb"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        arguments = [str(ROOT / "docs" / "notebook.py"), str(target), str(taken.getsockname()[1])]
        done = subprocess.run([sys.executable, "-c", CLASH, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"42"' in target.read_text()
