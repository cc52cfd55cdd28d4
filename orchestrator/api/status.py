"""Report the progress of a sweep from its records, on any machine, whether or not it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.records.index import load_definition, sweep_folder, sweep_name
from orchestrator.records.progress import SweepProgress, format_counts, sweep_progress
from orchestrator.records.reader import SweepReader
from orchestrator.records.schema import TrialRecord
from orchestrator.records.state import SUPERSEDED, counted, shown, standing
from orchestrator.records.stored import Damaged
from orchestrator.storage import Storage, as_storage
from orchestrator.storage.lease import driver_of
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.text import aligned, percent, plural


@dataclass(frozen=True)
class SweepState:
    """Hold the state of a sweep at one moment, from its records."""

    sweep: Sweep
    trials: list[TrialRecord]
    """As they stand: see `records.state`."""
    driver: dict[str, Any] | None
    """host, pid, started_s of the process that runs it; None if it does not run."""
    progress: SweepProgress
    """How many trials are planned, done and failed: judged against the plan, since only started trials are recorded."""
    damaged: Sequence[Damaged] = ()
    """Files that cannot be read; what they hold is missing from `trials`."""

    def __str__(self) -> str:
        name = self.sweep.metric
        header = ("trial", "stage", "configuration", "seed", "status", "step", name.replace("_", " "))
        rows = [
            (record.trial_id, record.stage, record.family, str(record.config.seed),
             SUPERSEDED if record.is_superseded else shown(record),
             f"{record.step}/{record.config.train.max_steps}",
             percent(record.result.metrics.get(name) if record.result else None))
            for record in self.trials
        ]  # fmt: skip
        where = f"runs on {self.driver['host']}" if self.driver else f"is {self.when_idle}"
        if self.has_damaged_lock:
            where = "has a damaged lock"
        counts = f" ({format_counts(self.counts)})" if self.counts else ""
        lines = [f"{self.sweep.name} ({self.sweep.kind}) {where}: {self.progress}{counts}"]
        lines += aligned(header, rows, right=("seed", "step", header[-1])) if rows else []
        return "\n".join([*lines, *([f"{plural(len(self.damaged), 'unreadable file')}"] if self.damaged else [])])

    @property
    def has_damaged_lock(self) -> bool:
        """Return whether nobody can tell who runs the sweep, because its lock names no process."""
        return self.driver is not None and not self.driver["pid"]

    @property
    def when_idle(self) -> str:
        """Describe a sweep that no process runs."""
        return "complete" if self.progress.is_complete else "not running"

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of trials by what they are called, without zeros and without superseded trials."""
        return counted(self.trials)


def status(sweep: Sweep | str, storage: Storage | str | Path = "runs") -> SweepState:
    """Read the state of a recorded sweep. Raises SweepError if the storage holds no sweep of that name."""
    store, name = as_storage(storage), sweep_name(sweep)
    return read_state(store, name, SweepReader(store, name))


def read_state(storage: Storage, sweep: str, reader: SweepReader) -> SweepState:
    """Read the state of a recorded sweep with its reader, which reads only what is new since its last call.

    Raises:
        SweepError: the storage holds no sweep of that name.
    """
    definition = load_definition(storage, sweep)
    driver = driver_of(sweep_folder(storage, sweep))  # first: the records are complete when the driver has exited
    records, damaged = reader.read()
    trials = standing(definition, records, is_driven=driver is not None)
    return SweepState(definition, trials, driver, sweep_progress(definition, records), damaged)
