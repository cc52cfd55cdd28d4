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
from orchestrator.records.index import load_definition
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import RecordPart, TrialRecord
from orchestrator.records.stored import DamagedRecordError, read_part
from orchestrator.storage import Storage, existing_storage
from orchestrator.sweep.definition import Sweep

logger = logging.getLogger(__name__)

ORDER = "order.json"
REPLAY = "replay.json"


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
    trials: int | None = None
    """At a start: how many trials the definition asked for; it decides how many of them a sampler draws at random."""


class _OrderFile(RecordPart):
    """Hold the content of `order.json`."""

    events: tuple[Event, ...]


@dataclass(slots=True)
class Order:
    """Collect the starts and suggestions of a search."""

    events: list[Event] = field(default_factory=list)
    _told: list[str] = field(default_factory=list)

    def start(self, ended: Iterable[str], unfinished: Iterable[str], trials: int | None) -> None:
        """Note that a driver starts with a new sampler for so many trials."""
        event = Event(is_start=True, ended=tuple(ended), unfinished=tuple(unfinished), trials=trials)
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


class Recorded(RecordPart):
    """Hold what a replay repeats; the content of `replay.json`, by which an interrupted replay continues."""

    name: str
    events: tuple[Event, ...]
    stops: dict[str, int]
    """The step at which a trial was stopped early, by trial."""

    @property
    def suggested(self) -> frozenset[str]:
        """Return the trials that the recorded search suggested."""
        return frozenset(event.suggested for event in self.events if event.suggested)


def replay_of(
    sweep: Sweep, folder: Storage, address: str | None, storage: Storage, *, has_begun: bool
) -> Recorded | None:
    """Return what a run of a sweep repeats; None if nothing.

    Args:
        folder: of the sweep. A replay that was interrupted continues by what it keeps there.
        address: see `read_recorded`; None where the user names no search.
        has_begun: whether the sweep has trials.

    Raises:
        SweepError: the sweep or the named search cannot be replayed, or the sweep has begun otherwise.
        DamagedRecordError: `replay.json` is damaged.
    """
    if sweep.kind == "study":
        if address is not None:
            raise SweepError(f"{sweep.name} is a study, which has no order to replay", "Leave --replay out")
        return None
    try:
        earlier = read_part(folder, REPLAY, Recorded)
    except KeyError:
        earlier = None
    if address is None:
        return earlier
    if measured := [name for name in sweep.minimise if name in ("train_s", "usd")]:
        raise SweepError(
            f"{sweep.name} minimises {measured[0]}, which every run measures again: its suggestions cannot be repeated",
            "Leave --replay out",
        )
    found = read_recorded(storage, address)
    if earlier is None and has_begun:
        raise SweepError(
            f"sweep {sweep.name!r} has begun without --replay", "Leave --replay out, or give it a new --name"
        )
    if earlier is not None and earlier != found:
        raise SweepError(
            f"sweep {sweep.name!r} repeats another search, {earlier.name!r}", "Leave --replay out to resume it"
        )
    return found


def read_recorded(storage: Storage, address: str) -> Recorded:
    """Read the order of a search whose trials have all ended.

    Args:
        address: a name in `storage`, or the folder of a sweep: `other/sweeps/NAME`, `s3://bucket/prefix/sweeps/NAME`.

    Raises:
        SweepError: there is no such search, or it cannot be replayed.
    """
    path, question, options = address.partition("?") if "://" in address else (str(PurePosixPath(address)), "", "")
    head, _, name = path.rstrip("/").rpartition("/")
    if head:
        top, _, last = head.rpartition("/")
        if last != "sweeps":
            raise SweepError(f"{address!r} is not the folder of a sweep", "Name a sweep, or FOLDER/sweeps/NAME")
        storage = existing_storage(f"{top or '.'}{question}{options}")
    load_definition(storage, name)
    events = tuple(Order.load(storage.sub(f"sweeps/{name}")).events)
    records = {record.trial_id: record for record in read_trials(storage, name)}
    if reason := _obstacle(events, records):
        raise SweepError(f"sweep {name!r} in {storage.url} cannot be replayed: {reason}", "Name another search")
    stops = {one.trial_id: one.stopped.step for one in records.values() if one.stopped is not None}
    return Recorded(name=name, events=events, stops=stops)


def _obstacle(events: Sequence[Event], records: Mapping[str, TrialRecord]) -> str:
    """Return why an order cannot be replayed; an empty text if it can."""
    if not events or not events[0].is_start:
        return "the order of its results is not recorded"
    known: set[str] = set()
    for event in events:
        if not known.issuperset((*event.told, *event.ended, *event.unfinished)):
            return (
                "it has trials that none of its recorded suggestions made, from an older version or after --max-steps"
            )
        if event.suggested:
            known.add(event.suggested)
    for trial_id in known:
        if trial_id not in records:
            return f"it never ran the trial {trial_id}, which it suggested"
        if not records[trial_id].status.is_final:
            return f"its trial {trial_id} has not ended"
    return ""
