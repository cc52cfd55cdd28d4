"""Run one attempt at a trial in its own process: train, and write everything to the record.

What follows a failure is decided by `orchestrator.records.failures.classify`:

- A failure of the trial itself (an exception, divergence, lack of memory) is a result: it ends the attempt with a
  status.
- A failure of the storage: rows stay pending and checkpoints are tried again when the next one is due, while training
  continues; what cannot be done without is waited for, for minutes. Where that does not help, or a disk is full, the
  attempt ends as interrupted: the trial resumes from its last checkpoint once the storage is back.
- A failure of the machine is raised, and the driver requeues the trial; without a driver it is an interruption.
- An error after a request to stop, or without a driver, is an interruption: what the driver owned may be gone.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from orchestrator.records.checkpoints import StoredCheckpoints
from orchestrator.records.datasets import CacheError, ensure_local
from orchestrator.records.failures import (
    FailureKind,
    MachineError,
    classify,
    is_out_of_memory,
    is_out_of_space,
    reason_of,
)
from orchestrator.records.reader import read_trial
from orchestrator.records.schema import SYSTEM_SPLIT, AttemptEnd, AttemptStart, Row, Status, TrialResult
from orchestrator.records.start_weights import start_store
from orchestrator.records.writer import TrialWriter
from orchestrator.resources.memory import memory_bytes
from orchestrator.storage import Storage, StorageError, open_storage
from orchestrator.worker import provenance
from orchestrator.worker.job import ASKED_TO_STOP, STORAGE_FAILURE, UNUSABLE_DATASET, Job, Listener, TrialReport
from orchestrator.worker.telemetry import SystemMetrics, gpus_of
from trm_data import Dataset
from trm_data.addresses import hide_credentials
from trm_data.dataset.manifest import UnknownKindError
from trm_data.errors import DataError, UserError
from trm_data.own_code import accept, classes_in
from trm_model.checkpoints.store import DamagedCheckpointError, checkpoint_names, copy, name_of, newest_checkpoint
from trm_model.config import TrialConfig
from trm_model.device import resolve_device
from trm_model.training import events
from trm_model.training.launch import train_in_processes

logger = logging.getLogger(__name__)
GIB = 2**30


def child_main(job: str, pipe: Connection) -> None:
    """Run an attempt in a forked process: the entry point that a trial actor names. `job` is a `Job` as JSON.

    Sends reports. Receives `continue` after a rung, and `stop`. Exits when the actor has exited.
    """
    may_continue, stop = threading.Event(), threading.Event()

    def listen() -> None:
        try:
            while True:
                if pipe.recv() == "stop":
                    stop.set()
                may_continue.set()
        except (EOFError, OSError):
            pass  # the actor is gone: the next attempt resumes from the last checkpoint
        except BaseException:
            traceback.print_exc()
        os._exit(1)  # whatever ended this thread, a trial without its actor must not continue

    threading.Thread(target=listen, name="actor-messages", daemon=True).start()

    def report(message: TrialReport) -> None:
        may_continue.clear()
        try:
            pipe.send(message)
        except OSError:  # the actor is gone, and the thread that listens to it has not noticed yet: no failure of ours
            os._exit(1)
        if message.kind == "rung" and not stop.is_set():
            may_continue.wait()

    run_attempt(Job.from_json(job), report, stop.is_set)


def run_attempt(
    job: Job, listen: Listener, should_stop: Callable[[], bool], *, is_requeued: bool = True
) -> TrialReport:
    """Train from the newest checkpoint to the end, to `should_stop`, or to a failure. Return the final report.

    Args:
        is_requeued: whether a driver starts the trial again after the failure of a machine, which is raised. Without
            one it is an interruption.

    Raises:
        Exception: the failure of a machine, see `orchestrator.records.failures`.
    """
    attempt = _Attempt(job, listen, should_stop, is_requeued)
    try:
        attempt.train()
    except Exception as error:
        attempt.fail(error)
    assert attempt.last is not None, "training ends with Finished, Diverged or Interrupted"
    return attempt.last


def cap_memory(share: float | None) -> None:
    """Limit a trial that shares a GPU to its part of the memory: exceeding it is then the trial's own failure."""
    if share is not None and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


