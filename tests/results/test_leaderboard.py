"""What may stand in one table, what may not, and how a row is made from records."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from orchestrator.records.schema import Attempt, AttemptEnd, AttemptStart, DatasetInfo, Row, Status, TrialRecord
from orchestrator.resources.usage import Cost, trial_cost
from orchestrator.results import power
from orchestrator.results.baselines import load_baselines
from orchestrator.results.leaderboard import Entry, Table, build_leaderboard, rank_rows, refusal, refusals, select
from orchestrator.results.leaderboard.cost import WORLD_GRID, Grid, describe_cost
from orchestrator.results.llm_results import read_measurements
from orchestrator.results.report import Report
from orchestrator.results.report.formats import shorten, to_csv, to_json, to_latex, to_markdown, to_rich
from orchestrator.results.report.storage_page import read_sweep_trials, write_storage_page
from orchestrator.results.stats import wilson
from orchestrator.storage import LocalStorage
from tests.support.results import DATASET, demo_records, make_config, make_record
from trm_data.errors import UserError

SUDOKU_EXTREME = DATASET.model_copy(update={"benchmark": "sudoku-extreme", "generated": False, "fingerprint": "abc123"})


def only(tables: list[Table], **wanted: object) -> Table:
    """The one table of the customary test-time compute and training set that has these properties."""
    wanted = {"compute": "", "training": "", **wanted}
    found = [t for t in tables if all(getattr(t, name) == value for name, value in wanted.items())]
    assert len(found) == 1
    return found[0]


def confirmed(score: float = 0.9, seed: int = 0, **changes: object) -> TrialRecord:
    return make_record(make_config(seed=seed), score=score, stage="confirm", family="best", **changes)  # type: ignore[arg-type]


def test_own_row_has_mean_spread_and_both_intervals() -> None:
    table = build_leaderboard(None, demo_records(), [])[0]
    best = table.entries[0]
    assert (table.benchmark, table.items, table.test_scorings) == ("sudoku-6x6-generated", 500, 9)
    assert [entry.system for entry in table.entries] == ["best", "hrm", "direct"]
    assert best.own is not None and best.item_interval is not None
    assert best.own.scores == pytest.approx((96.2, 95.4, 97.4)) and best.own.seeds == (0, 1, 2)
    assert best.score == pytest.approx(96.3333, abs=1e-3) and best.own.spread == pytest.approx(1.00664, abs=1e-4)
    assert best.own.seed_interval == pytest.approx((93.631, 98.834), abs=1e-3)
    assert best.item_interval == pytest.approx((94.3014, 97.6587), abs=1e-3)
    assert best.ranks == (1, 1) and best.params == 148_000 and len(best.own.trial_ids) == 3
    assert best.own.commits == ("748ea00c55aa",) and best.own.machines == ("node-7 (cpu)",)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (confirmed(), None),
        (replace(confirmed(), stage="study"), None),
        (replace(confirmed(), stage="explore"), "of the search stage"),
        (confirmed(split="validation"), "scored on validation"),
        (confirmed(metrics={"cell_accuracy": 0.99}), "without a ranked metric"),
        (confirmed(status=Status.STOPPED), "not finished (stopped)"),
        (confirmed(status=Status.DIVERGED), "not finished (diverged)"),
    ],
)
def test_only_confirmed_results_enter(record: TrialRecord, reason: str | None) -> None:
    assert refusal(record) == reason
    assert bool(build_leaderboard(None, [record], [])) == (reason is None)
    assert refusals([record]) == ({reason: 1} if reason else {})


def test_generated_puzzles_never_share_a_table_with_published_rows() -> None:
    generated = confirmed(dataset=SUDOKU_EXTREME.model_copy(update={"generated": True}), items=422_786)
    tables = build_leaderboard(None, [generated], load_baselines())
    own = only(tables, has_own=True)
    assert own.benchmark == "sudoku-extreme-generated" and len(own.entries) == 1


def test_full_published_test_set_is_ranked_beside_published_rows() -> None:
    record = confirmed(score=0.871, dataset=SUDOKU_EXTREME, items=422_786)
    own = only(build_leaderboard("sudoku-extreme", [record], load_baselines()), has_own=True)
    systems = [entry.system for entry in own.entries]
    assert own.split == "test" and {"TRM-MLP", "HRM", "best"} <= set(systems)
    assert systems.index("TRM-MLP") < systems.index("best") < systems.index("TRM-Att")


def test_part_of_a_published_test_set_has_a_table_of_its_own() -> None:
    record = confirmed(dataset=SUDOKU_EXTREME, items=1_000)
    own = only(build_leaderboard("sudoku-extreme", [record], load_baselines()), has_own=True)
    assert own.split == "1,000 of 422,786 test items" and len(own.entries) == 1


def test_datasets_with_other_test_puzzles_are_not_ranked_together() -> None:
    other = confirmed(dataset=DATASET.model_copy(update={"fingerprint": "ffff"}))
    tables = build_leaderboard("sudoku-6x6", [confirmed(), other], [])
    assert sorted(table.fingerprint for table in tables) == [DATASET.fingerprint, "ffff"]


def test_tables_of_two_datasets_do_not_share_a_heading() -> None:
    counts = {"train": 4_000, "validation": 200, "test": 500}
    other = confirmed(dataset=DATASET.model_copy(update={"fingerprint": "ffff0000eeee", "counts": counts}), sweep="cc")
    records = [confirmed(), other]
    tables = build_leaderboard(None, records, [])
    common = "sudoku-6x6-generated, test split, exact accuracy"
    headings = {
        f"{common}, dataset 3f9c2a71 with 400 training puzzles",
        f"{common}, dataset ffff0000 with 4,000 training puzzles",
    }
    assert {table.heading for table in tables} == headings
    assert set(re.findall(r"^### (.*)$", to_markdown(tables), re.M)) == headings
    console = Console(width=200, file=io.StringIO())
    for table in tables:
        console.print(to_rich(table))
    page = Report(records=records, now=datetime.now(UTC), baselines=[]).html()
    assert isinstance(console.file, io.StringIO)
    assert all(heading in console.file.getvalue() and f"<h3>{heading}</h3>" in page for heading in headings)
    assert [table.heading for table in build_leaderboard(None, [other], [])] == [common]


def test_every_published_row_stands_in_one_table_of_its_split_metric_and_protocol() -> None:
    rows = [row for row in load_baselines() if row.role != "ablation" and row.split != "as-printed"]
    tables = build_leaderboard(None, [], rows)
    places = [(t.benchmark, t.split, t.metric, t.protocol, e.system, e.detail) for t in tables for e in t.entries]
    assert sorted(places) == sorted((r.benchmark, r.split, r.metric, r.protocol, r.system, r.detail) for r in rows)
    assert {table.split for table in tables if table.benchmark == "arc-agi-1"} == {"public-eval", "semi-private"}


def test_arc_like_for_like_reverses_what_the_mixed_table_suggests() -> None:
    """On the same public tasks o3-mini-high is above TRM; the paper's table shows 34.5 beside 44.6."""
    public = only(
        build_leaderboard("arc-agi-1", [], load_baselines()), split="public-eval", metric="pass@2", protocol="single"
    )
    score = {entry.system: entry.score for entry in public.entries}
    assert score["o3-mini (High)"] == 46.58 and score["TRM-Att"] == 44.6
    semi = only(build_leaderboard("arc-agi-1", [], load_baselines()), split="semi-private", protocol="single")
    assert {e.system: e.score for e in semi.entries}["o3-mini (High)"] == 34.5


