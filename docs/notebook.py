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
from traitlets.config import Config

NOTEBOOK = Path(__file__).parent / "notebook.ipynb"


def execute(target: Path) -> None:
    """Execute the notebook and write it with its output. Raises CellExecutionError if a cell fails."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")  # a kernel that crashes says where, on standard error
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as sockets:
        # Sockets in a folder: a kernel dies if another process takes one of its ports before it listens there.
        kernel = {"transport": "ipc", "connection_file": f"{sockets}/kernel.json"}
        limits = {"timeout": 1200, "startup_timeout": 600}
        where = {"resources": {"metadata": {"path": folder}}, "config": Config(KernelManager=kernel)}
        NotebookClient(notebook, record_timing=False, **limits, **where).execute()
    text = nbformat.writes(notebook).replace(folder, "~/puzzles")
    target.write_text(text + "\n")


if __name__ == "__main__":
    execute(Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOK)
