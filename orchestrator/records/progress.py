"""Compare a sweep with its plan, from its definition and its records.

`trm sweep status`, notifications, the watchdog and MLflow all use this module: records alone do not show whether a
sweep is complete, since trials that have not started have no record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from orchestrator.records.extend import current
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.sweep.definition import BEST_PREFIX, Sweep
from orchestrator.sweep.settings import replace_settings
from orchestrator.sweep.trials import count_explored, count_trials
from trm_model.config import TrialConfig


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """Hold the progress of a sweep, in trials."""

    planned: int
    """Trials that the sweep will have in the end."""
    done: int
    """Trials that have ended: finished, stopped early, or failed."""
    failed: int
    """Trials among `done` without a result: failed, diverged, or out of memory."""

    @property
    def left(self) -> int:
        """Return the number of trials that have not ended."""
        return self.planned - self.done

    @property
    def is_complete(self) -> bool:
        """Return whether no trial is left."""
        return self.left == 0

    def __str__(self) -> str:
        text = f"{self.done} of {self.planned} trials done"
        return f"{text}, {self.failed} failed" if self.failed else text


def sweep_progress(sweep: Sweep, records: Sequence[TrialRecord]) -> SweepProgress:
    """Compare the records of a sweep with its plan.

    Args:
        sweep: the recorded definition.
        records: its trials; those that an extension replaced by longer ones do not count.
    """
    known = current(sweep, records)
    done = [record for record in known if record.status.is_final]
    planned = _size_of_study(_key(sweep)) if sweep.kind == "study" else _size_of_search(sweep, known)
    return SweepProgress(
        planned=max(planned, len(known)),
        done=len(done),
        failed=sum(record.status.is_failure for record in done),
    )


def _key(sweep: Sweep) -> str:
    return json.dumps(sweep.plain(), sort_keys=True)


@lru_cache(maxsize=64)
def _size_of_study(definition: str) -> int:
    """Count the trials of a study. Cached, since watchdogs and notifications count every few seconds."""
    return count_trials(Sweep.from_record(json.loads(definition)))


def _size_of_search(sweep: Sweep, known: Sequence[TrialRecord]) -> int:
    explored = [record for record in known if record.stage == "explore"]
    num_explored = max(_most_explored(_key(sweep)), len(explored))
    confirm, top = sweep.confirm, sweep.confirm.top
    controls = [replace_settings(sweep.base, variant.settings) for variant in confirm.controls]
    repeated = 0
    if len(explored) == num_explored and all(record.status.is_final for record in explored):
        finished = [record for record in explored if record.status is Status.FINISHED]
        top = min(top, len(finished))
        if sweep.minimise:  # a Pareto front may hold fewer than `top`
            chosen = {record.family for record in known if record.stage == "confirm" and _is_best(record)}
            top = min(top, len(chosen)) if chosen else top
        repeated = _repeated(sweep, controls, finished, top)
    return num_explored + confirm.seeds * (len(controls) + top - repeated)


@lru_cache(maxsize=64)
def _most_explored(definition: str) -> int:
    return count_explored(Sweep.from_record(json.loads(definition)))


def _is_best(record: TrialRecord) -> bool:
    return record.family.startswith(BEST_PREFIX)


def _repeated(sweep: Sweep, controls: Sequence[TrialConfig], finished: Sequence[TrialRecord], top: int) -> int:
    """Count controls that are also among the best configurations: they run once."""
    if not controls or not top:
        return 0

    def value(record: TrialRecord) -> float:
        return record.result.metrics.get(sweep.metric, 0.0) if record.result else 0.0

    ranked = sorted(finished, key=value, reverse=True)
    best = ranked if sweep.minimise else ranked[:top]
    return sum(any(_is_same(control, record.config) for record in best) for control in controls)


def _is_same(control: TrialConfig, explored: TrialConfig) -> bool:
    """Return whether two configurations differ in nothing but what the confirm stage sets."""
    changes = {
        "seed": control.seed,
        "runtime": control.runtime,
        "recipe": control.recipe,
        "evaluation": explored.evaluation.model_copy(update={"split": control.evaluation.split}),
        "data": explored.data.model_copy(update={"train_splits": control.data.train_splits}),
    }
    return explored.model_copy(update=changes) == control


def format_counts(counts: Mapping[Status, int] | Mapping[str, int]) -> str:
    """Format numbers of trials by status as `3 finished, 1 out of memory`; empty if all are zero."""
    return ", ".join(f"{count} {str(status).replace('_', ' ')}" for status, count in counts.items() if count)