def test_same_trial_in_two_sweeps_counts_once_and_seeds_of_two_sweeps_join() -> None:
    first, second = confirmed(seed=0), confirmed(seed=1)
    again = replace(first, sweep="other")
    table = build_leaderboard(None, [first, replace(second, sweep="other"), again], [])[0]
    own = table.entries[0].own
    assert own is not None and own.seeds == (0, 1) and table.test_scorings == 2


def test_generated_benchmark_is_found_with_and_without_its_ending() -> None:
    record = confirmed(dataset=DATASET.model_copy(update={"benchmark": "sudoku-6x6-generated"}))
    for name in ("sudoku-6x6", "sudoku-6x6-generated"):
        assert [table.benchmark for table in build_leaderboard(name, [record], [])] == ["sudoku-6x6-generated"]


def test_families_that_share_a_name_are_told_apart() -> None:
    other = make_record(make_config(cycles=1), score=0.5, stage="confirm", family="best", sweep="second")
    names = {entry.system for entry in build_leaderboard(None, [confirmed(), other], [])[0].entries}
    assert names == {"best (demo)", "best (second)"}


def test_one_seed_has_no_seed_interval_and_no_rank() -> None:
    other = make_record(make_config(cycles=1), score=0.1, stage="study", family="other")
    first, second = build_leaderboard(None, [confirmed(), other], [])[0].entries
    assert first.own is not None and first.own.seed_interval is None and first.own.spread is None
    assert first.ranks is None and second.ranks is None  # 80 points apart, and still nothing is known of other seeds


