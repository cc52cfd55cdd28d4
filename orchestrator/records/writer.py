"""Write the record of one attempt."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from orchestrator.records.failures import is_out_of_space
from orchestrator.records.rows import dump_rows
from orchestrator.records.schema import AttemptEnd, AttemptStart, Row, TrialResult
from orchestrator.records.segments import fold, segment_name
from orchestrator.storage import Storage, StorageError

T = TypeVar("T")
logger = logging.getLogger(__name__)

FLUSH_S = 4.0
"""Longest time that a row waits before others can see it: trackers and pages show a point within ten seconds, whatever
the age of the trial. On S3 these are 900 requests an hour, half a cent."""
FOLD_EVERY = 200
"""Segments that a running attempt leaves before it folds them."""
SPACE_WAIT_S = 60.0
"""Time that the end of an attempt waits for space on a full disk."""
SPACE_POLL_S = 5.0


class TrialWriter:
    """Write the record of one attempt. Used only by the process that trains.

    A segment that the storage refuses stays pending and is written with the next one, under the name and with the
    content of the first try: a write that arrived although its answer was lost adds no row twice.
    """

    def __init__(
        self, storage: Storage, sweep: str, trial_id: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = storage.sub(f"sweeps/{sweep}/trials/{trial_id}")
        self.checkpoints = self.folder.sub("checkpoints")
        begun = [key.split("/")[1] for key in self.folder.list("attempts") if key.endswith("/start.json")]
        self.attempt = max((int(number) for number in begun if number.isdecimal()), default=0) + 1
        self._start: bytes | None = None
        self._curve = self.folder.patient(0.0)
        """Training does not wait for rows: a failed write is repeated with the next segment."""
        self._clock = clock
        self._flushed_s = clock()
        self._pending: list[Row] = []
        self._refused: tuple[str, bytes] | None = None
        self._written: dict[str, bytes] = {}
        self._segments = 0

    def start(self, start: AttemptStart) -> None:
        """Record the start of the attempt, under the first number that no other process has begun.

        The process of a killed driver may live on for a while: if it began its attempt since this writer was made, both
        would otherwise write under one number, and what the first has used would be lost. After a StorageError it is
        to be called again with the same start.
        """
        self._flushed_s = self._clock()
        data, before = start.encode(), self._start
        self._start = data
        while not self.folder.create(key := f"attempts/{self.attempt:03d}/start.json", data):
            if data == before and self.folder.read_many([key]).get(key) == data:
                return  # an earlier try has arrived, and only its answer was lost
            self.attempt += 1  # a curve that both inherit is in the record of the other one

    def inherit(self, rows: list[Row]) -> None:
        """Copy the curve of the trial from whose checkpoint this attempt starts. Must be called before `start`."""
        self.folder.write(segment_name(self.attempt, 0), dump_rows(rows, inherited=True))

    def add(self, row: Row) -> None:
        """Keep a row for the next segment, which is written when it is due.

        Raises:
            StorageError: no space is left.
        """
        self._pending.append(row)
        self.flush_due()

    def flush_due(self) -> None:
        """Write pending rows if the last segment is old enough. To be called often: a slow trial adds rows seldom.

        Raises:
            StorageError: no space is left.
        """
        if (self._pending or self._refused) and self._clock() - self._flushed_s >= FLUSH_S:
            self.flush()

    def flush(self) -> bool:
        """Write pending rows as one immutable segment. Return whether all are written; those that are not stay pending.

        Raises:
            StorageError: no space is left, so that a later attempt would also fail.
        """
        self._flushed_s = self._clock()
        try:
            self._write_pending(self._curve)
            if len(self._written) >= FOLD_EVERY:
                fold(self._curve, self.attempt, self._written)
                self._written.clear()
        except StorageError as error:
            if is_out_of_space(error):
                raise
            logger.warning("rows are kept for the next segment: %s", error)
        return not (self._pending or self._refused)

    def _write_pending(self, folder: Storage) -> None:
        while self._refused or self._pending:
            if self._refused is None:
                self._segments += 1
                self._refused = (segment_name(self.attempt, self._segments), dump_rows(self._pending))
                self._pending = []
            name, data = self._refused
            folder.write(name, data)
            self._written[name] = data
            self._refused = None

    def finish(self, result: TrialResult, files: dict[str, bytes]) -> None:
        """Write the final score, after the files that belong to it: from then on the trial is finished.

        Raises:
            StorageError: the storage refused it for minutes.
        """
        self.write_rows()
        for name, data in files.items():
            self._retry_full_disk(lambda name=name, data=data: self.folder.write(name, data))  # type: ignore[misc]
        self._retry_full_disk(lambda: self.folder.write("result.json", result.encode()))

    def write_rows(self) -> None:
        """Write all rows that are pending.

        Raises:
            StorageError: the storage refused them for minutes.
        """
        self._retry_full_disk(lambda: self._write_pending(self.folder))

    def end(self, end: AttemptEnd) -> None:
        """Record how the attempt ended, and fold its segments.

        Raises:
            StorageError: the storage refused it for minutes.
        """
        self.write_rows()
        self._retry_full_disk(lambda: self.folder.write(f"attempts/{self.attempt:03d}/end.json", end.encode()))
        try:
            fold(self._curve, self.attempt, self._written)
        except StorageError as error:
            logger.warning("the rows of attempt %d stay in segments: %s", self.attempt, error)

    def _retry_full_disk(self, call: Callable[[], T]) -> T:
        """Repeat a call on a full disk for a minute. Other transient faults are retried by the storage itself."""
        deadline = self._clock() + SPACE_WAIT_S
        while True:
            try:
                return call()
            except StorageError as error:
                if not is_out_of_space(error) or self._clock() >= deadline:
                    raise
            time.sleep(SPACE_POLL_S)
