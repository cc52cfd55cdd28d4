"""The driver: Ray Tune executes, records decide.

Tune places trials and brings back rungs. Everything else is ours: the planner says which trial starts, the records say
what happened, and each start of the driver is a new Tuner that goes on from the records.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from orchestrator.cluster.connect import connect
from orchestrator.datasets import Library
from orchestrator.errors import ClusterError, SweepError
from orchestrator.job import Job
from orchestrator.lifecycle import Shorter
from orchestrator.lock import DriverLock, stop_requested
from orchestrator.placement import bundle, fits
from orchestrator.plan import PlannedTrial
from orchestrator.planner import Planner
from orchestrator.record import Status, TrialRecord, dump, read_trial
from orchestrator.recorded import head_of, sweep_folder, trial_folder
from orchestrator.signals import stop_signals
from orchestrator.stopping import Rung
from orchestrator.storage import Storage
from orchestrator.sweep import Sweep
from orchestrator.watcher import Watcher
from trm_data.errors import UserError

POLL_S = 0.2
STOP_POLL_S = 2.0
STOP_LIMIT_S = 45.0
"""Longest wait for a clean stop: where Ray was ended together with the driver it never comes."""
LOST_MACHINES = 5
"""Times that a trial may lose its machine before the sweep gives it up."""
MAX_UNBOUNDED_SLOTS = 64


class Ending(StrEnum):
    """How a driver ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    ABANDONED = "abandoned"
    """Stopped, but Ray did not answer any more: the process must end without waiting for it."""


@dataclass(frozen=True, slots=True)
class Options:
    """Where and how to run: nothing here changes a result."""

    address: str | None = None
    max_concurrent: int | None = None


