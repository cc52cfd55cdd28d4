"""Read trials from their records: all of a sweep, or repeatedly only what changed."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from orchestrator.records import finished_index
from orchestrator.records.contradictions import contradictions, copied, has_finished, is_of
from orchestrator.records.finished_index import is_json
from orchestrator.records.rows import Columns, Rows, parse_rows
from orchestrator.records.schema import Attempt, Status, StopDecision, TrialHead, TrialRecord, TrialResult
from orchestrator.records.segments import attempt_of, current_segments, is_folded, parts_of
from orchestrator.records.stored import NO_FILE, Damaged, DamagedRecordError
from orchestrator.records.trial_files import TrialFiles
from orchestrator.storage import Storage
from orchestrator.storage.base import Snapshot

logger = logging.getLogger(__name__)


class SweepRecords(NamedTuple):
    """Hold the records of a sweep and the files that could not be read."""

    trials: list[TrialRecord]
    """In the order of their ids."""
    damaged: list[Damaged]
    """Files that were skipped. Rows are read when they are used: a damaged segment is added then."""

    def damaged_trials(self) -> dict[str, Damaged]:
        """Return the damaged file of every trial whose record cannot be read, by trial id."""
        known = {record.trial_id for record in self.trials}
        files = [each for each in self.damaged if not each.file.endswith("/trials")]  # that is the folder of all
        found = {each.file.rpartition("/trials/")[2].partition("/")[0]: each for each in files}
        return {trial_id: each for trial_id, each in found.items() if trial_id not in known}


def read_trial(storage: Storage, sweep: str, trial_id: str) -> TrialRecord:
    """Return one trial.

    Raises:
        KeyError: there is none.
        DamagedRecordError: its record cannot be read.
    """
    found = SweepReader(storage, sweep, only=trial_id).read()
    if found.trials:
        return found.trials[0]
    if found.damaged:
        raise DamagedRecordError(*found.damaged[0])
    raise KeyError(trial_id)


def read_trials(storage: Storage, sweep: str) -> list[TrialRecord]:
    """Return every trial of a sweep whose record can be read; `read_sweep` names the others too."""
    return readable(read_sweep(storage, sweep))


def readable(found: SweepRecords) -> list[TrialRecord]:
    """Return the trials that were read; the log names the files that were not."""
    for each in found.damaged:
        logger.warning("skipped %s", each)
    return found.trials


def read_sweep(storage: Storage, sweep: str) -> SweepRecords:
    """Return every trial of a sweep, and the files that cannot be read."""
    return SweepReader(storage, sweep).read()


@contextmanager
def collector_off() -> Iterator[None]:
    """Disable the garbage collector while thousands of records are in use: it would scan them all, and none is garbage.

    As a decorator (`@collector_off()`) it also spares the scan afterwards, if the function has released the records.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(slots=True)
class _Known:
    """Cache the files of a trial as they were last read. Without its record, which refers to this."""

    snapshot: Snapshot
    damaged: list[Damaged] = field(default_factory=list)
    segments: dict[str, Columns] = field(default_factory=dict)
    """Segments never change: each is read once."""


