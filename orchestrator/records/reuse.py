"""Reuse finished trials of earlier sweeps: trials with the same identity have the same result."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from orchestrator.records.extend import _path
from orchestrator.records.index import sweep_names, trial_folder
from orchestrator.records.reader import read_trial
from orchestrator.records.schema import Origin, TrialHead, TrialRecord
from orchestrator.records.stored import DamagedRecordError
from orchestrator.records.unfinished import require_finished
from orchestrator.storage import Storage
from orchestrator.sweep.trials import PlannedTrial
from trm_model.config import TrialConfig

logger = logging.getLogger(__name__)

LEFT_OUT = ("trial.json", "stopped.json", "lock.json", "checkpoints", "retries")
"""Files that are not copied: the head is written for this sweep, and checkpoints are not needed."""


class FinishedTrials:
    """Look up the trials that other sweeps of a storage have finished, with a single listing."""

    def __init__(self, storage: Storage, sweep: str) -> None:
        self._storage = storage
        self._sweep = sweep
        others = [name for name in sweep_names(storage) if name != sweep]
        keys = (key.split("/") for name in others for key in storage.list(f"sweeps/{name}/trials"))
        self._found = {parts[3]: parts[1] for parts in keys if parts[4:] == ["result.json"]}

    def take_over(self, trial: PlannedTrial, head: TrialHead) -> TrialRecord | None:
        """Copy the record of the same trial into this sweep.

        Returns:
            None if no other sweep has finished it, or if it has run in this one: it continues, and its attempts count.
        """
        source = self._found.get(trial.trial_id)
        if source is None:
            return None
        theirs = trial_folder(self._storage, source, trial.trial_id)
        ours = trial_folder(self._storage, self._sweep, trial.trial_id)
        try:
            if ours.list("attempts"):
                begun = read_trial(self._storage, self._sweep, trial.trial_id).origin
                if begun is None or begun.kind != "reused":  # else a copy was cut short
                    return None
            read_trial(self._storage, source, trial.trial_id)
            files = {key: theirs.read(key) for key in theirs.list() if key.split("/")[0] not in LEFT_OUT}
            require_finished(self._storage, source)  # its deletion may have begun meanwhile
        except (KeyError, DamagedRecordError) as error:
            logger.warning("trial %s is not reused from sweep %s: %s", trial.trial_id, source, error)
            return None
        origin = Origin(kind="reused", sweep=source, trial_id=trial.trial_id)
        ours.write("trial.json", head.model_copy(update={"origin": origin}).encode())
        for key in sorted(files, key=_order):
            ours.write(key, files[key])
        return read_trial(self._storage, self._sweep, trial.trial_id)


def _order(key: str) -> int:
    """Return a sort key that puts the file that marks a trial as finished last: an interrupted copy is repeated."""
    return 2 if key.endswith("/end.json") else int(key == "result.json")


class ShorterTrials:
    """Look up trials from whose checkpoints longer ones may resume."""

    def __init__(self, records: Iterable[TrialRecord]) -> None:
        self._by_path: dict[str, list[TrialRecord]] = {}
        for record in records:
            if record.attempts:
                self._by_path.setdefault(_path(record.config), []).append(record)

    def of(self, config: TrialConfig) -> TrialRecord | None:
        """Return the longest of the shorter trials with the same first steps."""
        steps = config.train.max_steps
        found = [r for r in self._by_path.get(_path(config), []) if r.config.train.max_steps < steps]
        return max(found, key=lambda record: record.config.train.max_steps, default=None)
