"""Spaces and records in Optuna's terms: the same for the search itself and for the view of it that people open.

An early-stopped trial is PRUNED with its steps, one that diverged, failed or ran out of memory FAIL, so that no sampler
takes a low-fidelity value for a final one.
"""

from __future__ import annotations

import math
import warnings
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
from orchestrator.sweep.space import drawn_settings

optuna.logging.set_verbosity(optuna.logging.WARNING)

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


def create_study(sweep: Sweep, sampler: BaseSampler | None = None, storage: BaseStorage | None = None) -> optuna.Study:
    """An empty study with the sweep's aims; named after it where it is stored."""
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
    """A record as a trial of an Optuna study, with the ids that join them."""
    state = STATES[record.status]
    params = drawn_settings(sweep, record.config)
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
    """A domain in Optuna's terms."""
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)
