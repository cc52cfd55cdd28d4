"""Run a version of the program as a user does. Nothing of the packages is imported, so that any version can be run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = os.environ.get("TRM_PROGRAM", str(Path(sys.executable).with_name("trm")))
SETTINGS = {
    "data.benchmark": "sudoku-4x4",
    "data.blanks": 6,
    "data.num_train": 32,
    "data.num_validation": 16,
    "data.num_test": 16,
    "model.hidden_size": 16,
    "model.num_heads": 2,
    "model.cycles": 1,
    "model.latent_steps": 1,
    "train.batch_size": 8,
    "train.dtype": "float32",
}
TINY = ["--recipe", "sudoku-mini", *(word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}"))]


class Program:
    """Runs the program under test in a folder, with a home folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "home").mkdir()
        self.environment = {**os.environ, "HOME": str(folder / "home"), "COLUMNS": "200"}

    def run(self, *words: str, code: int | None = None) -> str:
        """Return what the program prints; check its exit code if one is given."""
        done = subprocess.run([PROGRAM, *words], cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def refuses(self, *words: str) -> str:
        """Check that the program ends with code 2 and one line, which is returned."""
        printed = self.run(*words, code=2)
        assert printed.count("\n") == 1 and "Traceback" not in printed, printed
        return printed

    def train(self, *more: str, code: int = 0) -> str:
        return self.run("train", *TINY, "--max-steps", "2", "--storage", "runs", *more, code=code)

    def only(self, pattern: str) -> Path:
        """The one file below the folder that matches."""
        (path,) = self.folder.rglob(pattern)
        return path

    def holds(self, word: str) -> list[Path]:
        """The files below the folder that contain a word."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return [path for path in files if word.encode() in path.read_bytes()]
