"""Record the order in which a search learned from its results, so that it can be replayed.

What a sampler suggests depends on the results that it knows at that moment, which depends on how long trials take. The
order is kept beside the records, in `order.json`: per suggestion the trials that ended since the one before. A replay
gives the sampler the same results before the same suggestion, and stops trials at the steps at which they were stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from orchestrator.errors import SweepError
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import RecordPart
from orchestrator.records.stored import DamagedRecordError, read_part
from orchestrator.storage import Storage, open_storage

logger = logging.getLogger(__name__)

ORDER = "order.json"


class Event(RecordPart):
    """Hold a suggestion of a sampler, or the start of a driver with a new sampler."""

    told: tuple[str, ...] = ()
    """Trials that ended since the event before, in the order in which the sampler learned of them."""
    suggested: str | None = None
    """The suggested trial; None if the space holds no other."""
    is_start: bool = False
    ended: tuple[str, ...] = ()
    """At a start: the trials whose results the new sampler knows."""
    unfinished: tuple[str, ...] = ()
    """At a start: trials that an earlier driver suggested and that have not ended."""


class _OrderFile(RecordPart):
    """Hold the content of `order.json`."""

    events: tuple[Event, ...]


@dataclass(slots=True)
class Order:
    """Collect the starts and suggestions of a search."""

    events: list[Event] = field(default_factory=list)
    _told: list[str] = field(default_factory=list)

    def start(self, ended: Iterable[str], unfinished: Iterable[str]) -> None:
        """Note that a driver starts with a new sampler."""
        event = Event(is_start=True, ended=tuple(ended), unfinished=tuple(unfinished))
        while self.events and (last := self.events[-1].suggested) and last not in event.ended + event.unfinished:
            self.events.pop()  # the driver was killed before it wrote the trial: it is suggested again, or never
        self._told.clear()
        self.events.append(event)

    def tell(self, trial_id: str) -> None:
        """Note that the sampler has learned of a trial."""
        self._told.append(trial_id)

    def suggest(self, trial_id: str | None) -> None:
        """Note a suggestion."""
        self.events.append(Event(told=tuple(self._told), suggested=trial_id))
        self._told.clear()

    def save(self, folder: Storage) -> None:
        """Write the order to the folder of a sweep."""
        folder.write(ORDER, _OrderFile(events=tuple(self.events)).encode())

    @classmethod
    def load(cls, folder: Storage) -> Order:
        """Read the order of a sweep; an empty one where none is recorded or the file is damaged, which is logged."""
        try:
            return cls(list(read_part(folder, ORDER, _OrderFile).events))
        except KeyError:
            return cls()
        except DamagedRecordError as error:
            logger.warning("%s: the search cannot be replayed", error)
            return cls()


@dataclass(frozen=True, slots=True)
class Recorded:
    """Hold what a replay repeats."""

    name: str
    events: Sequence[Event]
    stops: Mapping[str, int]
    """The step at which a trial was stopped early, by trial."""


def read_recorded(storage: Storage, address: str) -> Recorded:
    """Read the order of a finished search.

    Args:
        address: a name in `storage`, or the folder of a sweep: `other/sweeps/NAME`, `s3://bucket/prefix/sweeps/NAME`.

    Raises:
        SweepError: there is no such search, or its order was not recorded.
    """
    scheme, separator, rest = address.partition("://") if "://" in address else ("", "", address)
    location, mark, options = rest.partition("?") if separator else (rest, "", "")
    path = PurePosixPath(location)
    if len(path.parts) > 1:
        if path.parent.name != "sweeps":
            raise SweepError(f"{address!r} is not the folder of a sweep", "Name a sweep, or FOLDER/sweeps/NAME")
        top = str(path.parent.parent)
        storage = open_storage(f"{scheme}://{'' if top == '.' else top}{mark}{options}" if separator else top)
    name = path.name
    events = Order.load(storage.sub(f"sweeps/{name}")).events
    if not events or events[0].ended or events[0].unfinished:
        raise SweepError(
            f"the order of results of sweep {name!r} in {storage.url} is not recorded from its beginning",
            "Name a search that this version of trm ran",
        )
    if unknown := _never_suggested(events):
        raise SweepError(
            f"the order of results of sweep {name!r} in {storage.url} is not complete: it names trial {unknown!r} "
            "before its suggestion",
            "Name another search",
        )
    stops = {one.trial_id: one.stopped.step for one in read_trials(storage, name) if one.stopped is not None}
    return Recorded(name, events, stops)


def _never_suggested(events: Sequence[Event]) -> str | None:
    """Return a trial that an event refers to and that no event before it suggested; None if there is none."""
    suggested: set[str] = set()
    for event in events:
        for trial_id in (*event.told, *event.ended, *event.unfinished):
            if trial_id not in suggested:
                return trial_id
        if event.suggested is not None:
            suggested.add(event.suggested)
    return None
