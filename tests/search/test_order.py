"""A search is replayed in the order in which its results arrived, whatever the timing."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import SweepError
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.search.early_stopping import Rung
from orchestrator.search.order import ORDER, REPLAY, Order, Recorded, read_recorded, replay_of
from orchestrator.search.planner import Planner
from orchestrator.storage import LocalStorage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep import Sweep, choice, uniform
from orchestrator.sweep.trials import PlannedTrial
from tests.support.sweeps import fingerprint, record_of, search, study
from tests.support.tracking import write_record
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


def recorded_of(order: Order, stops: dict[str, int] | None = None) -> Recorded:
    return Recorded(name="first", events=tuple(order.events), stops=stops or {})


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
    recorded = recorded_of(order)
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
    recorded = recorded_of(planner.order, {first.trial_id: 20})
    again = Planner(sweep_of(2), fingerprint, [], replay=recorded)
    assert again.next() == first and again.next() == second
    rung = Rung(10, 0.0, 0.0, 100)
    assert not again.rung(first.trial_id, rung, 0.0).stop
    decision = again.rung(first.trial_id, rung._replace(step=20), 0.0)
    assert decision.stop and "sweep first" in decision.reason
    assert not again.rung(second.trial_id, rung._replace(step=20), 0.0).stop


def test_a_replay_with_more_trials_goes_on_as_any_search() -> None:
    order = Order()
    play(Planner(sweep_of(12), fingerprint, [], order=order), random.Random(0), 2, {})
    longer, records = Order(), dict[str, TrialRecord]()
    for until in (13, 3, 1000):  # interrupted twice after the last recorded suggestion
        planner = Planner(sweep_of(30), fingerprint, list(records.values()), order=longer, replay=recorded_of(order))
        play(planner, random.Random(1), 3, records, until)
    assert suggested(longer)[:12] == suggested(order)
    assert len([one for one in records.values() if one.stage == "explore"]) == 30


def test_a_replay_that_departs_says_so() -> None:
    order = Order()
    play(Planner(sweep_of(6), fingerprint, [], order=order), random.Random(0), 2, {})
    recorded = recorded_of(order)
    planner = Planner(sweep_of(6, sampler="random"), fingerprint, [], replay=recorded)
    with pytest.raises(SweepError, match="is not that of sweep 'first'"):
        play(planner, random.Random(0), 2, {})


@pytest.fixture
def recorded_in(tmp_path: Path) -> LocalStorage:
    """A storage with the finished search `search`."""
    storage, sweep = LocalStorage(tmp_path / "runs"), sweep_of(4)
    order, records = Order(), dict[str, TrialRecord]()
    play(Planner(sweep, fingerprint, [], order=order), random.Random(0), 2, records)
    folder = storage.sub("sweeps/search")
    order.save(folder)
    folder.write("sweep.json", to_json_bytes(sweep.plain()))
    for record in records.values():
        write_record(storage, dataclasses.replace(record, sweep="search"))
    return storage


def test_the_order_is_read_by_name_and_by_folder(
    recorded_in: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recorded_in.root)
    other = LocalStorage(tmp_path / "other")
    found = read_recorded(recorded_in, "search")
    assert len(found.suggested) == 4
    for address in (f"{recorded_in.root}/sweeps/search", f"{recorded_in.root}//sweeps/./search/", "./sweeps//search/"):
        assert read_recorded(other, address) == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the order of its results is not recorded"),
        ([], "the order of its results is not recorded"),
        (3, "the order of its results is not recorded"),
        ([{"told": 3}], "the order of its results is not recorded"),
        ([{"told": [], "suggested": "a"}], "the order of its results is not recorded"),
        ([{"is_start": True, "ended": ["a"]}], "none of its recorded suggestions made"),
        ([{"is_start": True}, {"told": ["a"], "suggested": "b"}], "none of its recorded suggestions made"),
        ([{"is_start": True}, {"suggested": "b"}], "never ran the trial b"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(recorded_in: LocalStorage, content: object, message: str) -> None:
    if content is None:
        recorded_in.delete(f"sweeps/search/{ORDER}")
    else:
        recorded_in.write(f"sweeps/search/{ORDER}", to_json_bytes({"events": content}))
    with pytest.raises(SweepError, match=message) as caught:
        read_recorded(recorded_in, "search")
    assert "\n" not in str(caught.value)


def test_a_search_that_still_runs_is_not_replayed(recorded_in: LocalStorage) -> None:
    trial_id = next(iter(read_recorded(recorded_in, "search").suggested))
    recorded_in.delete(f"sweeps/search/trials/{trial_id}/result.json")
    recorded_in.delete(f"sweeps/search/trials/{trial_id}/attempts/001/end.json")
    with pytest.raises(SweepError, match=f"its trial {trial_id} has not ended"):
        read_recorded(recorded_in, "search")


@pytest.mark.parametrize(
    ("address", "message"),
    [("some/folder", "is not the folder of a sweep"), ("searhc", "search"), ("nowhere/sweeps/search", "no storage")],
)
def test_wrong_name_of_a_search_is_one_line(recorded_in: LocalStorage, address: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_recorded(recorded_in, address)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [(study(), "is a study"), (search(minimise=("train_s",)), "measures again")],
    ids=["study", "measured"],
)
def test_what_has_no_order_to_repeat_is_refused(recorded_in: LocalStorage, sweep: Sweep, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        replay_of(sweep, recorded_in.sub("sweeps/again"), "search", recorded_in, has_begun=False)


def test_an_interrupted_replay_continues_without_the_option(recorded_in: LocalStorage) -> None:
    folder = recorded_in.sub("sweeps/again")
    found = replay_of(sweep_of(4), folder, "search", recorded_in, has_begun=False)
    assert found is not None
    folder.write(REPLAY, found.encode())
    for address in (None, "search"):
        assert replay_of(sweep_of(4), folder, address, recorded_in, has_begun=True) == found
    folder.write(REPLAY, found.model_copy(update={"name": "another"}).encode())
    with pytest.raises(SweepError, match="repeats another search"):
        replay_of(sweep_of(4), folder, "search", recorded_in, has_begun=True)
    folder.delete(REPLAY)
    with pytest.raises(SweepError, match="has begun without --replay"):
        replay_of(sweep_of(4), folder, "search", recorded_in, has_begun=True)


def test_a_suggestion_whose_record_was_not_written_is_left_out() -> None:
    order = Order()
    planner = Planner(sweep_of(6), fingerprint, [], order=order)
    first, second = planner.next(), planner.next()
    assert first and second
    Planner(sweep_of(6), fingerprint, [record_of(first, Status.RUNNING, step=4)], order=order)
    assert suggested(order) == [first.trial_id]


def test_a_replay_that_will_not_have_a_result_says_so_and_does_not_end_as_complete() -> None:
    """A trial whose record is damaged is left out: the suggestions that were made from its result cannot be."""
    order = Order()
    play(Planner(sweep_of(6), fingerprint, [], order=order), random.Random(0), 1, {})
    lost = suggested(order)[1]
    planner = Planner(sweep_of(6), fingerprint, [], excluded=[lost], replay=recorded_of(order))
    play(planner, random.Random(0), 1, {})
    assert not planner.is_done and planner.wants_suggestion
    with pytest.raises(SweepError, match=f"needs the result of trial {lost}"):
        planner.next()


@pytest.mark.parametrize(
    "address",
    ["", ".", "..", "/", "s3:/x/sweeps/first", "s3://", "s3://sweeps/first", "a/sweeps/..", "gs://b/sweeps/x"],
)
def test_an_address_of_no_search_is_one_line(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        read_recorded(LocalStorage(tmp_path), address)
