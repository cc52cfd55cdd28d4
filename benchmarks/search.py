"""Compare what parallel trials and early stopping each save: the same 12 configurations, run three ways in one go.

    python benchmarks/search.py            # about ten minutes on two cores

one by one: every configuration to its end, one after the other, each in a fresh process of the same trainer; no Ray.
together: a search over the same configurations, as many at once as there are slots, to their ends.
stopped: the same search with the default early stopping.

Each way chooses the configuration that is best on validation. A search then runs it once more with a fresh seed, scored
on the test split; the grid was scored there as it went. `train_s` is the sum over trials; `wall_s` counts from the
first start to the last end, without building the dataset (which all share) and without that last run.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prediction import run_cells

from orchestrator.execution.run import run_sweep
from orchestrator.records.datasets import provide
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.storage import LocalStorage
from orchestrator.sweep import Confirm, Stopping, Sweep, choice, configure
from orchestrator.tracking.mlflow_view import ended_s
from trm_model.recipes import get_recipe

SMALL = {
    "lr": 2e-3, "ema": 0.99, "aug": 1000, "data.num_train": 500, "data.num_validation": 500, "data.num_test": 500,
    "runtime.num_threads": 1,
}  # fmt: skip
SPACE = {"T": choice(1, 2), "n": choice(1, 2, 3), "N_sup": choice(2, 4)}


def search_of(steps: int, rule: str) -> Sweep:
    """Return a search over all 12 configurations, in the sampler's order; then the best one again."""
    base = configure(
        get_recipe("sudoku-mini"), {**SMALL, "train.max_steps": steps, "runtime.evaluate_every": steps // 10}
    )
    return Sweep(
        name=rule, kind="search", base=base, space=SPACE, trials=12, sampler="random",
        stopping=Stopping(rule=rule), confirm=Confirm(top=1, seeds=1),
    )  # fmt: skip


def final(record: TrialRecord) -> float:
    """Return the validation exact accuracy at the end of the curve."""
    return record.curve("exact_accuracy")[-1][1]


def summary(records: Sequence[TrialRecord], slots: int) -> dict[str, Any]:
    """Summarise the trials from which a choice was made."""
    finished = [record for record in records if record.status is Status.FINISHED]
    best = max(finished, key=final)
    starts = [attempt.start.started_s for record in records for attempt in record.attempts]
    ends = [ended_s(record) for record in records]
    steps = sum(record.step for record in records)
    return {
        "slots": slots,
        "trials": len(records),
        "stopped": len(records) - len(finished),
        "wall_s": round(max(ends) - min(starts), 1),
        "train_s": round(sum(record.curve("train_s", "train")[-1][1] for record in records), 1),
        "steps": steps,
        "chosen": best.family,
        "validation": round(100 * final(best), 1),
    }


def one_by_one(steps: int, storage: LocalStorage) -> dict[str, Any]:
    """Run the grid in a loop."""
    base = search_of(steps, "none").base
    sweep = Sweep(name="one-by-one", base=base, space=SPACE, seeds=1)
    run_cells(sweep, storage)
    records = read_trials(storage, sweep.name)
    best = max(records, key=final).result
    assert best is not None, "every trial of the grid finished"
    return {**summary(records, 1), "test": round(100 * best.metrics["exact_accuracy"], 1)}


def searched(rule: str, steps: int, storage: LocalStorage) -> dict[str, Any]:
    """Run the same cells under the orchestrator."""
    sweep = search_of(steps, rule)
    run_sweep(sweep, storage)
    records = read_trials(storage, sweep.name)
    found = summary([record for record in records if record.stage == "explore"], os.cpu_count() or 1)
    confirmed = [record.result for record in records if record.stage == "confirm" and record.result]
    return {**found, "test": round(100 * confirmed[0].metrics["exact_accuracy"], 1)}


WAYS: dict[str, Callable[[int, LocalStorage], dict[str, Any]]] = {
    "one by one": one_by_one,
    "together": partial(searched, "none"),
    "stopped": partial(searched, "halving"),
}


def measured(way: str, steps: int, storage: LocalStorage) -> dict[str, Any]:
    """Measure one way, and print a line."""
    started = time.perf_counter()
    found = WAYS[way](steps, storage)
    print(json.dumps({"way": way, **found, "all_s": round(time.perf_counter() - started, 1)}), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="fewer than all give no gains")
    parser.add_argument("--storage", type=Path, help="keep the records here, for benchmarks/stopping.py say")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = LocalStorage(options.storage or Path(folder))
        provide(storage, search_of(options.steps, "none").base.data.request())
        found = {way: measured(way, options.steps, storage) for way in options.ways}
    if len(found) < len(WAYS):
        return
    wall = {name: each["wall_s"] for name, each in found.items()}
    print(json.dumps({
        "gain_of_parallelism": round(wall["one by one"] / wall["together"], 2),
        "gain_of_stopping": round(wall["together"] / wall["stopped"], 2),
        "training_saved": round(1 - found["stopped"]["train_s"] / found["together"]["train_s"], 3),
        "load": round(os.getloadavg()[0], 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
