"""Finished trials of earlier sweeps: the same identity is the same result, which need not be computed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.plan import PlannedTrial
from orchestrator.record import TrialRecord, dump, read_trial
from orchestrator.recorded import sweep_names, trial_folder
from orchestrator.storage import Storage

LEFT_OUT = ("trial.json", "stopped.json", "checkpoints", "retries")
"""The head is written anew, checkpoints stay where they are."""


class Earlier:
    """Which trials other sweeps of a storage have finished: one listing, made once."""

    def __init__(self, storage: Storage, sweep: str) -> None:
        self._storage = storage
        self._sweep = sweep
        known = set(sweep_names(storage)) - {sweep}
        keys = (key.split("/") for key in storage.list("sweeps"))
        self._found = {parts[3]: parts[1] for parts in keys if parts[4:] == ["result.json"] and parts[1] in known}

    def take_over(self, trial: PlannedTrial, head: Mapping[str, Any]) -> TrialRecord | None:
        """Copy the record of the same trial into this sweep; None where no other sweep has finished it."""
        source = self._found.get(trial.trial_id)
        if source is None:
            return None
        theirs = trial_folder(self._storage, source, trial.trial_id)
        ours = trial_folder(self._storage, self._sweep, trial.trial_id)
        origin = {"kind": "reused", "sweep": source, "trial_id": trial.trial_id}
        ours.write("trial.json", dump({**head, "origin": origin}))
        keys = [key for key in theirs.list() if key.split("/")[0] not in LEFT_OUT]
        for key in sorted(keys, key=_order):
            ours.write(key, theirs.read(key))
        return read_trial(self._storage, self._sweep, trial.trial_id)


def _order(key: str) -> int:
    """What makes a trial count as finished goes last: a copy that was cut short is made again."""
    return 2 if key.endswith("/end.json") else int(key == "result.json")
