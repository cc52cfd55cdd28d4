"""Keep the checkpoints that trials start from in the storage, by content: `weights/<sha256>/checkpoint.safetensors`.

Whoever begins a sweep has the file; every machine that runs one of its trials, and everybody who resumes it later,
takes the copy. Nothing is copied again while the storage has it. Copies that no record names are deleted
(`orchestrator.records.retention`). Whoever begins to use one therefore provides it again once its record is written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from orchestrator.records.checkpoints import StoredCheckpoints
from orchestrator.records.retention import DELETING
from orchestrator.storage import LocalStorage, Storage, StorageError
from orchestrator.sweep.definition import MAX_CHECKED_CELLS, Sweep
from orchestrator.sweep.matching import shape_of
from orchestrator.sweep.settings import replace_settings, starts_of
from orchestrator.sweep.space import head
from trm_data.errors import ConfigError
from trm_model.checkpoints.start import StartHead, check_head, copy_start, head_of, read_start_head
from trm_model.config import TrialConfig
from trm_model.start_file import NAME, read_head, short_start, start_sha256

DELETION_S = 120.0
"""Longest time that the records are looked through before a copy is deleted."""


def start_store(storage: Storage, address: str) -> StoredCheckpoints:
    """Return where the storage keeps the checkpoint that a pinned address names."""
    return StoredCheckpoints(storage.sub(f"weights/{start_sha256(address)}"))


def provide_start(storage: Storage, address: str, *, is_stored: bool = False) -> None:
    """Copy a checkpoint into the storage, unless it is there.

    Args:
        is_stored: only a record names the address. It is not read then: it may lead to files of the current user.

    Raises:
        UserError: it cannot be read, or has another content than the address says.
    """
    store = start_store(storage, address)
    _await_deletion(store)
    if NAME not in store.names():
        _require_named(address, is_stored)
        copy_start(address, store)


def _await_deletion(store: StoredCheckpoints) -> None:
    """Wait until nobody is about to delete a copy. A process that died meanwhile has left its mark."""
    deadline = time.monotonic() + DELETION_S
    while marks := [name for name in store.names() if name.startswith(DELETING)]:
        if time.monotonic() > deadline:
            for name in marks:
                with suppress(StorageError):  # of another user
                    store.delete(name)
            return
        time.sleep(0.2)


def _require_named(address: str, is_stored: bool) -> None:
    if is_stored:
        raise ConfigError(
            f"the storage has no copy of {short_start(address)}, which only a record names",
            "Name the sweep's own file, on a machine that has the checkpoint: trm sweep run FILE",
        )


def start_head(storage: Storage, address: str, *, is_stored: bool = False) -> StartHead:
    """Return what the header of a checkpoint says: of the storage's copy, or of the file itself.

    Args:
        is_stored: see `provide_start`.

    Raises:
        UserError: it cannot be read, or is not a checkpoint.
    """
    store = start_store(storage, address)
    if NAME not in store.names():
        _require_named(address, is_stored)
        return read_start_head(address)
    if not isinstance(storage, LocalStorage):
        return head_of(store.read(NAME), short_start(address))
    with Path(store.address_of(NAME)).open("rb") as content:
        return head_of(read_head(content), short_start(address))


def check_starts(sweep: Sweep, storage: Storage, *, is_stored: bool = False) -> None:
    """Raise an error if a trial would start from the weights of another model: of a large space, the first cells.

    Args:
        is_stored: see `provide_start`.

    Raises:
        CheckpointError: names everything that differs.
    """
    heads: dict[str, StartHead] = {}
    seen = set()
    for config in _configurations(sweep):
        address = config.train.start_from
        if address is None or (key := (address, config.model, config.data.benchmark)) in seen:
            continue
        seen.add(key)
        if address not in heads:
            heads[address] = start_head(storage, address, is_stored=is_stored)
        check_head(config.model, heads[address], **shape_of(config))


def _configurations(sweep: Sweep) -> Iterator[TrialConfig]:
    """Yield the configurations of a sweep, of its space up to a number of cells."""
    if not starts_of(sweep.plain()):
        return
    space = sweep.search_space
    if sweep.space and space.is_countable:
        for cell in head(space.grid(), MAX_CHECKED_CELLS):
            yield replace_settings(sweep.base, cell)
    elif not sweep.variants:
        yield sweep.base
    for variant in (*sweep.variants, *sweep.confirm.controls):
        yield replace_settings(sweep.base, variant.settings)
