"""Find records that contradict others: copies of a trial, and a result that does not fit how its trial ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from orchestrator.records.schema import Attempt, Status, TrialRecord, TrialResult
from orchestrator.records.stored import Damaged
from orchestrator.sweep import identity
from trm_model.config import TrialConfig


def is_of(trial_id: str) -> str:
    """Return why the record of a trial does not count in a folder of another name."""
    return f"it is the record of trial {trial_id[:40]!r}, whose folder was copied or renamed"


def copied(records: Iterable[TrialRecord]) -> dict[str, str]:
    """Return the copies among the records of a sweep, and the trial that each is a copy of.

    Older records do not state their id. Those with the same configuration and dataset are one trial, whose id follows
    from both; where another version made it in another way, the first of them counts.
    """
    alike: dict[tuple[str, int, str], list[TrialRecord]] = defaultdict(list)  # hashing each configuration takes longer
    for record in records:
        alike[record.family, record.config.seed, record.dataset.fingerprint].append(record)
    found: dict[str, str] = {}
    for several in alike.values():
        same: dict[TrialConfig, list[str]] = defaultdict(list)
        for record in several if len(several) > 1 else ():
            same[record.config].append(record.trial_id)
        for config, trial_ids in same.items():
            if len(trial_ids) > 1:
                own = identity.trial_id(config, several[0].dataset.fingerprint)
                kept = own if own in trial_ids else trial_ids[0]
                found |= {trial_id: kept for trial_id in trial_ids if trial_id != kept}
    return found


def has_finished(attempts: Sequence[Attempt]) -> bool:
    """Return whether the last attempt ended as finished, and so has written a result before."""
    end = attempts[-1].end if attempts else None
    return end is not None and end.status is Status.FINISHED


def contradictions(folder: str, attempts: Sequence[Attempt], result: TrialResult | None) -> Iterator[Damaged]:
    """Yield the file of a trial that contradicts its other files. The trial counts by its result."""
    if result is None:
        if has_finished(attempts):
            reason = f"it is lost, since attempt {attempts[-1].number} finished; a resumed sweep scores the trial again"
            yield Damaged(f"{folder}/result.json", reason)
    elif not attempts:
        yield Damaged(f"{folder}/result.json", "its trial has no attempt")
    elif (end := attempts[-1].end) is not None and end.status.is_failure:
        file = f"{folder}/attempts/{attempts[-1].number:03d}/end.json"
        yield Damaged(file, f"it says {end.status}, although the trial has a result, which counts")