def test_equal_scores_of_two_seeds_are_not_certain() -> None:
    own = build_leaderboard(None, [confirmed(0.9, seed=0), confirmed(0.9, seed=1)], [])[0].entries[0].own
    assert own is not None and own.spread == 0.0 and own.seed_interval is not None
    assert own.seed_interval.low < 85 and own.seed_interval.high == 100.0  # a spread of 1.35, and Student's t of 12.7


@pytest.mark.parametrize(("second", "ranks"), [(0.92, (1, 2)), (0.60, (1, 1))])
def test_equal_scores_of_two_seeds_do_not_make_ranks_certain(second: float, ranks: tuple[int, int]) -> None:
    """95.0/95.0 against 92.0/92.0 on 1,000 puzzles: 2.7 errors of the puzzles, but nothing is known of the seeds."""
    records = [
        make_record(make_config(cycles=cycles, seed=seed), score=score, stage="study", family=family, items=1_000)
        for cycles, (family, score) in enumerate((("a", 0.95), ("b", second)), 1)
        for seed in (0, 1)
    ]
    assert build_leaderboard(None, records, [])[0].entries[0].ranks == ranks


def test_noisy_seeds_widen_the_rank_range() -> None:
    def run(family: str, cycles: int, scores: tuple[float, ...]) -> list[TrialRecord]:
        configs = [make_config(cycles=cycles, seed=seed) for seed in range(len(scores))]
        return [
            make_record(c, score=s, stage="study", family=family, items=10_000)
            for c, s in zip(configs, scores, strict=True)
        ]

    noisy = run("a", 1, (0.95, 0.80, 0.90)) + run("b", 2, (0.88, 0.70, 0.82))
    steady = run("a", 1, (0.90, 0.901, 0.899)) + run("b", 2, (0.80, 0.801, 0.799))
    assert [entry.ranks for entry in build_leaderboard(None, noisy, [])[0].entries] == [(1, 2), (1, 2)]
    assert [entry.ranks for entry in build_leaderboard(None, steady, [])[0].entries] == [(1, 1), (2, 2)]


@pytest.mark.parametrize(("lower", "ranks"), [(0.880, [(1, 2), (1, 2)]), (0.870, [(1, 1), (2, 2)])])
def test_ranks_of_two_seeds_each_have_two_degrees_of_freedom(lower: float, ranks: list[tuple[int, int]]) -> None:
    """Seeds of 0.90 and 0.91 have a standard error of 0.005; t(2) asks for 4.30 errors of the difference, 0.0304."""
    records = [
        make_record(make_config(cycles=cycles, seed=seed), score=score, stage="study", family=family, items=10_000_000)
        for cycles, family, mean in ((1, "a", 0.905), (2, "b", lower))
        for seed, score in enumerate((mean - 0.005, mean + 0.005))
    ]
    assert [entry.ranks for entry in build_leaderboard(None, records, [])[0].entries] == ranks


