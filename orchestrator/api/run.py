"""Run a sweep together with tracking, notifications and progress."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from orchestrator.api.inputs import as_run_options, as_sweep, is_recorded
from orchestrator.api.progress import default_callbacks
from orchestrator.execution.callbacks import CallbackList, open_callbacks
from orchestrator.execution.options import Callback, RunArguments, RunOptions, SweepOutcome, SweepStatus
from orchestrator.execution.run import run_sweep
from orchestrator.records.unfinished import require_finished
from orchestrator.storage import Storage, as_storage
from orchestrator.storage.mounts import refuse_network_database
from orchestrator.sweep.definition import Sweep
from orchestrator.tracking.live import resolve_uri, tracked
from orchestrator.tracking.notifications import Event, Target, end_event, parse_targets, send
from trm_data.errors import UserError

logger = logging.getLogger(__name__)


def run(
    sweep: Sweep | str | Path,
    storage: Storage | str | Path = "runs",
    *,
    tracking: str | None = None,
    notify: Sequence[str] = (),
    callbacks: Sequence[Callback] | None = None,
    **options: Unpack[RunArguments],
) -> SweepOutcome:
    """Run a sweep to its end, or resume it: repeating the call never repeats finished trials. `trm sweep run` calls
    this.

    Args:
        sweep: a definition, the path of a sweep file, the name of a sweep that the storage holds, or that of a
            packaged one (`demo`).
        storage: folder or `s3://bucket/prefix` for datasets and records.
        tracking: MLflow tracking URI, or "none". SQLite in the storage folder if left out.
        notify: webhook URLs or commands that receive how the sweep ended.
        callbacks: receive progress; what they raise is logged and ignored. None: a progress bar where a terminal or
            a notebook shows it, else nothing.
        options: address, max_concurrent, max_gpus, budget, prefer, share_gpus, canary, reuse,
            replay, max_failures, retries.

    Returns:
        How the sweep ended: its status, a snapshot of all trials, and the best one of a search.

    Raises:
        SweepError: another definition has this name, another driver runs it, the budget is too small, or an option is
            unknown or not allowed.
        ClusterError: the cluster cannot be joined or cannot hold a trial.
        UserError: a target of `notify` is not an address and no program, or the storage cannot be reached.
    """
    store = as_storage(storage)
    definition = as_sweep(sweep, store)
    checked = as_run_options(options)
    return run_defined(definition, store, tracking, notify, callbacks, checked, is_stored=is_recorded(sweep, store))


def run_defined(
    sweep: Sweep,
    storage: Storage,
    tracking: str | None,
    notify: Sequence[str],
    callbacks: Sequence[Callback] | None,
    options: RunOptions,
    *,
    is_stored: bool,
) -> SweepOutcome:
    """Run a sweep as `run` does.

    Args:
        is_stored: only a record names the definition. A source of puzzles that it names is then not read from this
            machine: another user may have written the record.
    """
    refuse_network_database(resolve_uri(storage, tracking) or "http://")
    targets = parse_targets(notify)  # a wrong target is refused before anything starts
    chosen = default_callbacks() if callbacks is None else callbacks

    def _warn(text: str) -> None:
        if not chosen:
            logger.warning("sweep %s: %s", sweep.name, text)
        events.call("on_message", text)

    with open_callbacks(chosen) as events, _notified(storage, sweep.name, targets, events) as ended:
        require_finished(storage, sweep.name)  # before the tracker gets a part of a sweep
        with tracked(sweep, storage, tracking, _warn, lambda text: events.call("on_message", text)):
            outcome = run_sweep(sweep, storage, options, chosen, is_stored=is_stored)
            ended(outcome)
    return outcome


@contextmanager
def _notified(
    storage: Storage, sweep: str, targets: Sequence[Target], events: CallbackList
) -> Iterator[Callable[[SweepOutcome], None]]:
    """Notify the targets at the end of the block, which passes on its outcome or raises."""
    outcomes: list[SweepOutcome] = []
    try:
        yield outcomes.append
    except Exception as error:
        if targets:
            text = f"sweep {sweep}: failed: {' '.join(str(error).split())}"
            _send(targets, Event("failed", sweep, text), events)
        raise
    if targets and outcomes:
        with suppress(UserError):  # the storage is unavailable, which the sweep's own outcome reports
            _send(targets, _end_event(storage, sweep, outcomes[-1]), events)


def _end_event(storage: Storage, sweep: str, outcome: SweepOutcome) -> Event:
    event = end_event(storage, sweep)
    if outcome.status is SweepStatus.OUT_OF_BUDGET:  # by this driver's own budget, which no record names
        return replace(event, event="budget", text=f"sweep {sweep}: budget: {outcome.reason}")
    return event


def _send(targets: Sequence[Target], event: Event, events: CallbackList) -> None:
    logger.info("notify: %s", event.text)
    for problem in send(targets, event):
        events.call("on_message", f"not delivered: {problem}")
