"""Extract from a study what the page's interactive figures show: trials with their settings and scores, and curves.

The page holds both as JSON (`document`). The server of `trm ui` sends trials that have changed (`trial_rows`) and the
curves that are drawn (`curves_of`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.records.rows import Columns, columns_of
from orchestrator.records.schema import TrialRecord
from orchestrator.records.state import described
from orchestrator.results.report.trial_plots import MAX_LINES, evenly, leading
from orchestrator.results.report.views import MAX_CURVE_POINTS, Study, TrialView

CURVES: dict[str, dict[str, tuple[str, float]]] = {
    "validation": {
        "exact": ("exact_accuracy", 100.0),
        "cell": ("cell_accuracy", 100.0),
        "halt": ("halting_steps", 1.0),
        "vloss": ("loss", 1.0),
    },
    "train": {"loss": ("loss", 1.0)},
}
"""Metrics of the curves by split: the name in the page, the name in the record, and a factor (100: per cent)."""
MOST_ITEMS = 5_000
"""Test puzzles of which the page shows each."""
MOST_ITEM_TRIALS = 60
SETTING_TITLES = {
    "T": "cycles",
    "n": "latent steps",
    "N_sup": "supervision steps",
    "D": "supervision steps at evaluation",
    "aug": "augmented copies per puzzle",
    "lr": "learning rate",
    "ema": "decay of the averaged weights",
    "wd": "weight decay",
}


def document(study: Study, live: str | None = None) -> dict[str, Any]:
    """Return all that the figures of a page show of a study.

    Args:
        live: the address from which the page asks for news and curves; None: the document holds the curves.
    """
    found: dict[str, Any] = {
        **head(study),
        "trials": trial_rows(study),
        "items": items_of(study),
        "live": live,
        "curves": {},
    }
    if live is None:
        lead = leading(study.trials)
        others = [trial for trial in study.trials if trial.trial_id not in lead]
        first = [trial for trial in study.trials if trial.trial_id in lead]
        chosen = evenly(first, MAX_LINES) + evenly(others, max(0, MAX_LINES - len(first)))
        found["curves"] = {trial.trial_id: curves_of(trial.record) for trial in chosen}
    return found


def items_of(study: Study) -> dict[str, Any] | None:
    """Return which puzzle each confirmed trial solves, as packed hexadecimal digits; None if that is not recorded.

    Only trials that were scored on as many test puzzles as the most are compared, at most `MOST_ITEM_TRIALS`.
    """
    found = [
        (trial.trial_id, result.per_item, result.items)
        for trial in study.trials
        if trial.stage != "explore" and (result := trial.record.result) and result.per_item and result.split == "test"
    ]
    count = max((items for *_, items in found), default=0)
    if not 0 < count <= MOST_ITEMS:
        return None
    same = [{"id": trial_id, "exact": exact} for trial_id, exact, items in found if items == count]
    return {"count": count, "trials": same[:MOST_ITEM_TRIALS]}


def head(study: Study) -> dict[str, Any]:
    """Return the names of a study's settings and its dataset."""
    return {
        "dataset": study.benchmark,
        "settings": list(study.varied),
        "titles": {name: SETTING_TITLES.get(name, name) for name in study.varied},
        "max_lines": MAX_LINES,
    }


def as_script(value: Any) -> str:
    """Return JSON for a script element. `<` is escaped, so that nothing can close the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def trial_rows(study: Study, only: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Return the trials of a study as plain data.

    Args:
        only: ids of the trials that are returned.
    """
    lead = leading(study.trials)
    wanted = None if only is None else set(only)
    return [
        _trial_row(trial, study.varied, trial.trial_id in lead)
        for trial in study.trials
        if wanted is None or trial.trial_id in wanted
    ]


def _trial_row(trial: TrialView, settings: Sequence[str], is_lead: bool) -> dict[str, Any]:
    return {
        "id": trial.trial_id,
        "sweep": trial.record.sweep,
        "stage": trial.stage,
        "family": trial.family,
        "seed": trial.seed,
        "kind": trial.variant if trial.variant in ("trm", "hrm", "direct") else "other",
        "status": described(trial.record),
        "step": trial.step,
        "score": None if trial.score is None else round(trial.score, 2),
        "split": trial.split,
        "v": [_finite(trial.settings.get(name)) for name in settings],
        "fps": flops_per_step(trial.record),
        "lead": is_lead,
    }


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def flops_per_step(record: TrialRecord) -> float | None:
    """Return the FLOPs of a training step: of a finished trial by its result, else by the rates that it recorded."""
    result = record.result
    steps = (result.steps or record.step) if result is not None else 0
    if result is not None and result.train_flops and steps:
        return _short(result.train_flops / steps)
    found = _series(record, _columns(record), "train", ("flops_per_s",))
    if found is None:
        return None
    at, seconds, (rates,) = found
    known = np.isfinite(rates) & (np.diff(seconds, prepend=0.0) >= 0)
    flops = float(np.sum((rates * np.diff(seconds, prepend=0.0))[known]))
    return _short(flops / int(at[-1])) if flops > 0 and at[-1] > 0 else None


def curves_of(record: TrialRecord, most: int = MAX_CURVE_POINTS) -> dict[str, dict[str, list[float | None]]]:
    """Return a trial's curves by split: `step`, `s` (seconds of training) and the metrics, at most `most` points."""
    found: dict[str, dict[str, list[float | None]]] = {}
    parts = _columns(record)
    for split, metrics in CURVES.items():
        series = _series(record, parts, split, [name for name, _ in metrics.values()])
        if series is None:
            continue
        steps, seconds, columns = series
        index = np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int)
        curve: dict[str, list[float | None]] = {
            "step": steps[index].tolist(),
            "s": [_short(value) for value in seconds[index].tolist()],
        }
        for (key, (_, factor)), column in zip(metrics.items(), columns, strict=True):
            if np.isfinite(column).any():
                curve[key] = [_short(value * factor) for value in column[index].tolist()]
        found[split] = curve
    return found


def _short(value: float) -> float | None:
    """Return a number with four significant digits, so that it takes little space; None unless it is finite."""
    short = float(f"{value:.4g}")  # the largest floats are rounded to infinity
    if not math.isfinite(short):
        return None
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _columns(record: TrialRecord) -> Sequence[Columns]:
    parts = getattr(record.rows, "columns", None)
    return [columns_of(record.rows)] if parts is None else parts


def _series(
    record: TrialRecord, parts: Sequence[Columns], split: str, names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.float64], list[NDArray[np.float64]]] | None:
    """Return steps, seconds of training and the named metrics of one split, NaN where a row has none."""
    steps, times, values = [], [], []
    for part in parts:
        for number, group in enumerate(part.groups):
            if group.split != split or not set(names) & set(group.names):
                continue
            rows = np.flatnonzero(part.group == number)
            columns = group.values[part.place[rows]]
            wanted = [group.names.index(name) if name in group.names else -1 for name in (*names, "train_s")]
            steps.append(part.steps[rows])
            times.append(part.times_s[rows])
            values.append(np.stack([columns[:, i] if i >= 0 else np.full(len(rows), np.nan) for i in wanted]))
    if not steps or not sum(map(len, steps)):
        return None
    step = np.concatenate(steps)
    order = np.argsort(step, kind="stable")
    table = np.concatenate(values, axis=1)[:, order]
    started_s = record.attempts[0].start.started_s if record.attempts else times[0][0]
    elapsed = np.concatenate(times)[order] - started_s
    return step[order], np.where(np.isfinite(table[-1]), table[-1], elapsed), list(table[:-1])
