"""Compare a newer export of the ARC Prize leaderboard with the known rows."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from orchestrator.results.baselines import Baseline
from trm_data.errors import ConfigError, DataError
from trm_data.files import load_json
from trm_data.sources.files import parse_address, read

SOURCE = "ARC Prize leaderboard"
_PARALLEL = re.compile(r"(?i)\b(?:o\d|gpt-[\d.]+)[ -]pro\b|deep think|heavy|multi-agent")
"""Names of products that combine several answers inside; how many is not stated."""
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_LIMITS = {
    "score": (1.0, "Scores are shares, not per cent"),
    "costPerTask": (1e9, "Costs are US dollars"),
    "cost": (1e9, "Costs are US dollars"),
}
"""The most that a number of an entry can be, and what helps."""
_REMEDY = "Name the leaderboard's v1.json, v2.json or evaluations.json, whole"
_REMARK = "; "
"""Between the id of a model and remarks, in the detail of a row."""
_ROUNDING = 0.0051
"""Per cent: rows are written with two decimals."""
_SETS: dict[str, tuple[str, str, int | None]] = {
    "v1_Public_Eval": ("arc-agi-1", "public-eval", 400),
    "v1_Semi_Private": ("arc-agi-1", "semi-private", 100),
    "v2_Public_Eval": ("arc-agi-2", "public-eval", 120),
    "v2_Semi_Private": ("arc-agi-2", "semi-private", 120),
    "v2_Private_Eval": ("arc-agi-2", "private", None),
}
"""The leaderboard's name of a test set: benchmark, split, tasks. Other names (ARC-AGI-3) are another benchmark."""


class Export(NamedTuple):
    """Hold an export of the leaderboard."""

    entries: Mapping[tuple[str, str], Mapping[str, Any]]
    """By model and test set."""
    models: Mapping[str, Mapping[str, Any]]
    """What an older export says of models, by id."""
    date: str | None
    """Of its generation; None where it does not say."""


class Update(NamedTuple):
    """Hold the differences between an export and the known rows."""

    new: list[Baseline]
    changed: list[tuple[Baseline, Baseline]]
    """(known, newer)"""
    gone: list[Baseline]
    """Known of a benchmark of the export, and not in it any more."""
    unchanged: int
    ignored: int
    """Entries without a score, or about test sets that are not a benchmark here."""

    @property
    def rows(self) -> list[Baseline]:
        """Return new and changed rows."""
        return [*self.new, *(newer for _, newer in self.changed)]


def read_export(address: str) -> Export:
    """Read what the leaderboard's page loads, from a path or an address (http, https).

    Either `v1.json` or `v2.json` of today: an object of `version`, `generatedAt` and `evaluations`, each with the name
    of its model. Or the older `evaluations.json`, a list, alone or in an object that has `models` too.

    Raises:
        DataError: it cannot be read, or is not such an export.
    """
    place = parse_address(address)
    try:
        value = load_json(read(place))
    except ValueError:
        raise DataError(f"{place} is not JSON", _REMEDY) from None
    parts = value if isinstance(value, dict) else {"evaluations": value}
    evaluations, models = parts.get("evaluations"), parts.get("models", [])
    if not isinstance(evaluations, list) or not evaluations or not isinstance(models, list):
        raise DataError(f"{place} holds no evaluations", _REMEDY)
    entries: dict[tuple[str, str], Mapping[str, Any]] = {}
    for number, entry in enumerate(evaluations, 1):
        where = f"{place}, evaluation {number}"
        _check(entry, where)
        key = entry["modelId"], entry["datasetId"]
        if key in entries and entries[key]["score"] != entry["score"]:
            raise DataError(f"{where}: {key[0]} has two scores on {key[1]}", "Ask ARC Prize which one is right")
        entries[key] = entry
    known = {str(model["id"]): model for model in models if isinstance(model, dict) and "id" in model}
    for number, model in enumerate(known.values(), 1):
        _check_name(model, "displayName", f"{place}, model {number}")
    day = str(parts.get("generatedAt", ""))[:10]
    return Export(entries, known, day if _DAY.fullmatch(day) else None)


def _check(entry: object, where: str) -> None:
    if not isinstance(entry, dict) or not {"modelId", "datasetId", "score"} <= set(entry):
        raise DataError(f"{where}: has not modelId, datasetId and score")
    model = entry["modelId"]
    if not isinstance(model, str) or not model.strip() or model != model.strip() or _REMARK in model:
        raise DataError(f"{where}: modelId={model!r} is not the id of a model", _REMEDY)
    if not isinstance(entry["datasetId"], str):
        raise DataError(f"{where}: datasetId={entry['datasetId']!r} is not the name of a test set", _REMEDY)
    _check_name(entry, "modelDisplayName", where)
    for name, (most, remedy) in _LIMITS.items():
        number = entry.get(name)
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= most:
            raise DataError(f"{where}: {name}={number!r:.20} is not in 0 to {most:g}", remedy)