class SweepReader:
    """Read a sweep repeatedly: after the first time, only records whose files changed.

    Args:
        only: a trial id; nothing else is read.
    """

    def __init__(self, storage: Storage, sweep: str, only: str | None = None) -> None:
        self._sweep = sweep
        self._only = only
        self._folder = storage.sub(f"sweeps/{sweep}")
        self._known: dict[str, _Known] = {}
        self._records: dict[str, TrialRecord] = {}
        self._unusable: list[Damaged] = []
        self.version = 0
        """Raised by `read` whenever it finds a change. A trial that did not change is the same object as before."""

    def read(self) -> SweepRecords:
        """Return the trials as they are now, in the order of their ids."""
        before = {trial_id: known.snapshot for trial_id, known in self._known.items()}
        indexed: finished_index.Index = {}
        if self._only is not None:
            listed = finished_index.snapshot(self._folder, self._only)
        else:
            if not before:
                self._unusable = [Damaged(f"{self._folder.url}/trials", why) for why in self._folder.unusable("trials")]
                indexed = finished_index.read(self._folder)
                before = {trial_id: entry.snapshot for trial_id, entry in indexed.items()}
            listed = finished_index.snapshots(self._folder, before)
        changed = {t: now for t, now in listed.items() if t not in self._known or before[t].files != now.files}
        if self._known and len(changed) > finished_index.WORTH_READING:
            indexed = finished_index.read(self._folder)
        stale = {t: now for t, now in changed.items() if t not in indexed or indexed[t].snapshot.files != now.files}
        read = self._read_files(stale)
        with collector_off():
            for trial_id, now in changed.items():
                contents = read.pop(trial_id) if trial_id in stale else indexed.pop(trial_id).contents
                self._fold(trial_id, now, contents)
        self.version += bool(changed or self._known.keys() != listed.keys())
        self._known = {trial_id: self._known[trial_id] for trial_id in listed}
        self._records = {trial_id: self._records[trial_id] for trial_id in listed if trial_id in self._records}
        for trial_id, other in copied(self._records.values() if changed else ()).items():
            copy = Damaged(f"{self._folder.url}/trials/{trial_id}/trial.json", is_of(other))
            self._known[trial_id].damaged.append(copy)
            del self._records[trial_id]
        damaged = [*self._unusable]
        for trial_id, known in self._known.items():
            known.snapshot = listed[trial_id]
            damaged += known.damaged
        return SweepRecords(list(self._records.values()), damaged)

    def _read_files(self, changed: Mapping[str, Snapshot]) -> dict[str, dict[str, Any]]:
        """Read the JSON files of trials in one batch."""
        found: dict[str, dict[str, Any]] = {trial_id: {} for trial_id in changed}
        keys = [f"trials/{t}/{name}" for t, now in changed.items() for name in filter(is_json, now.names)]
        for key, data in self._folder.read_many(keys).items():
            _, trial_id, name = key.split("/", 2)
            found[trial_id][name] = data
        return found

    def _fold(self, trial_id: str, snapshot: Snapshot, contents: Mapping[str, Any]) -> None:
        before = self._known.get(trial_id)
        known = self._known[trial_id] = _Known(snapshot, segments=before.segments if before else {})
        files = TrialFiles(f"{self._folder.url}/trials/{trial_id}", contents)
        try:
            self._records[trial_id] = _record(self._sweep, trial_id, files, _Loader(self._folder, trial_id, known))
        except DamagedRecordError as error:
            known.damaged.append(Damaged(error.file, error.reason))
            self._records.pop(trial_id, None)


@dataclass(slots=True)
class _Loader:
    """Read the segments of a trial."""

    sweep: Storage
    trial_id: str
    known: _Known

    def has_rows(self, attempt: int) -> bool:
        return any(attempt_of(name) == attempt for name in self.known.snapshot.names)

    def load(self, limits: Sequence[tuple[int, int | None]]) -> list[Columns]:
        """Return the rows of attempts, each up to the step at which the next attempt took over.

        An attempt without the checkpoint of what an earlier one had inherited has inherited it again: it counts once.
        """
        segments = self._segments([attempt for attempt, _ in limits])
        parts = [(parts_of(segments, attempt), until) for attempt, until in limits]
        last = max((i for i, (found, _) in enumerate(parts) if _any_inherited(found)), default=0)
        kept = [(part if i >= last else part.own(), until) for i, (found, until) in enumerate(parts) for part in found]
        return [columns if until is None else columns.up_to(until) for columns, until in kept]

    def load_own(self, attempt: int, earlier: Sequence[int], inherited_up_to: int | None) -> list[Columns]:
        """Return the rows that an attempt has recorded itself, without those that it inherited.

        Args:
            earlier: numbers of the attempts before it.
            inherited_up_to: step of the checkpoint of a shorter trial from which it may have started; None if it did
                not. A fold of an earlier version begins with rows up to there that are not marked.
        """
        segments = self._segments([*earlier, attempt] if inherited_up_to is not None else [attempt])
        parts = parts_of(segments, attempt)
        if inherited_up_to is not None and any(map(is_folded, current_segments(segments, attempt)[:1])):
            is_marked = any(_any_inherited(parts_of(segments, number)) for number in (*earlier, attempt))
            parts[0] = parts[0] if is_marked else parts[0].after_first(inherited_up_to)
        return [part.own() for part in parts]

    def last_step(self, attempt: int) -> int | None:
        """Return the last step of the newest segment of an attempt; None if that has none."""
        folder = self.sweep.sub(f"trials/{self.trial_id}")
        for name in current_segments(self.known.snapshot.names, attempt)[-1:]:
            if name not in self.known.segments:
                try:
                    self.known.segments[name] = self._parse(f"{folder.url}/{name}", folder.read(name))
                except KeyError:  # it has just been folded
                    return None
            steps = self.known.segments[name].steps
            return int(max(steps)) if len(steps) else None
        return None

    def result(self, files: TrialFiles) -> TrialResult | None:
        """Return the result as it is stored now.

        Raises:
            DamagedRecordError: something else than a file is in its place.
        """
        folder, name = self.sweep.sub(f"trials/{self.trial_id}"), "result.json"
        if folder.is_blocked(name):
            raise DamagedRecordError(f"{folder.url}/{name}", NO_FILE)
        return TrialFiles(files.folder, folder.read_many([name])).part(name, TrialResult)

    def _segments(self, attempts: Sequence[int]) -> Mapping[str, Columns]:
        """Return the segments of attempts by name. Each is read once."""
        folder = self.sweep.sub(f"trials/{self.trial_id}")
        names = self.known.snapshot.names
        for _ in range(3):  # an attempt that ends folds its segments meanwhile
            wanted = [name for attempt in attempts for name in current_segments(names, attempt)]
            missing = [name for name in wanted if name not in self.known.segments]
            found = folder.read_many(missing)
            for name, data in found.items():
                self.known.segments[name] = self._parse(f"{folder.url}/{name}", data)
            if len(found) == len(missing):
                break
            names = folder.list("attempts")
        replaced = [name for name in self.known.segments if attempt_of(name) in attempts and name not in wanted]
        for name in replaced:
            del self.known.segments[name]
        return self.known.segments

    def _parse(self, file: str, data: bytes) -> Columns:
        columns, problem = parse_rows(data)
        if problem:
            self.known.damaged.append(Damaged(file, problem))
            logger.warning("skipped a row of %s: %s", file, problem)
        return columns


