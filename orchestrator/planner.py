"""Which trial starts next: pure bookkeeping over records, so that a new driver goes on where the last one died.

Order: what an earlier driver left unfinished; then a study's cells, or a search's explored configurations; then the
controls (they need no result of the search, so they fill the slots while its last trials end); then the best.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.plan import Fingerprint, PlannedTrial, Stage, confirmed, controls, study_trials
from orchestrator.record import Status, TrialRecord
from orchestrator.searcher import Explorer, final_value
from orchestrator.stopping import Decision, Rung, decide
from orchestrator.sweep import Sweep, get_setting, label


@dataclass
class Progress:
    """One trial as the driver sees it."""

    trial: PlannedTrial
    status: Status = Status.PENDING
    step: int = 0
    value: float | None = None
    """Newest value of the sweep's metric."""
    rungs: list[Rung] = field(default_factory=list)


class Planner:
    """The state of a sweep, rebuilt from records; decides what starts next and what stops early."""

    def __init__(self, sweep: Sweep, fingerprint: Fingerprint, records: Iterable[TrialRecord]) -> None:
        self.sweep = sweep
        self.trials: dict[str, Progress] = {}
        self.exhausted = False
        """A search's space held fewer configurations than were asked for."""
        self._fingerprint = fingerprint
        self._records: dict[str, TrialRecord] = {}
        known = list(records)
        self._explorer = Explorer(sweep, fingerprint, [r for r in known if r.stage == "explore"])
        for record in known:
            trial = _planned_of(record, sweep)
            state = self.trials[record.trial_id] = Progress(trial, record.status, record.step, rungs=rungs_of(record))
            curve = record.curve(sweep.metric)
            state.value = curve[-1][1] if curve else None
            if record.status.is_final:
                self._records[record.trial_id] = record
            elif record.stage == "explore":
                self._explorer.adopt(trial)
        self._queue = [state.trial for state in self.trials.values() if not state.status.is_final]
        self._queue += self._fixed()

    def _fixed(self) -> list[PlannedTrial]:
        """What is known before anything runs, without what has a record."""
        if self.sweep.kind == "search":
            return []
        return [t for t in study_trials(self.sweep, self._fingerprint) if t.trial_id not in self.trials]

    @property
    def total(self) -> int:
        """Trials that the sweep will have in the end."""
        if self.sweep.kind == "study":
            return len({t.trial_id for t in self._queue} | set(self.trials))
        confirm = self.sweep.confirm
        explore = len(self._stage("explore")) if self.exhausted else (self.sweep.trials or 0)
        return explore + confirm.seeds * (len(confirm.controls) + confirm.top)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to start or to wait for."""
        self._refill()
        return not self._queue and not self._running()

    def next(self) -> PlannedTrial | None:
        """The trial to start now; None if there is nothing to start (yet)."""
        self._refill()
        if not self._queue:
            return None
        trial = self._queue.pop(0)
        self.trials.setdefault(trial.trial_id, Progress(trial)).status = Status.RUNNING
        return trial

    def _refill(self) -> None:
        """A search decides as late as it can: only when nothing else waits."""
        if self._queue or self.sweep.kind != "search":
            return
        if len(self._stage("explore")) < (self.sweep.trials or 0) and not self.exhausted:
            trial = self._explorer.suggest()
            if trial is not None:
                self._queue.append(trial)
                return
            self.exhausted = True
        self._enqueue(controls(self.sweep, self._fingerprint))
        if self._queue or self._running("explore"):
            return
        for record in self.best(self.sweep.confirm.top):
            family = f"best {label({path: get_setting(record.config, path) for path in self.sweep.space})}"
            self._enqueue(confirmed(self.sweep, self._fingerprint, family, record.config))

    def _enqueue(self, trials: list[PlannedTrial]) -> None:
        waiting = {trial.trial_id for trial in self._queue}
        self._queue += [t for t in trials if t.trial_id not in self.trials and t.trial_id not in waiting]

    def best(self, count: int) -> list[TrialRecord]:
        """The best finished explored trials; ties go to the better cell accuracy, then to the cheaper one."""
        finished = [r for r in self._records.values() if r.stage == "explore" and r.status is Status.FINISHED]
        metric = self.sweep.metric

        def merit(record: TrialRecord) -> tuple[float, float, float, str]:
            result = record.result or {}
            cell = result.get("metrics", {}).get("cell_accuracy", 0.0)
            return (-final_value(record, metric), -cell, result.get("train_flops", 0.0), record.trial_id)

        return sorted(finished, key=merit)[:count]

    def rung(self, trial_id: str, rung: Rung, value: float | None) -> Decision:
        """Take a rung in and decide whether the trial goes on. Only explored trials are ever stopped."""
        state = self.trials[trial_id]
        state.step, state.value = rung.step, value
        state.rungs = [r for r in state.rungs if r.step < rung.step] + [rung]
        if state.trial.stage != "explore":
            return Decision(False)
        others = {
            other: progress.rungs
            for other, progress in self.trials.items()
            if other != trial_id and progress.trial.stage == "explore"
        }
        return decide(self.sweep.stopping, state.trial.config.train.max_steps, state.rungs, others)

    def ended(self, record: TrialRecord) -> None:
        """A trial has ended: final or interrupted."""
        state = self.trials[record.trial_id]
        state.status, state.step = record.status, record.step
        if record.status.is_final:
            self._records[record.trial_id] = record
            if record.stage == "explore":
                self._explorer.tell(record)
        if record.result is not None:
            state.value = record.result["metrics"].get(self.sweep.metric)

    def _stage(self, stage: Stage) -> list[Progress]:
        return [state for state in self.trials.values() if state.trial.stage == stage]

    def _running(self, stage: Stage | None = None) -> list[Progress]:
        return [
            state
            for state in self.trials.values()
            if state.status is Status.RUNNING and (stage is None or state.trial.stage == stage)
        ]


def rungs_of(record: TrialRecord) -> list[Rung]:
    """The evaluations of a record."""
    return [
        Rung(row.step, row.metrics["exact_accuracy"], row.metrics.get("raw_cell_accuracy", 0.0))
        for row in record.rows
        if row.split == "validation" and "exact_accuracy" in row.metrics
    ]


def _planned_of(record: TrialRecord, sweep: Sweep) -> PlannedTrial:
    return PlannedTrial(
        trial_id=record.trial_id,
        stage=record.stage,
        family=record.family,
        config=record.config,
        resources=sweep.resources_of(record.config),
    )
