"""Record complete grids of training curves, on which searches and stopping rules are replayed.

    python benchmarks/record_curves.py sudoku-6x6 --storage runs            # hours; repeat to resume
    python benchmarks/record_curves.py sudoku-6x6 --storage runs --list     # what is recorded and what is missing

A grid is recorded in parts, one sweep each, and each finished part is a Parquet file in benchmarks/curves/GRID/. Parts
that have their file are left out, so an interrupted recording, or one that moves to another machine, loses at most the
part that was running; in the same storage it loses nothing. One row is one trial that ran to its end:

- its settings, by the paper's letters (`T`, `n`, `N_sup`), with `aug`, `lr` and `seed`;
- `steps` and, for each of them, the validation scores of the averaged weights (`exact`, `cell`), of the raw weights
  (`raw_exact`, `raw_cell`), the training loss (`loss`) and the seconds of training until then (`seconds`);
- `final_exact` and `final_cell`: the score on 2,000 held-out puzzles with as many supervision steps as in training;
- `exact_at_4`, `exact_at_16`, `exact_at_64`: on the first 250 of them with so many supervision steps;
- `train_flops`, `num_parameters`, and the processor that ran it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator import Sweep, SweepStatus, TrialRecord, choice, configure, get_recipe, read_trials, run
from orchestrator.worker.provenance import processor
from trm_data.files import write_atomic

FOLDER = Path(__file__).parent / "curves"
DEPTHS = (4, 16, 64)
DEPTH_PUZZLES = 250
COLUMNS = {"exact": "exact_accuracy", "cell": "cell_accuracy", "raw_exact": "raw_exact_accuracy",
           "raw_cell": "raw_cell_accuracy", "seconds": "train_s"}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Describe a complete grid: the axes that make its parts, and those of every part."""

    recipe: str
    settings: Mapping[str, Any]
    parts: Mapping[str, tuple[Any, ...]]
    axes: Mapping[str, tuple[Any, ...]]

    def sweeps(self, name: str) -> Iterator[Sweep]:
        """Yield one sweep per part."""
        for values in product(*self.parts.values()):
            part = dict(zip(self.parts, values, strict=True))
            label = "-".join(f"{axis}{value:g}" for axis, value in part.items())
            base = configure(get_recipe(self.recipe), {**self.settings, **part})
            space = {axis: choice(*choices) for axis, choices in self.axes.items()}
            yield Sweep(name=f"{name}-{label}", base=base, space=space)


GRIDS = {
    "sudoku-6x6": Grid(
        recipe="sudoku-mini",
        settings={
            "ema": 0.99, "data.num_train": 500, "data.num_validation": 250, "data.num_test": 2000,
            "train.max_steps": 500, "runtime.evaluate_every": 25, "runtime.evaluate_puzzles": 250,
            "runtime.log_every": 25,
            "runtime.num_threads": 1, "runtime.checkpoint_every_s": 60,
        },
        parts={"aug": (1000, 10, 0), "lr": (2e-3, 5e-4, 1e-3, 4e-3)},
        axes={"T": (1, 2, 3), "n": (1, 2, 3), "N_sup": (1, 2, 4)},
    ),
}  # fmt: skip


def scores_by_depth(sweep: str, record: TrialRecord, storage: str) -> dict[str, float]:
    """Return the accuracy of a trial's last checkpoint at each of DEPTHS."""
    command = [sys.executable, "-m", "orchestrator.cli", "eval", f"{sweep}/{record.trial_id}", "--split", "test",
               "--max-puzzles", str(DEPTH_PUZZLES), "--vary", f"D={','.join(map(str, DEPTHS))}",
               "--storage", storage, "--json"]  # fmt: skip
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {f"exact_at_{depth}": row["metrics"]["exact_accuracy"] for depth, row in zip(DEPTHS, found, strict=True)}


def row_of(grid: Grid, record: TrialRecord, depths: Mapping[str, float]) -> dict[str, Any]:
    """Return the row of a finished trial."""
    assert record.result is not None
    model, config = record.config.model, record.config
    curves = {column: dict(record.curve(metric)) for column, metric in COLUMNS.items()}
    losses = dict(record.curve("loss", "train"))
    steps = sorted(curves["exact"])
    return {
        "T": model.cycles, "n": model.latent_steps, "N_sup": model.supervision_steps,
        "aug": config.data.num_augmentations, "lr": config.optimizer.lr, "seed": config.seed,
        "max_steps": config.train.max_steps, "trial": record.trial_id, "steps": steps,
        **{column: [curve[step] for step in steps] for column, curve in curves.items()},
        "loss": [losses.get(step) for step in steps],
        "final_exact": record.result.metrics["exact_accuracy"],
        "final_cell": record.result.metrics["cell_accuracy"],
        "items": record.result.items, **depths, "train_flops": record.result.train_flops,
        "num_parameters": record.result.num_parameters, "processor": processor(),
    }  # fmt: skip


def record(name: str, storage: str, slots: int) -> None:
    """Run the parts that are missing, one after the other, and write their files."""
    grid, folder = GRIDS[name], FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    for sweep in grid.sweeps(name):
        path = folder / f"{sweep.name}.parquet"
        if path.exists():
            continue
        outcome = run(sweep, storage=storage, tracking="none", max_concurrent=slots)
        if outcome.status is not SweepStatus.COMPLETE:
            raise SystemExit(f"{sweep.name}: {outcome}")
        rows = [row_of(grid, each, scores_by_depth(sweep.name, each, storage)) for each in read_trials(sweep, storage)]
        table = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), table, compression="zstd")
        write_atomic(path, table.getvalue().to_pybytes())
        print(f"{path.name}: {len(rows)} trials", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", choices=sorted(GRIDS))
    parser.add_argument("--storage", default="runs")
    parser.add_argument("--slots", type=int, default=os.cpu_count() or 1, help="trials at once")
    parser.add_argument("--list", action="store_true", help="show which parts are recorded, and run nothing")
    options = parser.parse_args()
    if not options.list:
        return record(options.grid, options.storage, options.slots)
    for sweep in GRIDS[options.grid].sweeps(options.grid):
        recorded = (FOLDER / options.grid / f"{sweep.name}.parquet").exists()
        print(f"{'recorded' if recorded else 'missing ':8}  {sweep.name}")
    return None


if __name__ == "__main__":
    main()
