"""The body of `trm trial reproduce`: the same trial once more, on this machine, and what is different."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.cli.train_here import run_job
from orchestrator.cli.views.console import err, out
from orchestrator.errors import SweepError
from orchestrator.records.datasets import Library
from orchestrator.records.index import find_trial, new_head, trial_folder, write_head
from orchestrator.records.reader import read_trial
from orchestrator.records.schema import Status, TrialRecord, TrialResult
from orchestrator.storage import Storage
from orchestrator.sweep.settings import configure
from orchestrator.sweep.trials import trial_id
from orchestrator.worker import provenance
from orchestrator.worker.job import Job
from trm_model.config import TrialConfig
from trm_model.recursion_file import trusted_source

FOLDER = "reproduced"
"""Beside the sweeps, without a definition of its own: on no leaderboard."""


def reproduce_trial(storage: Storage, address: str, tolerance: float, as_json: bool) -> int:
    """Run, compare, say. Returns the exit code: 0 the same (within the tolerance), 1 not, 3 interrupted.

    Raises:
        SweepError: no such trial, it has no result, or its dataset cannot be had any more.
    """
    record = find_trial(storage, address)
    if record.result is None:
        raise SweepError(f"trial {record.trial_id} is {record.status}", "Only a finished trial can be reproduced")
    config = _as_it_ran(record)
    if config.model.recursion is not None:
        trusted_source(config.model.recursion)
    dataset = Library(storage, is_stored=True).get(config.data.request())
    if trial_id(config, dataset.fingerprint) != record.trial_id:
        raise SweepError(
            f"trial {record.trial_id} cannot be made again here: its dataset {record.dataset.fingerprint} is now "
            f"{dataset.fingerprint}, or this version gives other meanings to settings",
            "Install the version that it was recorded with: `trm trial show` names it",
        )
    for line in surroundings(record):
        err.print(f"[yellow]differs[/]: {line}")
    sweep = f"{FOLDER}/{record.sweep}"
    folder = trial_folder(storage, sweep, record.trial_id)
    if folder.exists("result.json"):  # of an earlier reproduction
        for key in folder.list():
            folder.delete(key)
    write_head(folder, config, new_head(record.stage, record.family, config, record.dataset))
    news = run_job(Job(storage.url, sweep, record.trial_id, config.plain(), dataset.path.name), config.train.max_steps)
    if news.status == Status.INTERRUPTED:
        err.print("interrupted: go on with the same command")
        return 3
    again = read_trial(storage, sweep, record.trial_id)
    if again.result is None:
        raise SweepError(f"the trial {again.status} this time: {again.reason}")
    return _tell(record, again, tolerance, as_json)


def _as_it_ran(record: TrialRecord) -> TrialConfig:
    """With the number of threads of the attempt that finished: it decides the last bits."""
    threads = record.attempts[-1].start.num_threads if record.attempts else None
    return configure(record.config, {"runtime.num_threads": threads})


def surroundings(record: TrialRecord) -> list[str]:
    """What is not as it was when the trial ran: versions, processor, commit."""
    if not record.attempts:
        return []
    then, processor = record.attempts[-1].start, provenance.processor()
    lines = [
        f"{name} {then.versions.get(name)} then, {version} now"
        for name, version in provenance.versions().items()
        if then.versions.get(name) not in (None, version)
    ]
    if then.device == "cpu" and then.processor != processor:
        lines.append(f"processor {then.processor} then, {processor} now")
    if then.device != "cpu":
        lines.append(f"it ran on {then.gpu_name or then.device}: GPUs do not repeat bit for bit")
    return lines


def comparison(first: TrialResult, second: TrialResult) -> dict[str, Any]:
    """Of two results: whether every score and every single answer is the same, and the largest difference."""
    names = sorted(set(first.metrics) | set(second.metrics))
    apart = {name: _apart(first.metrics.get(name), second.metrics.get(name)) for name in names}
    return {
        "bitwise": not any(apart.values()) and first.per_item == second.per_item,
        "largest_difference": max(apart.values(), default=0.0),
        "differences": {name: value for name, value in apart.items() if value},
        "same_answers": first.per_item == second.per_item,
    }


def _apart(first: float | None, second: float | None) -> float:
    if first is None or second is None:
        return float("inf")
    return 0.0 if first == second else abs(first - second)


def _tell(record: TrialRecord, again: TrialRecord, tolerance: float, as_json: bool) -> int:
    assert record.result is not None and again.result is not None
    found = comparison(record.result, again.result)
    is_same = found["bitwise"] or (found["largest_difference"] <= tolerance and tolerance > 0)
    if as_json:
        print(json.dumps({"trial_id": record.trial_id, "reproduced": is_same, **found}, indent=1))
    elif found["bitwise"]:
        out.print(f"trial {record.trial_id} reproduced: every score and every answer is the same, to the last bit")
    else:
        for name, value in found["differences"].items():
            then, now = record.result.metrics.get(name), again.result.metrics.get(name)
            out.print(f"{name}: {then} then, {now} now ({value:.3g} apart)")
        verdict = f"within the tolerance of {tolerance:g}" if is_same else f"not within {tolerance:g}"
        out.print(f"trial {record.trial_id}: largest difference {found['largest_difference']:.3g}, {verdict}")
    return 0 if is_same else 1