def test_rows_of_a_benchmark_whose_seeds_nobody_has_published_are_ranked_by_their_puzzles() -> None:
    rows = [Entry(name, "system", score, 1000, None, 1, None) for name, score in (("a", 93.0), ("b", 90.0))]
    assert rank_rows(rows, "sudoku-4x4") == [(1, 1), (2, 2)]
    assert rank_rows(rows, "sudoku-extreme") == [(1, 2), (1, 2)], "an assumed spread of 1.3 points"


def test_a_row_of_ones_own_benchmark_that_says_nothing_of_votes_has_no_vote() -> None:
    stated = {"benchmark": "own-puzzles", "kind": "trm", "passes": 16, "votes": None, "samples": 1}
    row = load_baselines()[0].model_copy(update=stated)
    (table,) = build_leaderboard("own-puzzles", [], [row])
    assert table.compute == "" and len(table.entries) == 1


def test_published_single_runs_are_not_ranked_finer_than_their_seeds_allow() -> None:
    """87.4 and 86.65 differ by ten sampling errors of 422,786 puzzles, and by 0.6 standard deviations over seeds."""
    tables = build_leaderboard("sudoku-extreme", [], load_baselines())
    table = only(tables, split="test", metric="exact_accuracy", protocol="single")
    ranks = {entry.system: entry.ranks or (0, 0) for entry in table.entries}
    assert ranks["TRM-MLP"][0] <= ranks["TRM baseline of CGAR"][0] <= ranks["TRM-MLP"][1]
    assert ranks["TRM-MLP"][1] < ranks["HRM"][0] < ranks["Direct prediction"][0]


def test_power_statement_speaks_of_the_size_of_the_test_set() -> None:
    table = only(
        build_leaderboard("arc-agi-2", [], load_baselines()), split="public-eval", metric="pass@2", protocol="single"
    )
    assert table.power == (
        "Two single runs on 120 items, compared without pairing (z test of two proportions), detect a difference of "
        "7.4 points near 5 % with 80 % power; variation between seeds is not included."
    )


def test_power_statement_is_made_for_the_median_score() -> None:
    records = [
        make_record(make_config(cycles=cycles), score=score, stage="study", family=str(cycles), items=1_000)
        for cycles, score in ((1, 0.2), (2, 0.6), (3, 0.61))
    ]
    (table,) = build_leaderboard(None, records, [])
    gap = 100 * power.detectable_gap(0.6, 1_000)
    assert f"detect a difference of {gap:.1f} points near 60 % with 80 % power" in table.power
    assert build_leaderboard(None, records[:2], [])[0].power.count("near 40 %") == 1
    assert replace(table, entries=()).power == replace(table, items=None).power == ""


@pytest.mark.parametrize(("score", "near"), [(0.0, 5), (0.04, 5), (0.06, 6), (0.94, 94), (0.96, 95), (1.0, 95)])
def test_power_statement_is_made_no_nearer_than_5_points_to_a_bound(score: float, near: int) -> None:
    record = make_record(make_config(), score=score, stage="study", family="a", items=1_000)
    assert f"points near {near} % with 80 % power" in build_leaderboard(None, [record], [])[0].power


def test_row_has_the_interval_over_seeds_before_that_over_puzzles() -> None:
    (table,) = build_leaderboard(None, [confirmed(seed=0), confirmed(0.92, seed=1)], [])
    assert table.entries[0].own is not None and table.entries[0].interval == table.entries[0].own.seed_interval
    (table,) = build_leaderboard(None, [confirmed()], [])
    assert (
        table.entries[0].interval
        == table.entries[0].item_interval
        == pytest.approx([100 * bound for bound in wilson(0.9, 500)])
    )
    assert table.entries[0].solved == pytest.approx(450)


