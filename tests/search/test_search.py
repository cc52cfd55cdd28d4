"""What a search tries: every sampler, conditions, several aims, and what earlier sweeps taught it."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.api.plan import plan
from orchestrator.errors import SweepError
from orchestrator.execution.run import run_sweep
from orchestrator.records.index import new_head, trial_folder
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.search import objectives
from orchestrator.search.learner import Learner
from orchestrator.search.optuna_trials import create_study
from orchestrator.search.order import Order
from orchestrator.search.planner import Planner
from orchestrator.search.sampler import Sampler
from orchestrator.search.warm_start import WarmStart, published_cells, require_earlier, warm_start
from orchestrator.storage import open_storage
from orchestrator.sweep import Confirm, Resources, Stopping, Sweep, choice, integers, log_uniform, uniform
from orchestrator.sweep.settings import get_setting
from orchestrator.sweep.space import Cell
from orchestrator.sweep.trials import PlannedTrial, cells, search_trial
from tests.support.results import make_record
from tests.support.sweeps import fingerprint, record_of, search, study, tiny_config
from trm_data.errors import ConfigError, UserError

ENDINGS = [Status.FINISHED, Status.FINISHED, Status.FINISHED, Status.STOPPED, Status.DIVERGED, Status.FAILED]
RANGES: dict[str, Any] = {"lr": log_uniform(1e-4, 1e-1), "wd": uniform(0.0, 1.0), "n": integers(1, 4)}


def play(planner: Planner, rng: random.Random, records: dict[str, TrialRecord], until: int) -> None:
    """Run up to `until` trials, two at once; what is still running then stays RUNNING on the record."""
    running: list[PlannedTrial] = []
    ended = 0
    while not planner.is_done and ended < until:
        while len(running) < 2 and (trial := planner.next()) is not None:
            assert trial.trial_id not in records or not records[trial.trial_id].status.is_final, "run twice"
            records[trial.trial_id] = record_of(trial, Status.RUNNING, step=4)
            running.append(trial)
        trial = running.pop(rng.randrange(len(running)))
        status = rng.choice(ENDINGS) if trial.stage == "explore" else Status.FINISHED
        records[trial.trial_id] = record_of(trial, status, value=rng.random())
        planner.ended(records[trial.trial_id])
        ended += 1


def play_with_kills(sweep: Sweep, seed: int, cuts: list[int]) -> dict[str, TrialRecord]:
    rng = random.Random(seed)
    records: dict[str, TrialRecord] = {}
    for until in [*cuts, 1000]:
        play(Planner(sweep, fingerprint, list(records.values())), rng, records, until)
    return records


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "cmaes"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 6), max_size=3))
def test_every_sampler_runs_exactly_what_was_asked_for_however_often_it_is_killed(
    sampler: str, seed: int, cuts: list[int]
) -> None:
    sweep = search(sampler=sampler, space=RANGES, trials=8, confirm=Confirm(seeds=1))
    _assert_exact(play_with_kills(sweep, seed, cuts), 8)


CELLS: dict[str, Any] = {"T": choice(1, 2), "n": choice(1, 2, 3), "N_sup": choice(1, 2, 4)}


@pytest.mark.parametrize("sampler", ["random", "qmc"])
@pytest.mark.parametrize("space", [CELLS, RANGES], ids=["choices", "ranges"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 6), max_size=2))
def test_a_sampler_that_learns_nothing_tries_the_same_whatever_ends_first(
    space: dict[str, Any], sampler: str, seed: int, cuts: list[int]
) -> None:
    """The demo relies on it: two runs on one machine try and confirm the same, bit for bit."""
    sweep = search(sampler=sampler, space=space, trials=8, confirm=Confirm(top=0, seeds=1))
    straight, other = play_with_kills(sweep, 0, []), play_with_kills(sweep, seed, cuts)
    assert set(straight) == set(other)


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10_000))
def test_gaussian_process_runs_exactly_what_was_asked_for_though_killed(seed: int) -> None:
    sweep = search(sampler="gp", space=RANGES, trials=6, confirm=Confirm(seeds=1))
    _assert_exact(play_with_kills(sweep, seed, [5]), 6)


def _assert_exact(records: dict[str, TrialRecord], trials: int) -> None:
    stages = [record.stage for record in records.values()]
    finished = any(record.stage == "explore" and record.status is Status.FINISHED for record in records.values())
    assert (stages.count("explore"), stages.count("confirm")) == (trials, int(finished))
    assert all(record.status.is_final for record in records.values())


class Counting(Sampler):
    """Count how many configurations were chosen."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.chosen = 0

    def suggest(self) -> PlannedTrial | None:
        self.chosen += 1
        return super().suggest()


