"""Convert spaces and records to Optuna: for the search itself and for the study that Optuna's dashboard shows.

An early-stopped trial is PRUNED with its intermediate values; one that diverged, failed or ran out of memory is FAIL.
So no sampler takes a low-fidelity value for a final one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from orchestrator.records.schema import Status, TrialRecord
from orchestrator.search.objectives import directions, values
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.domains import Choice, Domain

STATES = {
    Status.PENDING: TrialState.WAITING,
    Status.RUNNING: TrialState.RUNNING,
    Status.INTERRUPTED: TrialState.WAITING,
    Status.FINISHED: TrialState.COMPLETE,
    Status.STOPPED: TrialState.PRUNED,
    Status.DIVERGED: TrialState.FAIL,
    Status.FAILED: TrialState.FAIL,
    Status.OUT_OF_MEMORY: TrialState.FAIL,
}


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna from logging every new study and trial; the process's own verbosity comes back afterwards."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def create_study(sweep: Sweep, sampler: BaseSampler | None = None, storage: BaseStorage | None = None) -> optuna.Study:
    """Create an empty study with the sweep's objectives, named after the sweep if it is stored."""
    with quiet_optuna():
        study = optuna.create_study(
            directions=directions(sweep),
            sampler=sampler,
            storage=storage,
            study_name=sweep.name if storage is not None else None,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([sweep.metric, *sweep.minimise])
    return study


def as_optuna(record: TrialRecord, sweep: Sweep) -> FrozenTrial:
    """Convert a record to a trial of an Optuna study; its user attributes lead back to the record."""
    state = STATES[record.status]
    params = sweep.search_space.cell_of(record.config)
    return optuna.create_trial(
        state=state,
        values=values(record, sweep) if state is TrialState.COMPLETE else None,
        params=params,
        distributions={path: distribution(sweep.space[path]) for path in params},
        intermediate_values={step: value for step, value in record.curve(sweep.metric) if math.isfinite(value)},
        user_attrs=_attributes(record),
    )


def _attributes(record: TrialRecord) -> dict[str, Any]:
    found: dict[str, Any] = {"trial_id": record.trial_id, "family": record.family, "status": str(record.status)}
    if record.status is Status.STOPPED:
        found["stopped_at"] = record.step
    if record.reason:
        found["reason"] = record.reason
    return found


def distribution(domain: Domain) -> BaseDistribution:
    """Convert an axis to Optuna's distribution."""
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)  # type: ignore[arg-type]  # a search has no lists
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1))
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
