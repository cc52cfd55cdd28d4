"""Admit trials by budget: start a trial only if spent + committed + estimated cost stays within the limits.

Near a limit, a trial starts only if the estimate says that it can finish; running trials are left alone. If an estimate
was wrong and a limit is exceeded, running trials are stopped after writing a checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from orchestrator.errors import SweepError
from orchestrator.records.schema import TrialRecord
from orchestrator.resources.estimate import sampled_cells
from orchestrator.resources.placement import KNOWN_TYPES, gpu_types
from orchestrator.resources.runtime import CPU, RuntimeModel, TrialCost
from orchestrator.resources.usage import UNITS, Spent, exceeded, spending
from orchestrator.sweep.budget import Budget
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.settings import replace_settings


class BudgetTracker:
    """Admit trials to a sweep with a budget. `wall_hours` is measured from the start of this driver.

    Args:
        clock: seconds, which must not step as the time of day does.
    """

    def __init__(
        self, budget: Budget, records: Iterable[TrialRecord], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.budget = budget
        self._records: dict[str, TrialRecord] = {}
        self._spent = spending([])
        for record in records:
            self._count(record)
        self._running: dict[str, tuple[TrialCost, float]] = {}
        self._clock = clock
        self._begun_s = clock()

    def check(self, trial_id: str, need: TrialCost) -> str | None:
        """Return why a trial must not start, or None if it may."""
        spent = self._spent
        running = [one for one, _ in self._running.values()]
        needed = {
            "trials": float(self._is_new(trial_id)),
            "gpu_hours": need.gpu_hours,
            "usd": need.usd,
            "wall_hours": need.hours,
        }
        taken = {
            "trials": spent.trials + sum(map(self._is_new, self._running)),
            "gpu_hours": spent.gpu_hours + sum(one.gpu_hours for one in running),
            "usd": spent.usd + sum(one.usd for one in running),
            "wall_hours": self._hours_since(self._begun_s),
        }
        for name, unit in UNITS.items():
            limit = getattr(self.budget, name)
            if limit is not None and taken[name] + needed[name] > limit * (1 + 1e-9):
                return f"{taken[name]:.3g} of {limit:.4g} {unit} taken, and the next trial needs {needed[name]:.3g}"
        return None

    def started(self, trial_id: str, need: TrialCost) -> None:
        """Commit the estimated cost of a trial that was submitted."""
        self._running[trial_id] = need, self._clock()

    def release(self, trial_id: str) -> None:
        """Release the estimated cost of a submitted trial that has not started."""
        self._running.pop(trial_id, None)

    def ended(self, record: TrialRecord) -> None:
        """Replace the estimate of a trial by what its attempts actually used."""
        self._running.pop(record.trial_id, None)
        self._count(record)

    def _count(self, record: TrialRecord) -> None:
        """Replace what a trial had used. Its last attempt has ended, or was that of a driver that has died."""
        before = spending(filter(None, [self._records.get(record.trial_id)]))
        self._records[record.trial_id] = record
        self._spent += spending([record]) - before

    def exceeded(self) -> str | None:
        """Return the limit that has been exceeded, running trials included. A limit on trials stops no running one."""
        spent = self._spent
        # A running trial has used the share of its estimate that corresponds to the time that has passed.
        running = self._running.values()
        shares = [(need, self._hours_since(start_s) / max(need.hours, 1e-12)) for need, start_s in running]
        now = Spent(
            trials=0,
            gpu_hours=spent.gpu_hours + sum(need.gpu_hours * share for need, share in shares),
            usd=spent.usd + sum(need.usd * share for need, share in shares),
            unpriced_gpu_hours=0.0,
            wall_hours=self._hours_since(self._begun_s),
        )
        return exceeded(now, self.budget)

    def _is_new(self, trial_id: str) -> bool:
        known = self._records.get(trial_id)
        return known is None or not known.attempts

    def _hours_since(self, then_s: float) -> float:
        return (self._clock() - then_s) / 3600


def require_budget_for_one(sweep: Sweep, budget: Budget) -> None:
    """Raise an error if the budget does not cover the cheapest trial, before anything is built or started.

    Raises:
        SweepError: names the limit, and what a trial needs.
    """
    if reason := shortage(sweep, budget, ()):
        raise SweepError(f"the budget is too small for one trial: {reason}", "Raise the limit")


def shortage(sweep: Sweep, budget: Budget, records: Sequence[TrialRecord]) -> str:
    """Return why the budget covers no further trial: the limit, how much of it is used, and what the cheapest trial
    needs, or the rest of one that was interrupted. An empty string if it covers one.

    Of a large study, the cells that its plan is estimated from are considered.
    """
    if budget == Budget():
        return ""
    model, tracker = RuntimeModel(records), BudgetTracker(budget, records)
    unfinished = [record for record in records if record.attempts and not record.status.is_final]
    cells = [cell for _, cell in sampled_cells(sweep)[0]] if sweep.kind == "study" else [{}]
    open_trials = [(record.trial_id, record.config, record.step) for record in unfinished]
    open_trials += [("", replace_settings(sweep.base, cell), 0) for cell in cells]
    needs = [
        (model.need(config, device, gpus=resources.gpus or 0, cpus=resources.cpus, step=step), trial_id)
        for trial_id, config, step in open_trials
        for resources in [sweep.resources_of(config)]
        for device in (gpu_types(resources.gpu_type) or KNOWN_TYPES if resources.gpus else [CPU])
    ]
    reasons = [tracker.check(trial_id, need) for need, trial_id in sorted(needs)]
    return next(filter(None, reasons), "") if all(reasons) else ""
