"""Replay a stopping rule on complete recorded curves, and return the time that it saves and the score that it loses.

    curves = list(recorded(read_trials(storage, "demo")))
    replay(curves, Stopping(rule="halving", grace=0.4), slots=2).regret

Trials start in the order given, `slots` at once, and take their recorded time. At each evaluation a trial is judged
against the curves of the others up to that moment, by the function that judges real trials.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from orchestrator.records.schema import Status, TrialRecord
from orchestrator.search.early_stopping import Rung, decide
from orchestrator.search.planner import rungs_of
from orchestrator.sweep.definition import Stopping


@dataclass(frozen=True, slots=True)
class Curve:
    """Hold the curve of a trial that ran to its end."""

    name: str
    max_steps: int
    rungs: tuple[Rung, ...]
    seconds: tuple[float, ...]
    """Training time until each rung."""
    final: float
    """The final score."""


class Replay(NamedTuple):
    """Hold the outcome of one rule on one order of trials."""

    regret: float
    """Final score of the best trial minus that of the best one that was not stopped."""
    saved: float
    """Share of the training time that the rule saves."""
    saved_s: float
    stopped: tuple[str, ...]


def recorded(records: Iterable[TrialRecord]) -> Iterator[Curve]:
    """Yield the curves of the finished trials."""
    for record in records:
        rungs = rungs_of(record)
        times = dict(record.curve("train_s"))
        if record.status is Status.FINISHED and record.result and rungs and all(rung.step in times for rung in rungs):
            yield Curve(
                name=f"{record.family} seed={record.config.seed}",
                max_steps=record.config.train.max_steps,
                rungs=tuple(rungs),
                seconds=tuple(times[rung.step] for rung in rungs),
                final=float(record.result.metrics["exact_accuracy"]),
            )


def dump_curves(curves: Iterable[Curve]) -> str:
    """Write one JSON line per curve."""
    return "".join(json.dumps(asdict(curve)) + "\n" for curve in curves)


def parse_curves(text: str) -> list[Curve]:
    """Parse the output of `dump_curves`."""
    found = []
    for line in text.splitlines():
        values = json.loads(line)
        values["rungs"] = tuple(Rung(*rung) for rung in values["rungs"])
        values["seconds"] = tuple(values["seconds"])
        found.append(Curve(**values))
    return found


def replay(curves: Sequence[Curve], rule: Stopping, slots: int) -> Replay:
    """Replay the trials under a rule, in the order given. Raises ValueError without curves."""
    if not curves:
        raise ValueError("nothing to replay")
    seen: dict[int, list[Rung]] = {}
    stopped: set[int] = set()
    saved_s = 0.0
    waiting = iter(range(len(curves)))
    running: list[tuple[float, int, int]] = []  # (time of the next rung, trial, rung): ties go to the earlier trial

    def start(now_s: float) -> None:
        index = next(waiting, None)
        if index is not None:
            heapq.heappush(running, (now_s + curves[index].seconds[0], index, 0))

    for _ in range(slots):
        start(0.0)
    while running:
        now_s, index, position = heapq.heappop(running)
        curve = curves[index]
        seen.setdefault(index, []).append(curve.rungs[position])
        others = {str(other): rungs for other, rungs in seen.items() if other != index}
        if decide(rule, curve.max_steps, seen[index], others).stop:
            stopped.add(index)
            saved_s += curve.seconds[-1] - curve.seconds[position]
            start(now_s)
        elif position + 1 == len(curve.rungs):
            start(now_s)
        else:
            step_s = curve.seconds[position + 1] - curve.seconds[position]
            heapq.heappush(running, (now_s + step_s, index, position + 1))
    kept = [curve.final for index, curve in enumerate(curves) if index not in stopped]
    total_s = sum(curve.seconds[-1] for curve in curves)
    best = max(curve.final for curve in curves)
    return Replay(
        regret=best - max(kept, default=0.0),
        saved=saved_s / total_s,
        saved_s=saved_s,
        stopped=tuple(curves[index].name for index in sorted(stopped)),
    )
