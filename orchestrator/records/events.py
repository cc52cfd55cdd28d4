"""List the events of a sweep in order, from its records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from orchestrator.records.schema import Attempt, Status, TrialRecord


class TrialEvent(NamedTuple):
    """Describe something that happened to a trial."""

    time_s: float
    trial_id: str
    kind: str
    """started | evaluated | stopped | ended | retried | finished"""
    text: str
    detail: str = ""
    """A traceback."""


def trial_events(records: Iterable[TrialRecord], rows: bool = False) -> list[TrialEvent]:
    """Return all events in the records, oldest first; with `rows`, every evaluation too."""
    found = [event for record in records for event in _of_trial(record, rows)]
    return sorted(found, key=lambda event: event.time_s)


def _of_trial(record: TrialRecord, rows: bool) -> list[TrialEvent]:
    def event(time_s: float, kind: str, text: str, detail: str = "") -> TrialEvent:
        return TrialEvent(float(time_s), record.trial_id, kind, text, detail)

    found = []
    for attempt in record.attempts:
        found.append(event(attempt.start.started_s, "started", _start_words(record, attempt)))
        if attempt.end is not None and attempt.end.status is not Status.FINISHED:
            reason = f": {attempt.end.reason}" if attempt.end.reason else ""
            text = f"{attempt.end.status.replace('_', ' ')} at step {attempt.end.step}{reason}"
            found.append(event(attempt.end.ended_s, "ended", text, attempt.end.traceback))
    for retry in record.retries:
        found.append(event(retry.requested_s, "retried", f"marked for retry ({retry.was})"))
    if record.stopped is not None:
        time_s = record.stopped.decided_s or (record.rows[-1].time_s if record.rows else 0.0)
        found.append(event(time_s, "stopped", f"stopped at step {record.stopped.step}: {record.stopped.reason}"))
    if record.result is not None:
        exact = record.result.metrics.get("exact_accuracy")
        scored = f"{record.result.items} {record.result.split} puzzles"
        text = f"finished: {100 * exact:.1f} % of {scored}" if exact is not None else "finished: no answer is known"
        found.append(event(record.result.ended_s, "finished", text))
    if rows:
        for row in record.rows:
            if row.split != "train" and "exact_accuracy" in row.metrics:
                text = f"step {row.step}: {100 * row.metrics['exact_accuracy']:.1f} % exact on {row.split}"
                found.append(event(row.time_s, "evaluated", text))
    return found


def _start_words(record: TrialRecord, attempt: Attempt) -> str:
    start = attempt.start
    device = start.gpu_type or start.device or ""
    where = " ".join(filter(None, [device, f"on {start.host}" if start.host else ""]))
    step = f" from step {start.from_step}" if start.from_step else ""
    number = f" (attempt {attempt.number})" if attempt.number > 1 else ""
    skipped = f"; skipped as damaged: {', '.join(start.skipped)}" if start.skipped else ""
    return f"{record.family} seed {record.config.seed} started{step}{f' {where}' if where else ''}{number}{skipped}"
