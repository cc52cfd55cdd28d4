"""Convert own results to rows: which records are eligible, and how the runs of one configuration become one row.

Only confirmed results enter: the confirm stage of a search or any cell of a study, finished, scored on the test split.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from orchestrator.records.schema import Status, TrialRecord, TrialResult
from orchestrator.records.state import shown
from orchestrator.resources.usage import mean_cost, trial_cost
from orchestrator.results import stats
from orchestrator.results.leaderboard.comparable import (
    TableKey,
    num_trained,
    own_compute,
    own_key,
    ranked_name,
    start_words,
)
from orchestrator.results.leaderboard.rows import Entry, Provenance, item_interval, task_interval
from orchestrator.results.seeds import seed_interval, seed_warning
from orchestrator.results.stats import Interval
from orchestrator.sweep.identity import trial_id
from trm_model.start_file import short_value

RANKED_METRICS = ("exact_accuracy", "pass@1", "pass@2")
CONFIRMED_STAGES = ("confirm", "study")


def is_confirmed(record: TrialRecord) -> bool:
    """Return whether a record is eligible for a leaderboard: confirmed or a cell of a study, finished, on the test
    split."""
    return refusal(record) is None


def refusal(record: TrialRecord) -> str | None:
    """Return why a record is not eligible for a leaderboard; None if it is."""
    if record.stage not in CONFIRMED_STAGES:
        return "of the search stage"
    if record.status is not Status.FINISHED or record.result is None:
        return f"not finished ({shown(record)})"
    if record.result.split != "test":
        return f"scored on {record.result.split}"
    if not any(metric in record.result.metrics for metric in RANKED_METRICS):
        return "without a ranked metric"
    return None


def refusals(records: Iterable[TrialRecord]) -> dict[str, int]:
    """Count the ineligible records by reason."""
    return dict(Counter(reason for reason in map(refusal, records) if reason))


def label(record: TrialRecord) -> str:
    """Return the name of the benchmark in tables; see `ranked_name`."""
    return ranked_name(record.dataset.benchmark, is_generated=record.dataset.generated)


_Group = tuple[TableKey, str]


def puzzles_scored(record: TrialRecord) -> int:
    """Return the number of scored puzzles; an ARC task is one, however many test inputs it has."""
    assert record.result is not None, "only finished trials are ranked"
    if record.result.per_task:
        return len(next(iter(record.result.per_task.values())))
    if record.dataset.benchmark.startswith("arc") and record.config.evaluation.max_puzzles is None:
        return record.dataset.counts["test"]
    return record.result.items


def first_puzzles(record: TrialRecord, puzzles: int) -> TrialRecord | None:
    """Return a confirmed record as if only the first puzzles of its test set had been scored.

    Returns:
        None where that is not a part of its test set, or the record holds no outcome per puzzle.
    """
    from trm_model.evaluation.outcomes import unpack_items

    result = record.result
    if result is None or puzzles_scored(record) <= puzzles:
        return None
    if result.per_task:
        per_task = {name: shares[:puzzles] for name, shares in result.per_task.items()}
        metrics = {name: float(np.mean(shares)) for name, shares in per_task.items()}
        return replace(record, result=result.model_copy(update={"metrics": metrics, "per_task": per_task}))
    if result.per_item is None or result.items != puzzles_scored(record):
        return None
    exact = unpack_items(result.per_item, result.items)[:puzzles]
    scored = {"items": puzzles, "metrics": {"exact_accuracy": float(exact.mean())}}
    return replace(record, result=result.model_copy(update=scored))


def settings_of(record: TrialRecord) -> dict[str, Any]:
    """Return the configuration without what may differ between the runs of one family: seed, label, runtime."""
    return {name: value for name, value in record.config.plain().items() if name not in ("seed", "recipe", "runtime")}


def group_families(records: Sequence[TrialRecord], metric: str) -> dict[_Group, list[TrialRecord]]:
    """Group the runs of each configuration (a trial without its seed) by the table that they belong to."""
    groups: dict[_Group, list[TrialRecord]] = defaultdict(list)
    identities: dict[tuple[tuple[int, ...], str], str] = {}  # thousands of trials differ in nothing but the seed
    for record in records:
        if record.result is not None and metric in record.result.metrics:
            family = tuple(map(id, record.config.sections)), record.dataset.fingerprint
            identity = identities.get(family)
            if identity is None:
                config = record.config.model_copy(update={"seed": 0})
                identity = identities[family] = trial_id(config, record.dataset.fingerprint)
            groups[own_key(record, label(record), metric, puzzles_scored(record)), identity].append(record)
    return groups


def named_entries(groups: dict[_Group, list[TrialRecord]], metric: str) -> list[tuple[TableKey, Entry]]:
    """Return the rows of own results, named by family, with the sweep or a hash added where two share a name."""
    uses = Counter((key, group[0].family) for (key, _), group in groups.items())
    sweeps = Counter((key, group[0].family, group[0].sweep) for (key, _), group in groups.items())
    entries = []
    for (key, identity), group in groups.items():
        first = group[0]
        name, address = first.family, first.config.train.start_from
        if address is not None and (start := short_value(address)) not in name:
            name = f"{name} from {start}"
        if uses[key, first.family] > 1:
            alone = sweeps[key, first.family, first.sweep] == 1
            name = f"{name} ({first.sweep if alone else identity[:6]})"
        entries.append((key, _own_entry(name, group, metric)))
    return entries


def without_depth(family: str) -> str:
    """Return the name of a configuration without its D."""
    return " ".join(part for part in family.split(" ") if not part.startswith("D=")) or "base"


def _curve(record: TrialRecord) -> str:
    """Return the name of a trial's depth curve: its configuration without D, with a hash, since names can be shared."""
    evaluation = record.config.evaluation.model_copy(update={"supervision_steps": None})
    config = record.config.model_copy(update={"seed": 0, "evaluation": evaluation})
    return f"{without_depth(record.family)} ({trial_id(config, record.dataset.fingerprint)[:6]})"


