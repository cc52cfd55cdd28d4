"""Test-time compute and training set decide, like the scored puzzles, which rows are ranked together."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.records.schema import TrialRecord
from orchestrator.results.ablation import compare_with_control
from orchestrator.results.baselines import Baseline, load_baselines
from orchestrator.results.leaderboard import Table, build_leaderboard
from orchestrator.results.report import Report
from orchestrator.results.report.formats import to_csv, to_json, to_markdown
from tests.support.results import DATASET, make_config, make_record

ITEMS = {"sudoku-extreme": 422_786, "maze-hard": 1_000, "arc-agi-1": 400}


def own_run(
    benchmark: str = "sudoku-extreme", *, train: int = 1_000, validation: int = 0, **evaluation: Any
) -> TrialRecord:
    """A run on a published test set that was trained with 16 supervision steps."""
    arc = benchmark.startswith("arc")
    splits = ("train", "validation") if validation else ("train",)
    config = make_config(steps=16)
    config = config.model_copy(
        update={
            "evaluation": config.evaluation.model_copy(update=evaluation),
            "data": config.data.model_copy(update={"train_splits": splits}),
        }
    )
    counts = {"train": train, "validation": validation, "test": ITEMS[benchmark]}
    dataset = DATASET.model_copy(
        update={"benchmark": benchmark, "generated": False, "fingerprint": "f", "counts": counts}
    )
    metrics = {"pass@2" if arc else "exact_accuracy": 0.9}
    record = make_record(
        config, score=0.9, stage="confirm", family="own", dataset=dataset, items=ITEMS[benchmark], metrics=metrics
    )
    assert record.result is not None
    steps = evaluation.get("supervision_steps", 16)
    object.__setattr__(record, "result", record.result.model_copy(update={"supervision_steps": steps}))
    return record


def table_with(system: str, benchmark: str, *records: TrialRecord, split: str | None = None) -> Table:
    tables = build_leaderboard(benchmark, records, load_baselines())
    (found,) = [t for t in tables if system in {e.system for e in t.entries} and split in (None, t.split)]
    return found


def systems(table: Table) -> set[str]:
    return {entry.system for entry in table.entries}


@pytest.mark.parametrize(("benchmark", "published"), [("sudoku-extreme", "TRM-MLP"), ("maze-hard", "TRM-Att")])
def test_run_with_the_customary_compute_and_training_set_is_ranked_with_the_papers_rows(
    benchmark: str, published: str
) -> None:
    assert published in systems(table_with("own", benchmark, own_run(benchmark)))


@pytest.mark.parametrize(
    ("changes", "compute", "protocol"),
    [
        ({"rollouts": 100, "noise": 0.3}, "100 samples", "ensemble"),
        ({"rollouts": 2, "noise": 0.3}, "2 samples", "ensemble"),
        ({"votes": 2}, "vote over 2 views", "ensemble"),
        ({"votes": 10}, "vote over 10 views", "ensemble"),
        ({"supervision_steps": 64}, "64 supervision steps", "single"),
        ({"supervision_steps": 17}, "17 supervision steps", "single"),
        ({"supervision_steps": 32, "votes": 2}, "32 supervision steps, vote over 2 views", "ensemble"),
    ],
)
@pytest.mark.parametrize("benchmark", ["sudoku-extreme", "maze-hard"])
def test_more_test_time_compute_is_never_ranked_with_single_answers(
    benchmark: str, changes: dict[str, Any], compute: str, protocol: str
) -> None:
    table = table_with("own", benchmark, own_run(benchmark, **changes))
    assert (table.compute, table.protocol) == (compute, protocol) and compute in table.heading
    assert not systems(table) & {"TRM-MLP", "TRM-Att", "HRM"}


def test_rollouts_without_noise_are_one_answer_and_fewer_steps_stay_in_the_table() -> None:
    """Rollouts differ by their noise alone. A row may use less than is customary: that is not an advantage."""
    assert table_with("own", "sudoku-extreme", own_run(rollouts=5)).compute == ""
    assert "TRM-MLP" in systems(table_with("own", "sudoku-extreme", own_run(supervision_steps=4)))


def test_own_rollouts_are_ranked_with_the_published_method_of_as_many() -> None:
    for rollouts, steps, ranked in ((100, 64, {"own", "PTRM"}), (50, 64, {"own"}), (100, 16, {"own"})):
        run = own_run(rollouts=rollouts, noise=0.2, supervision_steps=steps)
        assert systems(table_with("own", "sudoku-extreme", run)) == ranked


def test_arc_runs_vote_over_up_to_a_thousand_views() -> None:
    usual = table_with("own", "arc-agi-1", own_run("arc-agi-1", train=960, votes=1_000))
    assert {"TRM-Att", "HRM", "o3-mini (High)"} <= systems(usual) and usual.protocol == "single"
    more = table_with("own", "arc-agi-1", own_run("arc-agi-1", train=960, votes=2_000))
    assert more.compute == "vote over 2,000 views" and systems(more) == {"own"}


def test_larger_training_set_has_a_table_of_its_own() -> None:
    full = table_with("own", "sudoku-extreme", own_run(train=3_831_994))
    assert full.training == "3,831,994 training puzzles"
    assert systems(full) == {"own", "Direct prediction, full training set"}
    both = table_with("own", "sudoku-extreme", own_run(train=1_000, validation=1_000))
    assert both.training == "2,000 training puzzles" and systems(both) == {"own"}
    assert "TRM-Att" in systems(table_with("own", "maze-hard", own_run("maze-hard", train=900)))


WEIGHTS = "/models/start.safetensors#sha256=" + "ab" * 32


def started(record: TrialRecord) -> TrialRecord:
    """The same run, started from the weights of a checkpoint."""
    train = record.config.train.model_copy(update={"start_from": WEIGHTS})
    return replace(record, config=record.config.model_copy(update={"train": train}), trial_id="warm")


@pytest.mark.parametrize("benchmark", ["sudoku-extreme", "sudoku-6x6"])
def test_run_from_other_weights_is_never_ranked_with_runs_from_scratch(benchmark: str) -> None:
    scratch = own_run() if benchmark in ITEMS else make_record(make_config(), score=0.9, stage="study", family="own")
    records = [scratch, started(scratch)]
    tables = build_leaderboard(benchmark, records, load_baselines())
    words = "started from other weights (sha256 abababababab)"
    (own,) = [table for table in tables if "own" in systems(table)]
    (warm,) = [table for table in tables if "own from start@abababab" in systems(table)]
    assert own.training == "" and systems(warm) == {"own from start@abababab"}
    assert warm.training == words and words in warm.heading
    (entry,) = warm.entries
    assert entry.train_puzzles is None and entry.detail == words
    plain = json.loads(to_json([warm]))[0]
    assert plain["training"] == words and plain["entries"][0]["detail"] == words, plain
    assert words in to_csv([warm]) and words in to_markdown([warm])
    assert words in Report(records=records, now=datetime.now(UTC), baselines=[]).html()


def test_ablation_compares_runs_from_other_weights_with_those_from_scratch() -> None:
    scratch = make_record(make_config(), score=0.8, stage="study", family="own")
    ablation = compare_with_control([scratch, started(scratch)], "own")
    assert [effect.name for effect in ablation.effects] == ["own from start@abababab"]


def test_steps_beyond_training_separate_own_runs_on_generated_puzzles() -> None:
    config = make_config(steps=4)
    deeper = config.evaluation.model_copy(update={"supervision_steps": 16})
    record = make_record(config, score=0.9, stage="study", family="trained")
    longer = make_record(config.model_copy(update={"evaluation": deeper}), score=0.95, stage="study", family="longer")
    assert longer.result is not None
    object.__setattr__(longer, "result", longer.result.model_copy(update={"supervision_steps": 16}))
    tables = build_leaderboard(None, [record, longer], [])
    assert [(systems(table), table.compute) for table in tables] == [
        ({"trained"}, ""),
        ({"longer"}, "16 supervision steps"),
    ]


def test_depth_of_training_does_not_separate_own_runs_on_generated_puzzles() -> None:
    records = [
        make_record(make_config(steps=steps), score=0.5, stage="study", family=str(steps)) for steps in (1, 4, 16)
    ]
    (table,) = build_leaderboard(None, records, [])
    assert systems(table) == {"1", "4", "16"}


@pytest.mark.parametrize(
    ("system", "benchmark", "split", "words"),
    [
        ("EqR, 64 steps", "sudoku-extreme", None, "64 supervision steps"),
        ("EqR, 64 steps x 128 starts", "sudoku-extreme", None, "64 supervision steps, 128 samples"),
        ("Direct prediction, full training set", "sudoku-extreme", None, "3,831,994 training puzzles"),
        ("o3 (Preview, Low)", "arc-agi-1", "semi-private", "6 samples"),
        ("Augmented HRM", "sudoku-extreme", None, "90 samples"),
        ("FPRM", "maze-hard", None, "test-time compute not stated, training set not stated"),
        ("GPT-5 Pro", "arc-agi-1", "public-eval", "samples not stated"),
        ("priml exp010", "sudoku-extreme", None, "32 supervision steps"),
        ("priml exp011", "sudoku-extreme", None, "search, 32 supervision steps"),
        ("TRM-MLP at D=1024, A. Ritter", "sudoku-extreme", None, "1024 supervision steps"),
        ("Sotaku, 16 iterations, full training set", "sudoku-extreme", None, "25,000 of the test split (Sotaku)"),
        ("Sotaku, 16 iterations, full training set", "sudoku-extreme", None, "2,700,000 training puzzles"),
        ("LDT", "maze-hard", None, "search"),
        ("EqR, 64 steps x 128 starts", "maze-unique", None, "ensembles, 64 supervision steps, 128 samples"),
        ("GRAM", "n-queens-8", None, "training set not stated, any valid answer counts"),
    ],
)
def test_published_row_that_is_not_comparable_has_a_table_that_says_why(
    system: str, benchmark: str, split: str | None, words: str
) -> None:
    table = table_with(system, benchmark, split=split)
    assert words in table.heading and not systems(table) & {"TRM-MLP", "TRM-Att", "o3-mini (High)"}


def test_rows_of_two_protocols_never_share_a_table() -> None:
    """Also where test-time compute and training set are the same."""
    rows = load_baselines()
    first = next(row for row in rows if row.system == "PTRM" and row.benchmark == "sudoku-extreme")
    others = [first.model_copy(update={"system": name, "protocol": name}) for name in ("single", "search")]
    tables = build_leaderboard(None, [], [*rows, *others])
    protocols = {(r.benchmark, r.system, r.source, r.detail): r.protocol for r in (*rows, *others)}
    for table in tables:
        found = {protocols[table.benchmark, e.system, e.source, e.detail] for e in table.entries}
        assert found == {table.protocol}
    places = [[t for t in tables if name in systems(t)] for name in ("single", "search")]
    assert [len(found) for found in places] == [1, 1] and all("PTRM" not in systems(found[0]) for found in places)


def test_row_for_which_any_valid_answer_counts_is_not_ranked_with_labels() -> None:
    known = next(row for row in load_baselines("maze-hard") if row.system == "TRM-Att")
    assert known.correct == "label"
    rows = [known.model_copy(update={"system": name, "correct": name or None}) for name in ("valid", "label", "")]
    tables = build_leaderboard("maze-hard", [], [*load_baselines("maze-hard"), *rows])
    (customary,) = [table for table in tables if "TRM-Att" in systems(table)]
    assert {"label", ""} <= systems(customary) and customary.scoring == ""
    (valid,) = [table for table in tables if "valid" in systems(table)]
    assert systems(valid) == {"valid"} and valid.heading.endswith("exact accuracy, any valid answer counts")


@pytest.mark.parametrize(
    ("benchmark", "stated", "words"),
    [
        ("arc-agi-1", {"passes": 16, "samples": 1}, "votes not stated"),
        ("arc-agi-1", {"passes": 16, "samples": 1, "votes": 1_000}, ""),
        ("arc-agi-1", {"passes": 16, "samples": 1, "votes": 1_001}, "vote over 1,001 views"),
        ("maze-hard", {"passes": 16, "votes": 1}, "samples not stated"),
        ("maze-hard", {"samples": 1}, "supervision steps not stated"),
        ("maze-hard", {"passes": 17, "samples": 2, "votes": 2}, "17 supervision steps, vote over 2 views, 2 samples"),
    ],
)
def test_row_of_the_user_has_the_table_of_what_it_states(benchmark: str, stated: dict[str, int], words: str) -> None:
    values = {"benchmark": benchmark, "system": "mine", "kind": "trm", "role": "headline", "source": "a paper"}
    values |= {"split": "public-eval", "metric": "pass@2"} if "arc" in benchmark else {"split": "test"}
    row = Baseline.parse(
        {"metric": "exact_accuracy", "protocol": "single", "evidence": "claimed", "date": "2026", "train_puzzles": 900}
        | {"score": 99.0, "items": ITEMS[benchmark]}
        | values
        | stated
    )
    (table,) = [t for t in build_leaderboard(benchmark, [], [row]) if "mine" in systems(t)]
    assert (table.compute, table.training) == (words, "")


def test_row_of_the_user_without_stated_compute_is_not_ranked_with_stated_ones() -> None:
    values = {"benchmark": "maze-hard", "system": "mine", "kind": "trm", "role": "headline", "split": "test"}
    values |= {"metric": "exact_accuracy", "protocol": "single", "source": "a paper", "evidence": "claimed"}
    row = Baseline.parse(values | {"score": 99.0, "items": 1_000, "date": "2026"})
    stated = row.model_copy(update={"system": "stated", "passes": 16, "samples": 1, "train_puzzles": 1_000})
    tables = build_leaderboard("maze-hard", [], [*load_baselines(), row, stated])
    (unknown,) = [table for table in tables if "mine" in systems(table)]
    (known,) = [table for table in tables if "stated" in systems(table)]
    assert "TRM-Att" not in systems(unknown) and "TRM-Att" in systems(known)
