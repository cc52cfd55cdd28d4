"""Decide what follows a failure: another attempt, the end of the trial, or the end of the sweep."""

from __future__ import annotations

import errno
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

from orchestrator.records.failures import is_out_of_space
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.storage.base import StorageError
from orchestrator.sweep.definition import Sweep
from orchestrator.worker.job import ASKED_TO_STOP

logger = logging.getLogger(__name__)

LOST_NODES = 5
"""Times that a trial may lose its node or process before it is marked failed."""
FAILED_LAUNCHES = 20
"""Maximum failed launches per trial, e.g. on a node that is being preempted."""
OUTAGE_S = 600.0
"""Longest outage of the storage that a driver waits for. It may exceed the lease: the next heartbeat is a conditional
write, which shows whether another driver took over meanwhile."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
NO_SPACE = ("No space left on device", "Disk quota exceeded")
"""Texts by which the errors of `is_out_of_space` are recognised in the reason of a trial on another machine."""
_PERMANENT = {errno.EACCES, errno.EPERM, errno.EROFS}
_Value = TypeVar("_Value")


class AttemptLimits:
    """Count what happened to each trial, and decide whether it may run again."""

    def __init__(self, records: Iterable[TrialRecord], retries: int) -> None:
        self._retries = retries
        self._attempts = Counter({record.trial_id: len(record.attempts) for record in records})
        """Attempts that a trial had when it was submitted."""
        self._lost: Counter[str] = Counter()
        self._failed_launches: Counter[str] = Counter()
        self._retried: Counter[str] = Counter()

    def may_resume(self, record: TrialRecord, lost: bool) -> bool:
        """Return whether a trial that came back unfinished runs again. Count the loss."""
        trial_id = record.trial_id
        has_begun = len(record.attempts) > self._attempts[trial_id]
        self._attempts[trial_id] = len(record.attempts)
        if record.status is Status.INTERRUPTED and has_begun and not lost and record.reason.startswith(ASKED_TO_STOP):
            return True  # its node announced its termination; other interruptions, e.g. by the storage, count as losses
        self._lost[trial_id] += has_begun
        self._failed_launches[trial_id] += not has_begun
        return self._lost[trial_id] <= LOST_NODES and self._failed_launches[trial_id] <= FAILED_LAUNCHES

    def may_retry(self, record: TrialRecord) -> bool:
        """Return whether a trial that failed by itself runs again. Count the retry."""
        if record.status is not Status.FAILED or self._retried[record.trial_id] >= self._retries:
            return False
        self._retried[record.trial_id] += 1
        self._attempts[record.trial_id] = len(record.attempts)
        return True

    def times_lost(self, trial_id: str) -> int:
        """Return how often a trial was lost because of its nodes."""
        return self._lost[trial_id] + self._failed_launches[trial_id]


class FailureStreak:
    """Count trials that fail in succession with the same reason.

    Only failures by an error count: divergence and lack of memory depend on the trial's own configuration.
    """

    def __init__(self, sweep: Sweep, limit: int | None, num_explored: int) -> None:
        self._limit = limit
        self._reason = ""
        self._count = 0
        self._num_explored = num_explored
        # The first configurations of a search are drawn at random: if all of them fail, the rest may still succeed.
        self._num_startup = max(4, min(10, (sweep.trials or 0) // 3)) if sweep.kind == "search" else 0

    def add(self, record: TrialRecord) -> str:
        """Process the end of a trial. Return why the sweep must stop, or an empty string."""
        self._num_explored += record.stage == "explore"
        if record.status is not Status.FAILED:
            self._count = 0
            return ""
        reason = _without_numbers(record.reason)
        self._count = self._count + 1 if reason == self._reason else 1
        self._reason = reason
        is_startup = record.stage == "explore" and self._num_explored <= self._num_startup
        if self._limit is None or self._count < self._limit or is_startup:
            return ""
        return f"{self._count} trials in a row failed with: {record.reason}"


def _without_numbers(reason: str) -> str:
    """Return a reason without addresses, sizes and steps, which differ between equal failures."""
    return re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?", "#", reason)


def says_out_of_space(reason: str) -> bool:
    """Return whether the reason of a trial's end is a full disk."""
    return any(text in reason for text in NO_SPACE)


def persist(
    action: Callable[[], _Value],
    give_up: threading.Event,
    limit_s: float = OUTAGE_S,
    clock: Callable[[], float] = time.monotonic,
) -> _Value:
    """Retry an action that uses the storage while the storage is unavailable.

    Raises:
        StorageError: the disk is full, access is denied, the outage lasts too long, or `give_up` is set.
    """
    until_s, pause_s = clock() + limit_s, FIRST_PAUSE_S
    while True:
        try:
            return action()
        except StorageError as error:
            if is_out_of_space(error) or _is_permanent(error) or clock() > until_s or give_up.is_set():
                raise
            logger.warning("storage is unavailable, next try in %.0f s: %s", pause_s, error)
        give_up.wait(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _is_permanent(error: BaseException) -> bool:
    cause = error.__cause__ or error.__context__
    return isinstance(cause, OSError) and cause.errno in _PERMANENT
