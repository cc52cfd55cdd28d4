"""Measure what each stopping rule saves and loses on recorded curves: regret and training time, over permuted
orders.

    python benchmarks/stopping.py                                  # the curves in benchmarks/curves/
    python benchmarks/stopping.py --storage runs --sweep demo      # the finished trials of a sweep of one's own
    python benchmarks/stopping.py --storage runs --sweep demo --write benchmarks/curves/demo.jsonl

Regret is the final validation score of the best trial minus that of the best trial that a rule let finish: 0 means that
the rule did not lose the best configuration.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from pathlib import Path
from typing import Any

from orchestrator.records.reader import read_trials
from orchestrator.search.replay import Curve, dump_curves, parse_curves, recorded, replay
from orchestrator.storage import open_storage
from orchestrator.sweep import Stopping

CURVES = Path(__file__).parent / "curves"
RULES = {
    "none": Stopping(rule="none"),
    "halving": Stopping(rule="halving"),
    "halving, grace 0.5, keep 0.75": Stopping(rule="halving", grace=0.5, keep=0.75),
    "halving, grace 0.4": Stopping(rule="halving", grace=0.4),
    "halving, grace 0.1": Stopping(rule="halving", grace=0.1),
    "median": Stopping(rule="median", grace=0.4),
    "patience": Stopping(rule="patience"),
    "patience, a tenth of the run": Stopping(rule="patience", grace=0.4, patience=0.1),
}
"""The defaults (grace 0.6, keep 0.5), and how much earlier one may judge."""


def judge(curves: list[Curve], rule: Stopping, slots: int, repeats: int) -> dict[str, Any]:
    """Return means over orders of the trials; every rule gets the same orders."""
    found = []
    for seed in range(repeats):
        order = list(curves)
        random.Random(seed).shuffle(order)
        found.append(replay(order, rule, slots))
    return {
        "regret_mean": round(statistics.fmean(each.regret for each in found), 4),
        "regret_worst": round(max(each.regret for each in found), 4),
        "best_lost": sum(each.regret > 0 for each in found),
        "saved_share": round(statistics.fmean(each.saved for each in found), 3),
        "saved_hours": round(statistics.fmean(each.saved_s for each in found) / 3600, 3),
        "stopped_mean": round(statistics.fmean(len(each.stopped) for each in found), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage")
    parser.add_argument("--sweep")
    parser.add_argument("--write", type=Path, help="keep the curves of --sweep in a file")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    if options.sweep:
        records = read_trials(open_storage(options.storage or "runs"), options.sweep)
        sets = {options.sweep: list(recorded(record for record in records if record.stage != "confirm"))}
    else:
        sets = {file.stem: parse_curves(file.read_text()) for file in sorted(CURVES.glob("*.jsonl"))}
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text(dump_curves(next(iter(sets.values()))))
    for name, curves in sets.items():
        scores = sorted((curve.final for curve in curves), reverse=True)
        print(json.dumps({"curves": name, "trials": len(curves), "slots": options.slots, "repeats": options.repeats,
                          "scores": [round(score, 3) for score in scores]}))  # fmt: skip
        for label, rule in RULES.items():
            print(json.dumps({"rule": label, **judge(curves, rule, options.slots, options.repeats)}))


if __name__ == "__main__":
    main()
