"""Read the records of a running sweep again and again at the cost of what is new."""

from __future__ import annotations

from collections import defaultdict

from orchestrator.records.reader import read_trial
from orchestrator.records.schema import TrialRecord
from orchestrator.storage import Storage


class RecordCache:
    """Reads a sweep's trials; one whose files are the same as before is the same object as before."""

    def __init__(self, storage: Storage, sweep_name: str) -> None:
        self.version = 0
        """Raised by `read` whenever it finds a change."""
        self._storage = storage
        self._sweep_name = sweep_name
        self._records: dict[str, tuple[dict[str, int], TrialRecord]] = {}

    def read(self) -> list[TrialRecord]:
        """Return every trial, in the order of their ids, after one listing."""
        root = f"sweeps/{self._sweep_name}/trials"
        files: dict[str, dict[str, int]] = defaultdict(dict)
        for key, size in self._storage.sizes(root).items():
            trial_id, _, name = key.removeprefix(f"{root}/").partition("/")
            files[trial_id][name] = size
        known = {trial_id: sizes for trial_id, sizes in files.items() if "trial.json" in sizes}
        gone = self._records.keys() - known.keys()
        changed = [id for id, sizes in known.items() if id not in self._records or self._records[id][0] != sizes]
        for trial_id in gone:
            del self._records[trial_id]
        for trial_id in changed:
            # Files that are written meanwhile are read now, and once more the next time.
            self._records[trial_id] = (known[trial_id], read_trial(self._storage, self._sweep_name, trial_id))
        self.version += bool(gone or changed)
        return [record for _, (_, record) in sorted(self._records.items())]