def _first_step_score(results: Sequence[TrialResult], metric: str, compute: tuple[int, int, int]) -> float | None:
    """Return the mean score after the first supervision step; None if it is not that of the same kind of answer."""
    passes, votes, samples = compute
    if metric != "exact_accuracy" or passes == 1 or votes > 1 or samples > 1:
        return None
    shares = [share for result in results if (share := result.metrics.get("first_step_accuracy")) is not None]
    return 100 * float(np.mean(shares)) if len(shares) == len(results) else None


def _own_entry(name: str, group: list[TrialRecord], metric: str) -> Entry:
    group = sorted(group, key=lambda record: record.config.seed)
    results = [record.result for record in group if record.result is not None]
    shares = [result.metrics[metric] for result in results]
    scores = tuple(100 * share for share in shares)
    items = puzzles_scored(group[0])
    mean = float(np.mean(scores))
    provenance = Provenance(
        trial_ids=tuple(record.trial_id for record in group),
        seeds=tuple(record.config.seed for record in group),
        scores=scores,
        sweeps=_distinct(record.sweep for record in group),
        stages=_distinct(record.stage for record in group),
        settings=settings_of(group[0]),
        fingerprint=group[0].dataset.fingerprint,
        commits=_distinct(commit for record in group for commit in _commits(record)),
        machines=_distinct(machine for record in group for machine in _machines(record)),
        spread=stats.spread(scores),
        seed_interval=_seed_interval(shares, items),
        warning=seed_warning(shares),
        train_flops=_mean([result.train_flops for result in results]),
        train_s=_mean([result.train_s for result in results]),
        puzzles_presented=_mean([result.puzzles_presented for result in results]),
        cost=mean_cost([trial_cost(record) for record in group]),
    )
    passes, votes, samples = compute = own_compute(group[0])
    started = start_words(group[0])
    return Entry(
        system=name,
        kind=group[0].config.model.variant,
        score=mean,
        items=items,
        item_interval=_interval(results, metric, mean, items),
        seeds=len(group),
        params=results[0].num_parameters,
        passes=passes,
        votes=votes,
        samples=samples,
        curve=_curve(group[0]),
        first_step_score=_first_step_score(results, metric, compute),
        train_puzzles=None if started else num_trained(group[0]),
        gpu_hours=provenance.cost.gpu_hours if provenance.cost else None,
        gpu=next((attempt.start.gpu_name or "" for attempt in group[0].attempts), ""),
        source="this project",
        detail=started,
        evidence="own",
        own=provenance,
    )


def _seed_interval(shares: list[float], items: int) -> Interval | None:
    interval = seed_interval(shares, items)
    return interval and Interval(100 * interval.low, 100 * interval.high)


def _interval(results: list[TrialResult], metric: str, mean: float, items: int) -> Interval:
    """Return the interval over puzzles, for these checkpoints: a bootstrap of task means, or Wilson's."""
    shares = [result.per_task[metric] for result in results if result.per_task.get(metric)]
    if len(shares) < len(results):
        return item_interval(mean, items)
    return task_interval(np.mean(shares, axis=0).tolist())


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _commits(record: TrialRecord) -> list[str]:
    """Return the code version of each attempt: the commit of a checkout, else the version of the installed package."""
    found = []
    for attempt in record.attempts:
        git, versions = attempt.start.git, attempt.start.versions
        if git.commit:
            found.append(f"{git.commit[:12]}{' with changes' if git.dirty else ''}")
        elif "trm-orchestrator" in versions:
            found.append(f"version {versions['trm-orchestrator']}")
    return found


def _machines(record: TrialRecord) -> list[str]:
    starts = [attempt.start for attempt in record.attempts]
    return [f"{s.host or '?'} ({s.gpu_name or s.processor or s.device or '?'})" for s in starts]
