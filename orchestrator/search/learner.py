"""Give results to the sampler of a search, in the order in which they arrive or in one that was recorded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from orchestrator.errors import SweepError
from orchestrator.records.schema import TrialRecord
from orchestrator.search.early_stopping import Decision
from orchestrator.search.order import Event, Order, Recorded
from orchestrator.search.sampler import Sampler
from orchestrator.search.warm_start import WarmStart
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.trials import Fingerprint, PlannedTrial


class Learner:
    """Suggest from the results that have arrived, and record their order."""

    def __init__(self, sampler: Sampler, order: Order) -> None:
        self._sampler = sampler
        self._order = order

    @property
    def is_exhausted(self) -> bool:
        """Return whether every cell has been tried; see `Sampler`."""
        return self._sampler.is_exhausted

    @property
    def is_ready(self) -> bool:
        """Return whether the next suggestion needs no further result."""
        return True

    def suggest(self) -> PlannedTrial | None:
        """Return the next configuration, or None if the space holds no other."""
        trial = self._sampler.suggest()
        self._order.suggest(trial.trial_id if trial else None)
        return trial

    def tell(self, record: TrialRecord) -> None:
        """Process a trial that has ended."""
        self._order.tell(record.trial_id)
        self._sampler.tell(record)

    def stops(self, trial_id: str, step: int) -> Decision | None:
        """Return whether a trial is stopped at a step; None where the rule of the sweep decides."""
        return None


class Replayer(Learner):
    """Suggest what a recorded search suggested: each suggestion waits for the results that were known then."""

    def __init__(
        self,
        new_sampler: Callable[[Iterable[TrialRecord]], Sampler],
        explored: Sequence[TrialRecord],
        order: Order,
        recorded: Recorded,
    ) -> None:
        super().__init__(new_sampler([]), order)
        order.events.clear()  # those of an earlier driver of this replay are repeated below
        self._new_sampler = new_sampler
        self._recorded = recorded
        self._events = deque(recorded.events)
        self._suggested = {event.suggested for event in recorded.events}
        self._ended = {record.trial_id: record for record in explored if record.status.is_final}
        self._told: set[str] = set()
        self._planned: dict[str, PlannedTrial] = {}
        known = {record.trial_id for record in explored}
        while (event := self._next()) and event.suggested in known and self.is_ready:
            self.suggest()

    @property
    def is_ready(self) -> bool:
        """Return whether every result that the next suggestion was made from has arrived."""
        return not self._missing()

    def _missing(self) -> list[str]:
        """Return the trials whose results the next suggestion was made from and that have not ended."""
        needed: list[str] = []
        for event in self._events:
            needed += (*event.told, *event.ended)
            if not event.is_start:
                break
        return [trial_id for trial_id in needed if trial_id not in self._ended]

    def suggest(self) -> PlannedTrial | None:
        """Return the next configuration.

        Raises:
            SweepError: it is not the recorded one, or was made from a result that this sweep will not have.
        """
        if missing := self._missing():
            raise SweepError(
                f"the next suggestion of sweep {self._recorded.name!r} needs the result of trial {missing[0]}, which "
                "is not there",
                "Restore the record of that trial, or run the sweep without --replay",
            )
        event = self._next()
        while self._events and self._events[0].is_start:
            self._restart(self._events.popleft())
        # After the recorded suggestions everything counts that has arrived since.
        told = event.told if event else [trial_id for trial_id in self._ended if trial_id not in self._told]
        for trial_id in told:
            self._told.add(trial_id)
            super().tell(self._ended[trial_id])
        trial = super().suggest()
        if trial is not None:
            self._planned[trial.trial_id] = trial
        if event:
            self._events.popleft()
            if (trial.trial_id if trial else None) != event.suggested:
                raise SweepError(
                    f"suggestion {len(self._planned)} is not that of sweep {self._recorded.name!r}: its definition, a "
                    "result or the version of Optuna differs",
                    "Run it without --replay, or in the environment of the recorded sweep",
                )
        return trial

    def tell(self, record: TrialRecord) -> None:
        """Keep a result until the suggestion before which the recorded search learned of it."""
        self._ended[record.trial_id] = record

    def stops(self, trial_id: str, step: int) -> Decision | None:
        """Return whether the recorded search stopped this trial at this step; None for a trial that it did not run."""
        if trial_id not in self._suggested:
            return None
        is_stopped = self._recorded.stops.get(trial_id) == step
        return Decision(is_stopped, f"stopped here in sweep {self._recorded.name}" if is_stopped else "")

    def _next(self) -> Event | None:
        return next((event for event in self._events if not event.is_start), None)

    def _restart(self, event: Event) -> None:
        """Do what a new driver of the recorded search did: build a sampler from the records."""
        self._order.start(event.ended, event.unfinished)
        self._told.update(event.ended)
        self._sampler = self._new_sampler([self._ended[trial_id] for trial_id in event.ended])
        for trial_id in event.unfinished:
            self._sampler.adopt(self._planned[trial_id])


def learner(
    sweep: Sweep,
    fingerprint: Fingerprint,
    explored: Sequence[TrialRecord],
    earlier: WarmStart,
    order: Order,
    recorded: Recorded | None,
) -> Learner:
    """Return what gives results to the sampler of a search.

    Args:
        explored: the records of the search so far.
        order: where the order is recorded.
        recorded: the search to repeat.

    Raises:
        SweepError: the search so far is not the beginning of the recorded one.
    """

    def new_sampler(known: Iterable[TrialRecord]) -> Sampler:
        return Sampler(sweep, fingerprint, known, earlier)

    if recorded is not None and sweep.kind == "study":
        raise SweepError(f"{sweep.name} is a study, which has no order to replay", "Leave --replay out")
    if recorded is not None:
        return Replayer(new_sampler, explored, order, recorded)
    sampler = new_sampler(explored)
    unfinished = [record for record in explored if not record.status.is_final]
    for record in unfinished:
        sampler.adopt(planned_of(record, sweep))
    order.start(
        (record.trial_id for record in explored if record.status.is_final), (record.trial_id for record in unfinished)
    )
    return Learner(sampler, order)


def planned_of(record: TrialRecord, sweep: Sweep) -> PlannedTrial:
    """Return the trial that a record is of, as it would be planned."""
    return PlannedTrial(
        trial_id=record.trial_id,
        stage=record.stage,
        family=record.family,
        config=record.config,
        resources=sweep.resources_of(record.config),
    )
