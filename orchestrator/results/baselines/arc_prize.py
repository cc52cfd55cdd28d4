"""Compare a newer export of the ARC Prize leaderboard with the known rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.results.baselines import Baseline
from trm_data.errors import ConfigError, DataError
from trm_data.files import load_json

SOURCE = "ARC Prize leaderboard"
_PARALLEL = re.compile(r"(?i)\b(?:o\d|gpt-[\d.]+)[ -]pro\b|deep think|heavy|multi-agent")
"""Names of products that combine several answers inside; how many is not stated."""
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


class Update(NamedTuple):
    """Hold the differences between an export and the known rows."""

    new: list[Baseline]
    changed: list[tuple[Baseline, Baseline]]
    """(known, newer)"""
    gone: list[Baseline]
    """Known, and not in the export any more."""
    unchanged: int
    ignored: int
    """Entries about test sets that are not a benchmark here."""

    @property
    def rows(self) -> list[Baseline]:
        """Return new and changed rows."""
        return [*self.new, *(newer for _, newer in self.changed)]


def read_export(path: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Read evaluations, and models by id where the export has them: `evaluations.json` of the leaderboard, or an object
    of `evaluations` and `models`.

    Raises:
        DataError: it is not such an export.
    """
    try:
        value = load_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise DataError(f"{path} is not JSON", "Save the leaderboard's evaluations.json whole") from None
    parts = value if isinstance(value, dict) else {"evaluations": value}
    evaluations, models = parts.get("evaluations"), parts.get("models", [])
    if not isinstance(evaluations, list) or not evaluations or not isinstance(models, list):
        raise DataError(f"{path} holds no evaluations", "Save the leaderboard's evaluations.json whole")
    for number, entry in enumerate(evaluations, 1):
        _check(entry, f"{path}, evaluation {number}")
    return evaluations, {str(model["id"]): model for model in models if isinstance(model, dict) and "id" in model}


def _check(entry: object, where: str) -> None:
    if not isinstance(entry, dict) or not {"modelId", "datasetId", "score"} <= set(entry):
        raise DataError(f"{where}: has not modelId, datasetId and score")
    for name, most in (("score", 1.0), ("costPerTask", float("inf"))):
        number = entry.get(name, 0)
        if name == "costPerTask" and number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= most:
            raise DataError(f"{where}: {name}={number!r} is not in 0 to {most:g}", "Scores are shares, not per cent")


def compare(
    evaluations: Iterable[Mapping[str, Any]],
    models: Mapping[str, Mapping[str, Any]],
    known: Sequence[Baseline],
    date: str,
) -> Update:
    """Compare the export with known rows; rows that are already curated keep their names and remarks.

    Args:
        date: of the export.

    Raises:
        ConfigError: the date is not valid, or older than what is known.
    """
    before = {_identity(row): row for row in known if row.source == SOURCE}
    newest = max((row.date for row in before.values()), default="")
    if date < newest:
        raise ConfigError(f"the export of {date} is older than the rows of {newest}", "Give the newer one's --date")
    entries = {(str(entry["modelId"]), str(entry["datasetId"])): entry for entry in evaluations}
    found = {}
    for (model, dataset), entry in entries.items():
        if dataset in _SETS:
            benchmark, split, _ = _SETS[dataset]
            row = before.get((benchmark, split, model)) or _fresh(model, dataset, models.get(model, {}), date)
            found[benchmark, split, model] = _newer(row, entry, date)
    changed = [(before[key], row) for key, row in found.items() if key in before and _differ(before[key], row)]
    new = [row for key, row in found.items() if key not in before]
    return Update(
        new=new,
        changed=changed,
        gone=[row for key, row in before.items() if key not in found],
        unchanged=len(found) - len(new) - len(changed),
        ignored=sum(dataset not in _SETS for _, dataset in entries),
    )


def _identity(row: Baseline) -> tuple[str, str, str]:
    return row.benchmark, row.split, row.detail.split("; ")[0].removeprefix("id ")


def _fresh(model: str, dataset: str, about: Mapping[str, Any], date: str) -> Baseline:
    """Return a row for a model that no known row describes."""
    benchmark, split, items = _SETS[dataset]
    human, custom = about.get("providerId") == "Human", about.get("modelType") == "Custom"
    name = str(about.get("displayName") or model)
    is_model = not human and not custom
    return Baseline(
        benchmark=benchmark,
        system=name,
        kind="human" if human else "system" if custom else "llm",
        # ARC Prize draws one answer per attempt from a language model.
        samples=1 if is_model and not _PARALLEL.search(name) else None,
        role="headline",
        split=split,
        metric="pass@2",
        protocol="single",
        score=0.0,
        items=items,
        source=SOURCE,
        detail=f"id {model}",
        date=date,
        evidence="verified",
    )


def _newer(row: Baseline, entry: Mapping[str, Any], date: str) -> Baseline:
    cost = entry.get("costPerTask")
    values = {"score": round(100 * float(entry["score"]), 4), "cost_per_task_usd": cost, "date": date}
    return Baseline.parse(row.plain() | values)


def _differ(before: Baseline, after: Baseline) -> bool:
    """Return whether rows differ beyond rounding."""
    rescored = abs(before.score - after.score) > _ROUNDING
    return rescored or before.cost_per_task_usd != after.cost_per_task_usd
