"""How far a sweep is, judged against its plan."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.records.progress import SweepProgress, sweep_progress
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.search.planner import Planner
from orchestrator.sweep import Confirm, Sweep, Variant, choice
from orchestrator.sweep.domains import Choice
from orchestrator.sweep.trials import study_trials
from tests.support.sweeps import fingerprint, record_of, search, study
from trm_data.benchmarks import complete
from trm_data.config import DataRequest


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


def older(sweep: Sweep, space: Mapping[str, Choice], **changes: Any) -> Sweep:
    """A sweep that an older version recorded: it accepted axes that this one refuses."""
    axes = {path: axis.plain() for path, axis in space.items()}
    return Sweep.from_record({**sweep.plain(), "space": axes, **changes})


REFRESH = {"runtime.evaluate_every": choice(2, 4), "model.cycles": choice(1, 2)}
"""Cells of which each but the first two repeats one."""
REPEATING = {
    "axis that changes no result": older(study(), REFRESH),
    "condition on it": older(study(), REFRESH, forbidden=[{"runtime.evaluate_every": 2, "model.cycles": 1}]),
    "axis that depends on it": older(study(), REFRESH, only_if={"model.cycles": {"runtime.evaluate_every": 4}}),
    "default of the data, named": older(study(), {"data.num_train": Choice(values=(None, 200)), "T": choice(1, 2)}),
    "two spellings of a number": older(study(), {"model.cycles": choice(1, 1.0, 2)}),
}


@pytest.mark.parametrize("name", REPEATING)
def test_a_study_whose_cells_repeat_results_is_counted_by_its_results_from_start_to_end(name: str) -> None:
    def built(request: DataRequest) -> str:
        return fingerprint(complete(request))

    sweep, records = REPEATING[name], list[TrialRecord]()
    planner = Planner(sweep, built, [])
    for _ in range(2 * 2):
        assert Planner(sweep, built, records).total == planner.total == sweep_progress(sweep, records).planned == 4
        trial = planner.next()
        assert trial is not None
        records.append(record_of(trial, Status.FINISHED))
        planner.ended(records[-1])
    assert planner.next() is None and planner.is_done and sweep_progress(sweep, records).is_complete


SEARCHES = {
    "usual": search(),
    "axis that changes no result": older(search(trials=50), REFRESH),
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
        if not sweep.minimise:
            assert sweep_progress(sweep, list(records.values())).planned == planner.total
        if not planner.is_done and not sweep.minimise:  # the size of a Pareto front shows with its first confirm trial
            assert not sweep_progress(sweep, list(records.values())).is_complete
    assert planner.is_done and sweep_progress(sweep, list(records.values())).is_complete
