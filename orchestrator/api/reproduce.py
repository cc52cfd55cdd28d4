"""Run a finished trial again on this machine and compare the results."""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.api.train import run_job
from orchestrator.errors import SweepError
from orchestrator.execution.callbacks import CallbackList
from orchestrator.records.datasets import Library
from orchestrator.records.index import find_trial, new_head, trial_folder, write_head
from orchestrator.records.reader import read_trial
from orchestrator.records.schema import Status, TrialRecord, TrialResult
from orchestrator.records.start_weights import provide_start
from orchestrator.storage import Storage
from orchestrator.sweep.identity import trial_id
from orchestrator.worker import provenance
from orchestrator.worker.job import Job
from trm_data.own_code import sources_in

FOLDER = "reproduced"
"""Below `sweeps/`, but without a definition: these trials are on no leaderboard."""


class Comparison(NamedTuple):
    """Compare two results of one trial."""

    bitwise: bool
    """Every score and every single answer is the same."""
    largest_difference: float
    differences: dict[str, float]
    """Of every metric that differs."""
    same_answers: bool


class Reproduction(NamedTuple):
    """Hold a trial and its repetition; no repetition if it was interrupted."""

    first: TrialRecord
    second: TrialRecord | None
    comparison: Comparison | None


def reproduce(storage: Storage, address: str, events: CallbackList) -> Reproduction:
    """Run the trial at `address` (an id, its start, or SWEEP/ID) again, outside its sweep, and compare.

    Raises:
        SweepError: no such trial, it has no result, or its dataset cannot be built any more.
    """
    record = find_trial(storage, address)
    if record.result is None:
        raise SweepError(f"trial {record.trial_id} is {record.status.words}", "Only a finished trial can be reproduced")
    config = record.last_config
    sources_in(config.plain())  # before anything is written
    if config.train.start_from is not None:
        provide_start(storage, config.train.start_from, is_stored=True)
    dataset = Library(storage, is_stored=True).get(config.data.request())
    if trial_id(config, dataset.fingerprint) != record.trial_id:
        raise SweepError(
            f"trial {record.trial_id} cannot be reproduced here: its dataset {record.dataset.fingerprint} is now "
            f"{dataset.fingerprint}, or settings have another meaning in this version",
            "Install the version that it was recorded with: `trm trial show` names it",
        )
    for text in provenance.differences(record.attempts[-1].start.plain() if record.attempts else {}):
        events.call("on_message", f"differs: {text}")
    sweep = f"{FOLDER}/{record.sweep}"
    folder = trial_folder(storage, sweep, record.trial_id)
    if folder.exists("result.json"):  # of an earlier reproduction
        for key in folder.list():
            folder.delete(key)
    head = new_head(record.stage, record.family, config, record.dataset, trial_id=record.trial_id)
    write_head(folder, config, head)
    if config.train.start_from is not None:  # again: what nothing named yet may have been deleted
        provide_start(storage, config.train.start_from, is_stored=True)
    job = Job(storage.url, sweep, record.trial_id, config.plain(), dataset.path.name)
    report = run_job(job, config.train.max_steps, events)
    if report.status == Status.INTERRUPTED:
        return Reproduction(record, None, None)
    again = read_trial(storage, sweep, record.trial_id)
    if again.result is None:
        raise SweepError(f"the trial is {again.status.words} this time: {again.reason}")
    return Reproduction(record, again, compare_results(record.result, again.result))


def compare_results(first: TrialResult, second: TrialResult) -> Comparison:
    """Compare every metric and every answer of two results."""
    names = sorted(set(first.metrics) | set(second.metrics))
    apart = {name: _difference(first.metrics.get(name), second.metrics.get(name)) for name in names}
    same_answers = first.per_item == second.per_item
    return Comparison(
        bitwise=not any(apart.values()) and same_answers,
        largest_difference=max(apart.values(), default=0.0),
        differences={name: value for name, value in apart.items() if value},
        same_answers=same_answers,
    )


def _difference(first: float | None, second: float | None) -> float:
    if first is None or second is None:
        return float("inf")
    return 0.0 if first == second else abs(first - second)
