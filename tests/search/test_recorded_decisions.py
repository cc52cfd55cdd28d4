"""Stopping decisions on made-up curves, and the order of a random search, are those of earlier versions."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.records.schema import Status
from orchestrator.search.early_stopping import Rung, decide
from orchestrator.search.planner import Planner
from orchestrator.sweep import choice, log_uniform, uniform
from orchestrator.sweep.definition import Stopping
from tests.support.recorded import compare
from tests.support.sweeps import fingerprint, record_of, search

RULES = {
    "halving": Stopping(rule="halving", grace=0.2),
    "halving, a quarter": Stopping(rule="halving", grace=0.1, keep=0.25),
    "median": Stopping(rule="median", grace=0.2),
    "patience": Stopping(rule="patience", grace=0.2, patience=0.3),
    "none": Stopping(rule="none"),
}
STEPS = 1000


def curve(trial: int, items: int) -> list[Rung]:
    """A curve that is flat and then jumps, early or late, high or low; every fifth falls in the end."""
    jump, height, cells = 200 + 97 * (trial * 7 % 11), 0.05 + 0.09 * (trial * 5 % 10), 0.3 + 0.02 * (trial * 3 % 13)
    rungs = []
    for step in range(50, STEPS + 1, 50):
        share = height / (1 + math.exp((jump - step) / 40))
        if trial % 5 == 0 and step > 800:
            share *= 0.8
        exact = round(share * items) / items
        rungs.append(Rung(step, exact, min(1.0, cells + 0.0002 * step + 0.5 * share), items))
    return rungs


def test_decisions_to_stop_are_as_recorded() -> None:
    found: dict[str, Any] = {}
    for name, rule in RULES.items():
        for items in (64, 1000):
            curves = {f"trial {number}": curve(number, items) for number in range(16)}
            seen: dict[str, list[Rung]] = {trial: [] for trial in curves}
            stopped: dict[str, list[Any]] = {}
            for place in range(STEPS // 50):
                for trial, rungs in curves.items():
                    if trial in stopped:
                        continue
                    seen[trial].append(rungs[place])
                    others = {other: known for other, known in seen.items() if other != trial}
                    decision = decide(rule, STEPS, seen[trial], others)
                    if decision.stop:
                        stopped[trial] = [rungs[place].step, decision.reason]
            found[f"{name}, {items} puzzles"] = stopped
    compare("decisions", found)


def test_a_random_search_is_as_recorded() -> None:
    """Every fifth trial fails."""
    space = {"T": choice(1, 2, 3), "lr": log_uniform(1e-4, 1e-2), "optimizer.weight_decay": uniform(0.0, 1.0)}
    planner, found = Planner(search(space=space, trials=12, sampler="random"), fingerprint, []), []
    while (trial := planner.next()) is not None:
        config = trial.config
        found.append([trial.trial_id, trial.stage, trial.family, config.seed, config.model.cycles])
        found[-1] += [config.optimizer.lr, config.optimizer.weight_decay]
        value = 1 / (2 + abs(math.log10(config.optimizer.lr) + 3)) * config.model.cycles / 3
        planner.ended(record_of(trial, Status.FAILED if len(found) % 5 == 0 else Status.FINISHED, value=value))
    compare("search", {"trials": found})
