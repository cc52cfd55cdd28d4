"""How far a sweep is, judged against its plan."""

from __future__ import annotations

import random

import pytest

from orchestrator.records.progress import SweepProgress, sweep_progress
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.search.planner import Planner
from orchestrator.sweep import Confirm, Variant, choice
from orchestrator.sweep.trials import study_trials
from tests.support.sweeps import fingerprint, record_of, search, study


def test_trials_that_have_no_record_yet_are_left() -> None:
    planned = list(study_trials(study(), fingerprint))
    assert sweep_progress(study(), []) == SweepProgress(planned=8, done=0, failed=0)
    records = [record_of(planned[0], Status.FINISHED), record_of(planned[1], Status.RUNNING)]
    found = sweep_progress(study(), records)
    assert (found.planned, found.done, found.left, found.is_complete) == (8, 1, 7, False)


def test_failed_trials_are_done_and_named() -> None:
    statuses = [Status.FINISHED, Status.FAILED, Status.DIVERGED, Status.OUT_OF_MEMORY, Status.STOPPED] + 3 * [
        Status.FINISHED
    ]
    records = [
        record_of(trial, status) for trial, status in zip(study_trials(study(), fingerprint), statuses, strict=True)
    ]
    found = sweep_progress(study(), records)
    assert found == SweepProgress(planned=8, done=8, failed=3) and found.is_complete
    assert str(found) == "8 of 8 trials done, 3 failed"


def test_a_variant_that_repeats_a_cell_counts_once() -> None:
    sweep = study(variants=(Variant(name="same", settings={"T": 1, "n": 1}), Variant(name="new", settings={"T": 3})))
    assert (
        sweep_progress(sweep, []).planned == len({trial.trial_id for trial in study_trials(sweep, fingerprint)}) == 10
    )


def test_a_plan_file_counts_what_it_lists() -> None:
    ids = tuple(trial.trial_id for trial in study_trials(study(), fingerprint))
    assert sweep_progress(study(only=ids[:3]), []).planned == 3


SEARCHES = {
    "usual": search(),
    "space smaller than asked for": search(trials=50),
    "control that is explored as well": search(
        trials=9, confirm=Confirm(top=2, seeds=2, controls=(Variant(name="control", settings={"T": 3, "n": 3}),))
    ),
    "more confirmed than explored": search(trials=2, confirm=Confirm(top=5, seeds=2)),
    "two objectives": search(minimise=("train_flops",), confirm=Confirm(top=3, seeds=1)),
    "nothing confirmed": search(confirm=Confirm(top=0, seeds=1), space={"T": choice(1, 2)}, trials=2),
}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("seed", range(3))
def test_a_search_is_complete_exactly_when_its_planner_is_done(name: str, seed: int) -> None:
    sweep, rng = SEARCHES[name], random.Random(seed)
    planner = Planner(sweep, fingerprint, [])
    records: dict[str, TrialRecord] = {}
    while (trial := planner.next()) is not None:
        records[trial.trial_id] = record_of(trial, Status.RUNNING, step=4)
        assert not sweep_progress(sweep, list(records.values())).is_complete
        status = rng.choice([Status.FINISHED, Status.FINISHED, Status.DIVERGED])
        records[trial.trial_id] = record_of(trial, status, value=rng.random())
        planner.ended(records[trial.trial_id])
        if not planner.is_done and not sweep.minimise:  # the size of a Pareto front shows with its first confirm trial
            assert not sweep_progress(sweep, list(records.values())).is_complete
    assert planner.is_done and sweep_progress(sweep, list(records.values())).is_complete
