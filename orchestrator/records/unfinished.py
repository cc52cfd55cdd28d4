"""Mark sweeps whose deletion or renaming has begun: until it is finished, nothing else reads, runs or changes them.

The mark lies in the folder of the sweep and, of a renaming, in that of the new name too: either name leads to the
command that finishes it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from orchestrator.errors import command_line
from orchestrator.records import finished_index
from orchestrator.records.schema import DEFINITION
from orchestrator.records.stored import DamagedRecordError, UnusableRecordError, read_settings
from orchestrator.storage import Storage, StorageError
from orchestrator.storage.lease import Lease
from trm_data.errors import is_out_of_space
from trm_data.settings import Settings

MARK = "unfinished.json"
TAKE_OVER_S = 3.0
"""Longest time until trials notice that their driver on this machine was killed, and write no more."""


class Mark(Settings):
    """Say what has begun."""

    sweep: str
    new: str | None = None
    """Its new name; None if it is deleted."""

    def error(self, storage: Storage, name: str) -> UnfinishedError:
        """Return the error that names the command which finishes it. `name` is the one that was asked for."""
        words = ("delete", self.sweep) if self.new is None else ("rename", self.sweep, self.new)
        what = f"sweep {self.sweep!r} is partly {'deleted' if self.new is None else f'renamed to {self.new!r}'}"
        return UnfinishedError(
            f"{storage.url}/sweeps/{name}/{MARK}",
            what,
            f"Finish it with `{command_line('sweep', *words, storage=storage.url)}`",
        )


class UnfinishedError(UnusableRecordError):
    """Raised for a sweep whose deletion or renaming was begun and is not finished, or whose mark does not tell."""


def mark_of(storage: Storage, name: str) -> Mark | None:
    """Return what has begun with a sweep and is not finished.

    Raises:
        UnfinishedError: the mark cannot be read, or is one of other sweeps.
    """
    try:
        found = read_settings(storage.sub(f"sweeps/{name}"), MARK, Mark)
    except KeyError:
        return None
    except DamagedRecordError as error:
        reason = error.reason
    else:
        if name in (found.sweep, found.new):
            return found
        reason = f"it is of sweep {found.sweep!r}"
    file = f"{storage.url}/sweeps/{name}/{MARK}"
    delete = command_line("sweep", "delete", name, storage=storage.url)
    what = f"the mark of a deletion or renaming of sweep {name!r} is damaged: {reason}"
    raise UnfinishedError(file, what, f"Delete the sweep with `{delete}`, or only {file} if the sweep is complete")


def marked(storage: Storage, names: Sequence[str]) -> set[str]:
    """Return the names that have a mark."""
    keys = {f"sweeps/{name}/{MARK}": name for name in names}
    return {keys[key] for key in storage.read_many(list(keys))}


def require_finished(storage: Storage, name: str, own: Mark | None = None) -> bool:
    """Return whether the `own` deletion or renaming has begun. A mark that is damaged stops no deletion.

    Raises:
        UnfinishedError: another one has.
    """
    try:
        found = mark_of(storage, name)
    except UnfinishedError:
        if own is None or own.new is not None:
            raise
        found = own
    if found not in (None, own):
        raise found.error(storage, name)
    return found is not None


@contextmanager
def held(storage: Storage, name: str, own: Mark | None = None) -> Iterator[Lease]:
    """Hold the lease of a sweep. On a full disk its index is deleted for it, since what frees space needs the lease.

    Raises:
        SweepError: another process holds it, or another deletion or renaming than `own` has begun.
    """
    folder = storage.sub(f"sweeps/{name}")
    with ExitStack() as leases:
        try:
            lease = leases.enter_context(Lease(folder, name, storage.url, needs=DEFINITION))
        except StorageError as error:
            if not is_out_of_space(error):
                raise
            folder.remove_abandoned()
            folder.delete(finished_index.KEY)  # the next run writes it again
            lease = leases.enter_context(Lease(folder, name, storage.url, needs=DEFINITION))
        require_finished(storage, name, own)
        if lease.took_over:
            time.sleep(TAKE_OVER_S)
        yield lease
