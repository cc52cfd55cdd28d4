"""Decide which trials start, continue and end.

Tune's thread, the main thread and displays share no mutable state: every decision is made under one lock, and displays
read immutable snapshots. The lock is never held during slow work: storage access and sampling happen outside it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from orchestrator.errors import SweepError
from orchestrator.execution.allocator import Allocator, Expired, SchedulingClock
from orchestrator.execution.budget import BudgetTracker
from orchestrator.execution.failures import (
    AttemptLimits,
    FailureStreak,
    StorageOutage,
    describe_damaged,
    persist,
    says_out_of_space,
)
from orchestrator.execution.options import RunOptions, SweepSnapshot, SweepStatus
from orchestrator.execution.scheduler import Placement, Start, TrialScheduler
from orchestrator.execution.snapshots import Snapshots, progress_of
from orchestrator.execution.submission import TrialSubmitter
from orchestrator.records.failures import FailureKind, classify
from orchestrator.records.index import trial_folder
from orchestrator.records.progress import SweepProgress
from orchestrator.records.reader import read_trial
from orchestrator.records.schema import Row, Status, StopDecision, TrialRecord
from orchestrator.records.stored import Damaged, DamagedRecordError
from orchestrator.resources.runtime import RuntimeModel
from orchestrator.resources.usage import attempt_usage
from orchestrator.search.planner import Planner, rung_of
from orchestrator.storage import Storage
from orchestrator.storage.base import StorageError
from orchestrator.sweep.commands import repair_advice
from trm_data.errors import UserError

logger = logging.getLogger(__name__)

CANARY_STEPS = 50


class Events(Protocol):
    """Receive the events that the controller reports."""

    def post(self, method: str, *arguments: Any) -> None:
        """Queue an event for callbacks; return immediately."""


class Controller:
    """Answer Tune's requests for a sweep. Thread-safe."""

    def __init__(
        self,
        planner: Planner,
        submitter: TrialSubmitter,
        placement: Placement,
        allocator: Allocator,
        storage: Storage,
        records: Sequence[TrialRecord],
        options: RunOptions,
        costs: RuntimeModel,
        events: Events,
        damaged: Mapping[str, Damaged],
        stopping: threading.Event,
    ) -> None:
        self.stopping = stopping
        """Set once the sweep is to stop: nothing more starts, and trials write a last checkpoint."""
        self._sweep = sweep = planner.sweep
        self._planner = planner
        self._submitter = submitter
        self._allocator = allocator
        self._storage = storage
        self._events = events
        self._lock = threading.RLock()
        self._clock = SchedulingClock()
        has_budget = options.budget != type(options.budget)()
        self._budget = BudgetTracker(options.budget, records) if has_budget else None
        self._scheduler = TrialScheduler(planner, allocator, placement, costs, self._budget, self._clock)
        self._exempt = {record.trial_id for record in records if record.is_exempt}
        self._limits = AttemptLimits(records, options.retries)
        self._address = options.address
        self._outage = StorageOutage()
        ended = [record for record in records if record.status.is_final]
        self._streak = FailureStreak(sweep, options.max_failures, sum(one.stage == "explore" for one in ended))
        self._curves = {record.trial_id: list(record.rows) for record in records if not record.status.is_final}
        self._reasons = {record.trial_id: record.reason for record in ended if record.reason}
        self._end_reasons: dict[str, str] = {}
        """The report of a trial at its end, even if it could not write its record."""
        self._grace_s: dict[str, float] = {}
        self._snapshots = Snapshots(planner, ended)
        self._final = {one.trial_id: one.status.is_failure for one in ended if one.trial_id in planner.trials}
        self._damaged = dict(damaged)
        self._slots, self._has_begun = 1, any(record.attempts for record in records)
        self._is_choosing = False
        """Whether a sampler is choosing a configuration, of which the planner does not know yet."""
        self._error: BaseException | None = None
        self._stop: tuple[SweepStatus, str] | None = None

    # for the main thread and displays

    def snapshot(self, slots: int | None = None) -> SweepSnapshot:
        """Return a snapshot of the sweep. `slots`: maximum number of concurrent trials from now on."""
        with self._lock:
            self._slots = slots or self._slots
            return self._snapshots.sweep(self._progress(), self._reasons, self._slots)

    def budget_exceeded(self) -> str | None:
        """Return the limit that running trials have exceeded because an estimate was wrong, or None."""
        with self._lock:
            return self._budget.exceeded() if self._budget else None

    def stop(self, status: SweepStatus, reason: str = "") -> None:
        """Stop the sweep: no further trial starts, and running trials write a last checkpoint. The first reason is
        kept."""
        with self._lock:
            if self._stop is None:
                self._stop = status, reason
                logger.info("sweep %s: stop requested%s", self._sweep.name, f": {reason}" if reason else "")
            self.stopping.set()

    def fail(self, error: BaseException) -> None:
        """Stop the sweep because of an error. The first error is kept."""
        with self._lock:
            if self._error is None:
                self._error = error
                logger.error("sweep %s: stopped: %s", self._sweep.name, error)
            self.stopping.set()

    def result_of_run(self) -> tuple[SweepStatus, str]:
        """Return how the run ended, and the reason.

        Raises:
            SweepError: the budget is too small for the next trial, another driver took over, or a canary failed.
        """
        with self._lock:
            if self._error is not None:
                # A failure of the storage or a machine: records are kept, and the same command resumes.
                if classify(self._error) not in (FailureKind.STORAGE, FailureKind.MACHINE):
                    raise self._error
                return SweepStatus.STOPPED, str(self._error)
            if self._planner.is_done and not self._progress().left:
                return SweepStatus.COMPLETE, ""
            if self._stop is not None:
                return self._stop
            if self._planner.is_done and self._damaged:
                return SweepStatus.STOPPED, describe_damaged(self._damaged)
            refused = self._scheduler.refused
            if refused and not self._has_begun:
                raise SweepError(f"the budget is too small for the next trial: {refused}", "Raise the limit")
            return (SweepStatus.OUT_OF_BUDGET if refused else SweepStatus.STOPPED), refused

    @property
    def error(self) -> BaseException | None:
        """Return the error that stopped the sweep, or None."""
        return self._error

    @property
    def grace_s(self) -> float:
        """Return the longest time in seconds that a running trial gets to write its last checkpoint, from measured
        times."""
        with self._lock:
            return max((self._grace_s.get(trial_id, 0.0) for trial_id in self._allocator.allocations), default=0.0)

    # for Tune's thread

    @property
    def is_stopping(self) -> bool:
        """Return whether the sweep has been asked to stop."""
        return self.stopping.is_set()

    @property
    def is_finished(self) -> bool:
        """Return whether no further trial will be started."""
        with self._lock:
            if self._scheduler.is_exhausted:
                return not self._allocator.allocations
            return self.stopping.is_set() or self._planner.is_done

    def suggest(self) -> dict[str, Any] | None:
        """Return Tune's configuration of the next trial, or None if none can start now. Its record is written first."""
        with self._stops_on_error():
            while not (self.stopping.is_set() or self._outage.is_paused):
                with self._lock:
                    start = self._scheduler.next()
                    wants_suggestion = start is None and self._scheduler.wants_suggestion()
                    self._is_choosing = wants_suggestion
                if wants_suggestion:
                    chosen = self._planner.suggest()  # outside the lock: it may take a second
                    with self._lock:
                        self._planner.add_suggestion(chosen)
                        self._is_choosing = False
                elif start is None:
                    return None
                elif (config := self._submit(start)) is not None:
                    return config
        return None

    def result(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Process a rung, progress or the end of a trial. Return whether the trial continues."""
        with self._stops_on_error():  # a stopping rule of the user may fail
            with self._lock:
                stopped = self._reported(trial_id, result)
            if stopped is not None:
                folder = trial_folder(self._storage, self._sweep.name, trial_id)
                persist(lambda: folder.write("stopped.json", stopped.encode()), self.stopping)
                return False
        return True

    def _reported(self, trial_id: str, result: Mapping[str, Any]) -> StopDecision | None:
        self._clock.tick()
        state, metrics = self._planner.trials[trial_id], dict(result["metrics"])
        if result.get("trial_step") is not None:
            self._planner.set_step(trial_id, result["trial_step"])
        where = result["node_id"], result["gpu_type"]
        self._grace_s[trial_id] = float(result.get("grace_s", 0.0))
        steps, silence_s = state.trial.config.train.max_steps, float(result.get("silence_s", 0.0))
        self._allocator.report(trial_id, *where, state.step, steps, self._clock(), silence_s)
        if result["kind"] == "end":
            self._end_reasons[trial_id] = str(result.get("reason", ""))
        if result["kind"] != "rung":
            return None
        self._curves.setdefault(trial_id, []).append(Row(state.step, time.time(), "validation", metrics))
        decision = self._planner.rung(trial_id, rung_of(state.step, metrics), metrics.get(self._sweep.metric))
        self._events.post("on_trial_report", self._snapshots.trial(trial_id))
        if trial_id in self._exempt or not decision.stop:
            return None
        rule = self._sweep.stopping.rule
        return StopDecision(step=state.step, rule=rule, reason=decision.reason, decided_s=time.time())

    def expired(self, silence_limit_s: float) -> dict[str, Expired]:
        """Return the trials to requeue, with the reason: they never received their resources, or stopped reporting.

        Must be called in every round of the scheduler, which shows that the scheduler was active.
        """
        with self._lock:
            self._clock.tick()
            found = {
                trial_id: self._allocator.expired(trial_id, silence_limit_s, self._clock())
                for trial_id in self._allocator.allocations
            }
            return {trial_id: expired for trial_id, expired in found.items() if expired is not None}

    def ended(self, trial_id: str, lost: bool, why: str = "") -> None:
        """Handle a trial that released its resources: it ended, was interrupted, or its node was lost (`why`)."""
        with self._stops_on_error():
            try:
                self._follow_up(trial_id, lost, why)
            except DamagedRecordError as error:
                self._exclude(trial_id, error)

    def _follow_up(self, trial_id: str, lost: bool, why: str) -> None:
        record = self._read(trial_id)
        reported = self._end_reasons.pop(trial_id, "")
        self._check_space(record, reported)
        why = why or (record.reason if record.status is Status.INTERRUPTED else "")
        if record.status.is_final:
            self._outage.over()
        if not (record.status.is_final or self.stopping.is_set()):
            if fault := self._limits.interrupted_by_storage(record, reported):
                self._pause(record, fault)
                self._submitter.note_fault(record, fault)
            if not (reason := self._limits.why_over(record, lost, why, fault)):
                cause = f"lost: {why or 'no reason'}" if lost else why or "it was interrupted"
                self._requeue(record, fault or cause, lost and not fault)
                return
            persist(lambda: self._submitter.mark_failed(record, Status.FAILED, reason), self.stopping)
            record = self._read(trial_id)
        elif not self.stopping.is_set() and self._limits.may_retry(record):
            persist(lambda: self._submitter.retry(record), self.stopping)
            self._requeue(record, f"retry after: {record.reason}")
            return
        if record.status is not Status.RUNNING:  # a trial without an end is resumed by the next run
            self._end(record)

    def _submit(self, start: Start) -> dict[str, Any] | None:
        """Write the record of a trial and return its configuration for Tune, or None if it need not or cannot run."""
        trial = start.trial
        record = persist(lambda: self._submitter.already_settled(start), self.stopping)
        if record is not None:
            if record.origin and record.origin.kind == "reused":
                where = f"reused from sweep {record.origin.sweep}, not run again"
                self._events.post("on_message", f"{record.family} seed {record.config.seed}: {where}")
            self._end(self._with_usage(record))
            return None
        job = persist(lambda: self._submitter.submit(start), self.stopping)
        with self._lock:
            self._has_begun = True
            self._events.post("on_trial_start", self._snapshots.trial(trial.trial_id))
        types = " or ".join(start.candidate.gpu_types) or "CPU"
        logger.info("trial %s (%s seed %d): started on %s", trial.trial_id, trial.family, trial.config.seed, types)
        return {"trial_id": job.trial_id, "job": job.to_json(), "bundle": start.candidate.bundle._asdict()}

    def _read(self, trial_id: str) -> TrialRecord:
        """Read how a trial ended, without its curve: the driver has it already, and reading it can take minutes.

        Raises:
            DamagedRecordError: it cannot be read, or somebody deleted it while it ran.
        """
        try:
            record = persist(lambda: read_trial(self._storage, self._sweep.name, trial_id), self.stopping)
        except KeyError:
            file = f"sweeps/{self._sweep.name}/trials/{trial_id}/trial.json"
            raise DamagedRecordError(file, "it was deleted while the trial ran") from None
        return self._with_usage(replace(record, rows=self._curves.get(trial_id, [])))

    def _with_usage(self, record: TrialRecord) -> TrialRecord:
        """Read what the usage of a trial needs, such as rows of lost attempts: nothing is read under the lock."""
        persist(lambda: attempt_usage(record), self.stopping)
        return record

    def _check_space(self, record: TrialRecord, reported: str) -> None:
        recorded = record.reason if self._limits.has_begun(record) else ""  # else space may have been freed since
        if full := next((reason for reason in (reported, recorded) if says_out_of_space(reason)), ""):
            raise StorageError(f"trial {record.trial_id} ran out of space: {full}", "Free space, then resume the sweep")

    def _exclude(self, trial_id: str, error: DamagedRecordError) -> None:
        """Let a trial run no more: what is recorded of it cannot be read. The other trials continue."""
        with self._lock:
            self._damaged[trial_id] = Damaged(error.file, error.reason)
            self._reasons[trial_id] = error.what
            self._scheduler.drop(trial_id)
            self._planner.exclude(trial_id)
            self._curves.pop(trial_id, None)
            self._events.post("on_trial_end", self._snapshots.trial(trial_id, error.what), self._progress())
        self._events.post("on_message", describe_damaged({trial_id: self._damaged[trial_id]}))
        logger.warning("trial %s: %s", trial_id, error)

    def _pause(self, record: TrialRecord, fault: str) -> None:
        with self._lock:
            try:
                pause_s = self._outage.interrupted(record)
            except StorageError as error:
                raise StorageError(f"{error.what}, most recently {record.trial_id}: {fault}", error.remedy) from None
        text = f"the storage interrupted trial {record.trial_id}, nothing starts for {pause_s:.0f} s: {fault}"
        logger.warning(text)
        self._events.post("on_message", text)

    def _requeue(self, record: TrialRecord, reason: str, is_told: bool = False) -> None:
        if is_told:
            self._events.post("on_message", f"{record.family} seed {record.config.seed} runs again: {reason}")
        with self._lock:
            self._scheduler.requeue(record.trial_id, record if record.attempts else None)
        logger.info("trial %s: requeued: %s", record.trial_id, reason)

    def _end(self, record: TrialRecord) -> None:
        with self._lock:
            self._check_canary(record)
            self._scheduler.ended(record)
            self._planner.ended(record)
            self._curves.pop(record.trial_id, None)
            if record.status.is_final:
                self._final[record.trial_id] = record.status.is_failure
                self._reasons[record.trial_id] = record.reason
                if reason := self._streak.add(record):
                    self.stop(SweepStatus.FAILING, reason)
            self._events.post("on_trial_end", self._snapshots.ended(record), self._progress())
        logger.info("trial %s: %s%s", record.trial_id, record.status, f" ({record.reason})" if record.reason else "")

    def _check_canary(self, record: TrialRecord) -> None:
        allocation = self._allocator.allocations.get(record.trial_id)
        if allocation is None:
            return
        if record.status in (Status.FAILED, Status.OUT_OF_MEMORY) and self._allocator.is_canary(record.trial_id):
            types = " or ".join(allocation.candidate.gpu_types)
            gpu_type = record.attempts[-1].start.gpu_type or types or "this GPU type"
            self.fail(
                SweepError(
                    f"the first trial on {gpu_type} failed within {CANARY_STEPS} steps, the sweep stops: "
                    f"{record.reason}",
                    f"{repair_advice(self._sweep, self._storage.url, self._address)} (--no-canary skips this check)",
                )
            )
        elif record.status.is_final:
            self._allocator.passed.add(allocation.gpu_type)

    def _progress(self) -> SweepProgress:
        if self._planner.is_done and not self._is_choosing:
            return progress_of(self._planner)
        return SweepProgress(max(self._planner.total, len(self._final)), len(self._final), sum(self._final.values()))

    @contextmanager
    def _stops_on_error(self) -> Iterator[None]:
        """Stop the sweep cleanly on an error that the user can fix: a full disk, or an unavailable storage."""
        try:
            yield
        except UserError as error:
            self.fail(error)
