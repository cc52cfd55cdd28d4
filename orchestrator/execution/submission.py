"""Submit trials: write the head of the record, and build the job that a trial actor runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from orchestrator.execution.scheduler import NOWHERE, Start
from orchestrator.records.datasets import Library
from orchestrator.records.extend import allow_retry
from orchestrator.records.index import head_of, sweep_folder, trial_folder, write_head
from orchestrator.records.reader import read_trial
from orchestrator.records.reuse import FinishedTrials, ShorterTrials
from orchestrator.records.schema import Attempt, AttemptEnd, AttemptStart, Origin, Status, TrialRecord
from orchestrator.resources.usage import attempt_usage
from orchestrator.search.order import Order
from orchestrator.storage import Storage
from orchestrator.worker.job import UNUSABLE_DATASET, Job


class TrialSubmitter:
    """Write the driver's part of a trial's record: its head, a retry, and the end that a lost node could not write."""

    def __init__(
        self,
        sweep: str,
        storage: Storage,
        library: Library,
        records: Sequence[TrialRecord],
        *,
        reuse: bool,
        order: Order | None = None,
    ) -> None:
        """`order`: of a search; it is written before a trial that it suggested."""
        self._sweep = sweep
        self._storage = storage
        self._library = library
        self._order = order
        self._num_written = 0
        self._shorter = ShorterTrials(records)
        self._finished = FinishedTrials(storage, sweep) if reuse else None

    def already_settled(self, start: Start) -> TrialRecord | None:
        """Return the record of a trial that need not run: another sweep has finished it, or it fits on no GPU."""
        self._write_order()
        trial = start.trial
        head = head_of(trial, self._library.get(trial.config.data.request()))
        if self._finished and (taken := self._finished.take_over(trial, head)):
            return taken
        if start.candidate != NOWHERE:
            return None
        trial_folder(self._storage, self._sweep, trial.trial_id).create("trial.json", head.encode())
        record = read_trial(self._storage, self._sweep, trial.trial_id)
        self.mark_failed(record, Status.OUT_OF_MEMORY, "its predicted memory fits on none of the GPUs that it may use")
        return read_trial(self._storage, self._sweep, trial.trial_id)

    def submit(self, start: Start) -> Job:
        """Write `trial.json` and return the job for the trial actor."""
        trial, demand = start.trial, start.candidate.bundle
        dataset = self._library.hold(trial.config.data.request())
        shorter = self._shorter.of(trial.config)
        origin = Origin(kind="continued", trial_id=shorter.trial_id) if shorter else None
        folder = trial_folder(self._storage, self._sweep, trial.trial_id)
        code = write_head(folder, trial.config, head_of(trial, dataset, origin))
        cpus = demand.resources["CPU"]
        threads = trial.config.runtime.num_threads or max(1, int(cpus))
        runtime = trial.config.runtime.model_copy(update={"num_threads": threads})
        placement: dict[str, Any] = {"gpu_count": demand.gpus, "cpu_count": cpus}
        return Job(
            storage_url=self._storage.url,
            sweep=self._sweep,
            trial_id=trial.trial_id,
            config=trial.config.model_copy(update={"runtime": runtime}).plain(),
            dataset=dataset.path.name,
            placement=placement | ({"memory_share": demand.gpus} if 0 < demand.gpus < 1 else {}),
            continues=shorter.trial_id if shorter else None,
            code=code,
        )

    def note_fault(self, record: TrialRecord, fault: str) -> None:
        """Check a trial's dataset once more before its next start if the storage interrupted it because of that."""
        if UNUSABLE_DATASET in fault:
            self._library.doubt(record.config.data.request())

    def _write_order(self) -> None:
        if self._order is not None and len(self._order.events) > self._num_written:
            written = len(self._order.events)
            self._order.save(sweep_folder(self._storage, self._sweep))
            self._num_written = written

    def mark_failed(self, record: TrialRecord, status: Status, reason: str) -> None:
        """Write the end of a trial whose own process cannot write it.

        It ends the last attempt if that was lost, as of its last row. Otherwise it is an attempt of its own, which has
        used nothing: the end of the last attempt stays as it is, and one that the user forgave no longer counts.
        """
        folder = trial_folder(self._storage, self._sweep, record.trial_id)
        last, now_s = record.attempts[-1] if record.attempts else None, time.time()
        forgiven = max((retry.after_attempt for retry in record.retries), default=0)
        if last is None or last.end is not None or last.number <= forgiven:
            number, elapsed_s = 1 + (last.number if last else 0), 0.0
            start = AttemptStart(from_step=record.step, started_s=now_s)
            folder.write(f"attempts/{number:03d}/start.json", start.encode())
        else:
            number, elapsed_s = last.number, attempt_usage(record)[-1].duration_s
        end = AttemptEnd(
            status=status,
            step=record.step,
            ended_s=now_s,
            elapsed_s=elapsed_s,
            train_s=next(filter(None, map(_train_s, reversed(record.attempts))), 0.0),
            reason=reason,
        )
        folder.write(f"attempts/{number:03d}/end.json", end.encode())

    def retry(self, record: TrialRecord) -> None:
        """Let a failed trial run again, as `trm sweep retry` does. Its record is kept."""
        allow_retry(trial_folder(self._storage, self._sweep, record.trial_id), record)


def _train_s(attempt: Attempt) -> float:
    """Return the seconds of training in the trial up to the end of an attempt or, if it was lost, to its last row."""
    if attempt.end is not None:
        return attempt.end.train_s
    return next((row.metrics["train_s"] for row in reversed(attempt.rows or ()) if "train_s" in row.metrics), 0.0)
