"""GPU-hours, cost, energy and duration: the same figures for the budget, the plan, the leaderboard and MLflow."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.views.status import used
from orchestrator.execution.budget import BudgetTracker
from orchestrator.records.index import new_head
from orchestrator.records.reader import read_trials
from orchestrator.records.rows import dump_rows
from orchestrator.records.schema import (
    GPU_ENERGY,
    Attempt,
    AttemptEnd,
    AttemptStart,
    DatasetInfo,
    Origin,
    Row,
    Status,
    TrialRecord,
)
from orchestrator.records.segments import fold, segment_name
from orchestrator.records.writer import TrialWriter
from orchestrator.resources import placement
from orchestrator.resources.runtime import RuntimeModel, TrialCost
from orchestrator.resources.usage import (
    SILENT_S,
    Budget,
    Cost,
    attempt_usage,
    mean_cost,
    measured_kwh,
    price_per_gpu_hour,
    spending,
    trial_cost,
)
from orchestrator.results.dataframe import frame_of
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.tracking import mlflow_view
from trm_model.config import TrialConfig

HOUR = 3600.0
H100_USD, H100_SPOT_USD, L40S_USD = 6.88, 2.54, 1.861  # infra/catalogue/prices.csv, per GPU


DATASET = DatasetInfo(benchmark="sudoku-6x6-generated", fingerprint="f")


def attempt(start_s: float, end_s: float | None = None, elapsed_s: float | None = None, **start: Any) -> Attempt:
    begun = {"started_s": start_s, "device": "cuda", "gpu_type": "H100", "gpu_count": 1.0, "from_step": 0, **start}
    end = {"status": "finished", "step": 1, "ended_s": end_s, "elapsed_s": elapsed_s}
    return Attempt(1, AttemptStart.parse(begun), None if end_s is None else AttemptEnd.parse(end))


def record(*attempts: Attempt, rows: list[Row] | None = None, status: Status = Status.INTERRUPTED) -> TrialRecord:
    return TrialRecord("t", "sweep", "study", "T=1", TrialConfig(), DATASET, status, 0, rows or [], list(attempts))


def row(time_s: float, split: str = "train", **metrics: float) -> Row:
    return Row(1, time_s, split, {"loss": 1.0, **metrics})


KILLED_IN_THE_EVENING = record(
    attempt(18 * HOUR),
    attempt(32 * HOUR, 32 * HOUR + 1800),
    rows=[row(18 * HOUR + 300), row(18 * HOUR + 600), row(32 * HOUR + 900)],
    status=Status.FINISHED,
)
"""Killed at 18:10, resumed at 8:00 the next day for half an hour: 40 minutes of one H100."""


def test_the_night_between_a_kill_and_the_resumption_is_charged_by_nobody() -> None:
    hours, usd = 40 / 60, 40 / 60 * H100_USD
    spent = spending([KILLED_IN_THE_EVENING], now_s=33 * HOUR)
    assert (spent.gpu_hours, spent.usd) == pytest.approx((hours, usd))
    cost = trial_cost(KILLED_IN_THE_EVENING)
    assert cost and (cost.gpu_hours, cost.usd) == pytest.approx((hours, usd))
    frame = frame_of([KILLED_IN_THE_EVENING])
    assert (frame.gpu_hours[0], frame.usd[0]) == pytest.approx((hours, usd))
    logged = mlflow_view.costs(KILLED_IN_THE_EVENING)
    assert (logged["cost/gpu_hours"], logged["cost/usd"]) == pytest.approx((hours, usd))


def test_status_shows_what_usage_computes_also_of_running_and_killed_trials() -> None:
    running = record(attempt(0), rows=[row(1800, train_s=900.0)], status=Status.RUNNING)
    assert used([KILLED_IN_THE_EVENING, running]) == "1 h 10 min of trial time, 1.17 GPU-hours, 8.03 USD"
    unpriced = record(attempt(0, HOUR, gpu_type="B300"), status=Status.FINISHED)
    assert used([unpriced]) == "1 h 0 min of trial time, 1 GPU-hours"
    on_cpu = record(attempt(0, 90, gpu_type=None, gpu_count=0, device="cpu"), status=Status.FINISHED)
    again = dataclasses.replace(on_cpu, origin=Origin(kind="reused", trial_id="t", sweep="another"))
    assert used([on_cpu, again]) == "1 min 30 s of trial time"


def test_a_lost_attempt_that_wrote_nothing_costs_nothing() -> None:
    assert [use.duration_s for use in attempt_usage(record(attempt(0), attempt(HOUR, 2 * HOUR)))] == [0, HOUR]


def test_a_lost_attempt_lasts_at_most_until_its_successor_starts() -> None:
    """Its last row carries the clock of another machine, which is ahead."""
    killed = record(attempt(0), attempt(600, 700), rows=[row(100), row(599)])
    assert attempt_usage(killed)[0].duration_s == 599
    overlapping = dataclasses.replace(killed, rows=[row(100), row(5000)])
    assert attempt_usage(overlapping)[0].duration_s == 100


@pytest.mark.parametrize("successor_s", [600.0, -7200.0], ids=["after it", "by a clock that was set back"])
def test_a_lost_attempt_is_charged_for_what_the_next_one_did_again(successor_s: float) -> None:
    """The rows of the trial end at the checkpoint from which the next attempt started, those of the attempt do not."""
    lost = dataclasses.replace(attempt(10_000), rows=[row(10_100), row(10_300), row(10_500)])
    killed = record(lost, attempt(10_000 + successor_s, 1e6, elapsed_s=60.0), rows=[row(10_100)])
    assert [use.duration_s for use in attempt_usage(killed)] == [500, 60]


def test_a_running_attempt_is_charged_until_now_unless_it_fell_silent() -> None:
    running = record(attempt(0), rows=[row(HOUR)], status=Status.RUNNING)
    assert spending([running], HOUR + SILENT_S - 1).gpu_hours == pytest.approx(1 + (SILENT_S - 1) / HOUR)
    assert spending([running], HOUR + SILENT_S).gpu_hours == spending([running], 50 * HOUR).gpu_hours == 1
    assert spending([running], HOUR - 1).gpu_hours == 1, "a clock that steps back takes nothing away"
    stopped = dataclasses.replace(running, status=Status.INTERRUPTED)
    assert spending([stopped], HOUR + 60).gpu_hours == 1, "only a trial that runs is charged until now"
    again = record(attempt(0), attempt(HOUR + 30), rows=[row(HOUR)], status=Status.RUNNING)
    assert [use.duration_s for use in attempt_usage(again, HOUR + 60)] == [HOUR, 30]


@pytest.mark.parametrize(
    ("attempts", "rows", "seconds"),
    [
        ([attempt(1000, 400)], [], 0),  # back before the start
        ([attempt(1000, 1500)], [row(1200), row(1100), row(1400)], 500),  # back by 100 s, which count once
        ([attempt(1000, 900)], [row(1200)], 200),  # back after the last row
        ([attempt(0, 40_000, elapsed_s=600.0)], [row(300)], 600),  # a monotonic clock was recorded
        # Forward by ten hours within ten minutes of training.
        ([attempt(0)], [row(300, train_s=290.0), row(36_600, train_s=590.0)], 600),
        # An evaluation of an hour is not a step of the clock.
        ([attempt(0)], [row(300, train_s=290.0), row(3900, "validation", train_s=290.0)], 3900),
    ],
)
def test_a_clock_that_steps_is_not_charged(attempts: list[Attempt], rows: list[Row], seconds: float) -> None:
    assert attempt_usage(record(*attempts, rows=rows))[0].duration_s == pytest.approx(seconds)


def test_plans_are_calibrated_by_the_same_durations() -> None:
    stepped = record(attempt(0, 40_000, elapsed_s=600.0), status=Status.FINISHED)
    need = RuntimeModel([stepped]).need(stepped.config, "H100", gpus=1, cpus=1)
    assert need.hours == pytest.approx(600 / HOUR)


def test_rows_that_were_inherited_from_a_shorter_trial_are_not_its_own_time() -> None:
    extended = record(attempt(10_000, 10_600), rows=[row(10), row(5000), row(10_300)])
    assert attempt_usage(extended)[0].duration_s == 600


def writer_of_longer(storage: Storage) -> TrialWriter:
    """Return the writer of a trial that has inherited 100 steps and 2 Wh from a shorter one."""
    planned = KILLED_IN_THE_EVENING
    head = new_head("study", "T=1", planned.config, planned.dataset, Origin(kind="continued", trial_id="s"))
    storage.write(f"sweeps/{planned.sweep}/trials/{planned.trial_id}/trial.json", head.encode())
    writer = TrialWriter(storage, planned.sweep, planned.trial_id)
    curve = [Row(step, 1e9 + step, "train", {"train_s": float(step)}) for step in range(1, 101)]
    writer.inherit([*curve, Row(100, 1e9 + 100, "system", {GPU_ENERGY: 7.2e6})])
    return writer


@pytest.mark.parametrize("stored", ["segments", "folded", "folded by an earlier version"])
@pytest.mark.parametrize("step_s", [0.0, -5 * HOUR, 5 * HOUR], ids=["steady", "back", "ahead"])
def test_a_clock_that_steps_before_a_longer_trial_starts_charges_nothing_inherited(
    step_s: float, stored: str, tmp_path: Path
) -> None:
    storage, start_s = open_storage(str(tmp_path)), 1e9 + 200 + step_s
    writer = writer_of_longer(storage)
    begun = {"from_step": 100, "started_s": start_s, "gpu_type": "H100", "gpu_count": 1, "device": "cuda"}
    writer.start(AttemptStart.parse(begun))
    writer.add(Row(100, start_s + 1, "system", {GPU_ENERGY: 1.0}))
    writer.flush()
    for step in range(101, 161):
        writer.add(Row(step, start_s + 10 * (step - 100), "train", {"train_s": 100.0 + 10 * (step - 100)}))
    writer.flush()
    if stored == "folded by an earlier version":
        inherited = writer.folder.read(segment_name(1, 0))
        writer.folder.write(segment_name(1, 0), inherited.replace(b', "inherited": true', b""))
    if stored != "segments":
        fold(writer.folder, 1)
    (killed,) = read_trials(storage, "sweep")
    assert [use.duration_s for use in attempt_usage(killed)] == [600]
    assert measured_kwh(killed) == (None if "earlier" in stored else pytest.approx(1 / 3.6e6))
    assert len(killed.rows) == 162, "what was inherited stays part of the curve"


def longer_trial(storage: Storage, *attempts: tuple[int, int, float]) -> TrialRecord:
    """Record attempts on an H100 of an hour each: first and last step, and the Wh that they measured in the end."""
    for number, (from_step, step, wh) in enumerate(attempts):
        start_s = 1e9 + 2 * HOUR * (1 + number)
        begun = {"from_step": from_step, "started_s": start_s, "gpu_type": "H100", "gpu_count": 1, "device": "cuda"}
        writer = TrialWriter(storage, "sweep", "t") if number else writer_of_longer(storage)
        writer.start(AttemptStart.parse(begun))
        writer.add(Row(step, start_s + HOUR, "system", {GPU_ENERGY: 3600 * wh}))
        writer.end(AttemptEnd(status=Status.INTERRUPTED, step=step, ended_s=start_s + HOUR, elapsed_s=HOUR))
    (found,) = read_trials(storage, "sweep")
    return found


@pytest.mark.parametrize("later", [[], [(100, 160, 300.0)]], ids=["alone", "resumed"])
def test_a_longer_trial_that_ends_before_it_trains_is_not_charged_for_the_energy_of_the_shorter_one(
    later: list[tuple[int, int, float]], tmp_path: Path
) -> None:
    """Its start states step 0, because the checkpoint was not read yet."""
    found = longer_trial(open_storage(str(tmp_path)), (0, 0, 100.0), *later)
    assert measured_kwh(found) == pytest.approx(0.1 + 0.3 * len(later))
    assert [len(one.rows or ()) for one in found.attempts] == [1] * len(found.attempts)


def test_what_two_attempts_have_inherited_is_in_the_curve_once(tmp_path: Path) -> None:
    """The storage of the first was full before the checkpoint was copied, and so the second copied both again."""
    storage = open_storage(str(tmp_path))
    for number, from_step in enumerate((0, 100)):
        writer, start_s = writer_of_longer(storage), 1e9 + HOUR * (1 + number)
        writer.start(AttemptStart(from_step=from_step, started_s=start_s))
        if number:
            writer.add(Row(101, start_s + 1, "train", {"loss": 1.0}))
        writer.end(AttemptEnd(status=Status.INTERRUPTED, step=101 * number, ended_s=start_s + 2, elapsed_s=2.0))
    (found,) = read_trials(storage, "sweep")
    assert [row.step for row in found.rows] == [*range(1, 101), 100, 101]


def test_a_longer_trial_that_is_stopped_at_its_first_step_has_measured_its_energy(tmp_path: Path) -> None:
    found = longer_trial(open_storage(str(tmp_path)), (100, 100, 50.0), (100, 160, 60.0))
    assert measured_kwh(found) == pytest.approx(0.11)
    cost = trial_cost(found)
    assert cost and cost.is_measured and cost.kwh == pytest.approx(0.11) and cost.gpu_hours == 2


def test_an_attempt_that_used_no_gpu_leaves_the_energy_of_the_others_measured() -> None:
    """The driver records such an attempt for a trial that ended before and no longer fits, as does one whose storage
    is full before it trains."""
    rows = [row(120, "system", gpu_energy_joules=1.8e6)]
    unused = AttemptStart(from_step=1, started_s=300)
    marked = dataclasses.replace(attempt(300, 300, elapsed_s=0.0), start=unused, rows=[])
    at_once = dataclasses.replace(attempt(400, 400, elapsed_s=0.02), rows=[])
    measured = dataclasses.replace(attempt(0, 120), rows=rows)
    cost = trial_cost(record(measured, marked, at_once, rows=rows))
    assert cost and cost.is_measured and cost.kwh == pytest.approx(0.5)
    assert measured_kwh(record(marked)) is None, "nothing was measured"
    lost = dataclasses.replace(attempt(400), rows=[])
    assert measured_kwh(record(measured, lost, rows=rows)) is None, "it may have used some"


def test_a_row_belongs_to_the_attempt_that_had_started_by_then() -> None:
    """To the last one that had: a row of half a second before it is inherited, a row at its start its own."""
    first, second = attempt(10_000), attempt(10_200)
    rows = [row(9_999.5), row(10_100), row(10_200, train_s=1.0), row(10_260, train_s=61.0)]
    assert [use.duration_s for use in attempt_usage(record(first, second, rows=rows))] == [100, 60]


def test_an_attempt_without_a_gpu_takes_its_time_and_nothing_else() -> None:
    used = record(attempt(0, HOUR, device="cpu", gpu_type=None, gpu_count=0.0), attempt(HOUR, 2 * HOUR))
    assert attempt_usage(used) == [(HOUR, 0.0, 0.0, 0.0), (HOUR, 1.0, H100_USD, 0.7)]
    assert trial_cost(used) == Cost(1.0, H100_USD, 0.7)


@pytest.mark.parametrize(
    ("start", "hours"),
    [
        ({"gpu_count": 0.25}, 0.25),
        ({"gpu_count": 2.0}, 2.0),
        ({"device": "cpu", "gpu_count": 0.0, "gpu_type": None}, 0.0),
        ({"device": "cpu", "gpu_count": 1.0}, 1.0),  # reserved and paid for, though it trained on the CPU
        ({"gpu_count": 0.0}, 1.0),  # nothing was reserved, and it trained on the GPU all the same
        ({"gpu_count": None, "gpu_type": None, "gpu_name": "NVIDIA L40S"}, 1.0),  # `trm train`
        ({"gpu_count": None, "gpu_type": None, "gpu_name": "NVIDIA L40S", "device": None}, 1.0),  # an older record
        ({"gpu_count": None, "gpu_type": None, "device": None}, 0.0),
    ],
)
def test_gpu_hours_are_those_of_the_share_that_was_used(start: dict[str, Any], hours: float) -> None:
    used = record(attempt(0, HOUR, **start))
    cost = trial_cost(used)
    assert spending([used], HOUR).gpu_hours == hours == (cost.gpu_hours if cost else 0.0)


@pytest.mark.parametrize(
    ("label", "driver", "usd"),
    [
        ("H100", "NVIDIA L40S", H100_USD),
        ("Imaginary-9000", "NVIDIA L40S", L40S_USD),
        ("H100", "Imaginary 9000", H100_USD),
        (None, "NVIDIA L40S", L40S_USD),
        ("Imaginary-9000", "Imaginary 9000", 0.0),
    ],
)
def test_a_gpu_is_the_one_of_its_two_names_that_the_catalogue_knows(label: str | None, driver: str, usd: float) -> None:
    used = record(attempt(0, HOUR, gpu_type=label, gpu_name=driver))
    spent = spending([used], HOUR)
    assert (spent.usd, spent.unpriced_gpu_hours) == (usd, 0.0 if usd else 1.0) and spent.gpu_hours == 1.0


def test_a_market_without_a_price_costs_as_much_as_on_demand_everywhere() -> None:
    assert price_per_gpu_hour("H100", "spot") == H100_SPOT_USD
    assert price_per_gpu_hour("H100") == price_per_gpu_hour("H100", "reserved-by-a-friend") == H100_USD
    assert price_per_gpu_hour("Imaginary 9000", "spot") is None and price_per_gpu_hour(None) is None
    for market, usd in (("spot", H100_SPOT_USD), ("reserved-by-a-friend", H100_USD), (None, H100_USD)):
        used = record(attempt(0, HOUR, market=market))
        cost = trial_cost(used)
        assert cost and spending([used], HOUR).usd == cost.usd == usd


def test_a_gpu_without_a_price_is_counted_apart_and_preferred_last() -> None:
    used = record(attempt(0, HOUR), attempt(HOUR, 2 * HOUR, gpu_type="Imaginary 9000"))
    spent, cost = spending([used], 3 * HOUR), trial_cost(used)
    assert (spent.gpu_hours, spent.usd, spent.unpriced_gpu_hours) == (2, H100_USD, 1)
    assert cost == Cost(2, None, None)
    asked = placement.parse_gpu("L40S|H100").model_copy(update={"gpu_type": "Imaginary 9000|H100|L40S"})
    found = placement.candidates(asked, (), speed=lambda name: 1.0)
    assert [one.gpu_types[0] for one in found] == ["L40S", "H100", "Imaginary 9000"]


def test_measured_energy_is_the_trial_s_share_already_and_is_counted_once() -> None:
    rows = [row(60, "system", gpu_energy_joules=0.9e6), row(120, "system", gpu_energy_joules=1.8e6)]
    shared = record(attempt(0, 120, gpu_count=0.25), rows=rows)
    cost = trial_cost(shared)
    assert cost and cost.is_measured and cost.kwh == pytest.approx(0.5) and measured_kwh(shared) == pytest.approx(0.5)
    resumed = record(attempt(0), attempt(1000, 1100), rows=[*rows, row(1050, "system", gpu_energy_joules=1.8e6)])
    assert measured_kwh(resumed) == pytest.approx(1.0), "the counter starts at 0 in every attempt"
    little = record(attempt(60, 61), rows=[row(60, "system", gpu_energy_joules=3.6)])
    assert measured_kwh(little) == pytest.approx(1e-6), "a sample at the start of the attempt is its own"
    assert measured_kwh(record()) is None and measured_kwh(record(attempt(0, 60))) is None
    half = record(attempt(0, HOUR), attempt(2 * HOUR, 3 * HOUR), rows=rows)
    cost = trial_cost(half)
    assert cost and not cost.is_measured and cost.kwh == pytest.approx(2 * 0.7), "700 W for two hours"


def test_the_mean_of_two_priced_seeds_is_the_half_of_their_sum() -> None:
    seeds = [record(attempt(0, HOUR)), record(attempt(0, 3 * HOUR, market="spot"))]
    assert mean_cost([trial_cost(seed) for seed in seeds]) == Cost(
        gpu_hours=2.0, usd=pytest.approx((6.88 + 3 * 2.54) / 2), kwh=pytest.approx((0.7 + 2.1) / 2)
    )
    three = [Cost(1.0, 2.0, 3.0, True), Cost(1.0, 3.0, 3.0, True), Cost(4.0, 7.0, 9.0, False)]
    assert mean_cost(three) == Cost(2.0, 4.0, 5.0, False)
    assert mean_cost([*three, None]) is None and mean_cost([]) is None
    assert mean_cost([Cost(1.0, None, 1.0), Cost(2.0, 1.0, 1.0)]) == Cost(1.5, None, 1.0)


TIMES = st.floats(0, 1e6)


@given(
    starts=st.lists(TIMES, min_size=1, max_size=4),
    ends=st.lists(st.none() | TIMES, min_size=4, max_size=4),
    times=st.lists(TIMES, max_size=8),
    now_s=TIMES,
    status=st.sampled_from([Status.RUNNING, Status.INTERRUPTED, Status.FINISHED]),
)
def test_no_record_is_charged_a_negative_time_or_one_beyond_its_successor(
    starts: list[float], ends: list[float | None], times: list[float], now_s: float, status: Status
) -> None:
    attempts = [attempt(start, end) for start, end in zip(starts, ends, strict=False)]
    trial = record(*attempts, rows=[row(time) for time in times], status=status)
    uses = attempt_usage(trial, now_s)
    assert len(uses) == len(attempts) and all(use.duration_s >= 0 and use.gpu_hours >= 0 for use in uses)
    for use, own, successor in zip(uses, attempts, attempts[1:], strict=False):
        if own.end is None:
            limit = successor.start.started_s - own.start.started_s
            assert use.duration_s <= max(0.0, limit) + 1e-6
    spent = spending([trial], now_s)
    assert spent.gpu_hours == pytest.approx(sum(use.gpu_hours for use in uses)) and spent.wall_hours >= 0


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5), st.sampled_from([0.1, 0.5, 1.0, 2.0])), max_size=5))
def test_spending_is_the_sum_over_trials(parts: list[tuple[float, float, float]]) -> None:
    trials = [record(attempt(start, start + length, gpu_count=share)) for start, length, share in parts]
    together = spending(trials, 2e5)
    alone = [spending([trial], 2e5) for trial in trials]
    assert together.gpu_hours == pytest.approx(sum(one.gpu_hours for one in alone))
    assert together.usd == pytest.approx(sum(one.usd for one in alone))
    assert together.usd == pytest.approx(sum(length * share / HOUR * H100_USD for _, length, share in parts))


def test_earlier_attempts_of_a_trial_that_runs_again_stay_spent() -> None:
    resumed = record(attempt(0, 4 * HOUR), status=Status.INTERRUPTED)
    tracker = BudgetTracker(Budget(gpu_hours=6, trials=1), [resumed], lambda: 5 * HOUR)
    tracker.started(resumed.trial_id, TrialCost(1, 1, 0))
    assert tracker.check(resumed.trial_id, TrialCost(1, 1, 0)) is None
    assert tracker.check(resumed.trial_id, TrialCost(2, 2, 0)) == "5 of 6 GPU-hours taken, and the next trial needs 2"
    assert str(tracker.check("new", TrialCost(0, 0, 0))).startswith("1 of 1 trials taken")


@pytest.mark.parametrize("step_s", [-33 * HOUR, 29 * HOUR], ids=["back", "ahead"])
def test_an_attempt_without_rows_is_not_charged_for_those_of_others(step_s: float, tmp_path: Path) -> None:
    """The clock steps between attempts, so that the rows of one lie between the starts of two others."""
    storage, head = open_storage(str(tmp_path)), 1_000_000.0
    planned = KILLED_IN_THE_EVENING
    folder = f"sweeps/{planned.sweep}/trials/{planned.trial_id}"
    made = new_head("study", "T=1", planned.config, planned.dataset)
    storage.write(f"{folder}/trial.json", to_json_bytes(made.plain()))

    def begin(number: int, at_s: float, seconds: float | None, from_step: int, steps: range = range(0)) -> None:
        start = {"started_s": at_s, "device": "cuda", "gpu_type": "H100", "gpu_count": 1.0, "from_step": from_step}
        storage.write(f"{folder}/attempts/{number:03d}/start.json", to_json_bytes(start))
        rows = [Row(step=step, split="train", time_s=at_s + step, metrics={"loss": 1.0}) for step in steps]
        if rows:
            storage.write(f"{folder}/attempts/{number:03d}/rows-000001.jsonl", dump_rows(rows))
        if seconds is not None:
            end = {"status": "finished", "step": 60, "ended_s": at_s + seconds, "elapsed_s": seconds}
            storage.write(f"{folder}/attempts/{number:03d}/end.json", to_json_bytes(end))

    begin(1, head, None, 0, range(10, 41, 10))  # killed after 40 s
    begin(2, head + min(0.0, step_s) - 5 * HOUR, None, 40)  # killed at once, on a machine whose clock is behind
    begin(3, head + max(0.0, step_s) + 60, 20.0, 40, range(50, 61, 5))
    (found,) = read_trials(storage, planned.sweep)
    assert [use.duration_s for use in attempt_usage(found)] == [40, 0, 20]
    cost = trial_cost(found)
    assert cost is not None and cost.gpu_hours == pytest.approx(60 / HOUR)
