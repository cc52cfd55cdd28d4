"""Run a sweep to its end, or resume it from its records."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from orchestrator.errors import SweepError, command_line
from orchestrator.execution.allocator import Allocator
from orchestrator.execution.budget import require_budget_for_one, shortage
from orchestrator.execution.callbacks import CallbackList
from orchestrator.execution.controller import CANARY_STEPS, Controller
from orchestrator.execution.driver import Cluster, ClusterPlacement, Driver, Executor, count_slots, fit_with_tune
from orchestrator.execution.driver_log import driver_log
from orchestrator.execution.failures import describe_damaged
from orchestrator.execution.options import Callback, RunOptions, SweepOutcome, SweepSnapshot, SweepStatus
from orchestrator.execution.ray_cluster import RayCluster, check_cluster
from orchestrator.execution.signals import stop_signals
from orchestrator.execution.snapshots import Snapshots, progress_of
from orchestrator.execution.submission import TrialSubmitter
from orchestrator.records.datasets import Library
from orchestrator.records.extend import current, extension_between
from orchestrator.records.finished_index import indexed
from orchestrator.records.index import find_definition, last_address, load_definition, note_address, sweep_folder
from orchestrator.records.reader import SweepReader
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.records.stored import Damaged
from orchestrator.records.unfinished import held
from orchestrator.resources.devices import (
    require_local_cpus,
    require_local_device,
    require_local_gpu_count,
    require_local_gpus,
)
from orchestrator.resources.gpu_choice import GpuChoice, choose_gpus
from orchestrator.resources.placement import misspelled_gpus
from orchestrator.resources.runtime import RuntimeModel
from orchestrator.search.order import REPLAY, Order, Recorded, replay_of
from orchestrator.search.planner import Planner
from orchestrator.search.warm_start import require_earlier, warm_start
from orchestrator.storage import Storage
from orchestrator.storage.base import StorageError, to_json_bytes
from orchestrator.storage.lease import Lease
from orchestrator.sweep.budget import Budget
from orchestrator.sweep.commands import resume_command
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.settings import functions_of, require_no_credentials, starts_of, summarize_differences
from trm_data.errors import ConfigError, DataError
from trm_data.own_code import classes_in, load_class, load_function, trusted_source

__all__ = ["RunOptions", "SweepOutcome", "SweepStatus", "run_sweep"]

logger = logging.getLogger(__name__)

SHUTDOWN_S = 60.0
ABANDONED_S = 5.0
"""Longest wait for Ray to shut down: normally, and if it no longer answers."""


def run_sweep(
    sweep: Sweep,
    storage: Storage,
    options: RunOptions | None = None,
    callbacks: Sequence[Callback] = (),
    *,
    is_stored: bool = False,
    cluster: Cluster | None = None,
    execute: Executor = fit_with_tune,
) -> SweepOutcome:
    """Run a sweep to its end, or resume it: finished trials stay, unfinished ones resume from their checkpoints.

    Args:
        callbacks: receive the events of the run, from this thread; what they raise is logged and never stops it.
        is_stored: the definition comes from the storage: no puzzle source that it names is opened.
        cluster, execute: where and with what trials run: Ray and Ray Tune.

    Raises:
        SweepError: another definition has this name, another process runs or changes it, or the budget covers no trial.
        ClusterError: the cluster cannot be joined or cannot hold a trial.
        StorageError: the storage cannot be reached at the start.
        ConfigError: a trial needs a recursion file that nothing in this command names, or a setting has credentials.
    """
    options, events = _within_limits(options or RunOptions(), sweep), CallbackList(callbacks)
    folder = sweep_folder(storage, sweep.name)
    recorded = (load_definition if is_stored else find_definition)(storage, sweep.name)
    _require_same(recorded, sweep, storage)
    reader = SweepReader(storage, sweep.name)
    known = _read(reader)[0] if recorded else []
    _require_trust(sweep, known)
    starts = _provide_starts(sweep, known, storage, is_stored=is_stored)
    require_earlier(sweep, storage)
    replay = replay_of(sweep, folder, options.replay, storage, has_begun=bool(known))
    choice = _choose_machines(sweep, options, events, is_new=recorded is None, is_checked=cluster is None)
    if not any(record.attempts for record in known):
        require_budget_for_one(choice.sweep, options.budget)
    with _held(storage, sweep.name, recorded) as lease, driver_log(folder), indexed(folder), _tidied(folder):
        _write_definition(folder, sweep, replay)
        note_address(storage, sweep.name, options.address)
        _provide(starts, storage, is_stored=is_stored)  # again: what nothing named yet may have been deleted
        library = Library(storage, lambda *progress: events.send("on_build", *progress), is_stored=is_stored)
        _build_base(library, sweep, folder, is_new=recorded is None)
        records, damaged = _read(reader)
        earlier = warm_start(sweep, storage, library.fingerprint)
        now, order = current(sweep, records), Order.load(folder) if sweep.kind == "search" else None
        planner = Planner(choice.sweep, library.fingerprint, now, earlier, damaged, order, replay)
        if damaged:
            events.call("on_message", describe_damaged(damaged))
        if planner.is_done:
            return _outcome_of_none(events, planner, records, damaged)
        if short := shortage(choice.sweep, options.budget, records):
            return _outcome(events, planner, records, SweepStatus.OUT_OF_BUDGET, short)
        cluster = cluster or RayCluster(options.address, choice.gpus)
        status, reason, last = _drive(
            planner, choice, records, damaged, storage, library, lease, options, events, cluster, execute
        )
        if status is not SweepStatus.COMPLETE:
            records = _read_again(reader, planner, sweep, records)
        return _outcome(events, planner, records, status, reason, last)


def _read_again(reader: SweepReader, planner: Planner, sweep: Sweep, records: list[TrialRecord]) -> list[TrialRecord]:
    """Return the records after a run, as trials may have written their end after Tune released them."""
    try:
        records, damaged = _read(reader)
        planner.refresh(current(sweep, records), damaged)
    except StorageError as error:
        logger.warning("the records cannot be read: %s", error)
    return records


def _within_limits(options: RunOptions, sweep: Sweep) -> RunOptions:
    """Return the options with the limits of the sweep's own budget where they set none."""
    return options.model_copy(update={"budget": sweep.budget.with_limits(options.budget)})


