"""Change recorded sweeps: stop, extend, retry, rename and delete them, and prune their checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.errors import SweepError, command_line
from orchestrator.records import extend, lifecycle, retention
from orchestrator.records.index import load_definition, request_stop, sweep_folder, sweep_name, sweep_names
from orchestrator.records.retention import Pruning
from orchestrator.records.schema import DEFINITION, TrialRecord
from orchestrator.storage import Storage, as_storage
from orchestrator.storage.lease import driver_of
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.domains import Setting
from orchestrator.tracking.live import artifact_location, only_writer, resolve_uri
from orchestrator.tracking.mlflow import MlflowSync

TRACKER_WAIT_S = 60.0
"""Seconds to wait for another process that sends the same sweep to the tracker."""


class Deletion(NamedTuple):
    """Count what was deleted with a sweep."""

    files: int
    runs: int
    """In MLflow."""


def stop_sweep(sweep: Sweep | str, storage: Storage | str | Path = "runs") -> dict[str, Any]:
    """Ask a running sweep to stop cleanly, wherever its driver is; `run` resumes it.

    Returns:
        host, pid and started_s of the process that runs it, which stops soon. One on another machine whose heartbeat is
        late is asked, too: it may live.

    Raises:
        SweepError: there is no such sweep, or it does not run.
    """
    store, name = as_storage(storage), sweep_name(sweep)
    load_definition(store, name)
    folder = sweep_folder(store, name)
    driver = driver_of(folder, if_silent="alive")
    if driver is None:
        raise SweepError(
            f"sweep {name!r} is not running",
            f"See it with `{command_line('sweep', 'status', name, storage=store.url)}`",
        )
    request_stop(folder)
    return driver


def extend_sweep(
    sweep: Sweep | str,
    storage: Storage | str | Path = "runs",
    *,
    trials: int | None = None,
    seeds: int | None = None,
    max_steps: int | None = None,
    vary: Mapping[str, Sequence[Setting]] | None = None,
) -> Sweep:
    """Give a recorded sweep more trials, seeds, steps or values, and return its definition; `run` runs what is new.

    Args:
        trials: new total of explored trials of a search.
        seeds: new total of seeds per cell.
        max_steps: new number of steps per trial.
        vary: further values by path, or by a letter of the paper: `{"T": (4, 5)}`.

    Raises:
        SweepError: there is no such sweep, it runs, or this extension does not apply to it.
    """
    values = {path: tuple(found) for path, found in (vary or {}).items()}
    more = extend.Extension.parse({"trials": trials, "seeds": seeds, "max_steps": max_steps, "vary": values})
    return extend.extend(as_storage(storage), sweep_name(sweep), more)


def retry_trials(
    sweep: Sweep | str, storage: Storage | str | Path = "runs", *, trials: Sequence[str] = ()
) -> list[TrialRecord]:
    """Mark failed trials to be run again by `run`, from their last checkpoints; return them as they were.

    Args:
        trials: ids or prefixes of them; all that failed, diverged or ran out of memory if left out. One that was
            stopped early continues if it is named, and is not stopped again.

    Raises:
        SweepError: there is no such sweep or trial, the sweep runs, or a trial does not need it.
    """
    return extend.retry(as_storage(storage), sweep_name(sweep), trials)


def prune_checkpoints(
    sweep: Sweep | str | None = None,
    storage: Storage | str | Path = "runs",
    *,
    keep_bytes: int | str,
    dry_run: bool = False,
) -> Pruning:
    """Delete the least useful checkpoints until the rest fits. Results and records stay; a running sweep is left alone.

    Args:
        sweep: None means all sweeps of the storage together.
        keep_bytes: size of the checkpoints to keep: a number, or a text such as `2GB`.
        dry_run: only return what would be deleted.

    Raises:
        SweepError: there is no such sweep, it runs, or the size is not valid.
    """
    store, keep = as_storage(storage), retention.parse_bytes(str(keep_bytes))
    if sweep is not None:
        load_definition(store, sweep_name(sweep))
    names = sweep_names(store) if sweep is None else [sweep_name(sweep)]
    return retention.prune_sweeps(store, names, keep, dry_run=dry_run)


def delete_sweep(
    sweep: Sweep | str, storage: Storage | str | Path = "runs", *, tracking: str | None = None
) -> Deletion:
    """Delete a sweep that does not run: its records, its checkpoints and its runs in MLflow. Datasets stay.

    Args:
        tracking: MLflow tracking URI, or "none". The storage's own database if left out.

    Raises:
        SweepError: there is no such sweep, or it runs.
    """
    store = as_storage(storage)
    mlflow = _mlflow(store, tracking)
    runs = 0

    with ExitStack() as leases:

        def delete_runs(name: str) -> None:
            nonlocal runs
            if mlflow is not None:  # a driver that has just ended may still be sending what would then appear again
                leases.enter_context(only_writer(store, name, mlflow.tracking_uri, wait_s=TRACKER_WAIT_S))
                runs = mlflow.delete(name)

        return Deletion(lifecycle.delete_sweep(store, sweep_name(sweep), delete_runs), runs)


def rename_sweep(
    sweep: Sweep | str, storage: Storage | str | Path = "runs", *, new: str, tracking: str | None = None
) -> Sweep:
    """Rename a sweep that does not run: its records, its checkpoints and its runs in MLflow.

    Args:
        new: its new name.
        tracking: as for `delete_sweep`.

    Returns:
        Its definition under the new name.

    Raises:
        SweepError: there is no such sweep, it runs, or the new name is taken.
        ConfigError: the new name is reserved or not valid.
    """
    store, name = as_storage(storage), sweep_name(sweep)
    lifecycle.renamed(store, name, new)
    mlflow = _mlflow(store, tracking)
    with ExitStack() as leases:
        folder = sweep_folder(store, name)
        if mlflow is not None and folder.exists(DEFINITION) and driver_of(folder) is None:
            leases.enter_context(only_writer(store, name, mlflow.tracking_uri, wait_s=TRACKER_WAIT_S))
        if mlflow is not None:
            mlflow.count_runs(name)  # a tracker that does not answer is noticed while the old name is still there

        def move_runs(old: str, new: str) -> None:
            if mlflow is not None:
                mlflow.rename(old, new)

        return lifecycle.rename_sweep(store, name, new, move_runs)


def _mlflow(storage: Storage, tracking: str | None) -> MlflowSync | None:
    uri = resolve_uri(storage, tracking)
    return None if uri is None else MlflowSync(uri, artifacts=artifact_location(storage))
