"""Own results and published ones side by side, one table per set of scored puzzles, metric and protocol.

Invariants. Rows of one table were scored on the same puzzles with the same metric. Only confirmed results enter: the
confirm stage of a search or any cell of a study, finished, scored on the test split. Results on generated puzzles, or
on a part of a published test set, have a table of their own.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from orchestrator import statistics
from orchestrator.baselines import AS_PRINTED, Baseline
from orchestrator.identity import trial_id
from orchestrator.record import Status, TrialRecord
from orchestrator.statistics import Interval
from trm_data.errors import UserError, nearest


class Benchmark(NamedTuple):
    """A published test set: the split on which an own `test` score may stand beside published ones, and its size."""

    title: str
    test_split: str
    items: int


PUBLISHED = {
    "sudoku-extreme": Benchmark("Sudoku-Extreme", "test", 422_786),
    "maze-hard": Benchmark("Maze-Hard", "test", 1_000),
    "arc-agi-1": Benchmark("ARC-AGI-1", "public-eval", 400),
    "arc-agi-2": Benchmark("ARC-AGI-2", "public-eval", 120),
}
RANKED_METRICS = ("exact_accuracy", "pass@1", "pass@2")
CONFIRMED_STAGES = ("confirm", "study")
SPLIT_TITLES = {
    "test": "test split",
    "public-eval": "public evaluation",
    "semi-private": "semi-private evaluation",
    "private": "private evaluation",
    "unstated-subset": "subset of unstated size",
    "one-percent-of-test": "1 % of the test split",
    "own-9x9-test": "authors' own 9x9 test",
    "own-250k-subset": "authors' own subset of 250,000",
    AS_PRINTED: "as printed in TRM Table 5",
}
METRIC_TITLES = {
    "exact_accuracy": "exact accuracy",
    "peak_exact_accuracy": "best exact accuracy of a run",
    "pass@1": "one attempt",
    "pass@2": "two attempts",
}


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an own row comes from: everything needed to find its records again."""

    trial_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    """Per cent, one per seed."""
    sweeps: tuple[str, ...]
    stages: tuple[str, ...]
    settings: dict[str, Any]
    """The configuration without seed, label and runtime."""
    fingerprint: str
    commits: tuple[str, ...]
    machines: tuple[str, ...]
    spread: float | None
    """Standard deviation over seeds, in points."""
    seed_interval: Interval | None
    """Student's t interval of the mean over seeds, per cent."""
    train_flops: float | None
    train_s: float | None
    puzzles_presented: float | None
    """Means over seeds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of a table. `score` and intervals are percentages."""

    system: str
    kind: str
    score: float
    items: int | None
    item_interval: Interval | None
    """Wilson interval over the scored puzzles; None where their number is not published."""
    seeds: int | None
    params: int | None
    ranks: tuple[int, int] | None = None
    """The ranks that the data leave possible; None where the row has no error to compare by."""
    role: str = "headline"
    cost_per_task_usd: float | None = None
    source: str = ""
    detail: str = ""
    date: str = ""
    evidence: str = ""
    own: Provenance | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Comparable rows, best first."""

    benchmark: str
    title: str
    split: str
    metric: str
    protocol: str
    items: int | None
    entries: tuple[Entry, ...]
    fingerprint: str = ""
    """Of the dataset, where the test set is not a published one."""
    test_scorings: int = 0
    """Times that own trials were scored on this test set: each look at it makes a chance winner likelier."""

    @property
    def has_own(self) -> bool:
        """Whether a row is our own."""
        return any(entry.own for entry in self.entries)

    @property
    def heading(self) -> str:
        """Benchmark, split, metric and protocol in words."""
        split = SPLIT_TITLES.get(self.split, self.split)
        words = [self.title, split, METRIC_TITLES.get(self.metric, self.metric)]
        return ", ".join([*words, *(["ensembles"] if self.protocol == "ensemble" else [])])

    @property
    def power(self) -> str:
        """What a test set of this size cannot show, in words; empty where its size is unknown."""
        if self.items is None or not self.entries:
            return ""
        typical = float(np.median([entry.score for entry in self.entries])) / 100
        near = min(max(typical, 0.05), 0.95)
        gap = f"{100 * statistics.detectable_gap(near, self.items):.1f} points near {100 * near:.0f} %"
        return f"With {self.items:,} items a gap below {gap} cannot be seen (80 % power)."


def is_confirmed(record: TrialRecord) -> bool:
    """Whether a result may be compared in public: chosen before it was scored, finished, and on the test split."""
    return refusal(record) is None


def refusal(record: TrialRecord) -> str | None:
    """Why a record cannot enter a leaderboard; None if it can."""
    if record.stage not in CONFIRMED_STAGES:
        return "search stage"
    if record.status is not Status.FINISHED or record.result is None:
        return f"not finished ({record.status})"
    if record.result["split"] != "test":
        return f"scored on {record.result['split']}"
    if not any(metric in record.result["metrics"] for metric in RANKED_METRICS):
        return "no ranked metric"
    return None


def refusals(records: Iterable[TrialRecord]) -> dict[str, int]:
    """How many records cannot enter, by reason."""
    return dict(Counter(reason for reason in map(refusal, records) if reason))


def label(record: TrialRecord) -> str:
    """The benchmark's name in tables: generated puzzles never go by the name of a published set."""
    name = str(record.dataset["benchmark"])
    return f"{name}-generated" if record.dataset["generated"] and not name.endswith("-generated") else name


