"""Commands whose output nobody reads any more."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.program import PROGRAM, TINY, Program


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def run_until_closed(program: Program, *words: str, lines: int, stream: str = "stderr") -> int:
    """Run the program, close its output after so many lines, and return its exit code."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: subprocess.PIPE}
    process = subprocess.Popen([PROGRAM, *words], cwd=program.folder, env=program.environment, **pipes)
    reader = process.stdout if stream == "stdout" else process.stderr
    assert reader is not None
    for _ in range(lines):
        reader.readline()
    reader.close()
    return process.wait()


def test_sweep_goes_on_without_a_reader(program: Program) -> None:
    sweep = ["sweep", "run", *TINY, "--vary", "n=1,2", "--max-steps", "40", "--name", "s", "--tracking", "none"]
    assert run_until_closed(program, *sweep, "--gpu", "none", lines=1) == 0
    assert "2 of 2" in program.run("sweep", "status", "s", code=0)
    ends = list(program.folder.glob("runs/sweeps/s/trials/*/result.json"))
    assert len(ends) == 2 and not list(program.folder.glob("runs/sweeps/s/lock.json"))
    # Complete already: the exit code says so, whoever reads.
    assert run_until_closed(program, "sweep", "resume", "s", "--tracking", "none", lines=0) == 0
    for words in (["sweep", "logs", "s"], ["sweep", "logs", "s", "--follow"], ["sweep", "logs", "s", "--json"]):
        assert run_until_closed(program, *words, lines=0, stream="stdout") == 0
