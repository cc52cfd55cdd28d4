"""One attempt at a trial, in a process of its own: train, and write everything to the record.

Invariant: own failures, divergence and lack of memory are results. They end the attempt with a status; nothing is
raised, so that whatever does raise is the machine's failure and not the trial's.
"""

from __future__ import annotations

import resource
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

import torch

from orchestrator.records.checkpoints import StoredCheckpoints
from orchestrator.records.datasets import ensure_local
from orchestrator.records.reader import read_trial
from orchestrator.records.schema import SYSTEM_SPLIT, AttemptEnd, AttemptStart, Row, Status, TrialResult
from orchestrator.records.writer import TrialWriter
from orchestrator.storage import Storage, open_storage
from orchestrator.worker import provenance
from orchestrator.worker.job import Job, Listener, TrialReport
from orchestrator.worker.telemetry import SystemMetrics, gpus_of
from trm_data.errors import UserError
from trm_model.checkpoints.store import checkpoint_names, copy, step_of
from trm_model.config import TrialConfig
from trm_model.device import resolve_device
from trm_model.recursion_file import accept
from trm_model.training import events
from trm_model.training.launch import ProcessLostError, train_in_processes


def run_attempt(job: Job, listen: Listener, should_stop: Callable[[], bool]) -> TrialReport:
    """Train from the newest checkpoint to the end, to `should_stop`, or to a failure. Returns the news of the end."""
    storage = open_storage(job.storage_url)
    config = TrialConfig.parse(job.config)
    writer = TrialWriter(storage, job.sweep, job.trial_id)
    attempt = _Attempt(job, config, writer, listen)
    try:
        if config.model.recursion is not None and job.recursion is not None:
            accept(config.model.recursion, job.recursion)
        cap_memory(job.placement.get("memory_share"))
        dataset = ensure_local(storage, job.dataset)
        if job.continues is not None:
            inherit(storage, job.sweep, job.continues, writer, config.train.max_steps)
        for event in train_in_processes(
            config,
            dataset,
            processes=job.processes,
            checkpoints=StoredCheckpoints(writer.checkpoints),
            should_stop=should_stop,
        ):
            attempt.take(event)
    except ProcessLostError:
        raise  # the machine's doing, not the trial's
    except MemoryError as error:
        attempt.finish(Status.OUT_OF_MEMORY, str(error) or "the machine's memory is exhausted")
    except Exception as error:
        is_memory = type(error).__name__ == "OutOfMemoryError"  # torch's own, without importing it here
        attempt.finish(
            Status.OUT_OF_MEMORY if is_memory else Status.FAILED,
            f"{type(error).__name__}: {error}",
            traceback.format_exc(),
        )
    assert attempt.last is not None, "training ends with Finished, Diverged or Interrupted"
    return attempt.last


def cap_memory(share: float | None) -> None:
    """A trial that shares a GPU takes its part of the memory and no more: what it lacks then is its own failure."""
    if share is not None and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


def _device_of(config: TrialConfig) -> str:
    """What it runs on, or what it asks for in vain: that has to be told, too."""
    try:
        return resolve_device(config.runtime.device).type
    except UserError:
        return config.runtime.device


def inherit(storage: Storage, sweep: str, shorter: str, writer: TrialWriter, max_steps: int) -> None:
    """Let a trial that has no checkpoint yet begin with the last one of a shorter trial, and with its curve so far."""
    if writer.checkpoints.list():
        return
    theirs = storage.sub(f"sweeps/{sweep}/trials/{shorter}/checkpoints")
    names = [name for name in checkpoint_names(StoredCheckpoints(theirs)) if step_of(name) <= max_steps]
    if not names:
        return
    rows = [row for row in read_trial(storage, sweep, shorter).rows if row.step <= step_of(names[-1])]
    writer.inherit(rows)
    copy(StoredCheckpoints(theirs), names[-1], StoredCheckpoints(writer.checkpoints))


class _Attempt:
    """Turns events into rows, files and news."""

    def __init__(self, job: Job, config: TrialConfig, writer: TrialWriter, listen: Listener) -> None:
        self.last: TrialReport | None = None
        self._job = job
        self._num_threads = config.runtime.num_threads
        self._writer = writer
        self._listen = listen
        self._step = 0
        self._train_s = 0.0
        self._announced = False
        self._started_s = time.monotonic()
        self._taken_s = time.monotonic()
        self._to_checkpoint_s = 0.0
        self._device = _device_of(config)
        self._monitor = SystemMetrics(gpus_of(self._device), float(job.placement.get("gpu_count") or 1))

    def take(self, event: events.Event) -> None:
        if isinstance(event, events.Checkpointed):
            self._to_checkpoint_s = max(self._to_checkpoint_s, time.monotonic() - self._taken_s)
        self._handle(event)
        self._taken_s = time.monotonic()  # a rung may have waited for its answer meanwhile

    def _handle(self, event: events.Event) -> None:
        self._step = event.step
        match event:
            case events.Started():
                self._announce(event.step)
            case events.Trained(metrics=metrics):
                self._add("train", metrics)
                self._note(self._monitor.due())
                self._listen(TrialReport(event.step, metrics, "progress", grace_s=self._to_checkpoint_s))
            case events.Evaluated(metrics=metrics, split=split):
                self._add(split, metrics)
                self._writer.flush()
                self._listen(TrialReport(event.step, metrics, "rung", grace_s=self._to_checkpoint_s))
            case events.Finished(result=result, files=files):
                self._note(self._monitor.last())
                self._writer.finish(TrialResult.parse(result), files)
                self.finish(Status.FINISHED, metrics=result["metrics"])
            case events.Diverged(reason=reason):
                self.finish(Status.DIVERGED, reason)
            case events.Interrupted():
                self.finish(Status.INTERRUPTED, "asked to stop")

    def finish(
        self, status: Status, reason: str = "", trace: str = "", metrics: dict[str, float] | None = None
    ) -> None:
        self._announce(self._step)
        end = AttemptEnd(
            status=status,
            step=self._step,
            ended_s=time.time(),
            elapsed_s=time.monotonic() - self._started_s,
            train_s=self._train_s,
            reason=reason,
            traceback=trace,
            peak_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            gpu_peak_bytes=torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None,
        )
        with suppress(UserError):  # a full disk: the driver, which reads the record, is the one to say so
            self._note(self._monitor.last())
            self._writer.end(end)
        self.last = TrialReport(self._step, metrics or {}, "end", str(status), reason)
        self._listen(self.last)

    def _announce(self, step: int) -> None:
        if self._announced:
            return
        self._announced = True
        self._started_s = time.monotonic()
        run = {"from_step": step, "num_threads": self._num_threads, "processes": self._job.processes}
        where = provenance.describe(self._device) | self._job.placement
        self._writer.start(AttemptStart.parse({**where, **run, "started_s": time.time()}))

    def _note(self, sample: dict[str, float]) -> None:
        if sample:
            self._add(SYSTEM_SPLIT, sample)

    def _add(self, split: str, metrics: dict[str, float]) -> None:
        self._train_s = metrics.get("train_s", self._train_s)
        self._writer.add(Row(self._step, time.time(), split, metrics))
