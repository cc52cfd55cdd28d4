"""Language models in leaderboards: ranked on the same puzzles only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.records.schema import DatasetInfo
from orchestrator.results.baselines import load_baselines
from orchestrator.results.leaderboard import Table, build_leaderboard
from orchestrator.results.llm_results import Measured, Plan, read_measurements, store
from orchestrator.storage import LocalStorage
from tests.support.results import make_config, make_record
from trm_data.errors import ConfigError

LLM_PLAN: dict[str, Any] = {"benchmark": "b", "fingerprint": "f", "split": "test", "endpoint": "http://x/v1"}
LLM_PLAN |= {"model": "M", "max_tokens": 100}


def measured_of(dataset: DatasetInfo, puzzles: int, solved: int, **changes: Any) -> Measured:
    plan = Plan(
        benchmark=dataset.benchmark,
        fingerprint=dataset.fingerprint,
        split=changes.pop("split", "test"),
        endpoint="http://x/v1",
        model="M",
        max_tokens=100,
    )
    values: dict[str, Any] = {
        "name": "m-1",
        "plan": plan,
        "generated": dataset.generated,
        "puzzles": puzzles,
        "puzzles_in_split": dataset.counts["test"],
        "items": puzzles,
        "attempts": 1,
        "metrics": {"exact_accuracy": solved / puzzles},
        "per_item": "",
        "per_task": {},
        "usd": 1.0,
        "answers": puzzles,
        "tokens_in": 1,
        "tokens_out": 1,
        "estimated": False,
        "truncated": 0,
        "unreadable": 0,
        "ended_s": 1_790_000_000.0,
    }
    return Measured(**values | changes)


def table_with(tables: list[Table], system: str) -> Table:
    (found,) = [table for table in tables if any(entry.system == system for entry in table.entries)]
    return found


def test_name_of_a_model_that_cannot_be_printed_is_refused() -> None:
    for name in ("a\x1b[2Jb", "a\nb", "a\u202eb"):
        with pytest.raises(ConfigError, match="cannot be printed"):
            Plan.parse({**LLM_PLAN, "model": name})
    assert Plan.parse(LLM_PLAN).model == "M"


def test_language_model_stands_beside_own_runs_on_exactly_its_puzzles() -> None:
    record = make_record(make_config(), score=0.9, stage="confirm", family="best")
    tables = build_leaderboard(None, [record], [], [measured_of(record.dataset, 80, 20)])
    assert [table.items for table in tables] == [500, 80]  # the page speaks of the first one
    table = table_with(tables, "M")
    assert table.split == "80 of 500 test items" and table.items == 80
    scores = {entry.system: entry.score for entry in table.entries}
    exact = np.unpackbits(np.frombuffer(bytes.fromhex(record.result.per_item), np.uint8))[:80]  # type: ignore[union-attr, arg-type]
    assert scores == pytest.approx({"best": 100 * exact.mean(), "M": 25.0})
    assert [entry.system for entry in table.entries if entry.stands_out] == ["best", "M"], "both were measured here"
    whole = table_with(build_leaderboard(None, [record], [], [measured_of(record.dataset, 500, 100)]), "M")
    assert whole.split == "test" and {entry.system for entry in whole.entries} == {"best", "M"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"attempts": 2}, ["second attempt only where the first was wrong"]),
        ({"truncated": 3}, ["3 answers cut off"]),
        ({"unreadable": 2}, ["2 answers without a whole grid"]),
    ],
)
def test_row_of_a_language_model_says_how_it_was_measured(changes: dict[str, Any], words: list[str]) -> None:
    dataset = make_record(make_config(), score=0.9).dataset
    table = table_with(build_leaderboard(None, [], [], [measured_of(dataset, 80, 20, **changes)]), "M")
    (row,) = table.entries
    assert row.detail.split("; ") == ["endpoint http://x/v1", "up to 100 tokens an answer", *words, "record m-1"]
    assert row.cost_per_task_usd == pytest.approx(1 / 80) and row.date == "2026-09-21"


@pytest.mark.parametrize("data", [b"", b"[]", b"[" * 100_000, b'{"name": "m"}'])
def test_a_damaged_result_is_skipped_named_and_replaced(
    data: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = LocalStorage(tmp_path)
    measured = measured_of(make_record(make_config(), score=0.9).dataset, 80, 20)
    store(storage.sub("llm/good"), measured)
    storage.write("llm/bad/result.json", data)
    assert read_measurements(storage) == [measured] and "llm/bad/result.json" in caplog.text
    store(storage.sub("llm/bad"), measured)
    assert read_measurements(storage) == [measured, measured]


@pytest.mark.parametrize(
    "changes",
    [{"fingerprint": "ffff"}, {"benchmark": "sudoku-9x9"}],
    ids=["other puzzles", "other benchmark"],
)
def test_language_model_is_never_ranked_with_other_puzzles(changes: dict[str, Any]) -> None:
    record = make_record(make_config(), score=0.9, stage="confirm", family="best")
    tables = build_leaderboard(
        None, [record], load_baselines(), [measured_of(record.dataset.model_copy(update=changes), 80, 20)]
    )
    assert [entry.system for entry in table_with(tables, "M").entries] == ["M"]


def test_language_model_on_validation_or_with_another_metric_has_no_row() -> None:
    record = make_record(make_config(), score=0.9, stage="confirm", family="best")
    on_validation = measured_of(record.dataset, 80, 20, split="validation")
    other_metric = measured_of(record.dataset, 80, 20, metrics={"valid_accuracy": 0.5})
    for measured in (on_validation, other_metric):
        systems = {e.system for table in build_leaderboard(None, [record], [], [measured]) for e in table.entries}
        assert "M" not in systems


def test_language_model_on_all_public_arc_tasks_is_ranked_with_published_rows_by_task() -> None:
    dataset = DatasetInfo(benchmark="arc-agi-2", fingerprint="f", counts={"test": 120})
    shares = [1.0] * 10 + [0.5] * 4 + [0.0] * 106
    mean = sum(shares) / 120
    measured = measured_of(
        dataset, 120, 0, metrics={"pass@2": mean, "exact_accuracy": 0.1}, per_task={"pass@2": shares}, items=172
    )
    tables = [t for t in build_leaderboard("arc-agi-2", [], load_baselines(), [measured]) if t.metric == "pass@2"]
    table = table_with(tables, "M")
    assert table.split == "public-eval" and "TRM-Att" in {entry.system for entry in table.entries}
    row = next(entry for entry in table.entries if entry.system == "M")
    assert row.score == pytest.approx(10.0) and row.items == 120
    assert row.item_interval == pytest.approx((5.4, 15.4), abs=0.6)  # mean of 10 with sd 28.4 over 120 tasks