def test_unknown_benchmark_names_the_nearest_and_a_known_one_may_be_empty() -> None:
    with pytest.raises(
        UserError, match=r"no leaderboard for benchmark 'sudoku-extrem'\. Did you mean 'sudoku-extreme'"
    ):
        build_leaderboard("sudoku-extrem", [], load_baselines())
    assert build_leaderboard("sudoku-6x6", [replace(confirmed(), stage="explore")], load_baselines()) == []
    assert build_leaderboard(None, [], []) == []


def on_gpus(record: TrialRecord, *stays: tuple[str, float, float, bool]) -> TrialRecord:
    """The record with attempts (GPU, share, hours, ended properly), one after the other."""
    attempts, clock = [], 1_000.0
    for number, (name, share, hours, ended) in enumerate(stays, 1):
        start = AttemptStart(host="a", device="cuda", gpu_name=name, gpu_count=share, started_s=clock, from_step=0)
        clock += 3600 * hours
        end = AttemptEnd(status=Status.FINISHED, step=1, ended_s=clock) if ended else None
        attempts.append(Attempt(number, start, end))
    rows = [Row(1, 1_000.0 + 3600 * stays[0][2] - 1, "train", {"loss": 1.0})]
    return replace(record, attempts=attempts, rows=rows)


def test_cost_counts_every_attempt_at_list_price_and_full_power() -> None:
    """On-demand list prices per GPU: $1.861 (g6e.xlarge), $6.88 (p5.4xlarge); 350 and 700 W."""
    record = on_gpus(confirmed(), ("NVIDIA L40S", 0.5, 2.0, False), ("NVIDIA H100 80GB HBM3", 1.0, 1.0, True))
    cost = trial_cost(record)
    assert cost is not None and cost.gpu_hours == pytest.approx(2.0, abs=0.001)
    assert cost.usd == pytest.approx(1.861 + 6.88, abs=0.01) and cost.kwh == pytest.approx(0.35 + 0.70, abs=0.001)
    first = record.attempts[0]
    spot = replace(
        record, attempts=[replace(first, start=first.start.model_copy(update={"market": "spot"})), record.attempts[1]]
    )
    cheaper = trial_cost(spot)
    assert (
        cheaper is not None
        and cheaper.usd is not None
        and cost.usd - cheaper.usd == pytest.approx(1.861 - 0.65, abs=0.1)
    )
    row = build_leaderboard(None, [record], [])[0]
    assert json.loads(to_json([row]))[0]["entries"][0]["own"]["cost"]["gpu_hours"] == pytest.approx(2.0, abs=0.001)
    assert "$8.74" in to_markdown([row]) and describe_cost(cost) == "2 GPU-hours, at most $8.74 and 1.05 kWh"


def test_cost_is_unknown_on_cpu_and_unpriced_on_an_unknown_gpu() -> None:
    assert trial_cost(confirmed()) is None and describe_cost(None) == "not known (no GPU)"
    large = describe_cost(Cost(gpu_hours=2_800.4, usd=12_345.6, kwh=1_960.0), Grid(436.0, "w"))
    assert large == "2,800 GPU-hours, at most $12,346 and 1,960 kWh, at most 855 kg CO2 at 436 g/kWh (w)"
    assert describe_cost(Cost(1.0, None, 123_456.0), Grid(100.0, "w")).endswith("most 12,346 kg CO2 at 100 g/kWh (w)")
    assert "10 kg CO2" in describe_cost(Cost(1.0, None, 100.0), Grid(100.0, "w"))
    assert "9.9 kg CO2" in describe_cost(Cost(1.0, None, 99.4), Grid(100.0, "w"))
    cost = trial_cost(on_gpus(confirmed(), ("Imaginary 9000", 1.0, 1.0, True)))
    assert cost is not None and cost.usd is None and describe_cost(cost) == "1 GPU-hours"


