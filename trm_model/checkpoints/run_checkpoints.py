"""Manage the checkpoints of one run: resume from the newest usable one, write, and delete old ones."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import NamedTuple

from trm_model.checkpoints.store import (
    Checkpoint,
    CheckpointError,
    CheckpointStore,
    DamagedCheckpointError,
    base_of,
    checkpoint_names,
    name_of,
    newest_checkpoint,
    pack,
    step_of,
)
from trm_model.checkpoints.table_deltas import Base, split

logger = logging.getLogger(__name__)

_ALL_DAMAGED = "No other checkpoint is usable: restore one from a copy, or delete all of them to train from the start"


class Written(NamedTuple):
    """Describe a checkpoint that has been written."""

    name: str
    num_bytes: int
    """A base that was written with it included."""


class RunCheckpoints:
    """Manage the checkpoints of one run: find, write, and delete all but the newest and the best."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._base = Base()
        self._bases: dict[str, str] = {}
        """The base that each checkpoint needs."""
        self._damaged: set[str] = set()

    def restore(self, load: Callable[[Checkpoint], None]) -> Checkpoint | None:
        """Let `load` take over the newest usable checkpoint, and return it; None if there is none.

        Damaged ones are skipped with a warning, and deleted once the run has written another one. If the files of all
        are damaged, the run begins again.

        Raises:
            CheckpointError: `load` has failed for all, or one belongs to another run.
        """
        was_loaded = False

        def take_over(checkpoint: Checkpoint) -> None:
            nonlocal was_loaded
            was_loaded = True
            load(checkpoint)

        try:
            found = newest_checkpoint(self._store, take_over)
        except DamagedCheckpointError as error:
            if was_loaded:  # `load` may have changed a part of the run
                raise CheckpointError(error.what, _ALL_DAMAGED) from error
            logger.warning("no checkpoint is usable, so that training begins again")
            found = None
        reached = found.step if found is not None else -1
        self._damaged = {name for name in checkpoint_names(self._store) if step_of(name) > reached}
        if found is not None and (stored := found.header.get("table")) is not None:
            self._base, self._bases = base_of(stored, name_of(found.step)), dict(stored["needed"])
        return found

    @property
    def skipped(self) -> tuple[str, ...]:
        """Return the damaged checkpoints that `restore` has skipped, until they are replaced."""
        return tuple(sorted(self._damaged))

    def write(self, checkpoint: Checkpoint) -> Written:
        """Write a checkpoint, and before it the base of its table where a new one is due."""
        name, header, tensors, base_bytes = name_of(checkpoint.step), checkpoint.header, checkpoint.tensors, 0
        parts = split(tensors, self._base, checkpoint.step)
        if parts is not None:
            base, tensors = parts.base, parts.tensors
            if parts.whole is not None:
                data = pack({"table": parts.whole}, {"step": checkpoint.step})
                base = replace(base, name=f"base-{base.step:08d}.safetensors", sha256=hashlib.sha256(data).hexdigest())
                self._store.write(base.name, data)
                base_bytes = len(data)
            self._base = base
            self._bases[name] = base.name
            header = header | {"table": {"base": asdict(base), "shape": parts.shape, "needed": self._bases}}
        data = pack(tensors, header)
        self._store.write(name, data)
        self._damaged.discard(name)
        return Written(name, base_bytes + len(data))

    def describe_last(self) -> str:
        """Describe, for people, from which checkpoint a run that ends now can be resumed."""
        names = self._usable()
        return f"the last good checkpoint is {names[-1]}" if names else "there is no checkpoint before it"

    def prune(self, *, keep: int, best_step: int | None) -> None:
        """Delete all but `keep` checkpoints, the newest and, if `keep` is at least 2, the best; damaged ones; and
        unused bases."""
        names = self._usable()
        kept = set(names[-keep:])
        best = name_of(best_step) if best_step is not None else None
        if best in names and best not in kept and keep > 1:
            kept = {best, *names[-(keep - 1) :]}
        self._bases = {name: base for name, base in self._bases.items() if name in kept}
        for name in checkpoint_names(self._store):
            if name not in kept:
                self._store.delete(name)
        for name in self._store.names():
            if name.startswith("base-") and name not in self._bases.values():
                self._store.delete(name)

    def _usable(self) -> list[str]:
        return [name for name in checkpoint_names(self._store) if name not in self._damaged]