def inherit(storage: Storage, sweep: str, shorter: str, writer: TrialWriter, max_steps: int) -> None:
    """Let a trial without a checkpoint start from the last one of a shorter trial, and with its curve so far."""
    own = StoredCheckpoints(writer.checkpoints)
    if checkpoint_names(own):
        return
    theirs = StoredCheckpoints(storage.sub(f"sweeps/{sweep}/trials/{shorter}/checkpoints"))
    try:
        found = newest_checkpoint(theirs, max_step=max_steps)
    except DamagedCheckpointError:
        found = None  # which files are damaged has been logged; training from the start gives the same result
    if found is None:
        return
    rows = [row for row in read_trial(storage, sweep, shorter).rows if row.step <= found.step]
    writer.inherit(rows)
    copy(theirs, name_of(found.step), own)


class AttemptCheckpoints(StoredCheckpoints):
    """Store the checkpoints of a running trial. Only reads wait for an unavailable storage.

    Writes do not wait: training continues, and the next checkpoint is written when it is due.
    """

    def __init__(self, folder: Storage) -> None:
        super().__init__(folder)
        self._at_once = folder.patient(0.0)

    def write(self, name: str, data: bytes) -> None:
        self._at_once.write(name, data)

    def delete(self, name: str) -> None:
        self._at_once.delete(name)