def test_co2_follows_from_energy_and_a_named_grid_only() -> None:
    cost = trial_cost(on_gpus(confirmed(), ("NVIDIA L40S", 1.0, 2.0, True)))  # 350 W for two hours: 0.7 kWh
    assert describe_cost(cost) == "2 GPU-hours, at most $3.72 and 0.7 kWh"
    words = describe_cost(cost, WORLD_GRID)
    assert words.endswith(
        "at most 0.31 kg CO2 at 436 g/kWh (world average of 2022, Ember, Global Electricity Review 2023)"
    )
    assert "0.014 kg CO2 at 20 g/kWh (as given)" in describe_cost(cost, Grid(20.0, "as given"))
    unknown = trial_cost(on_gpus(confirmed(), ("Imaginary 9000", 1.0, 1.0, True)))
    assert "CO2" not in describe_cost(unknown, WORLD_GRID) and "CO2" not in describe_cost(None, WORLD_GRID)


def test_measured_energy_takes_the_place_of_the_power_limit() -> None:
    record = on_gpus(confirmed(), ("NVIDIA L40S", 1.0, 2.0, True))
    sample = Row(1, 1_000.0 + 3600, "system", {"gpu_energy_joules": 0.2 * 3.6e6})
    words = describe_cost(trial_cost(replace(record, rows=[*record.rows, sample])), WORLD_GRID)
    assert words.startswith("2 GPU-hours, at most $3.72, 0.2 kWh measured, about 0.087 kg CO2 at 436 g/kWh")


def test_cost_stands_in_every_format_per_run_and_per_solved_puzzle() -> None:
    """0.7 kWh and $3.72 for 90 of 100 puzzles: 7.8 Wh, 3.4 g CO2 and 4 cents each; nothing where nothing was spent."""
    record = confirmed(metrics={"exact_accuracy": 0.9}, items=100)
    tables = build_leaderboard(None, [on_gpus(record, ("NVIDIA L40S", 1.0, 2.0, True))], [])
    for text in (to_markdown(tables), to_latex(tables).replace("\\$", "$")):
        assert "$3.72, 700 Wh, 305 g CO2" in text
        assert "$0.041, 7.8 Wh, 3.4 g CO2" in text
    row = next(csv.DictReader(io.StringIO(to_csv(tables))))
    assert float(row["puzzles_solved"]) == 90 and float(row["kwh_at_most"]) == pytest.approx(0.7)
    assert "Per run" not in to_markdown(build_leaderboard(None, [record], []))


def test_query_names_one_split_and_never_mixes_two() -> None:
    tables = build_leaderboard("arc-agi-1", [], load_baselines())
    chosen = select(tables, split="semi-private", metric="pass@2", protocol="single")
    assert {(table.split, table.metric, table.protocol) for table in chosen} == {("semi-private", "pass@2", "single")}
    with pytest.raises(UserError, match="no table has split 'public-eval,semi-private'; a query names one"):
        select(tables, split="public-eval,semi-private")
    with pytest.raises(UserError, match="no table has metric 'pass@3'"):
        select(tables, metric="pass@3")


def test_formats_show_the_same_rows() -> None:
    tables = build_leaderboard("maze-hard", [], load_baselines())
    wanted = [entry.system for table in tables for entry in table.entries]
    assert [row["system"] for row in csv.DictReader(io.StringIO(to_csv(tables)))] == wanted
    assert [entry["system"] for table in json.loads(to_json(tables)) for entry in table["entries"]] == wanted
    markdown, latex = to_markdown(tables), to_latex(tables)
    for system in wanted:
        assert f"| {system} |" in markdown and f"{system} &" in latex
    assert latex.count(r"\begin{tabular}") == len(tables) and r"95 \% puzzles" in latex


def test_terminal_table_shows_the_interval_and_leaves_out_empty_columns() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    table = build_leaderboard(None, demo_records(), load_baselines())[0]
    console.print(to_rich(table))
    text = console.export_text()
    assert "94.3-97.7" in text and "93.6-98.8" in text and "3 (sd 1.0)" in text
    assert "$/task" not in text and "Own trials were scored on this test set 9 times" in " ".join(text.split())


def test_terminal_table_survives_names_with_markup() -> None:
    record = replace(confirmed(), family="[red]x[/")
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(to_rich(build_leaderboard(None, [record], [])[0]))
    assert "[red]x[/" in console.export_text()


