"""Train one configuration in this process, with a record."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.api.progress import default_callbacks
from orchestrator.execution.callbacks import CallbackList, open_callbacks
from orchestrator.execution.options import Callback
from orchestrator.execution.signals import stop_signals
from orchestrator.records.datasets import provide
from orchestrator.records.index import SINGLE_RUNS, head_of, trial_folder, write_head
from orchestrator.records.reader import read_trial
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.records.start_weights import provide_start, start_head
from orchestrator.resources.runtime import ASSUMED_CORE_FLOPS
from orchestrator.storage import Storage, StorageError, as_storage
from orchestrator.storage.lease import Lease
from orchestrator.sweep.definition import Resources
from orchestrator.sweep.identity import trial_id
from orchestrator.sweep.matching import shape_of
from orchestrator.sweep.settings import require_no_credentials
from orchestrator.sweep.text import percent, plural
from orchestrator.sweep.trials import PlannedTrial
from orchestrator.worker.attempt import run_attempt
from orchestrator.worker.job import Job, TrialReport
from trm_data import Dataset
from trm_model import cost
from trm_model.checkpoints.start import check_head, start_kind
from trm_model.config import TrialConfig
from trm_model.device import resolve_device
from trm_model.model.recursion import load_recursion
from trm_model.training.launch import check_processes

logger = logging.getLogger(__name__)

LONG_SCORING_S = 60.0
"""Scoring that takes longer than this on a CPU, and than three times the training, is announced."""

_SHOWN = ("exact_accuracy", "cell_accuracy")
"""Metrics of a printed outcome."""


class TrainOutcome(NamedTuple):
    """Hold how a training run ended."""

    record: TrialRecord
    """`record.result.metrics` has the final scores of a finished run; None otherwise."""
    status: Status
    step: int
    reason: str
    """Why it ended, unless it finished."""
    location: str
    """Folder of the record."""

    def __str__(self) -> str:
        result = self.record.result
        lines = [f"{self.status.words} at step {self.step}" + (f": {self.reason}" if self.reason else "")]
        if result is not None:
            scores = (f"{name.replace('_', ' ')} {percent(result.metrics.get(name))}" for name in _SHOWN)
            lines.append(f"{', '.join(scores)} of {result.items} {result.split} puzzles")
        return "\n".join([*lines, f"record: {self.location}"])


def train(
    config: TrialConfig,
    storage: Storage | str | Path = "runs",
    *,
    processes: int = 1,
    callbacks: Sequence[Callback] | None = None,
) -> TrainOutcome:
    """Train one configuration on this machine and score it; a repeated call resumes from the last checkpoint.

    Args:
        config: for example `get_recipe("sudoku-mini")`.
        storage: folder or `s3://bucket/prefix` for the dataset and the record (`sweeps/train/trials/<id>`).
        processes: processes that share every batch: one per GPU.
        callbacks: receive progress; what they raise is logged and ignored. None: a progress bar where a terminal or
            a notebook shows it, else nothing.

    Raises:
        SweepError: another process trains this configuration into the same storage.
        ConfigError: the configuration does not fit its dataset or the number of processes, or a setting contains
            credentials.
    """
    check_processes(config, processes)
    require_no_credentials(config.plain())
    if config.model.recursion is not None:
        load_recursion(config.model.recursion)  # a file that fails is a user error, not a trial result
    store = as_storage(storage)
    started_from = _provide_start(config, store)
    with open_callbacks(default_callbacks() if callbacks is None else callbacks) as events:
        dataset = provide(store, config.data.request(), lambda *progress: events.call("on_build", *progress))
        identity = trial_id(config, dataset.fingerprint)
        folder = trial_folder(store, SINGLE_RUNS, identity)
        location = f"{store.url}/sweeps/{SINGLE_RUNS}/trials/{identity}"
        family = config.recipe or "train"
        trial = PlannedTrial(trial_id=identity, stage="explore", family=family, config=config, resources=Resources())
        write_head(folder, config, head_of(trial, dataset))
        if config.train.start_from is not None:  # again: what nothing named yet may have been deleted
            provide_start(store, config.train.start_from)
        is_finished = folder.exists("result.json")  # before its record is read, which then has the result
        record = read_trial(store, SINGLE_RUNS, identity)
        report: TrialReport | None = None
        if not is_finished:  # a finished run is not repeated
            if resolve_device(config.runtime.device).type == "cpu" and (remark := _long_scoring(config, dataset)):
                events.call("on_message", remark)
            with Lease(folder, f"{SINGLE_RUNS}/{identity}", remedy="It is the same run: wait until it ends"):
                events.call("on_message", _announcement(config, dataset, location) + started_from)
                job = Job(store.url, SINGLE_RUNS, identity, config.plain(), dataset.path.name, processes=processes)
                report = run_job(job, config.train.max_steps, events)
        else:
            events.call("on_message", _finished_before(record))
    try:
        record = read_trial(store, SINGLE_RUNS, identity)
    except StorageError:
        if report is None or report.status != Status.INTERRUPTED:
            raise
        # The storage that interrupted the attempt is still away: the report says so, the record is the one from before.
    if report is None:
        return TrainOutcome(record, record.status, record.step, record.reason, location)
    return TrainOutcome(record, Status(report.status), report.step, report.reason, location)


def _provide_start(config: TrialConfig, storage: Storage) -> str:
    """Copy the checkpoint that a run starts from into the storage. Return what it gives, for the announcement.

    Raises:
        UserError: it cannot be read, or its weights are those of another model.
    """
    address = config.train.start_from
    if address is None:
        if config.train.freezes_network:
            logger.warning("train.freeze=network without train.start_from: embeddings of a random network are trained")
        return ""
    head = start_head(storage, address)
    check_head(config.model, head, **shape_of(config))
    provide_start(storage, address)
    return f"; starting from the {start_kind(head.header)} of {head.where}"


def _announcement(config: TrialConfig, dataset: Dataset, location: str) -> str:
    train = config.train
    return (
        f"training {config.recipe or 'a model'} on {dataset.path.name}: {plural(train.max_steps, 'step')} of "
        f"{plural(train.batch_size, 'puzzle')}, learning rate {config.optimizer.lr:g}, seed {config.seed}; "
        f"record: {location}"
    )


def _finished_before(record: TrialRecord) -> str:
    assert record.result is not None, "result.json exists"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.result.ended_s))
    return f"nothing was run: this configuration with seed {record.config.seed} finished on {when}"


def run_job(job: Job, max_steps: int, events: CallbackList) -> TrialReport:
    """Run one attempt in this process. SIGINT and SIGTERM end it after a checkpoint."""
    stop = threading.Event()
    with stop_signals(stop):
        return run_attempt(
            job, lambda report: events.call("on_train_report", report, max_steps), stop.is_set, is_requeued=False
        )


def _long_scoring(config: TrialConfig, dataset: Dataset) -> str:
    """Return one line for the user if scoring would take longer than training, by the model's FLOPs; else nothing.

    Two steps of the ARC recipe take half a minute on two cores; scoring its 400 tasks afterwards takes hours. Only the
    user may limit it: how many puzzles are scored is part of a trial's identity and must not depend on the machine.
    """
    shape = {"seq_len": dataset.seq_len, "vocab_size": dataset.vocab_size}
    flops_per_s = ASSUMED_CORE_FLOPS * (config.runtime.num_threads or os.cpu_count() or 1)
    step_flops = cost.train_flops(config.model, **shape, frozen=config.train.freezes_network)
    train_s = step_flops * config.train.batch_size * config.train.max_steps / flops_per_s
    steps = config.evaluation.supervision_steps or config.model.supervision_steps
    puzzle_s = cost.forward_flops(config.model, **shape) * steps / flops_per_s
    few = max(1, int(max(LONG_SCORING_S, 3 * train_s) / puzzle_s))
    split = config.evaluation.split
    scored = min(dataset.counts[split], config.evaluation.max_puzzles or dataset.counts[split])
    if scored <= few:
        return ""
    return (
        f"scoring {scored} {split} puzzles will take about {scored * puzzle_s / 3600:.1f} h on this machine "
        f"(evaluation.max_puzzles={few} scores the first {few})"
    )
