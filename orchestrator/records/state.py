"""Say how trials stand now, from their records, their sweep's definition and whether a driver lives.

A record alone does not tell: one without an end is of a trial that runs, or that was cut off with its driver; and a
definition with more steps replaces the trials of the former one. Status, leaderboard, pages, exports and trackers read
sweeps here, so that all of them say the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from orchestrator.records.extend import current
from orchestrator.records.index import SINGLE_RUNS, find_definition, locate_trial, sweep_folder, trial_folder
from orchestrator.records.reader import SweepRecords, read_sweep, read_trial, readable
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.records.stored import DamagedRecordError
from orchestrator.storage import Storage
from orchestrator.storage.lease import driver_of
from orchestrator.sweep.definition import Sweep

SUPERSEDED = "superseded"
"""A trial that a definition with more steps has replaced by a longer one."""
TO_BE_RETRIED = "to be retried"


def standing(sweep: Sweep | None, records: Sequence[TrialRecord], *, is_driven: bool) -> list[TrialRecord]:
    """Return records as they stand: those of a former definition are marked, and without a driver none runs."""
    kept = None if sweep is None else {record.trial_id for record in current(sweep, records)}
    found = []
    for record in records:
        is_superseded = kept is not None and record.trial_id not in kept
        if record.status is Status.RUNNING and (is_superseded or not is_driven):
            record = replace(record, status=Status.INTERRUPTED)
        found.append(replace(record, is_superseded=True) if is_superseded else record)
    return found


def read_standing(storage: Storage, name: str) -> SweepRecords:
    """Read the trials of a sweep as they stand now; those of `trm train`, each of which has a driver of its own."""
    if name == SINGLE_RUNS:
        found = read_sweep(storage, name)
        return found._replace(trials=[_standing_alone(storage, record) for record in found.trials])
    is_driven = driver_of(sweep_folder(storage, name)) is not None  # first: records are complete when it has exited
    found = read_sweep(storage, name)
    return found._replace(trials=standing(_definition(storage, name), found.trials, is_driven=is_driven))


def standing_trials(storage: Storage, name: str) -> list[TrialRecord]:
    """Return every trial of a sweep whose record can be read, as it stands now; the log names the other files."""
    return readable(read_standing(storage, name))


def find_standing(storage: Storage, address: str) -> TrialRecord:
    """Return the trial that `locate_trial` finds, as it stands now."""
    sweep, trial_id = locate_trial(storage, address)
    is_driven = sweep != SINGLE_RUNS and driver_of(sweep_folder(storage, sweep)) is not None
    record = read_trial(storage, sweep, trial_id)
    if sweep == SINGLE_RUNS:
        return _standing_alone(storage, record)
    return standing(_definition(storage, sweep), [record], is_driven=is_driven)[0]


def _definition(storage: Storage, name: str) -> Sweep | None:
    """Return the definition of a sweep; None where it cannot be read, which keeps no trial from being shown."""
    try:
        return find_definition(storage, name)
    except DamagedRecordError:
        return None


def _standing_alone(storage: Storage, record: TrialRecord) -> TrialRecord:
    """Return a trial of `trm train` as it stands now: each has a driver of its own."""
    if record.status is not Status.RUNNING:
        return record
    is_driven = driver_of(trial_folder(storage, record.sweep, record.trial_id)) is not None
    return standing(None, [record], is_driven=is_driven)[0]


def described(record: TrialRecord) -> str:
    """Return what a trial is called that `standing` has returned: its status, or a word that says what becomes of
    it."""
    if record.status.is_final:
        return str(record.status)
    if record.is_superseded:
        return SUPERSEDED
    last = record.attempts[-1].number if record.attempts else 0
    if record.status is not Status.RUNNING and any(retry.after_attempt == last for retry in record.retries):
        return TO_BE_RETRIED
    return str(record.status)


def shown(record: TrialRecord) -> str:
    """Return `described` as people read it."""
    return described(record).replace("_", " ")


def counted(records: Iterable[TrialRecord]) -> dict[str, int]:
    """Count trials that `standing` has returned by what they are called, without those that were superseded."""
    found = Counter(described(record) for record in records if not record.is_superseded)
    return {name: found[name] for name in (*map(str, Status), TO_BE_RETRIED) if found[name]}
