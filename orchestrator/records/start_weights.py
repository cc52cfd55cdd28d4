"""Keep the checkpoints that trials start from in the storage, by content: `weights/<sha256>/checkpoint.safetensors`.

Whoever begins a sweep has the file; every machine that runs one of its trials, and everybody who resumes it later,
takes the copy. Nothing is copied again while the storage has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.records.checkpoints import StoredCheckpoints
from orchestrator.storage import Storage
from orchestrator.sweep.definition import MAX_CHECKED_CELLS, Sweep
from orchestrator.sweep.matching import shape_of
from orchestrator.sweep.settings import replace_settings, starts_of
from orchestrator.sweep.space import head
from trm_data.errors import ConfigError
from trm_model.checkpoints.start import NAME, MemoryCheckpoints, check_start, copy_start
from trm_model.checkpoints.store import read_header
from trm_model.config import TrialConfig
from trm_model.start_file import short_start, start_sha256


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
    if NAME in store.names():
        return
    if is_stored:
        raise ConfigError(
            f"the storage has no copy of {short_start(address)}, which only a record names",
            "Name the sweep's own file, on a machine that has the checkpoint: trm sweep run FILE",
        )
    copy_start(address, store)


def start_header(storage: Storage, address: str) -> dict[str, Any]:
    """Return the header of a checkpoint: of the storage's copy, or of the file itself."""
    store = start_store(storage, address)
    try:
        return read_header(store.read(NAME), short_start(address))
    except KeyError:
        copy_start(address, memory := MemoryCheckpoints())
        return read_header(memory.read(NAME), short_start(address))


def check_starts(sweep: Sweep, storage: Storage) -> None:
    """Raise an error if a trial would start from the weights of another model: of a large space, the first cells.

    Raises:
        CheckpointError: names everything that differs.
    """
    headers: dict[str, Mapping[str, Any]] = {}
    seen = set()
    for config in _configurations(sweep):
        address = config.train.start_from
        if address is None or (key := (address, config.model, config.data.benchmark)) in seen:
            continue
        seen.add(key)
        if address not in headers:
            headers[address] = start_header(storage, address)
        check_start(config.model, headers[address], short_start(address), **shape_of(config))


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
