"""Which trial starts where, and what the budget admits. No Ray here."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import SweepError
from orchestrator.execution.allocator import BOOT_S, PATIENCE_S, Allocator, Machine
from orchestrator.execution.budget import BudgetTracker, require_budget_for_one, shortage
from orchestrator.execution.driver import count_slots
from orchestrator.execution.options import RunOptions
from orchestrator.execution.scheduler import NOWHERE, TrialScheduler
from orchestrator.records.schema import Attempt, AttemptEnd, AttemptStart, Status, TrialRecord
from orchestrator.resources.placement import Candidate, any_of, candidates, holds, memory_bytes
from orchestrator.resources.runtime import CPU, RuntimeModel, TrialCost
from orchestrator.resources.usage import AttemptUsage, Budget, attempt_usage
from orchestrator.search.planner import Planner
from orchestrator.sweep import ResourceRule, Resources, Sweep
from orchestrator.sweep.trials import PlannedTrial
from orchestrator.worker.attempt import cap_memory
from tests.support.execution import FakeCluster
from tests.support.sweeps import fingerprint, record_of, search, study

GB = 10**9
FLEET = [
    Machine("a", "L40S", {"CPU": 4, "GPU": 2}),
    Machine("b", "L40S", {"CPU": 4, "GPU": 2}),
    Machine("c", "H100", {"CPU": 4, "GPU": 1}),
]


def on(gpu_type: str | None, gpus: float = 1, cpus: float = 1) -> Resources:
    return Resources(cpus=cpus, gpus=gpus, gpu_type=gpu_type)


def types(found: list[Candidate]) -> list[str]:
    return [name for one in found for name in one.gpu_types]


class TestCandidates:
    def test_cheapest_or_fastest_first_and_only_where_it_fits(self) -> None:
        either = on("L40S|H100")
        assert types(candidates(either, ())) == ["H100", "L40S"] or types(candidates(either, ())) == ["L40S", "H100"]
        assert types(candidates(either, (), prefer="time")) == ["H100", "L40S"]
        assert types(candidates(either, (), need_bytes=60 * GB)) == ["H100"]
        assert candidates(either, (), need_bytes=100 * GB) == []

    def test_measured_speed_decides_over_the_data_sheet(self) -> None:
        slow_h100 = {"L40S": 1e12, "H100": 1.1e12}
        quick_h100 = {"L40S": 1e12, "H100": 9e12}
        for speed, first in ((slow_h100, "L40S"), (quick_h100, "H100")):
            assert types(candidates(on("L40S|H100"), (), speed=speed.__getitem__))[0] == first

    def test_any_means_what_the_cluster_has_and_a_cpu_trial_goes_anywhere(self) -> None:
        assert sorted(types(candidates(on("any"), ["H100", "A10G"]))) == ["A10G", "H100"]
        (anywhere,) = candidates(on("any"), ())
        assert anywhere.bundle.labels == {} and anywhere.bundle.gpus == 1
        (cpu,) = candidates(Resources(cpus=3), ["H100"])
        assert cpu.bundle.resources == {"CPU": 3} and cpu.gpu_types == ()

    @settings(max_examples=60, deadline=None)
    @given(need=st.integers(1, 90 * GB))
    def test_shares_hold_the_memory_and_any_of_takes_the_largest(self, need: int) -> None:
        found = candidates(on("L40S|H100"), (), need_bytes=need, is_shared=True)
        for one in found:
            total = memory_bytes(one.gpu_types[0])
            assert total and 0 < one.bundle.gpus <= 1 and one.bundle.gpus * total >= min(need, total)
        if len(found) == 2:
            assert any_of(found).bundle.gpus == max(one.bundle.gpus for one in found)
            assert any_of(found).bundle.labels["ray.io/accelerator-type"].startswith("in(")

    def test_only_who_asks_for_one_gpu_shares_it(self) -> None:
        for asked in (0.5, 2):
            (one,) = candidates(on("H100", gpus=asked), (), need_bytes=GB, is_shared=True)
            assert one.bundle.gpus == asked

    def test_a_share_caps_the_memory_of_the_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        caps: list[float] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", caps.append)
        cap_memory(None)
        cap_memory(0.25)
        assert caps == [0.25]


class TestDispatch:
    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 10_000))
    def test_no_machine_ever_holds_more_than_it_has(self, seed: int) -> None:
        rng = random.Random(seed)
        allocator = Allocator()
        left = {machine.node_id: dict(machine.resources) for machine in FLEET}
        placed: dict[str, tuple[str, Candidate]] = {}
        for number in range(40):
            kind = rng.choice(["L40S", "H100", "L40S|H100"])
            wanted = candidates(on(kind, gpus=rng.choice([0.25, 0.5, 1, 1 if kind == "H100" else 2])), ())
            chosen = allocator.place(wanted, FLEET)
            if chosen is not None:
                allocator.allocate(str(number), chosen, FLEET, 0.0)
                home = next(m for m in FLEET if holds(left[m.node_id], m.gpu_type, chosen.bundle))
                allocator.report(str(number), home.node_id, home.gpu_type, 1, 10)
                placed[str(number)] = home.node_id, chosen
                for name, amount in chosen.bundle.resources.items():
                    left[home.node_id][name] -= amount
                    assert left[home.node_id][name] >= -1e-6
            elif placed:
                gone = rng.choice(list(placed))
                node_id, chosen = placed.pop(gone)
                allocator.release(gone)
                for name, amount in chosen.bundle.resources.items():
                    left[node_id][name] += amount

    def test_who_waits_for_an_h100_leaves_the_l40s_to_others(self) -> None:
        allocator = Allocator()
        h100, either = candidates(on("H100"), ()), candidates(on("L40S|H100"), ())
        first = allocator.place(h100, FLEET)
        assert first
        allocator.allocate("first", first, FLEET, 0.0)
        assert allocator.place(h100, FLEET) is None
        for number in range(4):
            chosen = allocator.place(either, FLEET)
            assert chosen and chosen.gpu_types == ("L40S",)
            allocator.allocate(str(number), chosen, FLEET, 0.0)
        assert allocator.place(either, FLEET) is None
        allocator.release("first")
        assert allocator.place(h100, FLEET) is not None

    def test_two_gpus_must_be_in_one_machine(self) -> None:
        allocator = Allocator()
        for number in range(2):
            (half,) = candidates(on("L40S"), ())
            allocator.allocate(str(number), half, FLEET, 0.0)
            allocator.report(str(number), "ab"[number], "L40S", 1, 10)
        assert allocator.place(candidates(on("L40S", gpus=2), ()), FLEET) is None

    def test_machines_on_demand_are_asked_for_by_any_of_and_not_without_end(self) -> None:
        allocator = Allocator(scales=True)
        asked = 0
        while (chosen := allocator.place(candidates(on("L40S|H100"), ()), [])) is not None:
            assert set(chosen.gpu_types) == {"L40S", "H100"}
            allocator.allocate(str(asked), chosen, [], 0.0)
            asked += 1
        assert 0 < asked < 20

    def test_what_no_machine_can_hold_waits_with_ray_for_one_that_joins(self) -> None:
        allocator = Allocator(scales=False)
        only_l40s = [machine for machine in FLEET if machine.gpu_type == "L40S"]
        chosen = allocator.place(candidates(on("H100"), ()), only_l40s)
        assert chosen
        allocator.allocate("waits", chosen, only_l40s, 0.0)
        assert allocator.allocations["waits"].is_waiting
        for number in range(4):
            busy = allocator.place(candidates(on("L40S"), ()), only_l40s)
            assert busy
            allocator.allocate(str(number), busy, only_l40s, 0.0)
        assert allocator.place(candidates(on("L40S"), ()), only_l40s) is None, "they are only busy"

    def test_no_more_gpus_than_allowed_are_in_use(self) -> None:
        allocator = Allocator(max_gpus=2)
        for number in range(2):
            chosen = allocator.place(candidates(on("L40S"), ()), FLEET)
            assert chosen
            allocator.allocate(str(number), chosen, FLEET, 0.0)
        assert allocator.place(candidates(on("H100"), ()), FLEET) is None
        assert allocator.place(candidates(Resources(), ()), FLEET) is not None

    def test_a_canary_goes_alone_on_its_type_until_it_has_made_its_steps(self) -> None:
        allocator = Allocator(canary_steps=50)
        l40s, h100 = candidates(on("L40S"), ()), candidates(on("H100"), ())
        allocator.allocate("canary", l40s[0], FLEET, 0.0)
        assert allocator.place(l40s, FLEET) is None
        assert allocator.place(h100, FLEET) is not None, "the other type has its own canary"
        allocator.report("canary", "a", "L40S", 49, 100)
        assert allocator.place(l40s, FLEET) is None and allocator.is_canary("canary")
        allocator.report("canary", "a", "L40S", 50, 100)
        assert allocator.place(l40s, FLEET) is not None and not allocator.is_canary("canary")
        assert allocator.place(candidates(Resources(), ()), FLEET) is not None

    def test_a_canary_that_may_land_on_either_type_holds_both_until_it_is_seen(self) -> None:
        allocator = Allocator(scales=True, canary_steps=5)
        either = candidates(on("L40S|H100"), ())
        chosen = allocator.place(either, [])
        assert chosen
        allocator.allocate("canary", chosen, [], 0.0)
        assert allocator.place(either, []) is None
        allocator.report("canary", "a", "L40S", 0, 10)
        assert types([allocator.place(either, FLEET)]) == ["H100"]  # type: ignore[list-item]

    def test_trial_without_its_resources_is_overdue_sooner_where_no_node_has_to_boot(self) -> None:
        allocator = Allocator(scales=True)
        (chosen,) = candidates(on("L40S"), ())
        allocator.allocate("placed", chosen, FLEET, 0.0)
        allocator.allocate("boots", chosen, [], 0.0)
        assert not allocator.overdue("placed", PATIENCE_S - 1) and allocator.overdue("placed", PATIENCE_S + 1)
        assert not allocator.overdue("boots", PATIENCE_S + 1) and allocator.overdue("boots", BOOT_S + 1)
        early, late = (allocator.expired("placed", 20.0, now_s) for now_s in (PATIENCE_S + 1, BOOT_S + 21))
        assert early and late
        assert not early.ends_running, "on a busy node an actor needs minutes to start"
        assert late.ends_running
        allocator.report("placed", "a", "L40S", 0, 10)
        assert not allocator.overdue("placed", 10 * BOOT_S)


class TestSilence:
    def test_only_a_trial_that_runs_and_reports_nothing_is_silent(self) -> None:
        allocator = Allocator()
        (candidate,) = candidates(on("L40S"), ())
        allocator.allocate("waits", candidate, FLEET, 0.0)
        allocator.allocate("runs", candidate, FLEET, 0.0)
        allocator.report("runs", "a", "L40S", 0, 10, now_s=5.0)
        assert not allocator.silent("runs", 20.0, 25.0) and allocator.silent("runs", 20.0, 25.1)
        assert not allocator.silent("waits", 20.0, 1000.0), "it has no resources yet: that is overdue, not silent"
        allocator.report("runs", "a", "L40S", 0, 10, now_s=30.0, silence_s=60.0)
        assert not allocator.silent("runs", 20.0, 110.0), "it may write its checkpoint for a minute"
        assert allocator.silent("runs", 20.0, 110.1)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def ran(record: TrialRecord, hours: float, gpu_type: str | None = "L40S", start_h: float = 0.0) -> TrialRecord:
    """The record with one attempt of so many hours."""
    start = {"from_step": 0, "started_s": start_h * 3600, "gpu_type": gpu_type, "gpu_count": 1.0, "device": "cuda"}
    end = {"status": "finished", "ended_s": (start_h + hours) * 3600, "reason": "", "step": record.step}
    return TrialRecord(
        **{
            **{f: getattr(record, f) for f in record.__slots__},
            "attempts": [Attempt(1, AttemptStart.parse(start), AttemptEnd.parse(end))],
        }
    )


class Fleet:
    """Where trials may run: on these nodes."""

    def __init__(self, nodes: list[Machine], sweep: Sweep, fits: bool = True) -> None:
        self._nodes, self._sweep, self._fits = nodes, sweep, fits

    def machines(self) -> list[Machine]:
        return self._nodes

    def candidates(self, trial: PlannedTrial) -> list[Candidate]:
        return candidates(trial.resources, self._types()) if self._fits else []

    def smallest(self) -> list[Candidate]:
        return candidates(self._sweep.resources, self._types())

    def _types(self) -> list[str]:
        return [node.gpu_type for node in self._nodes if node.gpu_type]


def scheduler_of(
    sweep: Sweep, *, budget: Budget | None = None, fleet: list[Machine] = FLEET, fits: bool = True, **options: Any
) -> TrialScheduler:
    clock = Clock()
    tracker = BudgetTracker(budget, [], clock) if budget else None
    planner = Planner(sweep, fingerprint, [])
    return TrialScheduler(planner, Allocator(**options), Fleet(fleet, sweep, fits), RuntimeModel(), tracker, clock)


class TestScheduler:
    def mixed(self) -> Sweep:
        """T=1 must have an H100 and comes first; T=2 must have an L40S."""
        rules = (ResourceRule(when={"T": 1}, resources=on("H100")), ResourceRule(when={"T": 2}, resources=on("L40S")))
        return study(resource_rules=rules)

    def test_no_l40s_idles_because_a_trial_waits_for_an_h100(self) -> None:
        line = scheduler_of(self.mixed())
        begun = []
        while (start := line.next()) is not None:
            begun.append(start)
        assert sorted(types([start.candidate for start in begun])) == ["H100"] + 4 * ["L40S"]

    def test_requeued_trial_is_next_and_every_trial_ends_once(self) -> None:
        rng = random.Random(0)
        line = scheduler_of(self.mixed())
        planner = line._planner
        running, done = [], []
        while not planner.is_done:
            while (start := line.next()) is not None:
                running.append(start.trial)
            trial = running.pop(rng.randrange(len(running)))
            if rng.random() < 0.3:
                line.requeue(trial.trial_id)
                continue
            record = record_of(trial, Status.FINISHED)
            line.ended(record)
            planner.ended(record)
            done.append(trial.trial_id)
        assert len(done) == len(set(done)) == 8

    def test_trial_that_fits_nowhere_is_returned_to_be_recorded(self) -> None:
        start = scheduler_of(study(resources=on("L40S")), fits=False).next()
        assert start and start.candidate is NOWHERE

    @pytest.mark.parametrize(
        ("resources", "nodes", "running"),
        [
            (Resources(), [Machine("a", None, {"CPU": 2})], 2),
            (on("L40S"), FLEET, 4),
            (on("any"), [Machine("c", "H100", {"CPU": 4, "GPU": 1})], 1),
        ],
    )
    def test_where_all_trials_wait_for_the_same_a_search_chooses_as_late_as_it_can(
        self, resources: Resources, nodes: list[Machine], running: int
    ) -> None:
        scheduler = scheduler_of(search(resources=resources, trials=9), fleet=nodes)
        planner = scheduler._planner
        begun = 0
        while (start := scheduler.next()) is not None or scheduler.wants_suggestion():
            begun += start is not None
            if start is None:
                planner.add_suggestion(planner.suggest())
        assert begun == running and len(planner.trials) == running, "no configuration was chosen to wait"

    def test_on_two_gpu_types_a_search_looks_ahead_to_fill_both(self) -> None:
        rules = (ResourceRule(when={"T": 1}, resources=on("H100")),)
        scheduler = scheduler_of(search(resources=on("L40S"), resource_rules=rules, trials=9))
        planner = scheduler._planner
        found = []
        while (start := scheduler.next()) is not None or scheduler.wants_suggestion():
            if start is not None:
                found.append(start)
            else:
                planner.add_suggestion(planner.suggest())
        assert sorted(types([start.candidate for start in found])) == ["H100"] + 4 * ["L40S"]


class TestBudget:
    def test_near_a_limit_nothing_starts_that_cannot_finish(self) -> None:
        clock = Clock()
        (first, second, *_) = (record_of(t, Status.FINISHED) for t in _trials())
        budget_tracker = BudgetTracker(Budget(gpu_hours=10), [ran(first, 4.0)], clock)
        assert budget_tracker.check("new", TrialCost(5, 5, 0)) is None
        budget_tracker.started("new", TrialCost(5, 5, 0))
        reason = budget_tracker.check("other", TrialCost(2, 2, 0))
        assert reason == "9 of 10 GPU-hours taken, and the next trial needs 2"
        assert budget_tracker.check("other", TrialCost(1, 1, 0)) is None
        budget_tracker.release("new")
        assert budget_tracker.check("other", TrialCost(2, 2, 0)) is None
        budget_tracker.ended(ran(second, 5.5))
        assert budget_tracker.check("other", TrialCost(2, 2, 0)) is not None

    def test_dollars_trials_and_hours_are_limits_too(self) -> None:
        clock = Clock()
        (known, *_) = (record_of(t, Status.INTERRUPTED) for t in _trials())
        known = ran(known, 1.0)
        assert "of 1 trials taken" in str(
            BudgetTracker(Budget(trials=1), [known], clock).check("new", TrialCost(0, 0, 0))
        )
        assert BudgetTracker(Budget(trials=1), [known], clock).check(known.trial_id, TrialCost(0, 0, 0)) is None
        assert "USD" in str(BudgetTracker(Budget(usd=2), [known], clock).check("new", TrialCost(1, 1, 0.5)))
        budget_tracker = BudgetTracker(Budget(wall_hours=3), [known], clock)
        clock.now_s = 2 * 3600
        assert budget_tracker.check("new", TrialCost(0.9, 0, 0)) is None
        assert "2 of 3 hours taken" in str(budget_tracker.check("new", TrialCost(1.1, 0, 0)))

    @pytest.mark.parametrize("step_h", [10, -10])
    def test_a_step_of_the_time_of_day_is_no_use(self, step_h: float, monkeypatch: pytest.MonkeyPatch) -> None:
        budget_tracker = BudgetTracker(Budget(gpu_hours=2, wall_hours=2), [])
        budget_tracker.started("new", TrialCost(1, 1, 0))
        now_s = time.time
        monkeypatch.setattr(time, "time", lambda: now_s() + step_h * 3600)
        assert budget_tracker.exceeded() is None
        assert budget_tracker.check("other", TrialCost(0.9, 0.9, 0)) is None

    def test_a_check_adds_up_no_trial_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        added: list[TrialRecord] = []

        def counted(record: TrialRecord, *times: float | None) -> list[AttemptUsage]:
            added.append(record)
            return attempt_usage(record, *times)

        monkeypatch.setattr("orchestrator.resources.usage.attempt_usage", counted)
        first, second, *others = (ran(record_of(t, Status.FINISHED), 0.25) for t in _trials())
        tracker = BudgetTracker(Budget(gpu_hours=5), [first, *others])
        for longer in (second, ran(second, 2.0), ran(second, 3.0)):
            tracker.started(second.trial_id, TrialCost(1, 1, 1))
            tracker.ended(longer)
        added.clear()
        assert str(tracker.check("new", TrialCost(2, 2, 0))).startswith("3.75 of 5 GPU-hours taken")
        assert tracker.exceeded() is None and not added

    def test_a_wrong_estimate_ends_in_a_stop(self) -> None:
        clock = Clock()
        budget_tracker = BudgetTracker(Budget(gpu_hours=2), [], clock)
        budget_tracker.started("new", TrialCost(1, 1, 0))
        clock.now_s = 1.5 * 3600
        assert budget_tracker.exceeded() is None
        clock.now_s = 2.1 * 3600
        assert budget_tracker.exceeded() == "2.1 of 2 GPU-hours used"

    def test_a_running_trial_has_used_the_share_of_its_estimate_that_its_time_has(self) -> None:
        clock = Clock()
        trackers = [BudgetTracker(budget, [], clock) for budget in (Budget(usd=4), Budget(gpu_hours=1))]
        for tracker in trackers:
            tracker.started("new", TrialCost(hours=4, gpu_hours=2, usd=16))
        clock.now_s = 0.9 * 3600
        assert [tracker.exceeded() for tracker in trackers] == [None, None]
        clock.now_s = 1.0 * 3600
        assert trackers[0].exceeded() == "4 of 4 USD used"
        clock.now_s = 2.0 * 3600
        assert trackers[1].exceeded() == "1 of 1 GPU-hours used"
        assert BudgetTracker(Budget(trials=1), [], clock).exceeded() is None

    def test_what_a_lost_attempt_has_used_counts_as_spent(self) -> None:
        scheduler = scheduler_of(study(resources=on("L40S")), budget=Budget(gpu_hours=10))
        start = scheduler.next()
        assert start
        lost = ran(record_of(start.trial, Status.INTERRUPTED), 9.5)
        scheduler.requeue(start.trial.trial_id, lost)
        assert scheduler._budget and scheduler._budget.check("other", TrialCost(1, 1, 0)) is not None

    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 1000), limit=st.integers(1, 9))
    def test_as_many_trials_start_as_the_budget_allows_and_the_reason_is_known(self, seed: int, limit: int) -> None:
        rng = random.Random(seed)
        line = scheduler_of(study(resources=on("L40S")), budget=Budget(trials=limit))
        running, begun = [], 0
        while True:
            while (start := line.next()) is not None:
                running.append(start.trial)
                begun += 1
            if not running:
                break
            record = ran(record_of(running.pop(rng.randrange(len(running))), Status.FINISHED), 1.0)
            line.ended(record)
            line._planner.ended(record)
        assert begun == min(limit, 8)
        assert line.is_exhausted == (limit < 8) and ("trials taken" in line.refused) == (limit < 8)

    def test_a_budget_too_small_for_one_trial_is_refused_at_once(self) -> None:
        require_budget_for_one(study(), Budget())
        require_budget_for_one(study(), Budget(wall_hours=1))
        with pytest.raises(SweepError, match=r"too small for one trial: .* of 1e-09 hours taken, .* Raise the limit"):
            require_budget_for_one(study(), Budget(wall_hours=1e-9))
        with pytest.raises(SweepError, match="GPU-hours"):
            require_budget_for_one(study(resources=on("H100")), Budget(gpu_hours=1e-12))
        (known, *_) = (ran(record_of(t, Status.FINISHED), 1.0) for t in _trials())
        assert shortage(study(), Budget(trials=1), [known]).startswith("1 of 1 trials taken")
        assert shortage(study(), Budget(trials=2), [known]) == ""


class TestPace:
    def test_measured_trials_replace_the_assumption_for_their_device_alone(self) -> None:
        (first, *_) = (record_of(t, Status.FINISHED) for t in _trials())
        model = RuntimeModel()
        before = model.need(first.config, "L40S", gpus=1, cpus=1), model.need(first.config, "H100", gpus=1, cpus=1)
        model.learn(ran(first, 3.0))
        after = model.need(first.config, "L40S", gpus=1, cpus=1)
        assert (after.hours, after.gpu_hours, after.usd) == pytest.approx((3.0, 3.0, 3 * 1.861))
        shared = model.need(first.config, "L40S", gpus=0.5, cpus=1)  # half a GPU is half as fast until it is measured
        assert (shared.hours, shared.gpu_hours, shared.usd) == pytest.approx((6.0, 3.0, 3 * 1.861))
        assert model.need(first.config, "H100", gpus=1, cpus=1) == before[1] != before[0]
        assert model.need(first.config, "L40S", gpus=1, cpus=1, step=6).hours == pytest.approx(1.5)
        assert model.speed_of(first.config)("H100") > model.speed_of(first.config)("L40S") > 0
        assert model.need(first.config, CPU, gpus=0, cpus=2).usd == 0

    def test_a_trial_without_an_end_teaches_nothing(self) -> None:
        (first, *_) = (record_of(t, Status.RUNNING) for t in _trials())
        model = RuntimeModel([first])
        assert model.need(first.config, CPU, gpus=0, cpus=1) == RuntimeModel().need(first.config, CPU, gpus=0, cpus=1)


def _trials() -> list[Any]:
    planner = Planner(study(), fingerprint, [])
    return [planner.next() for _ in range(4)]


class TestSlots:
    def test_the_number_that_was_requested_is_not_reduced_in_silence(self) -> None:
        cluster, remote = FakeCluster(), RunOptions(address="10.0.0.5:6379")
        assert count_slots(study(), RunOptions(address="10.0.0.5:6379", max_concurrent=200), cluster) == 200
        assert count_slots(study(max_concurrent=100), remote, cluster) == 100

    def test_a_cluster_that_starts_nodes_is_not_limited_to_those_it_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster, remote = FakeCluster(), RunOptions(address="10.0.0.5:6379")
        fixed = count_slots(study(), remote, cluster)
        monkeypatch.setattr(cluster, "scales", lambda: True)
        assert count_slots(study(), remote, cluster) > fixed