def test_asking_whether_a_search_is_done_chooses_no_configuration() -> None:
    planner = Planner(search(), fingerprint, [])
    counting = Counting(planner.sweep, fingerprint, [])
    planner._learner = Learner(counting, Order())
    for _ in range(3):
        assert not planner.is_done and planner.wants_suggestion
    assert counting.chosen == 0
    assert planner.next() and planner.next()
    assert counting.chosen == 2


def test_planner_is_not_done_between_a_suggestion_and_its_start() -> None:
    planner = Planner(search(sampler="gp", trials=5), fingerprint, [])
    suggested = planner.suggest()
    assert not planner.is_done and not planner.trials, "choosing changes nothing but the sampler"
    planner.add_suggestion(suggested)
    assert not planner.is_done and not planner.wants_suggestion
    assert planner.next() == suggested


def test_result_that_the_sampler_cannot_use_is_reported_to_whoever_ends_the_trial() -> None:
    sweep = search(minimise=("usd",), resources=Resources(gpus=1))
    sampler = Sampler(sweep, fingerprint, [])
    trial = search_trial(sweep, fingerprint, "T=1 n=1", {"model.cycles": 1, "model.latent_steps": 1})
    sampler.adopt(trial)
    with pytest.raises(SweepError, match="no price"):  # it ran on a CPU
        sampler.tell(dataclasses.replace(make_record(trial.config, score=0.5), trial_id=trial.trial_id))


@pytest.mark.filterwarnings("error")
def test_a_step_that_was_evaluated_before_and_after_a_kill_is_reported_once() -> None:
    sweep = search(sampler="tpe")
    sampler = Sampler(sweep, fingerprint, [])
    trial = search_trial(sweep, fingerprint, "T=1 n=1", {"model.cycles": 1, "model.latent_steps": 1})
    sampler.adopt(trial)
    record = record_of(trial, Status.FINISHED)
    sampler.tell(dataclasses.replace(record, rows=[*record.rows, *record.rows[-1:]]))


CONDITIONAL: dict[str, Any] = {
    "space": {"model.variant": choice("trm", "direct"), "T": choice(1, 2, 3), "n": choice(1, 2)},
    "only_if": {"T": {"model.variant": "trm"}, "n": {"model.variant": "trm"}},
    "forbidden": ({"T": 3, "n": (2, 4)},),
}


def test_study_has_a_cell_once_where_an_axis_counts_for_nothing_and_none_that_is_forbidden() -> None:
    found = [name for name, _ in cells(study(**CONDITIONAL))]
    assert found == ["variant=trm T=1 n=1", "variant=trm T=1 n=2", "variant=trm T=2 n=1", "variant=trm T=2 n=2",
                     "variant=trm T=3 n=1", "variant=direct"]  # fmt: skip


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_search_finds_every_allowed_cell_and_no_other(sampler: str) -> None:
    sweep = search(**CONDITIONAL, sampler=sampler, trials=20, confirm=Confirm(top=0, seeds=1))
    records = play_with_kills(sweep, 3, [2, 3])
    found = [sweep.search_space.cell_of(record.config) for record in records.values()]
    assert len(found) == 6 and all(cell in found for cell in sweep.search_space.grid())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_search_over_ranges_keeps_its_conditions(seed: int) -> None:
    sweep = search(
        space={"model.mixer": choice("mlp", "attention"), "model.num_heads": choice(1, 2), "lr": log_uniform(0.01, 1)},
        only_if={"model.num_heads": {"model.mixer": "attention"}},
        forbidden=({"model.mixer": "attention", "model.num_heads": 1},),
        base=tiny_config(**{"model.positions": "none"}), sampler_seed=seed, trials=10, confirm=Confirm(top=0, seeds=1),
    )  # fmt: skip
    for record in play_with_kills(sweep, seed, [3]).values():
        heads = record.config.model.num_heads
        assert heads == 2, "attention with one head is forbidden, and an MLP mixer keeps the base's two"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forbidden": ({"T": (1, 2, 3)},)}, "every cell is forbidden"),
        ({"only_if": {"lr": {"T": 1}}}, "not an axis of the space"),
        ({"only_if": {"T": {"n": 1}}}, "put that axis before it"),
        ({"forbidden": ({"model.cycels": 1},)}, "'model.cycles'"),
        ({"sampler": "cmaes"}, "two or more ranges"),
        ({"minimise": ("train_flops",), "stopping": Stopping(rule="median")}, "Pareto"),
        ({"minimise": ("usd",)}, "GPUs"),
        ({"space": {"T": {"kind": "choice", "values": [1, 2, 1]}}}, "given twice"),
        ({"space": {"T": choice(1, 2), "model.puzzle_embedding_size": choice(16, 64)}}, "puzzle_embedding_size=64"),
        ({"space": {"n": {"kind": "uniform", "low": 1.5, "high": 3, "integer": True}}}, "whole numbers"),
        ({"space": {"T": choice("one", 2)}}, "model.cycles='one'"),
        ({"space": {"T": {"kind": "uniform", "low": "a", "high": 3}}}, "low"),
    ],
)
def test_space_that_cannot_be_searched_is_refused_when_it_is_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, ConfigError)) as caught:
        search(**changes)
    assert message in str(caught.value)


