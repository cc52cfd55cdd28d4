"""`--json` prints what a command found as JSON on standard output, and nothing else there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import orchestrator.cli
from orchestrator.cli.views.live import outcome_summary
from orchestrator.execution.options import SweepOutcome, SweepSnapshot, SweepStatus, TrialSnapshot
from orchestrator.records.progress import SweepProgress
from orchestrator.records.schema import Row, Status
from orchestrator.storage import open_storage
from orchestrator.storage.base import to_json_bytes
from tests.support.commands import call
from tests.support.tracking import SWEEP, finished, write_record
from trm_data.settings import strict_json

PRINTING = ("leaderboard", "baselines list", "data fingerprint", "data verify", "data list", "data build", "recipes")
PRINTING += ("doctor", "eval", "solve", "train", "checkpoint show", "trial show", "trial reproduce", "sweep plan")
PRINTING += ("ablate", "sweep run", "sweep resume", "sweep status", "sweep logs", "sweep prune", "track verify")


def test_every_command_that_prints_results_takes_json() -> None:
    surface = (Path(__file__).parents[1] / "golden/cli.txt").read_text().splitlines()
    for command in PRINTING:
        [line] = [line for line in surface if line.startswith(f"trm {command} -")]
        assert " --json" in line, command


def strict(text: str) -> Any:
    """Read JSON as parsers do that know no NaN."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nan, inf = float("nan"), float("inf")
    assert strict(strict_json({"a": [nan, (inf, 1.5)], "b": {"c": -inf, "d": 2}})) == {
        "a": [None, [None, 1.5]],
        "b": {"c": None, "d": 2},
    }
    storage = open_storage(str(tmp_path))
    rows = [Row(10, 2.0, "train", {"lm_loss": nan}), Row(10, 3.0, "validation", {"exact_accuracy": nan})]
    diverged = dataclasses.replace(finished(), rows=rows)
    storage.write("sweeps/depth/sweep.json", to_json_bytes(SWEEP.plain()))
    write_record(storage, diverged)
    for words in (("trial", "show", diverged.trial_id), ("sweep", "status", "depth"), ("sweep", "logs", "depth")):
        code, out, err = call(capsys, *words, "--json", "--storage", str(tmp_path))
        assert code == 0, err
        for text in out.splitlines() if words[1] == "logs" else [out]:
            strict(text)


def test_commands_print_json_through_one_function() -> None:
    folder = Path(orchestrator.cli.__file__).parent
    assert [str(file) for file in folder.rglob("*.py") if "json.dumps" in file.read_text()] == []


def test_results_are_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = ("--storage", str(tmp_path))
    code, out, _ = call(capsys, "data", "fingerprint", "sudoku-4x4", "--json", *storage)
    found = json.loads(out)
    assert code == 0 and set(found) == {"name", "fingerprint"}
    code, out, _ = call(capsys, "data", "verify", found["name"], "--json", *storage)
    assert code == 0 and json.loads(out) == {"name": found["name"], "problems": []}
    code, out, _ = call(capsys, "baselines", "list", "sudoku-extreme", "--json", *storage)
    rows = json.loads(out)
    assert code == 0 and {row["benchmark"] for row in rows} == {"sudoku-extreme"}
    code, out, _ = call(capsys, "leaderboard", "sudoku-extreme", "--json", *storage)
    [table, *_] = json.loads(out)
    assert code == 0 and table["benchmark"] == "sudoku-extreme" and table["entries"]


def test_outcome_of_a_sweep_is_plain_data() -> None:
    best = TrialSnapshot("abc", "explore", "T=2", 0, Status.FINISHED, 8, 8, 0.75)
    failed = TrialSnapshot("def", "explore", "T=1", 0, Status.FAILED, 3, 8, None)
    snapshot = SweepSnapshot("demo", "exact_accuracy", SweepProgress(4, 2, 1), (best, failed))
    outcome = SweepOutcome(SweepStatus.STOPPED, snapshot, "the disk is full", best, best_params={"model.cycles": 2})
    assert json.loads(json.dumps(outcome_summary(outcome))) == {
        "name": "demo",
        "status": "stopped",
        "reason": "the disk is full",
        "exit_code": 3,
        "counts": {"finished": 1, "failed": 1},
        "planned": 4,
        "done": 2,
        "failed": 1,
        "left": snapshot.progress.left,
        "best": {"trial_id": "abc", "family": "T=2", "exact_accuracy": 0.75},
        "best_params": {"model.cycles": 2},
    }