class _Attempt:
    """Convert the events of a run to rows, files and reports."""

    def __init__(self, job: Job, listen: Listener, should_stop: Callable[[], bool], is_requeued: bool) -> None:
        self.last: TrialReport | None = None
        self._is_requeued = is_requeued
        self._job = job
        self._config = TrialConfig.parse(job.config)
        self._listen = listen
        self._should_stop = should_stop
        self._writer: TrialWriter | None = None
        self._start: AttemptStart | None = None
        self._is_announced = False
        self._step = 0
        self._train_s = 0.0
        self._stop_time = _StopTime(self._config.train.batch_size)
        self._started_s, self._started_wall_s = time.monotonic(), time.time()
        self._device = _device_of(self._config)
        self._gpu_count = job.placement.get("gpu_count", job.processes if self._device == "cuda" else 0)
        self._metrics = SystemMetrics(gpus_of(self._device), self._gpu_count or 1.0)

    def train(self) -> None:
        """Run the trial, and write the events that it yields."""
        job, config = self._job, self._config
        storage = open_storage(job.storage_url)
        self._writer = writer = TrialWriter(storage, job.sweep, job.trial_id)
        logger.info("trial %s: attempt %d begins", job.trial_id, writer.attempt)
        for address in job.code.keys() & classes_in(config.plain()).keys():
            accept(address, job.code[address])
        cap_memory(job.placement.get("memory_share"))
        dataset = _provided(storage, job.dataset)
        if job.continues is not None:
            inherit(storage, job.sweep, job.continues, writer, config.train.max_steps)
        begin = config.train.start_from
        run = train_in_processes(
            config,
            dataset,
            processes=job.processes,
            checkpoints=AttemptCheckpoints(writer.checkpoints),
            start=None if begin is None else start_store(storage, begin),
            should_stop=self._asked_to_stop,
        )
        events.handle(run, self._take)

    def fail(self, error: Exception) -> None:
        """End the attempt with an error. Raise one of the machine if a driver requeues the trial."""
        kind = classify(error)
        if kind is FailureKind.MACHINE:
            if self._is_requeued:
                raise error
            self._finish(Status.INTERRUPTED, reason_of(error))
        elif kind is FailureKind.STORAGE:
            self._finish(Status.INTERRUPTED, _storage_reason(error))
        elif self._should_stop():  # files of a driver that ends may be gone; a failure of the trial itself will recur
            self._finish(Status.INTERRUPTED, f"{ASKED_TO_STOP} at step {self._step}, and ended by {reason_of(error)}")
        elif is_out_of_memory(error):
            self._finish(Status.OUT_OF_MEMORY, self._memory_reason(error), hide_credentials(traceback.format_exc()))
        else:
            self._finish(Status.FAILED, reason_of(error), hide_credentials(traceback.format_exc()))

    def _asked_to_stop(self) -> bool:
        """Return whether the run is to stop. Training asks after every step, so that due rows are written here too."""
        assert self._writer is not None
        self._writer.flush_due()
        return self._should_stop()

    def _take(self, event: events.Event) -> bool | None:
        """Write an event. Return False if a checkpoint has to wait, because rows before it could not be written."""
        assert self._writer is not None
        self._step = event.step
        self._stop_time.take(event)
        match event:
            case events.Started(started_from=started_from, skipped=skipped):
                self._announce(self._writer, started_from, skipped)
            case events.Trained(metrics=metrics):
                self._add("train", metrics)
                self._add(SYSTEM_SPLIT, self._metrics.due())
                self._report("progress", metrics)
            case events.Evaluated(metrics=metrics, split=split):
                self._add(split, metrics)
                self._writer.flush()
                self._report("rung", metrics)
            case events.Saving():
                return self._writer.flush()
            case events.CheckpointFailed(reason=reason, is_out_of_space=True):
                raise StorageError(f"no checkpoint at step {event.step}: {reason}") from _no_space()
            case events.CheckpointFailed(reason=reason):
                logger.warning("trial %s: no checkpoint at step %d: %s", self._job.trial_id, event.step, reason)
            case events.Finished(result=result, files=files):
                self._add(SYSTEM_SPLIT, self._metrics.last())
                self._writer.finish(TrialResult.parse(result), files)
                self._finish(Status.FINISHED, metrics=result["metrics"])
            case events.Diverged(reason=reason):
                self._finish(Status.DIVERGED, reason)
            case events.Interrupted(is_saved=is_saved):
                saved = "with a checkpoint" if is_saved else "without a last checkpoint"
                self._finish(Status.INTERRUPTED, f"{ASKED_TO_STOP} at step {event.step}, {saved}")
        return None

    def _finish(
        self, status: Status, reason: str = "", trace: str = "", metrics: dict[str, float] | None = None
    ) -> None:
        """Write how the attempt ended, and report it."""
        try:
            self._write_end(status, reason, trace)
        except StorageError as error:
            # Without an end in its record the trial is resumed, even if it had failed: the failure will recur.
            logger.warning("trial %s: cannot write how it ended: %s", self._job.trial_id, error)
            if status is not Status.FINISHED:
                if not reason.startswith(STORAGE_FAILURE):
                    reason = _storage_reason(error) + (
                        f"; its end is not recorded: {status}, {reason}" if reason else ""
                    )
                status = Status.INTERRUPTED
        logger.info("trial %s: %s at step %d%s", self._job.trial_id, status, self._step, f": {reason}" * bool(reason))
        self._report("end", metrics or {}, str(status), reason)

    def _write_end(self, status: Status, reason: str, trace: str) -> None:
        if self._writer is None:  # the storage has been unavailable since the start
            return
        if self._is_announced:
            self._add(SYSTEM_SPLIT, self._metrics.last())
        else:  # no row before the checkpoint was read: at step 0 it would replace the curve of earlier attempts
            self._announce(self._writer)
        self._writer.write_rows()  # before the time is taken: an attempt that waits for the storage holds its GPU
        end = AttemptEnd(
            status=status,
            step=self._step,
            ended_s=time.time(),
            elapsed_s=time.monotonic() - self._started_s,
            train_s=self._train_s,
            reason=reason,
            traceback=trace,
            peak_bytes=_held_bytes(),
            gpu_peak_bytes=torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None,
        )
        self._writer.end(end)

    def _announce(self, writer: TrialWriter, started_from: str = "", skipped: Sequence[str] = ()) -> None:
        """Write the start of the attempt. If the storage refused it before, it is repeated as it was."""
        if self._start is None:
            where = {**provenance.describe(self._device), "gpu_count": self._gpu_count, **self._job.placement}
            run = {"num_threads": self._config.runtime.num_threads, "processes": self._job.processes}
            self._started_s, self._started_wall_s = time.monotonic(), time.time()
            start = {**where, **run, "from_step": self._step, "started_s": self._started_wall_s}
            more = {"skipped": skipped} if skipped else {}
            self._start = AttemptStart.parse({**start, "started_from": started_from, **more})
        writer.start(self._start)
        self._is_announced = True

    def _add(self, split: str, metrics: dict[str, float]) -> None:
        """Add a row, unless it is empty. Within an attempt time never steps, whatever the wall clock does."""
        self._train_s = metrics.get("train_s", self._train_s)
        if metrics and self._writer is not None:
            now_s = self._started_wall_s + time.monotonic() - self._started_s
            self._writer.add(Row(self._step, now_s, split, metrics))

    def _report(self, kind: str, metrics: dict[str, float], status: str = "", reason: str = "") -> None:
        report = TrialReport(self._step, metrics, kind, status, reason, self._stop_time.seconds)  # type: ignore[arg-type]
        if kind == "end":
            self.last = report
        self._listen(report)

    def _memory_reason(self, error: Exception) -> str:
        """Return one line with the predicted memory and the peak memory of the process."""
        reason = reason_of(error)
        if "predicted" in reason:  # the training loop has added both
            return reason
        is_gpu = self._device == "cuda" and torch.cuda.is_available()
        predicted = memory_bytes(self._config, "cuda" if is_gpu else "cpu")
        held = torch.cuda.max_memory_allocated() if is_gpu else _held_bytes()
        return f"{reason} ({predicted / GIB:.2f} GiB predicted, {held / GIB:.2f} GiB held)"


