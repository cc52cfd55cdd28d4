"""Run a sweep to its end, or go on with it where it was left."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from orchestrator.errors import SweepError
from orchestrator.execution.budget import require_budget_for_one
from orchestrator.execution.driver import Driver
from orchestrator.execution.options import Callback, RunOptions, SweepStatus
from orchestrator.execution.ray_cluster import check_cluster
from orchestrator.records.datasets import Library
from orchestrator.records.extend import current, extension_between
from orchestrator.records.index import differences, find_definition, sweep_folder
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import TrialRecord
from orchestrator.search.planner import Planner
from orchestrator.search.warm_start import warm_start
from orchestrator.storage import Storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.lease import Lease
from orchestrator.sweep.definition import Sweep
from trm_model.recursion_file import replace_in, trusted_source

__all__ = ["RunOptions", "SweepStatus", "run_sweep"]


class SweepOutcome(NamedTuple):
    """How far a driver got."""

    ending: SweepStatus
    planner: Planner
    why: str = ""
    """Which limit of the budget ended it."""


def run_sweep(sweep: Sweep, storage: Storage, options: RunOptions, watcher: Callback) -> SweepOutcome:
    """Run a sweep to its end, or go on with it where it was left.

    Raises:
        SweepError: another definition has this name, another driver runs it, or the budget is too small for one trial.
        ClusterError: the cluster cannot be joined or cannot hold a trial.
        ConfigError: a recursion file that nothing in this command names.
    """
    folder = sweep_folder(storage, sweep.name)
    recorded = find_definition(storage, sweep.name)
    _agree(recorded, sweep)
    earlier = read_trials(storage, sweep.name) if recorded else []
    _require_trust(sweep, earlier)
    require_budget_for_one(sweep, options.budget, earlier)
    if options.address is not None:
        check_cluster(options.address)
    with Lease(folder, sweep.name) as lock:
        folder.write("sweep.json", to_json_bytes(sweep.plain()))
        library = Library(storage, watcher.building, is_stored=options.is_stored)
        library.get(sweep.base.data.request())
        records = read_trials(storage, sweep.name)
        others = warm_start(sweep, storage, library.fingerprint)
        planner = Planner(sweep, library.fingerprint, current(sweep, records), others)
        if planner.is_done:
            return SweepOutcome(SweepStatus.COMPLETE, planner)
        if lock.took_over:
            time.sleep(3)  # a driver that was killed here may have trials that notice only now
        driver = Driver(sweep, storage, library, planner, records, watcher, lock, options)
        ending = driver.run()
        if ending is not SweepStatus.COMPLETE:  # trials wrote their last words after Tune had let them go
            planner = Planner(sweep, library.fingerprint, current(sweep, read_trials(storage, sweep.name)), others)
        return SweepOutcome(ending, planner, driver.refused)


def _require_trust(sweep: Sweep, records: Iterable[TrialRecord]) -> None:
    """Raises ConfigError if a trial would need the code of a file that this command does not name."""
    unfinished = [record.config.plain() for record in records if not record.status.is_final]
    replace_in([sweep.plain(), *unfinished], lambda address: trusted_source(address).path)


def _agree(recorded: Sweep | None, sweep: Sweep) -> None:
    """A name stands for one definition."""
    if recorded is None:
        return
    changed = differences(recorded.definition(), sweep.definition())
    if not changed:
        return
    more = extension_between(recorded, sweep)
    what = f"sweep {sweep.name!r} exists with another definition ({', '.join(changed[:4])})"
    if more:
        raise SweepError(what, f"Take the change over: trm sweep extend {sweep.name} {more}")
    raise SweepError(
        what,
        f"Give this one another --name, go on with the recorded one: trm sweep resume {sweep.name}, or add to it: "
        f"trm sweep extend {sweep.name} --help",
    )
