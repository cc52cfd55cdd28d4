"""Execute the notebook of the documentation in an empty folder, and write it again with its output.

python docs/notebook.py [FILE]
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent / "notebook.ipynb"


def execute(target: Path) -> None:
    """Execute the notebook and write it with its output. Raises CellExecutionError if a cell fails."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")  # a kernel that crashes says where, on standard error
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": folder}}, record_timing=False).execute()
    text = nbformat.writes(notebook).replace(folder, "~/puzzles")
    target.write_text(text + "\n")


if __name__ == "__main__":
    execute(Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOK)
