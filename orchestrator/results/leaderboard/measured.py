"""Convert measured language models to rows, and score own runs on the same part of the test set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from orchestrator.records.schema import TrialRecord
from orchestrator.results.leaderboard.comparable import TableKey, measured_key, ranked_name
from orchestrator.results.leaderboard.confirmed import RANKED_METRICS, first_puzzles
from orchestrator.results.leaderboard.rows import MEASURED_HERE, Entry, item_interval, task_interval
from orchestrator.results.llm_results import Measured
from orchestrator.sweep.text import plural


def measured_label(measured: Measured) -> str:
    """Return the name of the benchmark in tables; see `ranked_name`."""
    return ranked_name(measured.plan.benchmark, is_generated=measured.generated)


def is_ranked(measured: Measured) -> bool:
    """Return whether a measurement was scored on the test split."""
    return measured.plan.split == "test"


def measured_entries(measurements: Iterable[Measured]) -> Iterator[tuple[TableKey, Entry]]:
    """Yield the rows of each measurement, one per metric."""
    for measured in measurements:
        for metric in RANKED_METRICS:
            if is_ranked(measured) and metric in measured.metrics:
                yield _key(measured, metric), _entry(measured, metric)


def shortened(records: Sequence[TrialRecord], measurements: Iterable[Measured]) -> list[TrialRecord]:
    """Return confirmed records scored on exactly the puzzles of each language model, if these are the first puzzles of
    the same test set."""
    parts = {(m.plan.fingerprint, m.puzzles) for m in measurements if is_ranked(m) and m.puzzles < m.puzzles_in_split}
    cut = (
        first_puzzles(record, puzzles)
        for fingerprint, puzzles in sorted(parts)
        for record in records
        if record.dataset.fingerprint == fingerprint
    )
    return [record for record in cut if record is not None]


def _key(measured: Measured, metric: str) -> TableKey:
    return measured_key(
        measured_label(measured), measured.plan.fingerprint, metric, measured.puzzles, measured.puzzles_in_split
    )


def _entry(measured: Measured, metric: str) -> Entry:
    score, shares = 100 * measured.metrics[metric], measured.per_task.get(metric)
    plan = measured.plan
    detail = [f"endpoint {plan.endpoint}", f"up to {plan.max_tokens:,} tokens an answer"]
    if plan.reasoning_effort is not None:
        detail.append(f"{plan.reasoning_effort} reasoning effort")
    if plan.temperature is not None:
        detail.append(f"temperature {plan.temperature:g}")
    if measured.attempts > 1:
        detail.append("second attempt only where the first was wrong")
    if measured.truncated:
        detail.append(f"{plural(measured.truncated, 'answer')} cut off")
    if measured.unreadable:
        detail.append(f"{plural(measured.unreadable, 'answer')} without a whole grid")
    detail.append(f"record {measured.name}")
    return Entry(
        system=plan.model,
        kind="llm",
        score=score,
        items=measured.puzzles,
        item_interval=task_interval(shares) if shares else item_interval(score, measured.puzzles),
        seeds=None,
        params=None,
        cost_per_task_usd=measured.usd / measured.puzzles,
        source="this project",
        detail="; ".join(detail),
        date=datetime.fromtimestamp(measured.ended_s, UTC).date().isoformat(),
        evidence=MEASURED_HERE,
    )