def _any_inherited(parts: Iterable[Columns]) -> bool:
    return any(part.inherited.any() for part in parts)


def _record(sweep: str, trial_id: str, files: TrialFiles, loader: _Loader) -> TrialRecord:
    head, config = files.head(trial_id)
    attempts, result, retries = files.attempts(), files.part("result.json", TrialResult), files.retries()
    if result is None and has_finished(attempts):  # a result is older than the end, but may be newer than the listing
        result = loader.result(files)
    loader.known.damaged += contradictions(files.folder, attempts, result)
    stopped = files.part("stopped.json", StopDecision)
    if any(retry.was is Status.STOPPED for retry in retries):
        stopped = None
    limits: list[tuple[int, int | None]] = []
    until: int | None = None
    for attempt in reversed(attempts):
        # What the next attempt did again counts once: its rows replace those after its first step. One that failed
        # before it trained replaces nothing, not even if it has a sample of the system, written as of step 0.
        limits.insert(0, (attempt.number, until))
        begin, end = attempt.start.from_step, attempt.end
        if end is None or end.step > begin or (begin > 0 and loader.has_rows(attempt.number)):
            until = begin if until is None else min(until, begin)
    rows = Rows(partial(loader.load, limits))
    if len(attempts) > 1 or head.origin or any(each.end is None or each.start.from_step for each in attempts):
        # The wall clock may have stepped between attempts: the times of rows do not say which attempt they are from.
        attempts = _with_own_rows(head, attempts, loader)
    return TrialRecord(
        trial_id=trial_id,
        sweep=sweep,
        stage=head.stage,
        family=head.family,
        config=config,
        dataset=head.dataset,
        status=_status(attempts, result, stopped, max((retry.after_attempt for retry in retries), default=0)),
        step=_step(attempts, rows, loader),
        rows=rows,
        attempts=attempts,
        result=result,
        stopped=stopped,
        origin=head.origin,
        retries=retries,
    )


def _with_own_rows(head: TrialHead, attempts: Sequence[Attempt], loader: _Loader) -> list[Attempt]:
    """Return attempts with what each has recorded itself."""
    is_continued = head.origin is not None and head.origin.kind == "continued"
    earlier: list[int] = []
    found = []
    for each in attempts:
        inherited_up_to = each.start.from_step if is_continued and each.start.from_step else None
        is_continued = is_continued and inherited_up_to is None  # the attempts after it resume
        rows = Rows(partial(loader.load_own, each.number, tuple(earlier), inherited_up_to))
        found.append(replace(each, rows=rows))
        earlier.append(each.number)
    return found


def _step(attempts: Sequence[Attempt], rows: Rows, loader: _Loader) -> int:
    """Return the last step that was reached. An attempt that has ended states it; of one that was lost, the newest
    segment does, so that the driver never reads a whole curve for it."""
    if not attempts:
        return 0
    last = attempts[-1]
    if last.end is not None and last.end.step > last.start.from_step:
        return last.end.step
    last_step = loader.last_step(last.number)
    if last_step is None:
        last_step = rows.last_step()
    return last.start.from_step if last_step is None else last_step


def _status(
    attempts: Sequence[Attempt], result: TrialResult | None, stopped: StopDecision | None, forgiven: int
) -> Status:
    """Return the status of a trial. `forgiven`: the last attempt whose end no longer counts."""
    if result is not None:
        return Status.FINISHED
    if stopped is not None:
        return Status.STOPPED
    if not attempts:
        return Status.PENDING
    end = attempts[-1].end
    if end is None:
        return Status.RUNNING
    is_open = attempts[-1].number <= forgiven or end.status is Status.FINISHED  # its result is lost
    return Status.INTERRUPTED if is_open else end.status