class Driver:
    """Tune's three seams (search, schedule, stop) on one planner. Tune calls them from one thread, one at a time."""

    def __init__(
        self,
        sweep: Sweep,
        storage: Storage,
        library: Library,
        planner: Planner,
        records: Sequence[TrialRecord],
        watcher: Watcher,
        lock: DriverLock,
    ) -> None:
        self._sweep = sweep
        self._storage = storage
        self._library = library
        self._planner = planner
        self._watcher = watcher
        self._lock = lock
        self._shorter = Shorter(records)
        self._exempt = {record.trial_id for record in records if record.is_exempt}
        self._stopping = threading.Event()
        self._abandoned = False
        self._error: BaseException | None = None

    def run(self, options: Options) -> Ending:
        connect(options.address)
        import ray

        try:
            slots = self._slots(options)
            self._watcher.started(self._planner, slots)
            thread = threading.Thread(target=self._fit, args=(slots,), name="tune", daemon=True)
            with stop_signals(self._stopping):
                thread.start()
                self._wait(thread)
            if self._abandoned:
                return Ending.ABANDONED
        finally:
            if not self._abandoned:
                ray.shutdown()
        if self._error is not None:
            raise self._error
        return Ending.COMPLETE if self._planner.is_done else Ending.STOPPED

    def _wait(self, thread: threading.Thread) -> None:
        folder = sweep_folder(self._storage, self._sweep.name)
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
                self._error = SweepError("another driver took this sweep over", "This one's trials were ended")
                self._stopping.set()
            if time.monotonic() - asked_s > STOP_POLL_S:
                asked_s = time.monotonic()
                if stop_requested(folder):
                    self._stopping.set()

    def _slots(self, options: Options) -> int:
        """Trials at once. Raises ClusterError where a fixed set of nodes can hold none."""
        import ray

        nodes = ray.nodes()
        demand = bundle(self._sweep.resources)
        total = ray.cluster_resources()
        room = min(int(total.get(name, 0) // amount) for name, amount in demand.resources.items())
        if options.address is None and not fits(demand, nodes):
            raise ClusterError(
                f"this machine cannot hold one trial ({_words(demand.resources, demand.labels)})",
                "Ask for less with --cpus / --gpu, or name a cluster with --address",
            )
        wanted = options.max_concurrent or self._sweep.max_concurrent
        return min(wanted, MAX_UNBOUNDED_SLOTS) if wanted else max(1, min(room or 8, MAX_UNBOUNDED_SLOTS))

    def _fit(self, slots: int) -> None:
        try:
            from orchestrator.tuning import fit

            fit(self, slots, LOST_MACHINES)
        except BaseException as error:  # handed to the main thread, which raises it
            self._error = self._error or error

    # what orchestrator.tuning calls

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """What the user can mend (a full disk, a lost storage) ends the sweep cleanly and is raised at its end."""
        try:
            yield
        except UserError as error:
            self._error = self._error or error
            self._stopping.set()

    def suggest(self) -> dict[str, Any] | None:
        """Tune's configuration of the next trial, its trial.json written first; None if none can start now."""
        if self._stopping.is_set():
            return None
        with self._guarded():
            trial = self._planner.next()
            return self._announce(trial) if trial else None
        return None

    def _announce(self, trial: PlannedTrial) -> dict[str, Any]:
        dataset = self._library.get(trial.config.data.request())
        folder = trial_folder(self._storage, self._sweep.name, trial.trial_id)
        shorter = self._shorter.of(trial.config)
        origin = {"kind": "continued", "trial_id": shorter.trial_id} if shorter else None
        folder.create("trial.json", dump(head_of(trial, dataset, origin)))
        runtime = trial.config.runtime
        threads = runtime.num_threads or max(1, int(trial.resources.cpus))
        runtime = runtime.model_copy(update={"num_threads": threads})
        job = Job(
            storage_url=self._storage.url,
            sweep=self._sweep.name,
            trial_id=trial.trial_id,
            config=trial.config.model_copy(update={"runtime": runtime}).plain(),
            dataset=dataset.path.name,
            placement={"gpu_count": trial.resources.gpus, "cpu_count": trial.resources.cpus},
            continues=shorter.trial_id if shorter else None,
        )
        return {"trial_id": trial.trial_id, "job": asdict(job), "resources": trial.resources.plain()}

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is to be started."""
        return self._stopping.is_set() or self._planner.is_done

    @property
    def is_stopping(self) -> bool:
        """Whether somebody asked to stop."""
        return self._stopping.is_set()

    def result(self, trial_id: str, result: dict[str, Any]) -> bool:
        """A rung or progress. Returns whether the trial goes on."""
        metrics: dict[str, float] = dict(result["metrics"])
        state = self._planner.trials[trial_id]
        if result.get("trial_step") is not None:
            state.step = result["trial_step"]
        if result["kind"] != "rung":
            return True
        rung = Rung(state.step, metrics["exact_accuracy"], metrics.get("raw_cell_accuracy", 0.0))
        decision = self._planner.rung(trial_id, rung, metrics.get(self._sweep.metric))
        if trial_id in self._exempt:
            return True
        if decision.stop:
            rule, now_s = self._sweep.stopping.rule, time.time()
            stopped = {"step": state.step, "rule": rule, "reason": decision.reason, "decided_s": now_s}
            with self._guarded():
                trial_folder(self._storage, self._sweep.name, trial_id).write("stopped.json", dump(stopped))
        return not decision.stop

    def ended(self, trial_id: str, lost: bool) -> None:
        """A trial is over: by itself, stopped, interrupted, or (`lost`) its machine failed it too often."""
        with self._guarded():
            record = read_trial(self._storage, self._sweep.name, trial_id)
            if not record.status.is_final and not self._stopping.is_set():
                times = f" {LOST_MACHINES + 1} times" if lost else ""
                self._give_up(record, f"its machine or process was lost{times}")
                record = read_trial(self._storage, self._sweep.name, trial_id)
            if record.status is not Status.RUNNING:  # else interrupted without a word: it goes on in the next run
                self._planner.ended(record)
                self._watcher.trial_ended(self._planner, record)

    def _give_up(self, record: TrialRecord, reason: str) -> None:
        folder = trial_folder(self._storage, self._sweep.name, record.trial_id)
        number = record.attempts[-1].number if record.attempts else 1
        if not record.attempts:
            folder.write(f"attempts/{number:03d}/start.json", dump({"from_step": 0, "started_s": time.time()}))
        end = {"status": "failed", "step": record.step, "ended_s": time.time(), "train_s": 0.0}
        folder.write(f"attempts/{number:03d}/end.json", dump({**end, "reason": reason, "traceback": ""}))


def _words(resources: dict[str, float], labels: dict[str, str]) -> str:
    parts = [f"{amount:g} {name}" for name, amount in resources.items()]
    return ", ".join([*parts, *(f"{key}={value}" for key, value in labels.items())])
