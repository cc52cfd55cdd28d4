"""Load results as a table: one row per trial, one column per setting and per measurement, for a notebook or a paper.

import orchestrator
frame = orchestrator.load_results("demo")
frame[frame.stage == "confirm"].groupby("family").exact_accuracy.agg(["mean", "std", "count"])
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.records.index import load_definition, sweep_name, sweep_names
from orchestrator.records.schema import TrialRecord
from orchestrator.records.state import described, standing_trials
from orchestrator.resources.usage import spending
from orchestrator.results.report.escape import csv_cell, latex
from orchestrator.storage import Storage, existing_storage
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.settings import flatten

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("csv", "json", "latex", "parquet")
RESULT_COLUMNS = ("split", "items", "supervision_steps", "weights", "num_parameters", "train_flops", "train_s")


def load_results(sweep: Sweep | str | None = None, storage: Storage | str | Path = "runs") -> pd.DataFrame:
    """Load every trial of a sweep, or of all sweeps of a storage, finished or not.

    Columns: sweep, trial_id, stage, family, status, reason, step, seed, benchmark, fingerprint; the final metrics
    (`exact_accuracy` between 0 and 1, ...) and what they took; attempts, started_s, gpu_type, gpu_hours, usd; then
    every setting by its path. What a trial does not have is missing (NaN or None).

    Raises:
        SweepError: no such sweep.
        StorageError: the storage does not exist or cannot be reached.
    """
    store = existing_storage(storage)
    if sweep is not None:
        load_definition(store, sweep_name(sweep))
    names = sweep_names(store) if sweep is None else [sweep_name(sweep)]
    return frame_of(record for name in names for record in standing_trials(store, name))


def frame_of(records: Iterable[TrialRecord]) -> pd.DataFrame:
    """Return one row per record; see `load_results`."""
    import pandas as pd

    return pd.DataFrame([_row(record) for record in records])


def _row(record: TrialRecord) -> dict[str, Any]:
    row: dict[str, Any] = {
        "sweep": record.sweep,
        "trial_id": record.trial_id,
        "stage": record.stage,
        "family": record.family,
        "status": described(record),
        "reason": record.reason,
        "step": record.step,
        "seed": record.config.seed,
        "benchmark": record.dataset.benchmark,
        "fingerprint": record.dataset.fingerprint,
    }
    if record.result is not None:
        row |= record.result.metrics
        row |= {name: getattr(record.result, name) for name in (*RESULT_COLUMNS, "puzzles_presented")}
    row["attempts"] = len(record.attempts)
    if record.attempts:
        start = record.attempts[-1].start
        spent = spending([record])
        row |= {"started_s": record.attempts[0].start.started_s, "device": start.device}
        row |= {"gpu_type": start.gpu_type, "gpu_hours": spent.gpu_hours, "usd": spent.usd}
    # A list becomes text, which every format can hold.
    settings = {name: str(v) if isinstance(v, list) else v for name, v in flatten(record.config.plain()).items()}
    del settings["seed"]  # `row` has it
    return row | settings


def summary(frame: pd.DataFrame, metric: str = "exact_accuracy") -> pd.DataFrame:
    """Summarise a metric by family: finished seeds, mean and standard deviation in percent, best first.

    Where anything was scored on the test split, only those trials count: explored trials are not results.
    """
    if metric not in frame:
        return frame.iloc[:0].reindex(columns=["family", "seeds", "mean, %", "sd, %"])
    done = frame[frame[metric].notna()]
    done = done[done.split == "test"] if (done.split == "test").any() else done
    by_family = done.groupby("family", sort=False)[metric]
    table = by_family.agg(["count", "mean", "std"]).sort_values("mean", ascending=False).reset_index()
    table[["mean", "std"]] = (100 * table[["mean", "std"]]).round(2)
    return table.rename(columns={"count": "seeds", "mean": "mean, %", "std": "sd, %"})


def as_text(frame: pd.DataFrame, kind: str) -> str:
    """Format as CSV or JSON with all rows and columns, or as LaTeX (booktabs) with the summary."""
    if kind == "csv":
        text = frame.select_dtypes(exclude="number").map(csv_cell)
        return str(frame.assign(**text).to_csv(index=False))
    if kind == "json":
        return str(frame.to_json(orient="records", indent=1)) + "\n"
    assert kind == "latex", f"no text format {kind!r}"
    lines = summary(frame)
    text = lines.select_dtypes(exclude="number").map(lambda value: latex(value) if isinstance(value, str) else value)
    written = lines.assign(**text).rename(columns=latex)
    return str(written.to_latex(index=False, escape=False, float_format="%.2f", na_rep="-"))