def scored(sweep: Sweep, cycles: int, latent: int, value: float, flops: float) -> TrialRecord:
    trial = search_trial(
        sweep, fingerprint, f"T={cycles} n={latent}", {"model.cycles": cycles, "model.latent_steps": latent}
    )
    return with_result(record_of(trial, Status.FINISHED, value=value), train_flops=flops)


def with_result(record: TrialRecord, **changes: Any) -> TrialRecord:
    assert record.result is not None
    return dataclasses.replace(record, result=record.result.model_copy(update=changes))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=9))
def test_pareto_front_holds_what_nothing_beats_and_beats_all_others(points: list[tuple[int, int]]) -> None:
    sweep = search(minimise=("train_flops",))
    places = [(cycles, latent) for cycles in (1, 2, 3) for latent in (1, 2, 3)]
    scores = [(score / 4, cost) for score, cost in points]
    records = [scored(sweep, *place, *point) for place, point in zip(places, scores, strict=False)]
    front = objectives.pareto_front(records, sweep)

    def beats(one: TrialRecord, other: TrialRecord) -> bool:
        (a, cost_a), (b, cost_b) = objectives.values(one, sweep), objectives.values(other, sweep)
        return a >= b and cost_a <= cost_b and (a, cost_a) != (b, cost_b)

    assert front and not any(beats(one, other) for one in front for other in front)
    assert all(any(beats(one, other) for one in front) for other in records if other not in front)


def test_search_with_two_aims_confirms_its_pareto_front_thinned_evenly() -> None:
    sweep = search(minimise=("train_flops",), trials=5, confirm=Confirm(top=3, seeds=1))
    points = [(1, 1, 0.2, 1e9), (1, 2, 0.5, 2e9), (2, 1, 0.4, 3e9), (2, 2, 0.7, 4e9), (3, 3, 0.9, 9e9)]
    records = [scored(sweep, *point) for point in points]
    confirmed = list(iter(Planner(sweep, fingerprint, records).next, None))
    assert [trial.family for trial in confirmed] == ["best T=3 n=3", "best T=1 n=2", "best T=1 n=1"]


@pytest.mark.parametrize("aim", ["score", "cost"])
def test_sampler_learns_from_both_objectives(aim: str) -> None:
    """Told that a strong weight decay is better, or that a weak one is, it suggests more of it."""

    def mean_decay(strong_is_better: bool) -> float:
        sweep = search(space={"wd": uniform(0, 1)}, minimise=("train_flops",), sampler="tpe", trials=30)
        sampler, decays = Sampler(sweep, fingerprint, []), []
        for _ in range(30):
            trial = sampler.suggest()
            assert trial is not None
            decay = trial.config.optimizer.weight_decay
            merit = decay if strong_is_better else 1 - decay
            record = record_of(trial, Status.FINISHED, value=merit if aim == "score" else 0.5)
            sampler.tell(with_result(record, train_flops=1e9 if aim == "score" else 1e9 * (1 - merit)))
            decays.append(decay)
        return sum(decays[15:]) / 15

    assert mean_decay(strong_is_better=True) > mean_decay(strong_is_better=False) + 0.3


