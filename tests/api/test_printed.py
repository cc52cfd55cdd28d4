"""What `print` shows of the objects that Python code gets: a few short lines."""

from __future__ import annotations

from pathlib import Path

from orchestrator import Confirm, Stopping, Sweep, Variant, choice, log_uniform, plan, status, train
from orchestrator.execution.options import RunOptions
from orchestrator.execution.run import run_sweep
from orchestrator.storage import open_storage
from tests.support.execution import FakeCluster, StandIn
from tests.support.sweeps import tiny_config

LONGEST_LINE = 120


def shown(printed: object) -> list[str]:
    """The lines of an object, all of which are short."""
    lines = str(printed).splitlines()
    assert max(map(len, lines)) <= LONGEST_LINE
    return lines


def study(values: int = 2) -> Sweep:
    space = {"T": choice(*range(1, values + 1))}
    return Sweep(name="depth", base=tiny_config(), space=space, seeds=2)


def test_sweep_is_printed_with_its_space_seeds_and_controls() -> None:
    assert shown(study()) == [
        "depth (study), equal steps, base sudoku-mini", "  T in 1, 2", "  2 seeds per cell",
    ]  # fmt: skip
    search = Sweep(
        name="rates",
        kind="search",
        base=tiny_config(),
        space={"lr": log_uniform(1e-4, 1e-2)},
        trials=1,
        stopping=Stopping(rule="none"),
        confirm=Confirm(controls=(Variant(name="deep", settings={"T": 3}),)),
    )
    assert shown(search)[1:] == [
        "  lr from 0.0001 to 0.01 (log)",
        "  controls: deep",
        "  1 trial by tpe for exact accuracy",
        "  confirmed: 1 best and controls, 3 seeds each",
    ]


def test_estimate_is_printed_as_a_table_of_at_most_sixteen_cells(tmp_path: Path) -> None:
    lines = shown(plan(study(), tmp_path))
    assert lines[0] == "depth (study): 4 trials, equal steps"
    assert lines[1].split() == ["cell", "steps", "PFLOP", "memory", "does", "not", "fit"]
    assert [line.split()[0] for line in lines[2:4]] == ["T=1", "T=2"]
    assert "concurrent trials: " in lines[4] and lines[5].startswith("estimated time: ")
    many = shown(plan(study(20), tmp_path))
    assert "... and 4 more" in many and len(many) < 25


def test_outcome_and_state_are_printed_with_a_row_per_trial(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    tune = StandIn(lambda *_: "finish")
    outcome = run_sweep(study(), storage, RunOptions(), cluster=FakeCluster(), execute=tune.fit)
    lines = shown(outcome)
    assert lines[0] == "depth: complete, 4 of 4 trials done"
    assert lines[1].split() == ["stage", "configuration", "seed", "status", "step", "exact", "accuracy"]
    assert len(lines) == 6 and all(" finished " in line for line in lines[2:])
    lines = shown(status("depth", storage))
    assert lines[0] == "depth (study) is complete: 4 of 4 trials done (4 finished)"
    assert len(lines) == 6 and all(line.endswith(" %") for line in lines[2:])


def test_outcome_of_a_training_is_printed_with_its_scores(tmp_path: Path) -> None:
    outcome = train(tiny_config(), tmp_path, callbacks=())
    lines = shown(f"{outcome}".replace(str(tmp_path), "runs"))
    assert lines[0].startswith("finished at step ") and lines[2].startswith("record: runs/sweeps/train/trials/")
    assert lines[1].startswith("exact accuracy ") and lines[1].endswith(" of 16 validation puzzles")
