"""A search is replayed in the order in which its results arrived, whatever the timing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import SweepError
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.search.early_stopping import Rung
from orchestrator.search.order import ORDER, Event, Order, Recorded, read_recorded
from orchestrator.search.planner import Planner
from orchestrator.storage import LocalStorage
from orchestrator.sweep import Sweep, choice, uniform
from orchestrator.sweep.trials import PlannedTrial
from tests.support.sweeps import fingerprint, record_of, search, study
from trm_data.errors import UserError

SPACE = {"T": choice(1, 2, 3, 4, 5, 6), "lr": uniform(1e-4, 1e-2)}


def sweep_of(trials: int = 12, sampler: str = "tpe") -> Sweep:
    return search(space=SPACE, trials=trials, sampler=sampler)


def score(trial: PlannedTrial) -> float:
    """A result that depends on the trial alone, as that of a real trial does."""
    return random.Random(trial.trial_id).random()


def play(planner: Planner, rng: random.Random, slots: int, records: dict[str, TrialRecord], until: int = 1000) -> None:
    """Run trials, which end in random order, until so many have ended."""
    running: list[PlannedTrial] = []
    for _ in range(until):
        while len(running) < slots and (trial := planner.next()) is not None:
            records.setdefault(trial.trial_id, record_of(trial, Status.RUNNING, step=4))
            running.append(trial)
        if not running:
            break
        trial = running.pop(rng.randrange(len(running)))
        records[trial.trial_id] = record_of(trial, Status.FINISHED, value=score(trial))
        planner.ended(records[trial.trial_id])


def suggested(order: Order) -> list[str]:
    return [event.suggested for event in order.events if event.suggested]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    slots=st.integers(1, 4),
    cuts=st.lists(st.integers(1, 5), max_size=2),
    again=st.integers(1, 4),
    second_cuts=st.lists(st.integers(1, 5), max_size=2),
)
def test_replay_suggests_the_same_trials_with_other_timing_and_other_interruptions(
    seed: int, slots: int, cuts: list[int], again: int, second_cuts: list[int]
) -> None:
    records: dict[str, TrialRecord] = {}
    order = Order()
    for until in [*cuts, 1000]:
        planner = Planner(sweep_of(), fingerprint, list(records.values()), order=order)
        play(planner, random.Random(seed), slots, records, until)
    assert len(suggested(order)) == 12
    recorded = Recorded("first", tuple(order.events), {})
    repeated: dict[str, TrialRecord] = {}
    copy = Order()
    for until in [*second_cuts, 1000]:
        planner = Planner(sweep_of(), fingerprint, list(repeated.values()), order=copy, replay=recorded)
        play(planner, random.Random(seed + 1), again, repeated, until)
    assert suggested(copy) == suggested(order)
    assert {key: one.result for key, one in repeated.items()} == {key: one.result for key, one in records.items()}


def test_other_timing_without_a_replay_gives_other_trials() -> None:
    """Otherwise the test above would show nothing."""
    found = []
    for seed in range(3):
        order = Order()
        play(Planner(sweep_of(), fingerprint, [], order=order), random.Random(seed), 4, {})
        found.append(suggested(order))
    assert found[0] != found[1] or found[1] != found[2]


def test_a_replay_stops_trials_where_they_were_stopped() -> None:
    planner = Planner(sweep_of(2), fingerprint, [])
    first, second = planner.next(), planner.next()
    assert first and second
    recorded = Recorded("first", tuple(planner.order.events), {first.trial_id: 20})
    again = Planner(sweep_of(2), fingerprint, [], replay=recorded)
    assert again.next() == first and again.next() == second
    rung = Rung(10, 0.0, 0.0, 100)
    assert not again.rung(first.trial_id, rung, 0.0).stop
    decision = again.rung(first.trial_id, rung._replace(step=20), 0.0)
    assert decision.stop and "sweep first" in decision.reason
    assert not again.rung(second.trial_id, rung._replace(step=20), 0.0).stop


def test_a_replay_with_more_trials_goes_on_as_any_search() -> None:
    records: dict[str, TrialRecord] = {}
    order = Order()
    play(Planner(sweep_of(6), fingerprint, [], order=order), random.Random(0), 2, records)
    longer = Order()
    recorded = Recorded("first", tuple(order.events), {})
    play(Planner(sweep_of(9), fingerprint, [], order=longer, replay=recorded), random.Random(1), 3, {})
    assert suggested(longer)[:6] == suggested(order) and len(set(suggested(longer))) == 9


def test_a_replay_that_departs_says_so() -> None:
    order = Order()
    play(Planner(sweep_of(6), fingerprint, [], order=order), random.Random(0), 2, {})
    recorded = Recorded("first", tuple(order.events), {})
    planner = Planner(sweep_of(6, sampler="random"), fingerprint, [], replay=recorded)
    with pytest.raises(SweepError, match="is not that of sweep 'first'"):
        play(planner, random.Random(0), 2, {})


def test_a_study_has_no_order() -> None:
    recorded = Recorded("first", (Event(is_start=True),), {})
    with pytest.raises(SweepError, match="study"):
        Planner(study(), fingerprint, [], replay=recorded)


def test_the_order_is_read_as_it_was_written(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    order = Order()
    play(Planner(sweep_of(4), fingerprint, [], order=order), random.Random(0), 2, {})
    order.save(storage.sub("sweeps/first"))
    assert Order.load(storage.sub("sweeps/first")).events == order.events
    for address in ("first", f"{tmp_path}/sweeps/first", f"{tmp_path}/sweeps/first/"):
        assert list(read_recorded(storage, address).events) == order.events


@pytest.mark.parametrize(
    ("content", "address", "message"),
    [
        (None, "first", "is not recorded from its beginning"),
        (b"[]", "first", "is not recorded from its beginning"),
        (b'{"events": [{"told": 3}]}', "first", "is not recorded from its beginning"),
        (b'{"events": [{"is_start": true, "ended": ["a"]}]}', "first", "is not recorded from its beginning"),
        (None, "some/folder", "is not the folder of a sweep"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(tmp_path: Path, content: bytes | None, address: str, message: str) -> None:
    storage = LocalStorage(tmp_path)
    if content is not None:
        storage.write(f"sweeps/first/{ORDER}", content)
    with pytest.raises(SweepError, match=message):
        read_recorded(storage, address)


def test_a_suggestion_whose_record_was_not_written_is_left_out() -> None:
    order = Order()
    planner = Planner(sweep_of(6), fingerprint, [], order=order)
    first, second = planner.next(), planner.next()
    assert first and second
    Planner(sweep_of(6), fingerprint, [record_of(first, Status.RUNNING, step=4)], order=order)
    assert suggested(order) == [first.trial_id]


def _of_two() -> Order:
    order = Order()
    play(Planner(sweep_of(6), fingerprint, [], order=order), random.Random(0), 1, {})
    return order


@pytest.mark.parametrize("change", [{"told": ("stranger",)}, {"ended": ("stranger",)}, {"unfinished": ("stranger",)}])
@pytest.mark.parametrize("index", [0, 3])
def test_an_order_that_names_a_trial_before_its_suggestion_is_refused(
    index: int, change: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    order = _of_two()
    order.events[index:index] = [Event(is_start=True, **change)] if "told" not in change else [Event(**change)]
    storage = LocalStorage(tmp_path)
    order.save(storage.sub("sweeps/first"))
    with pytest.raises(SweepError, match=r"is not recorded from its beginning|is not complete"):
        read_recorded(storage, "first")


def test_a_replay_that_will_not_have_a_result_says_so_and_does_not_end_as_complete() -> None:
    """A trial whose record is damaged is left out: the suggestions that were made from its result cannot be."""
    order = _of_two()
    recorded = Recorded("first", tuple(order.events), {})
    lost = suggested(order)[1]
    planner = Planner(sweep_of(6), fingerprint, [], excluded=[lost], replay=recorded)
    play(planner, random.Random(0), 1, {})
    assert not planner.is_done and planner.wants_suggestion
    with pytest.raises(SweepError, match=f"needs the result of trial {lost}"):
        planner.next()


@pytest.mark.parametrize("address", ["sweeps/first", "./sweeps//first/", "{0}//sweeps/first", "{0}/./sweeps/./first"])
def test_a_recorded_search_is_found_by_any_path_to_its_folder(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    order = _of_two()
    order.save(LocalStorage(tmp_path / "sweeps/first"))
    found = read_recorded(LocalStorage(tmp_path / "elsewhere"), address.format(tmp_path))
    assert list(found.events) == order.events


@pytest.mark.parametrize(
    "address",
    ["", ".", "..", "/", "s3:/x/sweeps/first", "s3://", "s3://sweeps/first", "a/sweeps/..", "gs://b/sweeps/x"],
)
def test_an_address_of_no_search_is_one_line(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        read_recorded(LocalStorage(tmp_path), address)