def _check_name(about: Mapping[str, Any], field: str, where: str) -> None:
    """Raise an error for the name of a model that is no text."""
    name = about.get(field)
    if name is not None and not (isinstance(name, str) and name.strip()):
        raise DataError(f"{where}: {field}={name!r} is not a name", _REMEDY)


def check_day(day: str) -> None:
    """Raise an error for the date of an export that is none, or is in the future; anywhere on Earth it may be tomorrow.

    Raises:
        ConfigError: naming the date.
    """
    try:
        found = datetime.date.fromisoformat(day) if _DAY.fullmatch(day) else None
    except ValueError:
        found = None
    if found is None:
        raise ConfigError(f"the export's date {day!r} is not a day", "Give the right one: --date 2026-11-22")
    if found > datetime.date.today() + datetime.timedelta(days=1):
        raise ConfigError(f"the export's date {day} is in the future", "Give the right one: --date 2026-11-22")


def compare(export: Export, known: Sequence[Baseline], date: str) -> Update:
    """Compare the export with known rows of its benchmarks; rows that are curated keep their names and remarks.

    Args:
        date: of the export.

    Raises:
        ConfigError: the date is none, in the future, or older than what is known.
    """
    check_day(date)
    scored = {key: entry for key, entry in export.entries.items() if key[1] in _SETS and entry["score"] is not None}
    covered = {_SETS[dataset][0] for _, dataset in scored}
    before = {_identity(row): row for row in known if row.source == SOURCE and row.benchmark in covered}
    newest = max((row.date for row in before.values()), default="")
    if date < newest:
        raise ConfigError(f"the export of {date} is older than the rows of {newest}", "Give the newer one's --date")
    found = {}
    for (model, dataset), entry in scored.items():
        benchmark, split, items = _SETS[dataset]
        row = before.get((benchmark, split, model)) or _fresh(model, dataset, entry, export.models.get(model, {}), date)
        values = {"score": round(100 * float(entry["score"]), 4), "cost_per_task_usd": _cost(entry, items)}
        found[benchmark, split, model] = Baseline.parse(row.plain() | values | {"date": date})
    changed = [(before[key], row) for key, row in found.items() if key in before and _differ(before[key], row)]
    new = [row for key, row in found.items() if key not in before]
    return Update(
        new=new,
        changed=changed,
        gone=[row for key, row in before.items() if key not in found],
        unchanged=len(found) - len(new) - len(changed),
        ignored=len(export.entries) - len(scored),
    )


def _identity(row: Baseline) -> tuple[str, str, str]:
    return row.benchmark, row.split, row.detail.split(_REMARK)[0].removeprefix("id ")


def _fresh(model: str, dataset: str, entry: Mapping[str, Any], about: Mapping[str, Any], date: str) -> Baseline:
    """Return a row for a model that no known row describes; the entry of today's form names it itself."""
    benchmark, split, items = _SETS[dataset]
    about = {**about, **{name: entry[name] for name in ("providerId", "modelType") if name in entry}}
    human, custom = about.get("providerId") == "Human", about.get("modelType") == "Custom"
    name = entry.get("modelDisplayName") or about.get("displayName") or model
    is_model = not human and not custom
    values = {
        "benchmark": benchmark,
        "system": name,
        "kind": "human" if human else "system" if custom else "llm",
        # ARC Prize draws one answer per attempt from a language model.
        "samples": 1 if is_model and not _PARALLEL.search(name) else None,
        "role": "headline",
        "split": split,
        "metric": "pass@2",
        "protocol": "single",
        "score": 0.0,
        "items": items,
        "source": SOURCE,
        "detail": f"id {model}" + (f"{_REMARK}not shown on the leaderboard" if entry.get("display") is False else ""),
        "date": date,
        "evidence": "verified",
    }
    return Baseline.parse(values)


def _cost(entry: Mapping[str, Any], tasks: int | None) -> float | None:
    """Return dollars per task, where the entry has them or those of the whole run."""
    if entry.get("costPerTask") is not None or entry.get("cost") is None or tasks is None:
        return entry.get("costPerTask")
    return round(float(entry["cost"]) / tasks, 4)


def _differ(before: Baseline, after: Baseline) -> bool:
    """Return whether rows differ beyond rounding."""
    rescored = abs(before.score - after.score) > _ROUNDING
    return rescored or before.cost_per_task_usd != after.cost_per_task_usd
