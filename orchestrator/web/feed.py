"""Read the sweeps of a storage for the pages of `trm ui`, repeatedly: each time only what has changed.

Several browsers ask at once, from threads of the server. A storage is read at most every `READ_EVERY_S`, and if that
takes long, less often, so that reading takes a tenth of the time at most.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import SweepError
from orchestrator.records.index import compared, load_definition, sweep_folder, sweep_names
from orchestrator.records.progress import sweep_progress
from orchestrator.records.reader import SweepReader
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.records.state import counted, standing
from orchestrator.results.report import explorer
from orchestrator.results.report.trial_plots import leading
from orchestrator.results.report.views import Study, studies
from orchestrator.storage import Storage
from orchestrator.storage.lease import driver_of
from orchestrator.sweep.definition import Sweep
from trm_data.errors import UserError

logger = logging.getLogger(__name__)

READ_EVERY_S = 1.0
READING_SHARE = 0.1
"""The most of the time that is spent on reading a sweep that somebody looks at."""
LONGEST_VERSION = 20
"""Digits; Python refuses to read very long numbers."""


@dataclass(slots=True)
class _Clock:
    """Tell when to read again."""

    next_s: float = 0.0

    def is_due(self) -> bool:
        return time.monotonic() >= self.next_s

    def done(self, began_s: float) -> None:
        now_s = time.monotonic()
        self.next_s = now_s + max(READ_EVERY_S, (now_s - began_s) / READING_SHARE)


@dataclass(frozen=True, slots=True)
class SweepView:
    """Hold a sweep as it was read last."""

    sweep: Sweep
    records: Sequence[TrialRecord]
    driver: dict[str, Any] | None
    feed: str
    """Versions count from the first reading by this process: those of an earlier one, or of a sweep that was deleted,
    mean nothing."""
    version: int
    """Raised with every change of the records, and when a driver comes or goes."""
    changed: dict[str, int]
    """The version at which each trial changed last, by its id."""
    problems: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """Return what a page says to ask for news since this view."""
        return f"{self.feed}-{self.version}"

    def version_of(self, address: str) -> int:
        """Return the version of an earlier view of this feed; -1 for any other text."""
        feed, _, number = address.partition("-")
        return int(number) if feed == self.feed and number.isdecimal() and len(number) < LONGEST_VERSION else -1

    @property
    def shown(self) -> Sequence[TrialRecord]:
        """Return the records as the pages show them: see `records.state`."""
        return standing(self.sweep, self.records, is_driven=self.driver is not None)

    def summary(self) -> dict[str, Any]:
        """Return a row of the start page."""
        progress = sweep_progress(self.sweep, self.records)
        alike = compared(self.records, self.sweep)
        scores = [s for record in alike if (s := _score(record, self.sweep.metric)) is not None]
        times = [attempt.start.started_s for record in self.records for attempt in record.attempts[:1]]
        return {
            "name": self.sweep.name,
            "kind": self.sweep.kind,
            "metric": self.sweep.metric,
            "planned": progress.planned,
            "done": progress.done,
            "failed": progress.failed,
            "counts": counted(self.shown),
            "best": max(scores, default=None),
            "started_s": min(times, default=None),
            "driver": None if self.driver is None else f"process {self.driver['pid']} on {self.driver['host']}",
            "problems": list(self.problems),
        }


def _score(record: TrialRecord, metric: str) -> float | None:
    value = record.result.metrics.get(metric) if record.result else None
    return value if isinstance(value, int | float) and value == value else None


@dataclass(slots=True)
class SweepFeed:
    """Read one sweep."""

    storage: Storage
    name: str
    _reader: SweepReader = field(init=False)
    _id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _clock: _Clock = field(default_factory=_Clock)
    _seen: dict[str, tuple[TrialRecord, bool, int]] = field(default_factory=dict)
    _is_driven: bool = False
    _turns: int = 0
    """How often a driver has come or gone."""
    _view: SweepView | None = None
    _studies: tuple[int, dict[str, Study]] = (-1, {})

    def __post_init__(self) -> None:
        self._reader = SweepReader(self.storage, self.name)

    def view(self) -> SweepView:
        """Return the sweep as of at most a moment ago.

        Raises:
            UserError: its definition cannot be read, or the storage does not answer.
        """
        with self._lock:
            if self._view is None or self._clock.is_due():
                began_s = time.monotonic()
                try:
                    self._view = self._read()
                finally:
                    self._clock.done(began_s)
            return self._view

    def _read(self) -> SweepView:
        definition = load_definition(self.storage, self.name)
        driver = driver_of(sweep_folder(self.storage, self.name))  # first: the records are complete when it has exited
        records, damaged = self._reader.read()
        self._turns += (driver is not None) != self._is_driven
        self._is_driven = driver is not None
        version = self._reader.version + self._turns
        seen = self._seen
        self._seen = {}
        for record in records:
            runs = record.status is Status.RUNNING and self._is_driven
            before = seen.get(record.trial_id)
            is_new = before is None or before[0] is not record or before[1] != runs
            self._seen[record.trial_id] = (record, runs, version) if before is None or is_new else before
        changed = {trial_id: at for trial_id, (*_, at) in self._seen.items()}
        return SweepView(definition, records, driver, self._id, version, changed, tuple(map(str, damaged)))

    def studies(self) -> tuple[SweepView, dict[str, Study]]:
        """Return the sweep, and its trials by the fingerprint of their dataset."""
        view = self.view()
        with self._lock:
            version, found = self._studies
            if version != view.version:
                found = {study.fingerprint: study for study in studies(view.shown)}
                self._studies = (view.version, found)
            return view, found


class StorageFeed:
    """Read all sweeps of a storage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._lock = threading.Lock()
        self._clock = _Clock()
        self._feeds: dict[str, SweepFeed] = {}

    def names(self) -> list[str]:
        """Return the names of the sweeps."""
        with self._lock:
            if self._clock.is_due():
                began_s = time.monotonic()
                names = sweep_names(self.storage)
                self._feeds = {name: self._feeds.get(name) or SweepFeed(self.storage, name) for name in names}
                self._clock.done(began_s)
            return list(self._feeds)

    def sweep(self, name: str) -> SweepFeed:
        """Return the feed of a sweep. Raises KeyError if there is none of that name."""
        self.names()
        return self._feeds[name]

    def summaries(self) -> list[dict[str, Any]]:
        """Return a row per sweep, those that run first, then the newest first."""
        rows = []
        for name in self.names():
            try:
                rows.append(self.sweep(name).view().summary())
            except (KeyError, SweepError, UserError) as error:
                rows.append({"name": name, "problems": [str(error)]})
        return sorted(rows, key=lambda row: (row.get("driver") is None, -(row.get("started_s") or 0.0), row["name"]))

    def news(self, name: str, fingerprint: str, since: str, settings: Sequence[str]) -> dict[str, Any]:
        """Return the trials of a study that have changed since a version, all if the settings that vary have changed;
        how many there are, which of them lead, and which records cannot be read.

        Args:
            since: the `version` of an earlier answer, or an empty string.
            settings: the names of the settings that the asking page shows.

        Raises:
            KeyError: there is no such sweep or study.
            UserError: the storage cannot be read.
        """
        view, found = self.sweep(name).studies()
        study = found[fingerprint]
        before = view.version_of(since) if list(settings) == list(study.varied) else -1
        changed = [trial.trial_id for trial in study.trials if view.changed[trial.trial_id] > before]
        return {
            **explorer.head(study),
            "version": view.address,
            "count": len(study.trials),
            "lead": sorted(leading(study.trials)),
            "problems": list(view.problems),
            "trials": explorer.trial_rows(study, changed) if changed else [],
        }

    def curves(self, name: str, trial_ids: Sequence[str]) -> dict[str, Any]:
        """Return the curves of trials by their ids; unknown ids are left out."""
        records = {record.trial_id: record for record in self.sweep(name).view().records}
        return {trial_id: explorer.curves_of(records[trial_id]) for trial_id in trial_ids if trial_id in records}
