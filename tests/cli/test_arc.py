"""Real ARC-AGI-1 from the command line: built, drawn, and trained on for two steps on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TRM = [sys.executable, "-c", "from orchestrator.cli import main; main()"]


def trm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TRM, *arguments], capture_output=True, text=True)


def test_arc_agi_1_builds_draws_and_trains(tmp_path: Path) -> None:
    storage = ["--storage", str(tmp_path)]
    built = json.loads(trm("data", "build", "arc-agi-1", *storage, "--json").stdout)
    assert built["generated"] is False and built["counts"]["test"] == 400
    assert built["counts"]["train"] == 800, "400 training tasks, and the demonstrations of the 400 evaluation tasks"
    picture = tmp_path / "task.png"
    done = trm("data", "show", "arc-agi-1", "--puzzle", "007bbfb7", "--out", str(picture), *storage)
    assert done.returncode == 0 and picture.read_bytes().startswith(b"\x89PNG")
    # The recipe's width and its 1000 augmentations need minutes on two cores: `make test-slow` runs it as it is.
    small = ["--set", "model.hidden_size=64", "--set", "aug=2", "--set", "model.supervision_steps=2"]
    steps = ["--set", "train.batch_size=2", "--set", "train.max_steps=2"]
    done = trm(
        "train", "--recipe", "arc-agi-1", *small, *steps, "--set", "evaluation.max_puzzles=2", *storage, "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] == 2 and result["split"] == "test"
