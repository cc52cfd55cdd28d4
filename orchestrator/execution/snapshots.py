"""Take immutable snapshots of a planner, for displays and outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator.execution.options import SweepSnapshot, TrialSnapshot
from orchestrator.records.progress import SweepProgress
from orchestrator.records.schema import TrialRecord
from orchestrator.resources.usage import AttemptUsage, attempt_usage, uses_gpu
from orchestrator.search.objectives import final_value
from orchestrator.search.planner import Planner, TrialState


class Snapshots:
    """Take snapshots of one planner. A trial that has not changed since the last snapshot is not copied again.

    Args:
        ended: records of trials that have ended, whose cost counts.
    """

    def __init__(self, planner: Planner, ended: Iterable[TrialRecord] = ()) -> None:
        self.planner = planner
        self._known: dict[str, TrialSnapshot] = {}
        self._spent: dict[str, list[AttemptUsage]] = {}
        for record in ended:
            self._charge(record)

    def trial(self, trial_id: str, reason: str = "") -> TrialSnapshot:
        """Return one trial as it is now."""
        state, known = self.planner.trials[trial_id], self._known.get(trial_id)
        if known is None or not _is_current(known, state, reason):
            known = self._known[trial_id] = _snapshot_of(trial_id, state, reason)
        return known

    def ended(self, record: TrialRecord) -> TrialSnapshot:
        """Return a trial that has ended or was interrupted; what it has used counts from now on."""
        self._charge(record)
        return self.trial(record.trial_id, record.reason)

    def _charge(self, record: TrialRecord) -> None:
        if uses_gpu(record) and (record.origin is None or record.origin.kind != "reused"):
            self._spent[record.trial_id] = attempt_usage(record)

    def sweep(self, progress: SweepProgress, reasons: Mapping[str, str], slots: int = 1) -> SweepSnapshot:
        """Return the whole sweep as it is now. `reasons`: why trials ended, by trial id."""
        used = [usage for usages in self._spent.values() for usage in usages]
        return SweepSnapshot(
            name=self.planner.sweep.name,
            metric=self.planner.sweep.metric,
            progress=progress,
            trials=tuple(self.trial(trial_id, reasons.get(trial_id, "")) for trial_id in self.planner.trials),
            slots=slots,
            is_exhausted=self.planner.exhausted,
            gpu_hours=sum(usage.gpu_hours for usage in used),
            usd=None if any(usage.usd is None for usage in used) else sum(usage.usd or 0.0 for usage in used),
        )

    def best(self) -> TrialSnapshot | None:
        """Return the best explored trial of a search, if one has finished."""
        for record in self.planner.best(1):
            return replace(self.trial(record.trial_id), value=final_value(record, self.planner.sweep.metric))
        return None


def progress_of(planner: Planner) -> SweepProgress:
    """Return the progress of a sweep as its planner knows it, which is more exact than an estimate from records."""
    done = [state.status for state in planner.trials.values() if state.status.is_final]
    failed = sum(status.is_failure for status in done)
    # Where nothing is left to start, what is not done was interrupted, or has a damaged record.
    return SweepProgress(len(planner.trials) if planner.is_done else max(planner.total, len(done)), len(done), failed)


def _is_current(known: TrialSnapshot, state: TrialState, reason: str) -> bool:
    return (known.status, known.step, known.value, known.reason) == (state.status, state.step, state.value, reason)


def _snapshot_of(trial_id: str, state: TrialState, reason: str) -> TrialSnapshot:
    config = state.trial.config
    return TrialSnapshot(
        trial_id=trial_id,
        stage=state.trial.stage,
        family=state.trial.family,
        seed=config.seed,
        status=state.status,
        step=state.step,
        max_steps=config.train.max_steps,
        value=state.value,
        reason=reason,
    )
