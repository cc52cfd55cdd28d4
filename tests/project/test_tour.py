"""The quick tour of the README, line by line in an empty folder: each command shows what its comment promises."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRM = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
NOT_RUN = ("source", "trm ui")
"""The environment is that of the tests; `tests/web` runs the servers."""


def commands() -> list[str]:
    """Return the commands of the tour, without their comments."""
    section = (ROOT / "README.md").read_text().partition("## Quick tour\n")[2].partition("\n## ")[0]
    block = section.partition("```bash\n")[2].partition("```")[0]
    lines = [line.partition(" #")[0].strip() for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(NOT_RUN)]


def percents(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"(\d+(?:\.\d+)?) %", text)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_tour_shows_something_worth_seeing(tmp_path: Path) -> None:
    shown: dict[str, str] = {}
    for command in commands():
        program, *arguments = shlex.split(command)
        assert program == "trm"
        done = subprocess.run(
            [*TRM, *arguments], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"}
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        shown[" ".join(arguments[:2])] = done.stdout
    assert "Ray" in shown["doctor"] and "torch" in shown["doctor"]
    assert "arc-agi-1" in shown["data build"] and "400" in shown["data build"]
    assert "007bbfb7" in shown["data show"] and (tmp_path / "arc-agi-1-007bbfb7.png").stat().st_size > 1000
    assert max(percents(shown["train --recipe"])) > 80
    votes = shown["eval train/last"]
    assert "votes=1" in votes and "votes=10" in votes and max(percents(votes)) > 90
    assert "17 trials" in shown["sweep plan"] and "nothing was started" in shown["sweep plan"]
    assert "complete: 4 finished" in shown["sweep run"]
    assert "4 of 4 trials done" in shown["sweep status"]
    best = [line for line in shown["leaderboard"].splitlines() if "this project" in line]
    assert len(best) == 2 and float(re.findall(r"\d+\.\d", best[0])[0]) > 80, shown["leaderboard"]