@contextmanager
def _held(storage: Storage, name: str, recorded: Sweep | None) -> Iterator[Lease]:
    """Hold the lease of a sweep whose definition is still the recorded one that was read before."""
    with held(storage, name) as lease:
        if find_definition(storage, name) != recorded:
            raise SweepError(
                f"another process has just changed, renamed, deleted or begun sweep {name!r}", "Give the command again"
            )
        yield lease


@contextmanager
def _tidied(folder: Storage) -> Iterator[None]:
    """Remove the temporary files of killed processes when the run ends: nobody writes to their folders again."""
    try:
        yield
    finally:
        folder.remove_abandoned()


def _read(reader: SweepReader) -> tuple[list[TrialRecord], dict[str, Damaged]]:
    """Return the trials as they are now, and the damaged file of each trial whose record cannot be read."""
    found = reader.read()
    return found.trials, found.damaged_trials()


def _write_definition(folder: Storage, sweep: Sweep, replay: Recorded | None) -> None:
    if replay is not None:
        folder.write(REPLAY, replay.encode())
    folder.write("sweep.json", to_json_bytes(sweep.plain()))


def _build_base(library: Library, sweep: Sweep, folder: Storage, *, is_new: bool) -> None:
    """Build the dataset of the base configuration, before anything starts.

    Raises:
        ConfigError, DataError: it cannot be built. The name of a new sweep is free again then.
    """
    try:
        library.get(sweep.base.data.request())
    except (ConfigError, DataError):
        if is_new:  # nothing can have run: the corrected definition is to find its name free
            folder.delete_many(["sweep.json", REPLAY])
        raise