@dataclass(slots=True)
class _StopTime:
    """Measure the time from a request to stop until the last checkpoint is written."""

    batch_size: int
    step_s: float = 0.0
    save_s: float = 0.0

    def take(self, event: events.Event) -> None:
        """Update the measured times from an event."""
        if isinstance(event, events.Trained) and (rate := event.metrics.get("examples_per_s")):
            self.step_s = self.batch_size / rate
        elif isinstance(event, events.Checkpointed):
            self.save_s = max(self.save_s, event.seconds)

    @property
    def seconds(self) -> float:
        """Return the time in seconds for the rest of a step and two attempts to write a checkpoint."""
        return self.step_s + 2 * self.save_s


def _provided(storage: Storage, name: str) -> Dataset:
    """Open the dataset that the driver has built: where it is gone or damaged since, no trial is at fault.

    Raises:
        StorageError: it is gone or damaged. The driver then reads the storage's copy, and restores it.
        MachineError: this machine has nowhere to download it to.
        UnknownKindError: it needs code that this process does not trust.
    """
    try:
        return ensure_local(storage, name)
    except CacheError as error:
        if is_out_of_space(error):
            raise
        raise MachineError(error.what, error.remedy) from None  # its cause may look like one of a file server
    except UnknownKindError:
        raise
    except KeyError:
        raise StorageError(f"{UNUSABLE_DATASET} {name}: {storage.url} does not hold it any more") from None
    except DataError as error:
        raise StorageError(f"{UNUSABLE_DATASET} {name}: {error.what}", error.remedy) from error


def _device_of(config: TrialConfig) -> str:
    """Return the resolved device, or the requested one if it is unavailable, so that the record shows it."""
    try:
        return resolve_device(config.runtime.device).type
    except UserError:
        return config.runtime.device


def _held_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _storage_reason(error: Exception) -> str:
    """Return one line. The driver recognises a full disk by the text of the system error."""
    what = f"{os.strerror(errno.ENOSPC)}: " if is_out_of_space(error) else ""
    return f"{STORAGE_FAILURE}: {what}{reason_of(error)}"