def build_leaderboard(
    benchmark: str | None, records: Sequence[TrialRecord], baselines: Sequence[Baseline]
) -> list[Table]:
    """The tables of one benchmark (or of all): those with own rows first, then by name, headline split first.

    Raises:
        UserError: a benchmark that is neither published nor among the records.
    """
    names = {row.benchmark for row in baselines} | {label(r) for r in records}
    names |= {str(r.dataset["benchmark"]) for r in records}
    if benchmark is not None and benchmark not in names:
        raise UserError(f"there is no leaderboard for benchmark {benchmark!r}", nearest(benchmark, names))
    wanted = names if benchmark is None else {benchmark, f"{benchmark}-generated"}
    chosen = [record for record in _unique(records) if label(record) in wanted and is_confirmed(record)]
    rows: dict[_Key, list[Entry]] = defaultdict(list)
    scorings: Counter[_Key] = Counter()
    for metric in RANKED_METRICS:
        groups = _group(chosen, metric)
        for (key, _), group in groups.items():
            scorings[key] += len(group)
        for key, entry in _named_entries(groups, metric):
            rows[key].append(entry)
    for row in baselines:
        if row.benchmark in wanted and row.role != "ablation" and row.split != AS_PRINTED:
            rows[_Key(row.benchmark, row.split, row.metric, row.protocol, "")].append(_published_entry(row))
    tables = [_table(key, entries, scorings[key]) for key, entries in rows.items()]
    return sorted(tables, key=lambda t: (not t.has_own, t.benchmark, t.protocol != "single", -len(t.entries), t.split))


class _Key(NamedTuple):
    """What rows must share to stand in one table."""

    benchmark: str
    split: str
    metric: str
    protocol: str
    fingerprint: str


_Group = tuple[_Key, str]


