"""Decide what follows a failure: another attempt, the end of the trial, or the end of the sweep."""

from __future__ import annotations

import errno
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from orchestrator.records.failures import is_out_of_space
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.records.stored import Damaged
from orchestrator.storage.base import StorageError
from orchestrator.sweep.definition import Sweep
from orchestrator.worker.job import ASKED_TO_STOP, STORAGE_FAILURE

logger = logging.getLogger(__name__)

LOST_NODES = 5
"""Times that a trial may lose its node or process before it is marked failed."""
FAILED_LAUNCHES = 20
"""Maximum failed launches per trial, e.g. on a node that is being preempted."""
STORAGE_FAULTS = 30
"""Times in a row that the storage may interrupt a trial which makes no progress while others end: its own code may fail
in this way too. An outage interrupts it at most 25 times before `OUTAGE_S` has passed."""
OUTAGE_S = 600.0
"""Longest outage of the storage that a driver waits for, whether its own requests fail or those of trials. It may
exceed the lease: the next heartbeat is a conditional write, which shows whether another driver took over meanwhile."""
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
        self._faults: dict[str, tuple[int, int]] = {}
        """The last step of each trial, and how often the storage has interrupted it since then."""

    def why_over(self, record: TrialRecord, lost: bool, why: str, fault: str) -> str:
        """Return why a trial that came back unfinished runs no more; an empty string if it does. Count the loss.

        Args:
            why: why it was lost or interrupted, if that is known.
            fault: of the storage, as `interrupted_by_storage` returned it.
        """
        trial_id = record.trial_id
        if fault:
            step, times = self._faults.get(trial_id, (record.step, 0))
            times = 1 if record.step > step else times + 1
            self._faults[trial_id] = max(step, record.step), times
            return f"interrupted {times} times without progress by a {fault}" if times > STORAGE_FAULTS else ""
        has_begun = self.has_begun(record)
        self._attempts[trial_id] = len(record.attempts)
        if record.status is Status.INTERRUPTED and has_begun and not lost and record.reason.startswith(ASKED_TO_STOP):
            return ""  # its node announced its termination
        self._lost[trial_id] += has_begun
        self._failed_launches[trial_id] += not has_begun
        if self._lost[trial_id] <= LOST_NODES and self._failed_launches[trial_id] <= FAILED_LAUNCHES:
            return ""
        times = self._lost[trial_id] + self._failed_launches[trial_id]
        return f"its node or process was lost {times} times" + (f", most recently: {why}" if why else "")

    def has_begun(self, record: TrialRecord) -> bool:
        """Return whether the newest attempt of a trial is recorded; else the record ends with an earlier one."""
        return len(record.attempts) > self._attempts[record.trial_id]

    def interrupted_by_storage(self, record: TrialRecord, reported: str) -> str:
        """Return why the storage interrupted the newest attempt; an empty string if it did not.

        Args:
            reported: what the attempt reported at its end, which it may have been unable to record.
        """
        recorded = record.reason if record.status is Status.INTERRUPTED and self.has_begun(record) else ""
        found = next((reason for reason in (reported, recorded) if reason.startswith(STORAGE_FAILURE)), "")
        if found:
            self._attempts[record.trial_id] = len(record.attempts)
        return found

    def may_retry(self, record: TrialRecord) -> bool:
        """Return whether a trial that failed by itself runs again. Count the retry."""
        if record.status is not Status.FAILED or self._retried[record.trial_id] >= self._retries:
            return False
        self._retried[record.trial_id] += 1
        self._attempts[record.trial_id] = len(record.attempts)
        return True


class StorageOutage:
    """Pause a sweep while the storage interrupts its trials, longer each time, up to a limit.

    The outage is over once a trial ends otherwise, has saved a newer checkpoint between two interruptions, or nothing
    was interrupted for longer than the limit and the longest pause together.
    """

    def __init__(self, limit_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = OUTAGE_S if limit_s is None else limit_s
        self._clock = clock
        self._from_steps: dict[str, int] = {}
        """Step at which the newest interrupted attempt of each trial began: that of its checkpoint."""
        self._since_s: float | None = None
        self._newest_s = clock()
        self._paused_until_s = clock()
        self._pause_s = FIRST_PAUSE_S

    @property
    def is_paused(self) -> bool:
        """Return whether no trial is to start yet."""
        return self._clock() < self._paused_until_s

    def interrupted(self, record: TrialRecord) -> float:
        """Process an interruption by the storage. Return for how many seconds no trial starts from now on.

        Raises:
            StorageError: the outage has lasted too long.
        """
        now_s, from_step = self._clock(), record.attempts[-1].start.from_step if record.attempts else 0
        was_quiet = now_s - self._newest_s > self._limit_s + LONGEST_PAUSE_S
        if was_quiet or from_step > self._from_steps.get(record.trial_id, from_step):
            self.over()
        self._newest_s = now_s
        self._from_steps[record.trial_id] = from_step
        if self._since_s is None:
            self._since_s = now_s
        if now_s - self._since_s > self._limit_s:
            raise StorageError(
                f"the storage has interrupted trials for {(now_s - self._since_s) / 60:.0f} min",
                "Once it works, run the same command again to continue",
            )
        if not self.is_paused:  # one fault interrupts all running trials, and counts once
            self._paused_until_s = now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return self._paused_until_s - now_s

    def over(self) -> None:
        """Reset: the storage works again."""
        self._since_s = None
        self._pause_s = FIRST_PAUSE_S


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
    """Return a reason without what differs between equal failures: numbers, and names with digits in them or made for
    temporary files, such as identifiers, hosts and hashes."""
    return re.sub(r"[\w.-]*\d[\w.-]*|\btmp\w+", "#", reason)


def says_out_of_space(reason: str) -> bool:
    """Return whether the reason of a trial's end is a full disk."""
    return any(text in reason for text in NO_SPACE)


def describe_damaged(damaged: Mapping[str, Damaged]) -> str:
    """Return one line that names the trials which do not run because of their records, and the files."""
    trials = f"trial {next(iter(damaged))} does" if len(damaged) == 1 else f"{len(damaged)} trials do"
    files = "; ".join(map(str, list(damaged.values())[:3])) + f"; and {len(damaged) - 3} more" * (len(damaged) > 3)
    record = "its record is damaged" if len(damaged) == 1 else "their records are damaged"
    return (
        f"{trials} not run, {record} or from a newer version (restore the file or delete the trial's folder): {files}"
    )


def persist(action: Callable[[], _Value], give_up: threading.Event) -> _Value:
    """Retry an action that uses the storage while the storage is unavailable.

    Raises:
        StorageError: the disk is full, access is denied, the outage lasts too long, or `give_up` is set.
    """
    until_s, pause_s = time.monotonic() + OUTAGE_S, FIRST_PAUSE_S
    while True:
        try:
            return action()
        except StorageError as error:
            if is_out_of_space(error) or _is_permanent(error) or time.monotonic() > until_s or give_up.is_set():
                raise
            logger.warning("storage is unavailable, next try in %.0f s: %s", pause_s, error)
        give_up.wait(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _is_permanent(error: BaseException) -> bool:
    cause = error.__cause__ or error.__context__
    return isinstance(cause, OSError) and cause.errno in _PERMANENT
