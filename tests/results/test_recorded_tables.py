"""Leaderboards, comparisons and figures are those of earlier versions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.results.ablation import compare_with_control
from orchestrator.results.baselines import load_baselines
from orchestrator.results.dataframe import frame_of, summary
from orchestrator.results.leaderboard import Table, build_leaderboard
from orchestrator.results.power import PairedPower, WelchPower, detectable_gap, seeds_needed
from orchestrator.results.report.formats import to_json, to_markdown
from orchestrator.results.seeds import seed_interval, seed_warning, unseen_rate
from tests.support.recorded import compare
from tests.support.results import DATASET, ablation_records, demo_records, large_records

SHOWN = ("system", "score", "ranks", "item_interval", "answer_passes", "stands_out", "is_contradicted")


def _published(table: Table) -> dict[str, Any]:
    facts = ("items", "metric", "protocol", "compute", "training", "scoring")
    rows = [[getattr(entry, name) for name in SHOWN] for entry in table.entries]
    return {name: getattr(table, name) for name in facts} | {"rows": rows}


def test_tables_of_published_rows_are_as_recorded() -> None:
    tables = build_leaderboard(None, [], load_baselines())
    names = [" / ".join(filter(None, (t.title, t.split, t.metric, t.protocol, t.compute, t.training))) for t in tables]
    assert len(set(names)) == len(names)
    compare("tables-published", {name: _published(table) for name, table in zip(names, tables, strict=True)})


@pytest.mark.parametrize("name", ["demo", "ablation", "large", "sudoku-extreme"])
def test_tables_of_own_records_are_as_recorded(name: str) -> None:
    published = DATASET.model_copy(update={"benchmark": "sudoku-extreme", "generated": False, "fingerprint": "f"})
    records = {
        "demo": demo_records,
        "ablation": ablation_records,
        "large": lambda: large_records(60, 4),
        "sudoku-extreme": lambda: [dataclasses.replace(r, dataset=published) for r in demo_records()],
    }[name]()
    tables = build_leaderboard(None if name == "sudoku-extreme" else "sudoku-6x6", records, load_baselines())
    own = [table for table in tables if table.has_own]
    frame = frame_of(records)
    found = {"json": json.loads(to_json(own)), "text": to_markdown(own).splitlines()}
    compare(f"tables-{name}", found | {"summary": summary(frame).to_dict("records"), "columns": list(frame.columns)})


@pytest.mark.parametrize("control", ["base", "single latent", "one-step gradient"])
def test_comparisons_are_as_recorded(control: str) -> None:
    ablation = compare_with_control(ablation_records(), control, baselines=load_baselines())
    effects = {effect.name: dataclasses.asdict(effect) for effect in ablation.effects}
    compare(f"effects-{control}".replace(" ", "-"), effects)


def test_intervals_and_numbers_of_seeds_are_as_recorded() -> None:
    found: dict[str, Any] = {}
    for scores in ([0.9, 0.92], [0.9, 0.92, 0.88], [0.0, 0.0, 0.97], [1.0, 1.0, 0.99, 1.0], [0.5] * 5, [0.1, 0.9] * 5):
        interval = seed_interval(scores, 1000)
        found[f"interval {scores}"] = [None if interval is None else list(interval), seed_warning(scores)]
    for count in (2, 3, 5, 10):
        found[f"unseen {count}"] = unseen_rate(count)
    for deviation in (0.005, 0.02, 0.1):
        tests: dict[str, Callable[[int], Any]] = {
            "Welch": lambda count, d=deviation: WelchPower((d, 2 * d), (count, count + 1), 0.05, resolution=0.004),
            "paired": lambda count, d=deviation: PairedPower(d, count, 0.01),
        }
        for name, test in tests.items():
            found[f"{name} {deviation}"] = [[test(n)(0.03), test(n).detectable()] for n in (2, 3, 8)]
            found[f"seeds, {name} {deviation}"] = [seeds_needed(difference, test) for difference in (0.01, 0.05)]
    for share in (0.0, 0.3, 0.874):
        for items in (3, 120, 1000, 422_786):
            found[f"gap {share} {items}"] = detectable_gap(share, items)
    compare("statistics", found)
