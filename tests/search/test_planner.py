"""What starts next, what stops early, and that nothing is run twice or forgotten."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.api.plan import plan
from orchestrator.records.schema import Row, Status, TrialRecord
from orchestrator.search.early_stopping import Rung, decide
from orchestrator.search.planner import Planner, rungs_of
from orchestrator.search.sampler import drawn_cells
from orchestrator.sweep import Confirm, Stopping, Sweep, choice, log_uniform
from orchestrator.sweep.settings import label
from orchestrator.sweep.trials import PlannedTrial, study_trials
from tests.support.sweeps import fingerprint, record_of, search, study

ENDINGS = [Status.FINISHED, Status.FINISHED, Status.FINISHED, Status.STOPPED, Status.DIVERGED, Status.FAILED]


def play(planner: Planner, rng: random.Random, slots: int, records: dict[str, TrialRecord], until: int) -> None:
    """Run up to `until` trials with `slots` at once; what is still running then stays RUNNING on the record."""
    running: list[PlannedTrial] = []
    ended = 0
    while not planner.is_done and ended < until:
        while len(running) < slots and (trial := planner.next()) is not None:
            records[trial.trial_id] = record_of(trial, Status.RUNNING, step=4)
            running.append(trial)
        trial = running.pop(rng.randrange(len(running)))
        status = rng.choice(ENDINGS) if trial.stage == "explore" else Status.FINISHED
        record = record_of(trial, status, value=rng.random())
        records[trial.trial_id] = record
        planner.ended(record)
        ended += 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), slots=st.integers(1, 4), cuts=st.lists(st.integers(0, 6), max_size=3))
def test_search_runs_exactly_what_was_asked_for_however_often_it_is_killed(
    seed: int, slots: int, cuts: list[int]
) -> None:
    rng = random.Random(seed)
    records: dict[str, TrialRecord] = {}
    for until in [*cuts, 1000]:
        play(Planner(search(), fingerprint, list(records.values())), rng, slots, records, until)
    stages = [record.stage for record in records.values()]
    assert stages.count("explore") == 5
    finished = any(r.stage == "explore" and r.status is Status.FINISHED for r in records.values())
    assert stages.count("confirm") == 2 + (2 if finished else 0)
    assert all(record.status.is_final for record in records.values())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 6), max_size=3))
def test_study_runs_every_cell_and_seed_once_however_often_it_is_killed(seed: int, cuts: list[int]) -> None:
    rng = random.Random(seed)
    records: dict[str, TrialRecord] = {}
    started: list[str] = []
    for until in [*cuts, 1000]:
        planner = Planner(study(), fingerprint, list(records.values()))
        done = {key for key, record in records.items() if record.status.is_final}
        play(planner, rng, 2, records, until)
        started += [key for key, record in records.items() if record.status.is_final and key not in done]
    assert sorted(started) == sorted(set(started)) == sorted(records)
    assert len(records) == 8


def test_unfinished_trials_of_an_earlier_driver_come_first() -> None:
    first = Planner(search(), fingerprint, [])
    trials = [first.next() for _ in range(3)]
    assert all(trials)
    records = [
        record_of(t, s, step=4)
        for t, s in zip(trials, [Status.FINISHED, Status.INTERRUPTED, Status.RUNNING], strict=True)
        if t
    ]
    again = Planner(search(), fingerprint, records)
    resumed = {again.next(), again.next()}
    assert {t.trial_id for t in resumed if t} == {records[1].trial_id, records[2].trial_id}


def test_best_is_confirmed_with_fresh_seeds_on_test_and_controls_fill_the_wait() -> None:
    planner = Planner(search(trials=2), fingerprint, [])
    first, second = planner.next(), planner.next()
    assert first and second
    third = planner.next()
    assert third and third.family == "direct" and third.stage == "confirm"
    planner.ended(record_of(first, Status.FINISHED, value=0.9))
    planner.ended(record_of(second, Status.FINISHED, value=0.2))
    rest = list(iter(planner.next, None))
    best = [trial for trial in rest if trial.family.startswith("best")]
    assert [trial.config.seed for trial in best] == [1, 2]
    assert {trial.config.model.cycles for trial in best} == {first.config.model.cycles}
    assert {trial.config.evaluation.split for trial in best} == {"test"}


def test_a_stopped_or_diverged_trial_is_never_the_best() -> None:
    planner = Planner(search(trials=2), fingerprint, [])
    first, second = planner.next(), planner.next()
    assert first and second
    planner.ended(record_of(first, Status.STOPPED, value=0.99))
    planner.ended(record_of(second, Status.FINISHED, value=0.1))
    assert [record.trial_id for record in planner.best(3)] == [second.trial_id]


def test_small_space_is_exhausted_without_duplicates_or_a_hang() -> None:
    sweep = search(space={"T": choice(1, 2)}, trials=10, confirm=Confirm(top=0, seeds=1))
    planner = Planner(sweep, fingerprint, [])
    trials = list(iter(planner.next, None))
    assert sorted(t.config.model.cycles for t in trials) == [1, 2]
    assert planner.exhausted


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_every_sampler_suggests_distinct_cells(sampler: str) -> None:
    planner = Planner(search(sampler=sampler, trials=9), fingerprint, [])
    trials = []
    for _ in range(9):
        trial = planner.next()
        assert trial is not None and trial.stage == "explore"
        planner.ended(record_of(trial, Status.FINISHED, value=trial.config.model.cycles / 10))
        trials.append(trial)
    assert len({trial.trial_id for trial in trials}) == 9


@given(seed=st.integers(0, 10_000), slots=st.integers(1, 4))
@settings(max_examples=10, deadline=None)
def test_plan_lists_the_cells_that_a_random_search_explores_whatever_its_trials_score(seed: int, slots: int) -> None:
    space = {"T": choice(1, 2, 3), "lr": log_uniform(1e-4, 1e-2)}
    sweep = search(sampler="random", sampler_seed=seed, trials=7, space=space)
    records: dict[str, TrialRecord] = {}
    play(Planner(sweep, fingerprint, []), random.Random(seed), slots, records, 1000)
    explored = sorted(record.family for record in records.values() if record.stage == "explore")
    drawn = drawn_cells(sweep, 7)
    assert drawn is not None and sorted(map(label, drawn)) == explored and len(explored) == 7
    planned = plan(sweep, "no-such-folder")
    controls = [control.name for control in sweep.confirm.controls]
    assert [cell.family for cell in planned.cells] == [*map(label, drawn), *controls] and not planned.cells_are_examples


def test_plan_of_a_search_that_results_decide_shows_examples() -> None:
    for sweep in (search(sampler="tpe"), search(sampler="random", trials=5, warm_start=("published",))):
        assert drawn_cells(sweep, 5) is None and plan(sweep, "no-such-folder").cells_are_examples
    assert drawn_cells(search(sampler="random", trials=5), 4) is None
    assert drawn_cells(study(), 5) is None and not plan(study(), "no-such-folder").cells_are_examples


def test_random_search_of_a_small_space_lists_every_cell_once() -> None:
    sweep = search(sampler="random", space={"T": choice(1, 2)}, trials=10)
    drawn = drawn_cells(sweep, 10)
    assert drawn is not None and sorted(map(label, drawn)) == ["T=1", "T=2"]


def rungs(*values: float, cell: float = 0.5) -> list[Rung]:
    return [Rung(step, value, cell) for step, value in zip(range(10, 1000, 10), values, strict=False)]


RULE = Stopping(rule="halving", grace=0.4, keep=0.5)


def test_nothing_is_stopped_before_the_grace_period() -> None:
    others = {str(k): rungs(0.9, 0.9) for k in range(6)}
    assert not decide(RULE, 100, rungs(0.0, 0.0), others).stop


def test_the_worse_half_is_stopped_after_it_and_the_better_goes_on() -> None:
    others = {str(k): rungs(0, 0, 0, 0.2 * k) for k in range(5)}
    assert decide(RULE, 100, rungs(0, 0, 0, 0.1), others).stop
    assert not decide(RULE, 100, rungs(0, 0, 0, 0.7), others).stop


def test_while_nobody_solves_anything_cell_accuracy_decides() -> None:
    others = {str(k): rungs(0, 0, 0, 0, cell=0.5 + 0.01 * k) for k in range(5)}
    assert not decide(RULE, 100, rungs(0, 0, 0, 0, cell=0.9), others).stop
    decision = decide(RULE, 100, rungs(0, 0, 0, 0, cell=0.1), others)
    assert decision.stop and "raw cell accuracy" in decision.reason


def test_few_peers_or_equal_peers_stop_nobody() -> None:
    assert not decide(RULE, 100, rungs(0, 0, 0, 0), {"a": rungs(1, 1, 1, 1), "b": rungs(1, 1, 1, 1)}).stop
    same = {str(k): rungs(0, 0, 0, 0.5) for k in range(8)}
    assert not decide(RULE, 100, rungs(0, 0, 0, 0.5), same).stop


def explored(planner: Planner, count: int) -> list[PlannedTrial]:
    trials = [planner.next() for _ in range(count)]
    assert all(trial is not None and trial.stage == "explore" for trial in trials)
    return [trial for trial in trials if trial is not None]


def test_an_explored_trial_is_stopped_by_what_other_explored_trials_have_shown() -> None:
    """Twelve steps, judged from step 6 on: of four, the better two continue."""
    sweep = search(trials=5, stopping=Stopping(rule="halving", grace=0.5, keep=0.5))
    planner = Planner(sweep, fingerprint, [])
    *better, worst, late = explored(planner, 5)
    for trial, accuracy in zip(better, (0.9, 0.8, 0.7), strict=True):
        assert not planner.rung(trial.trial_id, Rung(8, accuracy, accuracy), accuracy).stop
    decision = planner.rung(worst.trial_id, Rung(8, 0.1, 0.1), 0.1)
    assert decision.stop and decision.reason.startswith("3 of 3 others are better by exact accuracy (0.100) at step 8")
    assert planner.trials[worst.trial_id].value == 0.1 and planner.trials[worst.trial_id].step == 8
    assert not planner.rung(late.trial_id, Rung(4, 0.0, 0.0), 0.0).stop, "before the grace period"
    assert planner.rung(late.trial_id, Rung(8, 0.2, 0.2), 0.2).stop, "the stopped trial counts as a peer, too"


def test_confirmed_trials_are_no_peers_of_explored_ones() -> None:
    sweep = search(trials=3, stopping=Stopping(rule="halving", grace=0.5, keep=0.5), confirm=Confirm(seeds=4))
    controls = search().confirm.controls
    sweep = sweep.model_copy(update={"confirm": Confirm(seeds=4, controls=controls)})
    planner = Planner(sweep, fingerprint, [])
    *first, last = explored(planner, 3)
    for control in iter(planner.next, None):
        assert control.stage == "confirm"
        planner.rung(control.trial_id, Rung(8, 0.99, 0.99), 0.99)
    for trial in first:
        planner.rung(trial.trial_id, Rung(8, 0.9, 0.9), 0.9)
    assert not planner.rung(last.trial_id, Rung(8, 0.1, 0.1), 0.1).stop, "three explored trials are too few to judge"


def test_an_evaluation_that_is_repeated_after_a_resumption_replaces_the_first() -> None:
    planner = Planner(search(trials=1), fingerprint, [])
    [trial] = explored(planner, 1)
    for step, accuracy in ((4, 0.1), (8, 0.2), (4, 0.3)):
        planner.rung(trial.trial_id, Rung(step, accuracy, accuracy), accuracy)
    assert planner.trials[trial.trial_id].rungs == [Rung(4, 0.3, 0.3)]


def test_reading_whether_a_search_is_done_suggests_nothing() -> None:
    """A suggestion that is made before a result is known cannot learn from it."""

    def run(reads: int) -> list[str]:
        planner = Planner(search(sampler="tpe", trials=8, confirm=Confirm(top=0)), fingerprint, [])
        ids = []
        while (trial := planner.next()) is not None:
            ids.append(trial.trial_id)
            assert not any(planner.is_done for _ in range(reads))
            assert len(planner.trials) == len(ids) and planner.total == 8
            planner.ended(record_of(trial, Status.FINISHED, value=trial.config.model.cycles / 3))
        assert planner.is_done
        return ids

    assert run(reads=3) == run(reads=0)


def test_a_search_that_has_tried_its_whole_space_is_done_when_it_is_reopened() -> None:
    sweep = search(space={"T": choice(1, 2)}, trials=10, confirm=Confirm(top=0, seeds=1))
    records = [record_of(trial, Status.FINISHED) for trial in iter(Planner(sweep, fingerprint, []).next, None)]
    again = Planner(sweep, fingerprint, records)
    assert again.is_done and again.exhausted and again.total == 2 and again.next() is None


def test_confirmed_trials_are_never_stopped() -> None:
    sweep = search(trials=1, stopping=Stopping(rule="halving", grace=0.0, keep=0.1), confirm=Confirm(seeds=8))
    planner = Planner(sweep, fingerprint, [])
    first = planner.next()
    assert first
    planner.ended(record_of(first, Status.FINISHED))
    confirmed = list(iter(planner.next, None))
    decisions = [planner.rung(t.trial_id, Rung(4, k / 10, k / 10), k / 10) for k, t in enumerate(confirmed)]
    assert len(decisions) == 8 and not any(decision.stop for decision in decisions)


def test_total_counts_what_a_sweep_will_have() -> None:
    def total(sweep: Sweep) -> int:
        return Planner(sweep, fingerprint, []).total

    assert total(search()) == 5 + 2 * (1 + 1)
    assert total(study()) == 8


def test_rungs_of_a_record_are_its_evaluations_on_validation_puzzles() -> None:
    trial = next(study_trials(study(), fingerprint))
    scores = {"exact_accuracy": 0.5, "raw_cell_accuracy": 0.7, "items": 200.0}
    rows = [
        Row(5, 1.0, "validation", scores),
        Row(5, 1.0, "train", {"loss": 1.0, "exact_accuracy": 0.9}),
        Row(8, 2.0, "validation", {"cell_accuracy": 0.9}),
        Row(10, 3.0, "test", {**scores, "exact_accuracy": 1.0}),
    ]
    record = dataclasses.replace(record_of(trial, Status.FINISHED), rows=rows)
    assert rungs_of(record) == [Rung(5, 0.5, 0.7, 200)]


def test_resumed_trial_is_known_with_the_last_value_of_its_curve() -> None:
    trial = next(study_trials(study(), fingerprint))
    rows = [Row(step, 1.0, "validation", {"exact_accuracy": value}) for step, value in ((5, 0.25), (10, 0.75))]
    record = dataclasses.replace(record_of(trial, Status.INTERRUPTED), rows=rows)
    planner = Planner(study(), fingerprint, [record])
    assert planner.trials[trial.trial_id].value == 0.75
    assert [rung.step for rung in planner.trials[trial.trial_id].rungs] == [5, 10]
    fresh = Planner(study(), fingerprint, [dataclasses.replace(record, rows=[])])
    assert fresh.trials[trial.trial_id].value is None