def _choose_machines(
    sweep: Sweep, options: RunOptions, events: CallbackList, *, is_new: bool, is_checked: bool
) -> GpuChoice:
    """Decide which GPUs trials use, and check that the machines can hold a trial: a cluster's, or this one.

    Raises:
        SweepError, ConfigError: this machine lacks the GPUs, or for a new sweep the cores, that a trial needs.
        ClusterError: the cluster does not answer.
    """
    nodes = None if options.address is None else check_cluster(options.address).nodes
    choice = choose_gpus(sweep, nodes, options.share_gpus)
    if is_checked and nodes is not None:
        labels = [node.gpu_type for node in nodes]
        if hint := misspelled_gpus(choice.sweep, labels):  # no error: a node with this label may be started later
            events.call("on_message", hint)
    elif is_checked:
        require_local_gpus(choice.sweep, choice.label)
        require_local_device(choice.sweep)
        if is_new:
            require_local_cpus(choice.sweep)
            require_local_gpu_count(choice.sweep, choice.label, len(choice.gpus or ()))
    if choice.message:
        logger.info("sweep %s: %s", sweep.name, choice.message)
        events.call("on_message", choice.message)
    return choice


def _drive(
    planner: Planner,
    choice: GpuChoice,
    records: Sequence[TrialRecord],
    damaged: Mapping[str, Damaged],
    storage: Storage,
    library: Library,
    lease: Lease,
    options: RunOptions,
    events: CallbackList,
    cluster: Cluster,
    execute: Executor,
) -> tuple[SweepStatus, str, SweepSnapshot | None]:
    """Start the cluster, run the trials on it, and leave it. SIGINT and SIGTERM are requests to stop meanwhile.

    Return how the run ended, the reason, and the last snapshot, if a trial could start.
    """
    sweep = planner.sweep
    has_budget = options.budget != Budget()
    costs = RuntimeModel(records if sweep.resources.gpus or has_budget else ())
    is_canary = options.canary if options.canary is not None else bool(options.address and sweep.resources.gpus)
    impatient = storage.patient(0.0)  # the controller repeats requests itself, until the sweep is to stop
    stopping = threading.Event()
    with stop_signals(stopping) as take_signals_back:
        cluster.start()
        take_signals_back()  # the core of Ray replaces the handler of SIGTERM by one that aborts
        status = SweepStatus.STOPPED
        try:
            if stopping.is_set():
                return status, "", None
            allocator = Allocator(
                scales=cluster.scales(), max_gpus=options.max_gpus, canary_steps=CANARY_STEPS if is_canary else 0
            )
            controller = Controller(
                planner=planner,
                submitter=TrialSubmitter(
                    sweep.name, impatient, library, records, reuse=options.reuse, order=planner.order
                ),
                placement=ClusterPlacement(choice, cluster, options, costs),
                allocator=allocator,
                storage=impatient,
                records=records,
                options=options,
                costs=costs,
                events=events,
                damaged=damaged,
                stopping=stopping,
            )
            slots = count_slots(sweep, options, cluster)
            driver = Driver(controller, cluster, sweep_folder(storage, sweep.name), lease, events, execute)
            logger.info("sweep %s: started, %d trials planned, up to %d at once", sweep.name, planner.total, slots)
            status, reason = driver.run(slots)
            logger.info("sweep %s: %s%s", sweep.name, status, f": {reason}" if reason else "")
            return status, reason, controller.snapshot()
        finally:
            # Ray that no longer answers may never shut down; the command ends its process then.
            is_abandoned = status is SweepStatus.ABANDONED
            if not cluster.shutdown(ABANDONED_S if is_abandoned else SHUTDOWN_S, is_abandoned=is_abandoned):
                level = logging.INFO if is_abandoned else logging.WARNING  # a Ray that has died was named already
                logger.log(level, "Ray did not shut down in time")


