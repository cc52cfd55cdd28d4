"""Give results to the sampler of a search, in the order in which they arrive or in one that was recorded."""

from __future__ import annotations

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

    def __init__(self, sampler: Sampler, order: Order, recorded: Recorded | None = None) -> None:
        """`recorded`: a search that decides which of its trials are stopped early."""
        self._sampler = sampler
        self._order = order
        self._recorded = recorded
        self._repeated = recorded.suggested if recorded is not None else frozenset[str]()

    @property
    def is_exhausted(self) -> bool:
        """Return whether every cell has been tried; see `Sampler`."""
        return self._sampler.is_exhausted

    @property
    def is_ready(self) -> bool:
        """Return whether the next suggestion needs no further result. Other threads may ask, also during `suggest`."""
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

    def recorded_decision(self, trial_id: str, step: int) -> Decision | None:
        """Return whether the repeated search stopped a trial at a step; None for a trial that it did not run."""
        if self._recorded is None or trial_id not in self._repeated:
            return None
        is_stopped = self._recorded.stops.get(trial_id) == step
        return Decision(is_stopped, f"stopped here in sweep {self._recorded.name}" if is_stopped else "")


class Replayer(Learner):
    """Suggest what a recorded search suggested: each suggestion waits for the results that were known then."""

    def __init__(
        self,
        new_sampler: Callable[[Iterable[TrialRecord], int | None], Sampler],
        explored: Sequence[TrialRecord],
        order: Order,
        recorded: Recorded,
    ) -> None:
        super().__init__(new_sampler([], recorded.events[0].trials), order, recorded)
        order.events.clear()  # those of an earlier driver of this replay are repeated below
        order.start((), (), recorded.events[0].trials)
        self._new_sampler = new_sampler
        self._name = recorded.name
        self._events = recorded.events
        self._position = 1
        """Of the next event; the first is the start."""
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
        for event in self._events[self._position :]:
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
                f"the next suggestion of sweep {self._name!r} needs the result of trial {missing[0]}, which is missing",
                "Restore the record of that trial, or run the sweep under another name without --replay",
            )
        position = self._position
        while position < len(self._events) and self._events[position].is_start:
            self._restart(self._events[position])
            position += 1
        event = self._events[position] if position < len(self._events) else None
        # After the recorded suggestions everything counts that has arrived since.
        told = event.told if event else [trial_id for trial_id in self._ended if trial_id not in self._told]
        for trial_id in told:
            self._told.add(trial_id)
            super().tell(self._ended[trial_id])
        trial = super().suggest()
        if trial is not None:
            self._planned[trial.trial_id] = trial
        if event and (trial.trial_id if trial else None) != event.suggested:
            raise SweepError(
                f"suggestion {sum(not one.is_start for one in self._events[: position + 1])} is not that of sweep "
                f"{self._name!r}: its definition, a result or the version of Optuna differs",
                "Run it under another name without --replay, or in the environment of the recorded sweep",
            )
        self._position = position + 1
        return trial

    def tell(self, record: TrialRecord) -> None:
        """Keep a result until the suggestion before which the recorded search learned of it."""
        self._ended[record.trial_id] = record

    def _next(self) -> Event | None:
        return next((event for event in self._events[self._position :] if not event.is_start), None)

    def _restart(self, event: Event) -> None:
        """Do what a new driver of the recorded search did: build a sampler from the records."""
        self._order.start(event.ended, event.unfinished, event.trials)
        self._told.update(event.ended)
        self._sampler = self._new_sampler([self._ended[trial_id] for trial_id in event.ended], event.trials)
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

    def new_sampler(known: Iterable[TrialRecord], trials: int | None) -> Sampler:
        return Sampler(sweep.model_copy(update={"trials": trials}), fingerprint, known, earlier)

    if recorded is not None and not recorded.suggested <= {record.trial_id for record in explored}:
        return Replayer(new_sampler, explored, order, recorded)
    # Also after all recorded suggestions: from there on a search is resumed like any other.
    sampler = new_sampler(explored, sweep.trials)
    unfinished = [record for record in explored if not record.status.is_final]
    for record in unfinished:
        sampler.adopt(planned_of(record, sweep))
    if sweep.kind == "search":
        ended = (record.trial_id for record in explored if record.status.is_final)
        order.start(ended, (record.trial_id for record in unfinished), sweep.trials)
    return Learner(sampler, order, recorded)


def planned_of(record: TrialRecord, sweep: Sweep) -> PlannedTrial:
    """Return the trial that a record is of, as it would be planned."""
    return PlannedTrial(
        trial_id=record.trial_id,
        stage=record.stage,
        family=record.family,
        config=record.config,
        resources=sweep.resources_of(record.config),
    )
