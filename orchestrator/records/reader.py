"""Read trials from their records."""

from __future__ import annotations

import json
from dataclasses import dataclass

from orchestrator.records.schema import (
    Attempt,
    AttemptEnd,
    AttemptStart,
    Retry,
    Row,
    Status,
    StopDecision,
    TrialHead,
    TrialRecord,
    TrialResult,
)
from orchestrator.records.stored import Part, read_part
from orchestrator.storage import Storage
from trm_model.config import TrialConfig


def read_trial(storage: Storage, sweep: str, trial_id: str, *, rows: bool = True) -> TrialRecord:
    """Read one trial from its folder; without `rows` its curves stay unread. Raises KeyError if there is none."""
    return read_trials(storage, sweep, only=trial_id, rows=rows)[0]


def read_trials(storage: Storage, sweep: str, only: str | None = None, *, rows: bool = True) -> list[TrialRecord]:
    """Every trial of a sweep, in the order of their ids: one listing, then one read per small file."""
    root = f"sweeps/{sweep}/trials"
    folders: dict[str, list[str]] = {}
    for key in storage.list(f"{root}/{only}" if only else root):
        trial_id, _, name = key.removeprefix(f"{root}/").partition("/")
        folders.setdefault(trial_id, []).append(name)
    if only and only not in folders:
        raise KeyError(only)
    return [
        _fold(sweep, trial_id, _Folder(storage.sub(f"{root}/{trial_id}"), frozenset(names)), rows)
        for trial_id, names in sorted(folders.items())
        if "trial.json" in names
    ]


@dataclass(frozen=True, slots=True)
class _Folder:
    """A trial's files: the names are known from one listing, so that a missing file costs no request."""

    storage: Storage
    names: frozenset[str]

    def part(self, name: str, kind: type[Part]) -> Part | None:
        return read_part(self.storage, name, kind) if name in self.names else None

    def attempts(self) -> list[Attempt]:
        numbers = sorted({int(name.split("/")[1]) for name in self.names if name.startswith("attempts/")})
        found = []
        for number in numbers:
            start = self.part(f"attempts/{number:03d}/start.json", AttemptStart)
            if start is not None:
                found.append(Attempt(number, start, self.part(f"attempts/{number:03d}/end.json", AttemptEnd)))
        return found

    def retries(self) -> list[Retry]:
        names = sorted(name for name in self.names if name.startswith("retries/"))
        return [read_part(self.storage, name, Retry) for name in names]

    def rows(self, attempt: int) -> list[Row]:
        prefix = f"attempts/{attempt:03d}/rows-"
        lines = [
            json.loads(line)
            for name in sorted(self.names)
            if name.startswith(prefix)
            for line in self.storage.read(name).splitlines()
        ]
        return [Row(line["step"], line["time_s"], line["split"], line["metrics"]) for line in lines]


def _fold(sweep: str, trial_id: str, folder: _Folder, with_rows: bool = True) -> TrialRecord:
    head = read_part(folder.storage, "trial.json", TrialHead)
    attempts = folder.attempts()
    rows: list[Row] = []
    for index, attempt in enumerate(attempts):
        # What the next attempt did again counts once: its rows replace those after its first step.
        until = attempts[index + 1].start.from_step if index + 1 < len(attempts) else None
        if with_rows:
            rows += [row for row in folder.rows(attempt.number) if until is None or row.step <= until]
    result, stopped = folder.part("result.json", TrialResult), folder.part("stopped.json", StopDecision)
    retries = folder.retries()
    if any(retry.was is Status.STOPPED for retry in retries):
        stopped = None
    last_step = max([row.step for row in rows], default=attempts[-1].start.from_step if attempts else 0)
    if not with_rows and attempts and attempts[-1].end is not None:
        last_step = max(last_step, attempts[-1].end.step)
    return TrialRecord(
        trial_id=trial_id,
        sweep=sweep,
        stage=head.stage,
        family=head.family,
        config=TrialConfig.parse(head.config, where=f"{folder.storage.url}/trial.json"),
        dataset=head.dataset,
        status=_status(attempts, result, stopped, max((retry.after_attempt for retry in retries), default=0)),
        step=last_step,
        rows=rows,
        attempts=attempts,
        result=result,
        stopped=stopped,
        origin=head.origin,
        retries=retries,
    )


def _status(attempts: list[Attempt], result: TrialResult | None, stopped: StopDecision | None, forgiven: int) -> Status:
    """`forgiven`: the last attempt whose end does not count any more."""
    if result is not None:
        return Status.FINISHED
    if stopped is not None:
        return Status.STOPPED
    if not attempts:
        return Status.PENDING
    end = attempts[-1].end
    if end is None:
        return Status.RUNNING
    return Status.INTERRUPTED if attempts[-1].number <= forgiven else end.status