def test_optuna_s_verbosity_stays_what_the_process_has_set(capsys: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        create_study(search())
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
        assert "study" not in capsys.readouterr().err
    finally:
        optuna.logging.set_verbosity(before)


def test_importing_the_search_changes_no_setting_of_the_process() -> None:
    code = (
        "import os, optuna\n"
        "before = optuna.logging.get_verbosity(), dict(os.environ)\n"
        "import orchestrator.search.optuna_trials, orchestrator.search.planner\n"
        "assert before == (optuna.logging.get_verbosity(), dict(os.environ))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_earlier_trials_of_the_same_question_are_results_and_others_are_tried_first(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    sweep = search(warm_start=("same", "other"), trials=8)
    longer = search(base=tiny_config(**{"train.max_steps": 24}))
    for name, asked, cycles, value in [("same", sweep, 1, 0.3), ("other", longer, 2, 0.4), ("other", longer, 3, 0.9)]:
        record = scored(asked, cycles, 1, value, 1e9)
        folder = trial_folder(storage, name, record.trial_id)
        folder.write("trial.json", new_head("explore", record.family, record.config, record.dataset).encode())
        assert record.result is not None
        folder.write("result.json", record.result.encode())
    earlier = warm_start(sweep, storage, fingerprint)
    assert [record.config.model.cycles for record in earlier.known] == [1]
    assert [cell["model.cycles"] for cell in earlier.first] == [3, 2]
    planner = Planner(sweep, fingerprint, [], earlier)
    tried = [planner.next() for _ in range(2)]
    assert [trial.config.model.cycles for trial in tried if trial] == [3, 2]


def test_warm_start_from_a_sweep_that_is_not_there_is_one_line_before_anything_is_written(tmp_path: Path) -> None:
    storage, wanting = open_storage(str(tmp_path / "runs")), search(warm_start=("nowhere",))
    for call in (lambda: warm_start(wanting, storage, fingerprint), lambda: plan(wanting, storage)):
        with pytest.raises(SweepError, match="'nowhere'"):
            call()
    with pytest.raises(SweepError, match="'nowhere'"):
        run_sweep(wanting, storage)
    assert not (tmp_path / "runs" / "sweeps").exists()
    with pytest.raises(UserError, match=r"warm_start='\.\./x' must be letters"):
        search(warm_start=("../x",))


def test_search_that_has_begun_goes_on_without_an_earlier_sweep_that_was_deleted_since(tmp_path: Path) -> None:
    storage, sweep = open_storage(str(tmp_path)), search(warm_start=("earlier",))
    with pytest.raises(SweepError, match="'earlier'"):
        require_earlier(sweep, storage)
    record = scored(sweep, 1, 1, 0.3, 1e9)
    head = new_head("explore", record.family, record.config, record.dataset)
    trial_folder(storage, sweep.name, record.trial_id).write("trial.json", head.encode())
    require_earlier(sweep, storage)
    assert warm_start(sweep, storage, fingerprint) == WarmStart()


def test_published_grid_names_its_best_cells_inside_the_space() -> None:
    sweep = search(space={"T": choice(1, 2, 3, 4), "n": choice(2, 4, 6)}, warm_start=("published",))
    found = published_cells(sweep)
    assert found[0] == {"model.cycles": 3, "model.latent_steps": 6}  # 87.4 %, Table 3
    assert [(cell["model.cycles"], cell["model.latent_steps"]) for cell in found] == [(3, 6), (2, 4), (1, 2)]


def test_restarted_driver_tries_no_warm_start_twice() -> None:
    first: Cell = {"model.cycles": 3, "model.latent_steps": 2}
    sweep = search()
    trial = Planner(sweep, fingerprint, [], WarmStart(first=(first,))).next()
    assert trial and get_setting(trial.config, "T") == 3
    record = record_of(trial, Status.FINISHED)
    again = Planner(sweep, fingerprint, [record], WarmStart(first=(first,))).next()
    assert again and again.trial_id != trial.trial_id