def _outcome_of_none(
    events: CallbackList, planner: Planner, records: Sequence[TrialRecord], damaged: Mapping[str, Damaged]
) -> SweepOutcome:
    """Return the outcome of a sweep of which no trial can be run."""
    if progress_of(planner).left:  # trials whose records are damaged
        return _outcome(events, planner, records, SweepStatus.STOPPED, describe_damaged(damaged))
    events.call("on_message", f"nothing was run: all trials of sweep {planner.sweep.name} have ended")
    return _outcome(events, planner, records, SweepStatus.COMPLETE)


def _outcome(
    events: CallbackList,
    planner: Planner,
    records: Sequence[TrialRecord],
    status: SweepStatus,
    reason: str = "",
    last: SweepSnapshot | None = None,
) -> SweepOutcome:
    snapshots = Snapshots(planner, records)
    reasons = {record.trial_id: record.reason for record in records if record.reason}
    best = snapshots.best()
    config = None if best is None else planner.trials[best.trial_id].trial.config
    snapshot = snapshots.sweep(progress_of(planner), reasons)
    if last is not None:
        snapshot = replace(snapshot, gpu_hours=last.gpu_hours, usd=last.usd)
    # Nothing runs any more: a trial that could not write its end resumes like one that did.
    trials = [replace(t, status=Status.INTERRUPTED) if t.status is Status.RUNNING else t for t in snapshot.trials]
    outcome = SweepOutcome(
        status,
        replace(snapshot, trials=trials),
        reason,
        best,
        best_config=config,
        best_params={} if config is None else planner.sweep.search_space.cell_of(config),
    )
    events.deliver()
    events.call("on_sweep_end", outcome)
    return outcome


def _require_trust(sweep: Sweep, records: Iterable[TrialRecord]) -> None:
    """Raise ConfigError if a setting has credentials, or a trial needs the code of a file that is not named here or
    that fails."""
    require_no_credentials(sweep.plain())
    unfinished = [record.config.plain() for record in records if not record.status.is_final]
    classes = classes_in([plain := sweep.plain(), *unfinished])
    functions = functions_of(plain)
    for address in (*classes, *functions):
        trusted_source(address)
    for address in functions:
        load_function(address)
    for address, role in classes.items():
        load_class(address, role)


def _provide_starts(sweep: Sweep, records: Iterable[TrialRecord], storage: Storage, *, is_stored: bool) -> list[str]:
    """Copy the checkpoints that trials start from into the storage, and return their addresses.

    Raises:
        UserError: one cannot be read, or has the weights of another model.
    """
    unfinished = [record.config.plain() for record in records if not record.status.is_final]
    if addresses := starts_of([sweep.plain(), *unfinished]):
        from orchestrator.records.start_weights import check_starts  # imports torch

        check_starts(sweep, storage, is_stored=is_stored)
    _provide(addresses, storage, is_stored=is_stored)
    return addresses


def _provide(addresses: Iterable[str], storage: Storage, *, is_stored: bool) -> None:
    for address in addresses:
        from orchestrator.records.start_weights import provide_start  # imports torch

        provide_start(storage, address, is_stored=is_stored)


def _require_same(recorded: Sweep | None, sweep: Sweep, storage: Storage) -> None:
    """Raise an error if the name belongs to a recorded sweep with another definition."""
    if recorded is None:
        return
    changed = summarize_differences(recorded.definition(), sweep.definition())
    if not changed:
        return
    more = extension_between(recorded, sweep)
    what = f"sweep {sweep.name!r} exists with another definition ({changed})"
    if more:
        extend = command_line("sweep", "extend", sweep.name, *more, storage=storage.url)
        raise SweepError(what, f"Extend the recorded one: {extend}")
    extend = command_line("sweep", "extend", sweep.name, storage=storage.url)
    resume = resume_command(recorded, storage.url, last_address(storage, sweep.name))
    raise SweepError(
        what,
        f"Give this one another --name (--reuse takes over finished trials that both have), resume the recorded one: "
        f"`{resume}`, or extend it: `{extend} --help`",
    )
