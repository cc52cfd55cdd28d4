"""Define the objectives of a search: a metric to maximise and, if there are several, costs to minimise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from orchestrator.errors import SweepError
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.resources.usage import trial_usd
from orchestrator.sweep import pareto
from orchestrator.sweep.definition import Sweep


def final_value(record: TrialRecord, metric: str) -> float:
    """Return the final score of a finished trial, else the last value of its curve (minus infinity if there is none).

    Raises:
        SweepError: a finished trial does not measure `metric`.
    """
    if record.result is not None:
        metrics = record.result.metrics
        if metric not in metrics:
            raise SweepError(f"trials do not measure {metric!r}", f"Known: {', '.join(sorted(metrics))}")
        return float(metrics[metric])
    curve = record.curve(metric)
    return curve[-1][1] if curve else float("-inf")


def final_cost(record: TrialRecord, cost: str) -> float:
    """Return what a finished trial took: `train_flops`, `train_s` or `num_parameters` of its result, or `usd`.

    Raises:
        SweepError: the catalogue has no price for the GPU that it ran on.
    """
    assert record.result is not None, "only finished trials are compared"
    if cost != "usd":
        return float(getattr(record.result, cost) or 0.0)
    usd = trial_usd(record)
    if usd is None:
        raise SweepError(
            f"trial {record.trial_id} ran where an hour has no price in the catalogue",
            "Weigh 'train_flops' or 'train_s' instead of 'usd'",
        )
    return usd


def values(record: TrialRecord, sweep: Sweep) -> list[float]:
    """Return the metric and the costs of a finished trial, in the order of `directions`."""
    return [final_value(record, sweep.metric), *(final_cost(record, cost) for cost in sweep.minimise)]


def directions(sweep: Sweep) -> list[Literal["minimize", "maximize"]]:
    """Return Optuna's direction of each of `values`."""
    costs: list[Literal["minimize", "maximize"]] = ["minimize" for _ in sweep.minimise]
    return ["maximize", *costs]


def best(records: Sequence[TrialRecord], sweep: Sweep, count: int) -> list[TrialRecord]:
    """Return what a search confirms: the best finished trials, or with several objectives its Pareto front.

    A front that is longer than `count` is thinned evenly, its two ends stay.
    """
    finished = [record for record in records if record.status is Status.FINISHED]
    if not sweep.minimise:
        return sorted(finished, key=lambda record: _merit(record, sweep))[:count]
    front = sorted(pareto_front(finished, sweep), key=lambda record: _merit(record, sweep))
    if len(front) <= count:
        return front
    return [front[round(index * (len(front) - 1) / max(1, count - 1))] for index in range(count)]


def _merit(record: TrialRecord, sweep: Sweep) -> tuple[float, float, float, str]:
    """Return a sort key, smaller is better; ties go to the better cell accuracy, then to the cheaper trial."""
    result = record.result
    cell = result.metrics.get("cell_accuracy", 0.0) if result else 0.0
    flops = (result.train_flops or 0.0) if result else 0.0
    return (-final_value(record, sweep.metric), -cell, flops, record.trial_id)


def pareto_front(finished: Sequence[TrialRecord], sweep: Sweep) -> list[TrialRecord]:
    """Return the trials that no other trial equals or beats in every objective and beats in at least one."""
    losses = [[-metric, *costs] for metric, *costs in (values(record, sweep) for record in finished)]
    return [finished[index] for index in pareto.pareto_front(losses)]
