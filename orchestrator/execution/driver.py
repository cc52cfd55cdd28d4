"""Run a sweep: Ray Tune executes the trials, the records decide.

Tune runs trials and reports rungs. Everything else is ours: `TrialScheduler` picks the next trial and its resources,
the records say what happened, and each start of the driver is a new Tuner that continues from them. A trial that
comes back unfinished is requeued if its node was lost or preempted, or its resources were never granted.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any

from orchestrator.errors import ClusterError, SweepError
from orchestrator.execution.budget import BudgetTracker
from orchestrator.execution.options import Callback, RunOptions, SweepStatus
from orchestrator.execution.ray_cluster import connect
from orchestrator.execution.scheduler import Allocator, Machine, Start, TrialScheduler
from orchestrator.execution.signals import stop_signals
from orchestrator.execution.submission import TrialSubmitter
from orchestrator.records.datasets import Library
from orchestrator.records.index import stop_requested, sweep_folder, trial_folder
from orchestrator.records.reader import read_trial
from orchestrator.records.schema import Status, StopDecision, TrialRecord
from orchestrator.resources.memory import memory_bytes
from orchestrator.resources.nodes import scales
from orchestrator.resources.placement import Candidate, bundle, candidates, fits, words
from orchestrator.resources.runtime import TrialCostModel
from orchestrator.resources.usage import Budget
from orchestrator.search.planner import Planner, rung_of
from orchestrator.storage import Storage
from orchestrator.storage.lease import Lease
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.trials import PlannedTrial
from orchestrator.worker.fork_server import next_process
from trm_data.errors import UserError

POLL_S = 0.2
STOP_POLL_S = 2.0
STOP_LIMIT_S = 45.0
"""Longest wait for a clean stop: where Ray was ended together with the driver it never comes."""
LOST_MACHINES = 5
"""Times that a trial may lose its machine before the sweep gives it up."""
NEVER_BEGAN = 20
"""Times that it may be sent off in vain, because its machine was about to go."""
MAX_UNBOUNDED_SLOTS = 64
CANARY_STEPS = 50
MACHINES_S = 1.0
"""How long an answer of Ray about its machines is used."""


class Driver:
    """Tune's three seams (search, schedule, stop) on one planner. Tune calls them from one thread, one at a time."""

    def __init__(
        self,
        sweep: Sweep,
        storage: Storage,
        library: Library,
        planner: Planner,
        records: Sequence[TrialRecord],
        watcher: Callback,
        lock: Lease,
        options: RunOptions,
    ) -> None:
        self.refused = ""
        """Which limit of the budget ended the sweep."""
        self._sweep = sweep
        self._storage = storage
        self._library = library
        self._planner = planner
        self._watcher = watcher
        self._lock = lock
        self._options = options
        self._submitter = TrialSubmitter(sweep.name, storage, library, records, reuse=options.reuse)
        self._exempt = {record.trial_id for record in records if record.is_exempt}
        self._budget_tracker = BudgetTracker(options.budget, records, time.time) if options.budget != Budget() else None
        self._pace = TrialCostModel(records if sweep.resources.gpus or self._budget_tracker else ())
        canary = options.canary if options.canary is not None else bool(options.address and sweep.resources.gpus)
        self._allocator = Allocator(max_gpus=options.max_gpus, canary_steps=CANARY_STEPS if canary else 0)
        self._scheduler = TrialScheduler(
            planner, self._allocator, self._machines, self._find, self._pace, self._budget_tracker, time.time
        )
        self._attempts = Counter({record.trial_id: len(record.attempts) for record in records})
        """That a trial had made when it was sent off."""
        self._has_sent = False
        self._lost: Counter[str] = Counter()
        self._vain: Counter[str] = Counter()
        self._known_machines: tuple[float, list[Machine]] = (0.0, [])
        self._stopping = threading.Event()
        self._abandoned = False
        self._error: BaseException | None = None

    def run(self) -> SweepStatus:
        """To the end, or until somebody or the budget stops it.

        Raises:
            ClusterError: the cluster cannot be joined or cannot hold a trial.
            SweepError: another driver took over, the budget is too small for the next trial, or a canary failed.
        """
        connect(self._options.address)
        import ray

        try:
            self._allocator.scales = self._options.address is not None and scales()
            slots = self._slots()
            self._watcher.started(self._planner, slots)
            thread = threading.Thread(target=self._fit, args=(slots,), name="tune", daemon=True)
            with stop_signals(self._stopping):
                thread.start()
                self._wait(thread)
            if self._abandoned:
                return SweepStatus.ABANDONED
        finally:
            if not self._abandoned:
                ray.shutdown()
        return self._ending()

    def _ending(self) -> SweepStatus:
        if self._error is not None:
            raise self._error
        self.refused = self.refused or self._scheduler.refused
        if self._planner.is_done:
            return SweepStatus.COMPLETE
        if not self.refused:
            return SweepStatus.STOPPED
        if not self._has_sent:
            raise SweepError(f"the budget is too small for the next trial: {self.refused}", "Raise the limit")
        return SweepStatus.OUT_OF_BUDGET

    def _wait(self, thread: threading.Thread) -> None:
        asked_s = stopping_s = time.monotonic()
        while thread.is_alive():
            thread.join(POLL_S)
            if not self._stopping.is_set():
                stopping_s = time.monotonic()
            elif time.monotonic() - stopping_s > STOP_LIMIT_S:
                self._abandoned = True
                return
            self._watcher.refresh(self._planner)
            if self._lock.lost.is_set() and self._error is None:
                self._fail(SweepError("another driver took this sweep over", "This one's trials were ended"))
            if time.monotonic() - asked_s > STOP_POLL_S:
                asked_s = time.monotonic()
                self._look_around()

    def _look_around(self) -> None:
        """Has somebody asked to stop? Has the budget been passed, because the estimate was wrong?"""
        if stop_requested(sweep_folder(self._storage, self._sweep.name)):
            self._stopping.set()
        if self._budget_tracker and (reason := self._budget_tracker.exceeded()) and not self._stopping.is_set():
            self.refused = reason
            self._stopping.set()

    def _slots(self) -> int:
        """Trials at once. Raises ClusterError where this machine can hold none."""
        import ray

        demand = bundle(self._sweep.resources)
        total = ray.cluster_resources()
        room = min(int(total.get(name, 0) // amount) for name, amount in demand.resources.items())
        if self._options.address is None and not fits(demand, ray.nodes()):
            raise ClusterError(
                f"this machine cannot hold one trial ({words(demand)})",
                "Ask for less with --cpus / --gpu, or name a cluster with --address",
            )
        wanted = self._options.max_concurrent or self._sweep.max_concurrent
        if wanted or self._sweep.resources.gpus or self._sweep.resource_rules:
            return min(wanted or MAX_UNBOUNDED_SLOTS, MAX_UNBOUNDED_SLOTS)
        return max(1, min(room or 8, MAX_UNBOUNDED_SLOTS))

    def _machines(self) -> list[Machine]:
        import ray

        asked_s, found = self._known_machines
        if time.monotonic() - asked_s > MACHINES_S:
            found = Machine.of_ray(ray.nodes())
            self._known_machines = time.monotonic(), found
        return found

    def _find(self, trial: PlannedTrial) -> list[Candidate]:
        """Where a trial may run."""
        if not trial.resources.gpus:
            return candidates(trial.resources, ())
        return candidates(
            trial.resources,
            [machine.gpu_type for machine in self._machines() if machine.gpu_type],
            need_bytes=memory_bytes(trial.config, "cuda"),
            is_shared=self._options.share_gpus,
            prefer=self._options.prefer,
            speed=self._pace.speed_of(trial.config),
        )

    def _fit(self, slots: int) -> None:
        try:
            with self._warm():
                from orchestrator.execution.tune import fit

                fit(self, slots)
        except BaseException as error:  # handed to the main thread, which raises it
            self._error = self._error or error

    def _warm(self) -> AbstractContextManager[Any]:
        """On this machine alone, torch is imported for all trials while Ray starts its first workers."""
        return closing(next_process(is_quiet=True)) if self._options.address is None else nullcontext()

    def _fail(self, error: BaseException) -> None:
        """End cleanly, and raise this at the end."""
        self._error = self._error or error
        self._stopping.set()

    # what orchestrator.execution.tune calls

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """What the user can mend (a full disk, a lost storage) ends the sweep cleanly and is raised at its end."""
        try:
            yield
        except UserError as error:
            self._fail(error)

    def suggest(self) -> dict[str, Any] | None:
        """Tune's configuration of the next trial, its trial.json written first; None if none can start now."""
        with self._guarded():
            while not self._stopping.is_set() and (start := self._scheduler.next()) is not None:
                if (config := self._send(start)) is not None:
                    return config
        return None

    def _send(self, start: Start) -> dict[str, Any] | None:
        """Announce a trial; None where it need not, or cannot, run."""
        record = self._submitter.already_settled(start)
        if record is not None:
            if record.origin and record.origin.kind == "reused":
                where = f"taken over from sweep {record.origin.sweep}, not run again"
                self._watcher.remark(f"{record.family} seed {record.config.seed}: {where}")
            self._end(record)
            return None
        self._has_sent = True
        job = self._submitter.submit(start)
        return {"trial_id": job.trial_id, "job": job.to_json(), "bundle": start.candidate.bundle._asdict()}

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is to be started."""
        if self._scheduler.is_exhausted:
            return not self._allocator.allocations
        return self._stopping.is_set() or self._planner.is_done

    @property
    def is_stopping(self) -> bool:
        """Whether somebody asked to stop."""
        return self._stopping.is_set()

    def is_overdue(self, trial_id: str) -> bool:
        """Whether a trial has waited for its seat in vain and should be placed anew."""
        return self._allocator.overdue(trial_id, time.time())

    def result(self, trial_id: str, result: dict[str, Any]) -> bool:
        """A rung or progress. Returns whether the trial goes on."""
        metrics: dict[str, float] = dict(result["metrics"])
        state = self._planner.trials[trial_id]
        if result.get("trial_step") is not None:
            state.step = result["trial_step"]
        steps = state.trial.config.train.max_steps
        self._allocator.report(trial_id, result["node_id"], result["gpu_type"], state.step, steps)
        if result["kind"] != "rung":
            return True
        rung = rung_of(state.step, metrics)
        decision = self._planner.rung(trial_id, rung, metrics.get(self._sweep.metric))
        if trial_id in self._exempt:
            return True
        if decision.stop:
            stopped = StopDecision(
                step=state.step, rule=self._sweep.stopping.rule, reason=decision.reason, decided_s=time.time()
            )
            with self._guarded():
                trial_folder(self._storage, self._sweep.name, trial_id).write("stopped.json", stopped.encode())
        return not decision.stop

    def ended(self, trial_id: str, lost: bool, why: str = "") -> None:
        """A trial is over, or comes back: stopped by somebody, without a seat, its machine lost (`why`) or going."""
        with self._guarded():
            record = read_trial(self._storage, self._sweep.name, trial_id)
            if not record.status.is_final and not self._stopping.is_set():
                if self._may_go_again(record, lost):
                    self._scheduler.give_back(trial_id)
                    return
                times = self._lost[trial_id] + self._vain[trial_id]
                reason = f"its machine or process was lost {times} times" + (f", at last: {why}" if why else "")
                self._submitter.mark_failed(record, Status.FAILED, reason)
                record = read_trial(self._storage, self._sweep.name, trial_id)
            if record.status is not Status.RUNNING:  # else interrupted without a word: it goes on in the next run
                self._end(record)

    def _may_go_again(self, record: TrialRecord, lost: bool) -> bool:
        """Whether it stands in line once more. Only a machine that was lost at work counts against a trial."""
        trial_id = record.trial_id
        has_begun = len(record.attempts) > self._attempts[trial_id]
        self._attempts[trial_id] = len(record.attempts)
        if record.status is Status.INTERRUPTED and has_begun and not lost:
            return True  # its machine was announced to go
        self._lost[trial_id] += has_begun
        self._vain[trial_id] += not has_begun
        return self._lost[trial_id] <= LOST_MACHINES and self._vain[trial_id] <= NEVER_BEGAN

    def _end(self, record: TrialRecord) -> None:
        if record.status in (Status.FAILED, Status.OUT_OF_MEMORY) and self._allocator.is_canary(record.trial_id):
            asked = " or ".join(self._allocator.allocations[record.trial_id].candidate.gpu_types)
            kind = record.attempts[-1].start.gpu_type or asked or "this kind of GPU"
            self._fail(
                SweepError(
                    f"the first trial on {kind} failed within {CANARY_STEPS} steps, the sweep stops: {record.reason}",
                    f"Mend it, then trm sweep retry {self._sweep.name} and resume; --no-canary goes on regardless",
                )
            )
        elif record.status.is_final and (seat := self._allocator.allocations.get(record.trial_id)):
            self._allocator.passed.add(seat.gpu_type)
        self._scheduler.ended(record)
        self._planner.ended(record)
        self._watcher.trial_ended(self._planner, record)