def _unique(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """A trial that several sweeps share counts once."""
    return list({record.trial_id: record for record in records}.values())


def _key(record: TrialRecord, metric: str, items: int) -> _Key:
    name = label(record)
    published = PUBLISHED.get(name)
    fingerprint = str(record.dataset["fingerprint"])
    if published is None:
        return _Key(name, "test", metric, "single", fingerprint)
    if items != published.items:
        return _Key(name, f"{items:,} of {published.items:,} test items", metric, "single", fingerprint)
    return _Key(name, published.test_split, metric, "single", "")


def settings_of(record: TrialRecord) -> dict[str, Any]:
    """The configuration without what differs between the runs of one family: seed, label, runtime."""
    return {name: value for name, value in record.config.plain().items() if name not in ("seed", "recipe", "runtime")}


def _group(records: Iterable[TrialRecord], metric: str) -> dict[_Group, list[TrialRecord]]:
    groups: dict[_Group, list[TrialRecord]] = defaultdict(list)
    for record in records:
        result = record.result or {}
        if metric in result["metrics"]:
            seedless = record.config.model_copy(update={"seed": 0})
            identity = trial_id(seedless, str(record.dataset["fingerprint"]))
            groups[_key(record, metric, int(result["items"])), identity].append(record)
    return groups


def _named_entries(groups: dict[_Group, list[TrialRecord]], metric: str) -> list[tuple[_Key, Entry]]:
    """Entries of own results, each under a name of its own: a family's, with its sweep or hash where two share it."""
    uses = Counter((key, group[0].family) for (key, _), group in groups.items())
    sweeps = Counter((key, group[0].family, group[0].sweep) for (key, _), group in groups.items())
    entries = []
    for (key, identity), group in groups.items():
        first = group[0]
        name = first.family
        if uses[key, name] > 1:
            alone = sweeps[key, name, first.sweep] == 1
            name = f"{name} ({first.sweep if alone else identity[:6]})"
        entries.append((key, _own_entry(name, group, metric)))
    return entries


def _own_entry(name: str, group: list[TrialRecord], metric: str) -> Entry:
    group = sorted(group, key=lambda record: record.config.seed)
    results = [record.result or {} for record in group]
    scores = tuple(100 * float(result["metrics"][metric]) for result in results)
    items = int(results[0]["items"])
    mean = float(np.mean(scores))
    provenance = Provenance(
        trial_ids=tuple(record.trial_id for record in group),
        seeds=tuple(record.config.seed for record in group),
        scores=scores,
        sweeps=_distinct(record.sweep for record in group),
        stages=_distinct(record.stage for record in group),
        settings=settings_of(group[0]),
        fingerprint=str(group[0].dataset["fingerprint"]),
        commits=_distinct(commit for record in group for commit in _commits(record)),
        machines=_distinct(machine for record in group for machine in _machines(record)),
        spread=statistics.spread(scores),
        seed_interval=statistics.mean_interval(scores),
        train_flops=_mean(results, "train_flops"),
        train_s=_mean(results, "train_s"),
        puzzles_presented=_mean(results, "puzzles_presented"),
    )
    return Entry(
        system=name,
        kind=group[0].config.model.variant,
        score=mean,
        items=items,
        item_interval=_wilson(mean, items),
        seeds=len(group),
        params=results[0].get("num_parameters"),
        source="this project",
        evidence="own",
        own=provenance,
    )


def _published_entry(row: Baseline) -> Entry:
    return Entry(
        system=row.system,
        kind=row.kind,
        score=row.score,
        items=row.items,
        item_interval=_wilson(row.score, row.items) if row.items else None,
        seeds=row.seeds,
        params=row.params,
        role=row.role,
        cost_per_task_usd=row.cost_per_task_usd,
        source=row.source,
        detail=row.detail,
        date=row.date,
        evidence=row.evidence,
    )


def _table(key: _Key, entries: list[Entry], scorings: int) -> Table:
    ordered = sorted(entries, key=lambda entry: (-entry.score, entry.system))
    comparable = [index for index, entry in enumerate(ordered) if entry.items]
    ranges = statistics.rank_ranges(
        [ordered[index].score / 100 for index in comparable], *_errors([ordered[index] for index in comparable])
    )
    for index, ranks in zip(comparable, ranges, strict=True):
        ordered[index] = replace(ordered[index], ranks=ranks)
    published = PUBLISHED.get(key.benchmark)
    sizes = {entry.items for entry in ordered if entry.items}
    return Table(
        benchmark=key.benchmark,
        title=published.title if published else key.benchmark,
        split=key.split,
        metric=key.metric,
        protocol=key.protocol,
        items=sizes.pop() if len(sizes) == 1 else None,
        entries=tuple(ordered),
        fingerprint=key.fingerprint,
        test_scorings=scorings,
    )


def _errors(entries: list[Entry]) -> tuple[list[float], list[float]]:
    """Standard errors and degrees of freedom: the items' share, and for own rows that of the seeds as well."""
    errors, degrees = [], []
    for entry in entries:
        item_variance = statistics.proportion_error(entry.score / 100, entry.items or 1) ** 2
        seed_variance = 0.0
        freedom = math.inf
        if entry.own and entry.own.spread:
            seed_variance = (entry.own.spread / 100) ** 2 / len(entry.own.scores)
            freedom = (item_variance + seed_variance) ** 2 / (seed_variance**2 / (len(entry.own.scores) - 1))
        errors.append(math.sqrt(item_variance + seed_variance))
        degrees.append(freedom)
    return errors, degrees


def _wilson(score: float, items: int) -> Interval:
    low, high = statistics.wilson(score / 100, items)
    return Interval(100 * low, 100 * high)


def _mean(results: list[dict[str, Any]], name: str) -> float | None:
    values = [float(result[name]) for result in results if result.get(name) is not None]
    return float(np.mean(values)) if values else None


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _commits(record: TrialRecord) -> list[str]:
    """The code of each attempt: the commit of a checkout, else the version of the installed package."""
    found = []
    for attempt in record.attempts:
        git, versions = attempt.start.get("git") or {}, attempt.start.get("versions") or {}
        if git.get("commit"):
            found.append(f"{git['commit'][:12]}{' with changes' if git.get('dirty') else ''}")
        elif "trm-orchestrator" in versions:
            found.append(f"version {versions['trm-orchestrator']}")
    return found


def _machines(record: TrialRecord) -> list[str]:
    starts = [attempt.start for attempt in record.attempts]
    return [f"{s.get('host', '?')} ({s.get('gpu_name') or s.get('processor') or s.get('device', '?')})" for s in starts]