def test_shortened_table_keeps_own_rows_rivals_and_ranks() -> None:
    tables = build_leaderboard("arc-agi-1", [], load_baselines())
    table = only(tables, split="semi-private", protocol="single")
    short = shorten(table, 10)
    kept = {entry.system: entry.ranks for entry in short.entries}
    assert len(table.entries) == 128 and len(short.entries) < 25
    assert {"TRM (ARC Prize verification run)", "HRM (ARC Prize verification run)", "o3-mini (High)"} <= set(kept)
    assert all(entry.ranks == kept[entry.system] for entry in table.entries if entry.system in kept)
    own = build_leaderboard(None, [confirmed(score=0.2)], [])[0]
    assert shorten(own, 0) == own and "best" in to_markdown([shorten(own, 0)])


def test_csv_of_no_tables_has_a_header_only() -> None:
    assert to_csv([]) == "benchmark\n" and json.loads(to_json([])) == []


def arc_record(shares: list[float], seed: int = 0, **changes: Any) -> TrialRecord:
    """A confirmed run on ARC-AGI-2 with these shares of each task's test inputs."""
    mean = sum(shares) / len(shares)
    dataset = DatasetInfo(benchmark="arc-agi-2", fingerprint="arc2", counts={"test": 120})
    record = confirmed(seed=seed, dataset=dataset, items=172, metrics={"pass@2": mean, "exact_accuracy": mean})
    assert record.result is not None
    return replace(record, result=record.result.model_copy(update={"per_task": {"pass@2": shares}, **changes}))


def test_own_run_on_all_public_arc_tasks_is_ranked_by_task_with_a_bootstrap_interval() -> None:
    """172 test inputs are 120 tasks; the mean of tasks is not a proportion, so Wilson's interval would be another."""
    shares = [1.0] * 4 + [0.5] * 16 + [0.0] * 100
    records = [arc_record(shares, seed) for seed in range(3)]
    tables = build_leaderboard("arc-agi-2", records, load_baselines())
    table = only(tables, split="public-eval", metric="pass@2", protocol="single")
    own = next(entry for entry in table.entries if entry.own)
    assert own.items == 120 and own.score == pytest.approx(10.0) and "TRM-Att" in {e.system for e in table.entries}
    error = 100 * float(np.std(shares, ddof=1)) / 120**0.5
    assert own.item_interval == pytest.approx((10 - 1.96 * error, 10 + 1.96 * error), abs=0.6)
    assert own.item_interval is not None and own.item_interval.high < 100 * wilson(0.1, 120).high - 0.5


def test_arc_run_on_some_tasks_has_a_table_of_its_own() -> None:
    table = build_leaderboard("arc-agi-2", [arc_record([1.0, 0.0, 0.5])], load_baselines())[0]
    assert table.split == "3 of 120 test items" and len(table.entries) == 1


def test_run_with_another_metric_never_enters_a_table_of_the_first() -> None:
    other = confirmed(dataset=SUDOKU_EXTREME, items=422_786, metrics={"pass@2": 0.99})
    tables = build_leaderboard("sudoku-extreme", [other], load_baselines())
    own = only(tables, has_own=True)
    assert own.metric == "pass@2" and len(own.entries) == 1
    assert "best" not in {
        entry.system for table in tables if table.metric == "exact_accuracy" for entry in table.entries
    }


def test_empty_storage_and_a_run_without_a_record_have_no_rows_and_do_no_harm(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "runs")
    assert read_sweep_trials(storage) == [] and read_measurements(storage) == []
    storage.write("sweeps/lost/sweep.json", b"{}")
    storage.write("sweeps/lost/trials/abc/attempts/001/start.json", b"{}")
    storage.write("llm/asked-only/measurement.json", b"{}")
    assert read_sweep_trials(storage) == [] and read_measurements(storage) == []
    write_storage_page(storage, tmp_path / "page.html")
    assert "Published results" in (tmp_path / "page.html").read_text()
