"""Build tables from records and published results."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.records.schema import TrialRecord
from orchestrator.results import stats
from orchestrator.results.baselines import AS_PRINTED, Baseline
from orchestrator.results.baselines.own import can_have_results, known_benchmarks
from orchestrator.results.leaderboard.comparable import PUBLISHED, TableKey, num_trained, published_key
from orchestrator.results.leaderboard.confirmed import (
    RANKED_METRICS,
    group_families,
    is_confirmed,
    label,
    named_entries,
)
from orchestrator.results.leaderboard.measured import measured_entries, measured_label, shortened
from orchestrator.results.leaderboard.rows import Entry, Table, item_interval
from orchestrator.results.llm_results import Measured
from orchestrator.sweep.text import plural
from trm_data.errors import UserError, nearest

_TRAINED = ("trm", "hrm", "direct", "system")
"""Kinds whose score depends on the seed of a training run."""


def build_leaderboard(
    benchmark: str | None,
    records: Sequence[TrialRecord],
    baselines: Sequence[Baseline],
    measured: Sequence[Measured] = (),
) -> list[Table]:
    """Return the tables of one benchmark (or of all): those with rows measured here first, then by name.

    Raises:
        UserError: a benchmark that is neither published nor among the records, and cannot be built either.
    """
    names = {row.benchmark for row in baselines} | {label(r) for r in records}
    names |= {r.dataset.benchmark for r in records}
    names |= {name for m in measured for name in (measured_label(m), m.plan.benchmark)}
    if benchmark is not None and not {benchmark, f"{benchmark}-generated"} & names and not can_have_results(benchmark):
        known = names | known_benchmarks()
        alike = sorted(name for name in known if name.startswith(f"{benchmark}-"))
        remedy = f"Name one of {', '.join(alike)}" if alike else nearest(benchmark, known)
        raise UserError(f"there is no leaderboard for benchmark {benchmark!r}", remedy)
    wanted = names if benchmark is None else {benchmark, f"{benchmark}-generated"}
    chosen = [record for record in _unique(records) if label(record) in wanted and is_confirmed(record)]
    chosen_models = [measurement for measurement in measured if measured_label(measurement) in wanted]
    chosen += shortened(chosen, chosen_models)
    rows: dict[TableKey, list[Entry]] = defaultdict(list)
    scorings: Counter[TableKey] = Counter()
    for metric in RANKED_METRICS:
        groups = group_families(chosen, metric)
        for (key, _), group in groups.items():
            scorings[key] += len(group)
        for key, entry in named_entries(groups, metric):
            rows[key].append(entry)
    for key, entry in measured_entries(chosen_models):
        rows[key].append(entry)
    for row in baselines:
        if row.benchmark in wanted and row.role != "ablation" and row.split != AS_PRINTED:
            rows[published_key(row)].append(_published_entry(row))
    tables = [_table(key, entries, scorings[key]) for key, entries in rows.items()]
    return sorted(tell_apart(tables, chosen), key=_order)


def tell_apart(tables: Sequence[Table], records: Sequence[TrialRecord]) -> list[Table]:
    """Return the tables; those that share a heading are on several datasets, and each names its own."""
    shared = {heading for heading, count in Counter(table.heading for table in tables).items() if count > 1}
    trained = {record.dataset.fingerprint: num_trained(record) for record in records}
    found = []
    for table in tables:
        if table.heading in shared and table.fingerprint:
            used = trained.get(table.fingerprint)
            words = f" with {plural(used, 'training puzzle')}" if used else ""
            table = replace(table, dataset=f"dataset {table.fingerprint[:8]}{words}")
        found.append(table)
    return found


def _order(table: Table) -> tuple[bool, str, bool, bool, int, int, str]:
    """Return the sort key: tables with rows measured here first, then customary classes, then the fullest."""
    puzzles = (table.items or 0) if table.has_measured else 0
    ensembles = table.protocol != "single"
    unusual = bool(table.compute or table.training or table.scoring)
    return not table.has_measured, table.benchmark, ensembles, unusual, -puzzles, -len(table.entries), table.heading


def select(
    tables: Sequence[Table], *, split: str | None = None, metric: str | None = None, protocol: str | None = None
) -> list[Table]:
    """Return the tables with this split, metric and protocol. Each is one value: nothing is ranked across them.

    Raises:
        UserError: no table has the value.
    """
    chosen = list(tables)
    for name, value in (("split", split), ("metric", metric), ("protocol", protocol)):
        if value is None:
            continue
        known = sorted({str(getattr(table, name)) for table in chosen})
        if value not in known:
            raise UserError(f"no table has {name} {value!r}; a query names one", nearest(value, known))
        chosen = [table for table in chosen if getattr(table, name) == value]
    return chosen


def _published_entry(row: Baseline) -> Entry:
    return Entry(
        system=row.system,
        kind=row.kind,
        score=row.score,
        items=row.items,
        item_interval=item_interval(row.score, row.items) if row.items else None,
        seeds=row.seeds,
        params=row.params,
        role=row.role,
        cost_per_task_usd=row.cost_per_task_usd,
        passes=row.passes,
        votes=row.votes,
        samples=row.samples,
        curve=row.curve,
        train_puzzles=row.train_puzzles,
        gpu_hours=row.train_gpu_hours,
        gpu=row.train_gpu,
        source=row.source,
        detail=row.detail,
        date=row.date,
        evidence=row.evidence,
    )


def _table(key: TableKey, entries: list[Entry], scorings: int) -> Table:
    ordered = sorted(entries, key=lambda entry: (-entry.score, entry.system))
    published = PUBLISHED.get(key.benchmark)
    assumed = published.seed_spread if published else 0.0
    comparable = [index for index, entry in enumerate(ordered) if _has_error(entry, assumed)]
    ranges = rank_rows([ordered[index] for index in comparable], key.benchmark)
    for index, ranks in zip(comparable, ranges, strict=True):
        ordered[index] = replace(ordered[index], ranks=ranks)
    sizes = {entry.items for entry in ordered if entry.items}
    return Table(
        benchmark=key.benchmark,
        title=published.title if published else key.benchmark,
        split=key.split,
        metric=key.metric,
        protocol=key.protocol,
        compute=key.compute,
        training=key.training,
        scoring=key.scoring,
        items=sizes.pop() if len(sizes) == 1 else None,
        entries=tuple(ordered),
        fingerprint=key.fingerprint,
        test_scorings=scorings,
    )


def rank_rows(entries: Sequence[Entry], benchmark: str, *, simultaneous: bool = False) -> list[tuple[int, int]]:
    """Return the ranks that the data allow, for rows with known errors: see `stats.rank_ranges`."""
    published = PUBLISHED.get(benchmark)
    errors, degrees = _errors(entries, published.seed_spread if published else 0.0)
    scores = [entry.score / 100 for entry in entries]
    return stats.rank_ranges(scores, errors, degrees, simultaneous=simultaneous)


def _has_error(entry: Entry, assumed_spread: float) -> bool:
    """Return whether a row can be ranked: its number of puzzles and, if measured here, its spread over seeds are
    known."""
    return bool(entry.items) and (entry.own is None or entry.own.spread is not None or assumed_spread > 0)


def _errors(entries: Sequence[Entry], assumed_spread: float) -> tuple[list[float], list[float]]:
    """Return standard errors and degrees of freedom from puzzles and from seeds (measured or assumed)."""
    errors, degrees = [], []
    for entry in entries:
        item_variance = stats.proportion_error(entry.score / 100, entry.items or 1) ** 2
        seed_variance, freedom = 0.0, math.inf
        if entry.own and entry.own.spread is not None:
            shares, seeds = [score / 100 for score in entry.own.scores], len(entry.own.scores)
            least = stats.least_deviation(shares, entry.items or 1)
            seed_variance = max(entry.own.spread / 100, least) ** 2 / seeds
            freedom = (item_variance + seed_variance) ** 2 / (seed_variance**2 / (seeds - 1))
            if entry.own.spread == 0:
                # Equal scores do not show how large the seeds' part of the error is, so the fewest
                # degrees of freedom are assumed.
                freedom = seeds - 1
        elif entry.kind in _TRAINED:
            seed_variance = (assumed_spread / 100) ** 2 / (entry.seeds or 1)
        errors.append(math.sqrt(item_variance + seed_variance))
        degrees.append(freedom)
    return errors, degrees


def _unique(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Drop duplicates of a trial that several sweeps share."""
    return list({record.trial_id: record for record in records}.values())
