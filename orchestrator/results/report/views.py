"""Extract from records what the plots show, as plain data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.records.schema import Status, TrialRecord
from orchestrator.results.leaderboard import label, settings_of
from orchestrator.sweep.settings import flatten
from trm_model.config import ALIASES, TrialConfig

MAX_CURVE_POINTS = 64
LETTERS = {path: letter for letter, path in ALIASES.items()}
"""The paper's letter of a setting: `model.cycles` is T."""

Value = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class TrialView:
    """Hold what the plots and the list of trials show of a trial."""

    trial_id: str
    stage: str
    family: str
    variant: str
    seed: int
    settings: dict[str, Value]
    """Only the settings that differ inside the study, by letter or path."""
    score: float | None
    """Exact accuracy in per cent: the final score, else the last validation score; None if it was never evaluated."""
    split: str
    status: Status
    step: int
    record: TrialRecord

    @property
    def complete(self) -> bool:
        """Return whether the score is that of a whole run."""
        return self.status is Status.FINISHED


@dataclass(frozen=True, slots=True)
class Study:
    """Hold all trials on one dataset."""

    benchmark: str
    fingerprint: str
    records: tuple[TrialRecord, ...]
    trials: tuple[TrialView, ...]
    varied: tuple[str, ...]
    """Settings with more than one value among the explored trials or cells, the paper's letters first."""

    @property
    def compared(self) -> tuple[TrialView, ...]:
        """Return the trials whose settings were varied: the explored ones or the cells of a study, whichever are more.

        Never both, because they are scored on different splits; and without the confirmed controls.
        """
        explored, cells = ([trial for trial in self.trials if trial.stage == stage] for stage in ("explore", "study"))
        return tuple(explored if len(explored) >= len(cells) else cells)


def studies(records: Sequence[TrialRecord]) -> list[Study]:
    """Group records into one study per dataset, the largest first."""
    groups: dict[tuple[str, str], list[TrialRecord]] = defaultdict(list)
    for record in records:
        groups[label(record), record.dataset.fingerprint].append(record)
    found = [_study(name, fingerprint, group) for (name, fingerprint), group in groups.items()]
    return sorted(found, key=lambda study: (-len(study.trials), study.benchmark))


def _study(benchmark: str, fingerprint: str, records: list[TrialRecord]) -> Study:
    # Thousands of trials differ in nothing but the seed, and share the objects that their configurations consist of.
    families = [tuple(map(id, record.config.sections[:-1])) for record in records]
    first = dict(zip(families, records, strict=True))
    raw = {family: settings_of(record) for family, record in first.items()}
    flat = {family: _written_out(raw[family], record.config) for family, record in first.items()}
    compared = dict.fromkeys(
        family for family, record in zip(families, records, strict=True) if record.stage in ("explore", "study")
    )
    said = _varied([_as_text(raw[family]) for family in compared])  # not what only follows from the variant
    varied = [path for path in _varied([flat[family] for family in compared]) if path in said]
    names = {path: LETTERS.get(path, path) for path in varied}
    trials = [
        _view(record, {names[path]: flat[family].get(path) for path in varied})
        for family, record in zip(families, records, strict=True)
    ]
    return Study(benchmark, fingerprint, tuple(records), tuple(trials), tuple(names.values()))


def _written_out(settings: dict[str, Any], config: TrialConfig) -> dict[str, Value]:
    """Return settings by path with the model's defaults filled in, so that a stated default equals an omitted one."""
    return _as_text(settings | {"model": config.model.resolved().plain()})


def _view(record: TrialRecord, settings: dict[str, Value]) -> TrialView:
    result = record.result
    score = result.metrics.get("exact_accuracy") if result else None
    if score is None:
        curve = record.curve("exact_accuracy")
        score = curve[-1][1] if curve else None
    return TrialView(
        trial_id=record.trial_id,
        stage=record.stage,
        family=record.family,
        variant=record.config.model.variant,
        seed=record.config.seed,
        settings=settings,
        score=100 * score if score is not None and 0 <= score <= 1 else None,
        split=result.split if result else "validation",
        status=record.status,
        step=record.step,
        record=record,
    )


def _as_text(settings: dict[str, Any]) -> dict[str, Value]:
    """Flatten settings to dotted paths, with lists as text."""
    flat = flatten(settings)
    return {path: ", ".join(map(str, value)) if isinstance(value, list) else value for path, value in flat.items()}


def _varied(settings: list[dict[str, Value]]) -> list[str]:
    """Return paths with more than one value: first those with a letter, in the order of the paper."""
    values: dict[str, set[Value]] = defaultdict(set)
    for flat in settings:
        for path, value in flat.items():
            values[path].add(value)
    varied = [path for path, seen in values.items() if len(seen) > 1]
    order = list(LETTERS)
    return sorted(varied, key=lambda path: (order.index(path) if path in order else len(order), path))


@dataclass(frozen=True, slots=True)
class Group:
    """Hold trials that share a value of one setting, or of two."""

    trials: tuple[TrialView, ...]
    """Those with a score."""

    @property
    def complete(self) -> int:
        """Return the number of trials that ran to their end."""
        return sum(trial.complete for trial in self.trials)

    @property
    def mean(self) -> float:
        """Return the mean score of the complete trials, or of all if none is complete."""
        chosen = [trial for trial in self.trials if trial.complete] or self.trials
        return float(np.mean([trial.score for trial in chosen if trial.score is not None]))


def grouped(trials: Sequence[TrialView], *names: str) -> dict[tuple[Value, ...], Group]:
    """Group scored trials by their values of the named settings."""
    groups: dict[tuple[Value, ...], list[TrialView]] = defaultdict(list)
    for trial in trials:
        if trial.score is not None:
            groups[tuple(trial.settings[name] for name in names)].append(trial)
    return {key: Group(tuple(group)) for key, group in groups.items()}


def sort_values(values: set[Value]) -> list[Value]:
    """Sort numbers by size, then everything else by name."""
    return sorted(values, key=lambda v: (0, float(v), "") if isinstance(v, int | float) else (1, 0.0, str(v)))
