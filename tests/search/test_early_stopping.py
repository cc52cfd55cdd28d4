"""Stopping rules on curves: what each one judges, and what they save and lose on curves that were recorded here."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.records.schema import Status
from orchestrator.search.early_stopping import RULES, Rung, decide
from orchestrator.search.replay import Curve, Replay, dump_curves, parse_curves, recorded, replay
from orchestrator.sweep import Stopping
from tests.support.results import demo_records, make_config, make_record

RECORDED = sorted((Path(__file__).parents[2] / "benchmarks/curves").glob("*.jsonl"))
SCORES = st.lists(st.floats(0, 1), min_size=10, max_size=10)


def rungs(*values: float, cell: float = 0.5) -> list[Rung]:
    return [Rung(step, value, cell) for step, value in zip(range(10, 1000, 10), values, strict=False)]


def curve(name: str, values: list[float]) -> Curve:
    steps = range(10, 10 * len(values) + 1, 10)
    seen = tuple(Rung(step, value, 0.5 + value / 2) for step, value in zip(steps, values, strict=True))
    return Curve(name, 10 * len(values), seen, tuple(float(step) for step in steps), values[-1])


def test_halving_judges_at_the_first_evaluation_after_each_rung_and_nowhere_else() -> None:
    rule = Stopping(rule="halving", grace=0.2, keep=0.5)
    others = {str(k): rungs(*[0.9] * 10) for k in range(6)}
    worst = [0.1] * 10
    judged = [n for n in range(1, 11) if decide(rule, 100, rungs(*worst[:n]), others).stop]
    assert judged == [2, 4, 8]


def test_halving_needs_three_others_at_the_rung() -> None:
    rule = Stopping(rule="halving", grace=0.5, keep=0.25)
    others = {str(k): rungs(*[0.9] * 5) for k in range(3)}
    assert decide(rule, 100, rungs(*[0.1] * 5), others).stop
    assert not decide(rule, 100, rungs(*[0.1] * 5), {key: others[key] for key in "01"}).stop


@pytest.mark.parametrize(("keep", "stopped"), [(0.25, [2, 3, 4]), (0.5, [3, 4]), (0.75, [4]), (1.0, [])])
def test_halving_keeps_the_best_part(keep: float, stopped: list[int]) -> None:
    """Five trials, of which a quarter is rounded up to two."""
    rule, scores = Stopping(rule="halving", grace=0.5, keep=keep), [0.9, 0.8, 0.7, 0.6, 0.5]
    found = [
        place
        for place, score in enumerate(scores)
        if decide(rule, 100, rungs(*[score] * 5), {str(s): rungs(*[s] * 5) for s in scores if s != score}).stop
    ]
    assert found == stopped


def test_halving_judges_a_late_evaluation_once() -> None:
    rule = Stopping(rule="halving", grace=0.5, keep=0.5)
    others = {str(k): rungs(*[0.9] * 10) for k in range(6)}
    missed = [rung for rung in rungs(*[0.1] * 7) if rung.step not in (50, 60)]
    assert decide(rule, 100, missed, others).stop, "70 is the first evaluation after the rung at 50"
    assert not decide(rule, 100, rungs(*[0.1] * 6), others).stop, "60 comes after the evaluation at the rung"


def test_halving_takes_chance_for_no_difference() -> None:
    """In the jump trials differ by a few puzzles of 200: such ranks once lost the best of a search."""
    rule = Stopping(rule="halving", grace=0.6)

    def at_the_rung(solved: int, items: int) -> list[Rung]:
        return [Rung(60, solved / items, 0.9, items)]

    others = {str(k): at_the_rung(k, 200) for k in (12, 14, 11, 13, 4)}
    assert not decide(rule, 100, at_the_rung(6, 200), others).stop
    decision = decide(rule, 100, at_the_rung(1, 200), others)
    assert decision.stop and "4 of 5 others are better" in decision.reason
    many = {str(k): at_the_rung(100 * k, 20_000) for k in (12, 14, 11, 13, 4)}
    assert decide(rule, 100, at_the_rung(600, 20_000), many).stop, "the same shares of more puzzles are a difference"


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 400), st.integers(0, 400))
def test_no_two_scores_are_each_better_than_the_other_and_none_without_being_higher(
    n: int, m: int, a: int, b: int
) -> None:
    one, other = Rung(60, min(a, n) / n, 0.5, n), Rung(60, min(b, m) / m, 0.5, m)
    rule = Stopping(rule="halving", grace=0.6, keep=0.01)
    beats = {  # three twins of the other: with keep=0.01 a single better one suffices to be stopped
        (x, y): decide(rule, 100, [y], {key: [x] for key in "abc"}).stop for x, y in ((one, other), (other, one))
    }
    assert not (beats[one, other] and beats[other, one])
    if n == m and one.exact_accuracy <= other.exact_accuracy:
        assert not beats[one, other]


def test_median_stops_who_never_was_better_than_half_of_the_others_on_average() -> None:
    rule = Stopping(rule="median", grace=0.3)
    others = {str(k): rungs(*[0.1 * k] * 10) for k in range(1, 6)}
    assert decide(rule, 100, rungs(0.1, 0.1, 0.2, 0.2), others).stop
    assert not decide(rule, 100, rungs(0.1, 0.5, 0.2, 0.2), others).stop
    assert not decide(rule, 100, rungs(0.1, 0.1), others).stop, "before the grace period"
    three = {name: others[name] for name in "345"}
    assert decide(rule, 100, rungs(0.1, 0.1, 0.2, 0.2), three).stop
    few = {"1": others["4"], "2": others["5"]}
    assert not decide(rule, 100, rungs(0.1, 0.1, 0.2, 0.2), few).stop, "too few to compare with"


def test_patience_waits_for_a_gain_and_looks_at_nobody_else() -> None:
    rule = Stopping(rule="patience", grace=0.1, patience=0.3)
    assert not decide(rule, 100, rungs(0.1, 0.5, 0.5, 0.5), {}).stop
    decision = decide(rule, 100, rungs(0.1, 0.5, 0.5, 0.4, 0.5), {})
    assert decision.stop and "30 steps" in decision.reason
    assert not decide(rule, 100, rungs(0.1, 0.5, 0.5, 0.4, 0.6), {}).stop


@pytest.mark.parametrize(("gain", "stops"), [(0.0019, True), (0.0021, False)])
def test_patience_takes_less_than_two_thousandths_for_no_gain(gain: float, stops: bool) -> None:
    rule = Stopping(rule="patience", grace=0.1, patience=0.3)
    assert decide(rule, 100, rungs(0.5, 0.5, 0.5 + gain, 0.5 + gain), {}).stop == stops


def test_patience_judges_from_the_grace_period_on_and_never_at_the_end() -> None:
    rule = Stopping(rule="patience", grace=0.5, patience=0.2)
    assert [n for n in range(1, 11) if decide(rule, 100, rungs(*[0.5] * n), {}).stop] == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("rule", ["halving", "median"])
@pytest.mark.parametrize(
    ("solving", "metric"),
    [
        ((0.5, 0.5, 0.0), "exact accuracy"),
        ((0.5, 0.5, 0.0, 0.0), "raw cell accuracy"),
        ((0.011, 0.011, 0.0), "exact accuracy"),
    ],
)
def test_trials_are_compared_by_exact_accuracy_once_half_of_them_solve_something(
    rule: str, solving: tuple[float, ...], metric: str
) -> None:
    """Two of four or of five trials solve something; the judged one does not, and has the least cell accuracy."""
    others = {str(k): rungs(*[score] * 5, cell=0.8) for k, score in enumerate(solving)}
    decision = decide(Stopping(rule=rule, grace=0.5, keep=0.25), 100, rungs(*[0.0] * 5, cell=0.4), others)
    assert decision.stop and metric in decision.reason


def test_one_hundredth_of_the_puzzles_is_not_yet_solving_something() -> None:
    others = {str(k): rungs(*[0.01] * 5, cell=0.8) for k in range(3)}
    decision = decide(Stopping(rule="halving", grace=0.5, keep=0.25), 100, rungs(*[0.0] * 5, cell=0.4), others)
    assert decision.stop and "raw cell accuracy (0.400)" in decision.reason


@given(values=SCORES, others=st.lists(SCORES, max_size=8), rule=st.sampled_from(sorted(RULES)), seen=st.integers(1, 10))
def test_no_rule_stops_before_the_grace_period_at_the_end_or_the_best_of_all(
    values: list[float], others: list[list[float]], rule: str, seen: int
) -> None:
    peers = {str(index): rungs(*other) for index, other in enumerate(others)}
    stopping = Stopping.parse({"rule": rule, "grace": 0.4})
    if seen < 4 or seen == 10 or rule == "none":
        assert not decide(stopping, 100, rungs(*values[:seen]), peers).stop
    if rule != "patience":
        assert not decide(stopping, 100, rungs(*[1.0] * seen, cell=1.0), peers).stop


@given(
    scores=st.lists(SCORES, min_size=1, max_size=8),
    rule=st.sampled_from(sorted(RULES)),
    slots=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_replay_spends_no_more_than_everything_and_loses_only_what_it_stopped(
    scores: list[list[float]], rule: str, slots: int, seed: int
) -> None:
    curves = [curve(str(index), values) for index, values in enumerate(scores)]
    random.Random(seed).shuffle(curves)
    found = replay(curves, Stopping.parse({"rule": rule, "grace": 0.2, "patience": 0.2}), slots)
    assert 0 <= found.saved < 1
    assert (found.saved > 0) == bool(found.stopped)
    best = max(curves, key=lambda each: each.final)
    assert found.regret >= 0 and (found.regret == 0 or best.name in found.stopped)


def test_replay_counts_the_time_that_stopped_trials_did_not_take() -> None:
    """The last of five trials starts when all others are known: its worst score is stopped at half of its run."""
    curves = [curve(f"good {k}", [0.5 + k / 100] * 10) for k in range(4)] + [curve("bad", [0.1] * 10)]
    found = replay(curves, Stopping(rule="halving", grace=0.5, keep=0.75), slots=1)
    assert found.stopped == ("bad",) and found.saved_s == 50 and found.saved == pytest.approx(50 / 500)
    assert found.regret == 0
    two = replay(curves, Stopping(rule="halving", grace=0.5, keep=0.75), slots=2)
    assert two.stopped == ("bad",) and two.saved_s == 50
    together = replay(curves, Stopping(rule="halving", grace=0.5, keep=0.75), slots=5)
    assert together.stopped == ("bad",), "ties in time go to the earlier trial, so the last one sees the others"


def test_replay_starts_a_waiting_trial_when_a_slot_is_free() -> None:
    """`bad` starts at 2 s and reaches its rung at 42 s, when three better ones have passed it at 30 s."""

    def timed(name: str, score: float, *seconds: float) -> Curve:
        return Curve(name, 20, (Rung(10, score, 0.5), Rung(20, score, 0.5)), seconds, score)

    good = [timed(f"good {k}", 0.9, 30, 60) for k in range(3)]
    order = [timed("quick", 0.5, 1, 2), *good, timed("bad", 0.1, 40, 80)]
    found = replay(order, Stopping(rule="halving", grace=0.5, keep=0.5), slots=4)
    assert found.stopped == ("bad",) and found.saved_s == 40
    early = [timed("quick", 0.5, 1, 2), *good, timed("bad", 0.1, 20, 80)]
    assert replay(early, Stopping(rule="halving", grace=0.5, keep=0.5), slots=4).stopped == ()


def test_replay_stops_the_slow_starter_that_a_rule_without_grace_would_lose() -> None:
    late = curve("late", [0, 0, 0, 0, 0, 0.2, 0.7, 0.9, 0.95, 0.97])
    early = [curve(f"early {k}", [0.1 * k] * 10) for k in range(1, 6)]
    hasty, patient = Stopping(rule="halving", grace=0.2), Stopping(rule="halving", grace=0.7)
    assert replay([*early, late], hasty, slots=1).regret == pytest.approx(0.97 - 0.5)
    assert replay([*early, late], patient, slots=1).regret == 0


def test_curves_come_from_finished_trials_and_survive_as_text() -> None:
    found = list(recorded(_timed(record) for record in demo_records()))
    finished = [record for record in demo_records() if record.status is Status.FINISHED]
    assert len(found) == len(finished) > 0
    assert parse_curves(dump_curves(found)) == found
    assert not list(recorded([make_record(make_config(), score=0.9)])), "curves without times cannot be replayed"


def _timed(record):  # type: ignore[no-untyped-def]
    rows = [
        dataclasses.replace(row, metrics={**row.metrics, "raw_cell_accuracy": 0.5, "train_s": row.step / 10.0})
        for row in record.rows
    ]
    return dataclasses.replace(record, rows=rows)


def test_some_recorded_curves_are_committed() -> None:
    assert RECORDED and all(len(parse_curves(file.read_text())) >= 12 for file in RECORDED)


def replays(file: Path) -> list[Replay]:
    """The default rule on five orders of recorded curves."""
    found = []
    for seed in range(5):
        order = parse_curves(file.read_text())
        random.Random(seed).shuffle(order)
        found.append(replay(order, Stopping(), slots=2))
    return found


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_default_rule_never_loses_the_best_recorded_configuration_and_saves_time(file: Path) -> None:
    found = replays(file)
    assert all(each.regret == 0 for each in found)
    assert sum(each.saved for each in found) / len(found) > 0.03


def test_default_rule_saves_time_in_every_order_where_trials_differ() -> None:
    (demo,) = (file for file in RECORDED if file.stem == "demo")
    for each in replays(demo):
        assert each.regret == 0 and each.saved > 0.03
