"""`trm sweep extend|retry|watch|logs|prune|unlock|delete|rename|watchdog`: commands on a recorded sweep."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.completion import trial_ids
from orchestrator.cli.options import (
    ABOVE_0,
    JsonOption,
    OptionalSweepArgument,
    SeedsOption,
    StorageOption,
    SweepArgument,
    VaryOption,
)
from orchestrator.cli.run_options import MaxGpuHoursOption, MaxTrialsOption, MaxUsdOption, TrackingOption, budget
from orchestrator.errors import SweepError
from orchestrator.sweep.commands import resume_command
from trm_data.settings import strict_json

TrialsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Trial ids, prefixes of them, or last.",
        metavar="[TRIAL]...",
        show_default=False,
        autocompletion=trial_ids,
    ),
]


def extend(
    name: SweepArgument,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="New total of explored trials.")] = None,
    seeds: SeedsOption = None,
    vary: VaryOption = None,
    max_steps: Annotated[int | None, typer.Option("--max-steps", min=1, help="New number of steps per trial.")] = None,
    storage: StorageOption = "runs",
) -> None:
    """Give a sweep more trials, seeds, values or steps. What is recorded stays; `trm sweep resume` runs what is new.

    Longer trials continue from the last checkpoints of the shorter ones where the learning rate does not depend on the
    number of steps, and equal runs from scratch.

    Examples:

    trm sweep extend demo --trials 20

    trm sweep extend depth --vary T=4 --seeds 5

    trm sweep extend depth --max-steps 4000
    """
    from orchestrator.api.lifecycle import extend_sweep
    from orchestrator.cli.configs import axes_of
    from orchestrator.cli.views.console import line, out
    from orchestrator.records.index import last_address, load_definition
    from orchestrator.storage import open_storage
    from orchestrator.sweep.ranges import list_values

    store = open_storage(storage)
    recorded = load_definition(store, name)
    values = {path: list_values(path, axis).values for path, axis in axes_of(vary).items()}
    wider = extend_sweep(name, store, trials=trials, seeds=seeds, max_steps=max_steps, vary=values)
    if wider.definition() == recorded.definition():
        out.print(line("nothing new: sweep ", (name, "bold"), " has all of that already"))
        return
    resume = (resume_command(wider, store.url, last_address(store, name)), "bold")
    out.print(line("sweep ", (name, "bold"), " is extended. Run what is new: ", resume), soft_wrap=True)


def retry(name: SweepArgument, trials: TrialsArgument = None, storage: StorageOption = "runs") -> None:
    """Mark failed trials to be run again; `trm sweep resume` runs them, from their last checkpoints.

    Without ids, all trials that failed, diverged or ran out of memory are marked. A trial that was stopped early
    continues if it is named, and is not stopped again.

    Examples:

    trm sweep retry demo

    trm sweep retry demo 3f9a0c1b2d4e
    """
    from orchestrator.api.lifecycle import retry_trials
    from orchestrator.cli.views.console import line, out
    from orchestrator.records.index import last_address, load_definition
    from orchestrator.storage import open_storage

    store = open_storage(storage)
    chosen = retry_trials(name, store, trials=trials or [])
    for record in chosen:
        before = f"was {record.status.words}, {record.reason}"
        out.print(f"{record.trial_id} {record.family} seed {record.config.seed}: {before}")
    if not chosen:
        out.print(f"no trial of {name} has failed. A stopped one continues if it is named")
        return
    resume = (resume_command(load_definition(store, name), store.url, last_address(store, name)), "bold")
    noun = "trial" if len(chosen) == 1 else "trials"
    out.print(line(f"{len(chosen)} {noun} will run again: ", resume), soft_wrap=True)


def watch(name: SweepArgument, storage: StorageOption = "runs") -> None:
    """Watch a sweep that runs elsewhere, from its records, until it is over; Ctrl-C ends only the watching.

    Example: trm sweep watch demo --storage s3://bucket/trm
    """
    from orchestrator.cli.views.history import watch as watch_sweep
    from orchestrator.storage import open_storage

    watch_sweep(open_storage(storage), name)


def logs(
    name: SweepArgument,
    trials: TrialsArgument = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for new events until the sweep ends.")] = False,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Print the events in order: starts, evaluations, early stops with their reasons, ends, tracebacks.

    Examples:

    trm sweep logs demo

    trm sweep logs demo 3f9a --follow
    """
    from orchestrator.cli.views import history
    from orchestrator.records.index import load_definition
    from orchestrator.storage import open_storage

    store = open_storage(storage)
    load_definition(store, name)
    (history.follow if follow else history.show_log)(store, name, trials or [], as_json)


def prune(
    name: OptionalSweepArgument = None,
    every: Annotated[bool, typer.Option("--all", help="All sweeps of the storage together.")] = False,
    keep_bytes: Annotated[str, typer.Option("--keep-bytes", help="Size of the checkpoints to keep: 2GB, 500MB.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be deleted.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete the weights of finished trials without a question.")
    ] = False,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Delete the least useful checkpoints until the rest fits. Results and records stay; a running sweep is left alone.

    Weights that nothing starts from any more, failed trials and older copies go first, the last checkpoints of finished
    trials at the end and after a question.

    Examples:

    trm sweep prune demo --keep-bytes 500MB

    trm sweep prune --all --keep-bytes 2GB --dry-run
    """
    from orchestrator.api.lifecycle import prune_checkpoints
    from orchestrator.cli.views.console import confirm, out
    from orchestrator.records.retention import parse_bytes
    from orchestrator.sweep.text import num_bytes, plural

    if (name is None) != every:
        raise SweepError("which checkpoints?", "Name a sweep, or give --all")
    if not keep_bytes:
        raise SweepError("no size is given", "Give --keep-bytes, for example --keep-bytes 2GB")
    keep = parse_bytes(keep_bytes)
    if not (dry_run or yes):
        lost = prune_checkpoints(name, storage, keep_bytes=keep, dry_run=True).without_weights
        if lost:
            question = f"{plural(lost, 'finished trial')} would keep no weights to solve with or to score. Delete them?"
            confirm(question, "no checkpoint was deleted")
    done = prune_checkpoints(name, storage, keep_bytes=keep, dry_run=dry_run)
    freed = sum(one.num_bytes for one in done.deleted)
    if as_json:
        print(strict_json({"deleted": [one.key for one in done.deleted], "freed": freed, "kept": done.kept_bytes}))
        return
    for one in done.deleted:
        out.print(f"{num_bytes(one.num_bytes):>9}  {one.key}", soft_wrap=True)
    verb = "would be freed" if dry_run else "freed"
    number = plural(len(done.deleted), "checkpoint")
    out.print(f"{num_bytes(freed)} {verb} in {number}, {num_bytes(done.kept_bytes)} stay")
    if done.kept_bytes > keep:
        out.print(f"more than {num_bytes(keep)}: the rest is needed to resume, or of running sweeps or damaged trials")


def watchdog(
    name: SweepArgument,
    max_trials: MaxTrialsOption = None,
    max_gpu_hours: MaxGpuHoursOption = None,
    max_usd: MaxUsdOption = None,
    max_hours: Annotated[
        float | None, typer.Option("--max-hours", metavar=ABOVE_0, help="Budget: hours from the start of the driver.")
    ] = None,
    terminate: Annotated[
        str | None, typer.Option("--terminate", help="Terminate the AWS workers of this Ray cluster if necessary.")
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="AWS region of the cluster.")] = None,
    storage: StorageOption = "runs",
) -> None:
    """Stop a sweep that has exceeded its budget, even if its driver hangs or is dead.

    It only reads records, so it runs anywhere with access to the storage. It requests a clean stop, then signals a
    driver on this machine, and terminates machines only if their cluster is named.

    Example: trm sweep watchdog demo --storage s3://bucket/trm --max-usd 50 --terminate trm-sweeps
    """
    from orchestrator.cli.views.console import out
    from orchestrator.execution.watchdog import guard

    limits = budget(max_trials, max_gpu_hours, max_usd, max_hours)
    out.print(guard(storage, name, limits, terminate, region))


def unlock(name: SweepArgument, storage: StorageOption = "runs") -> None:
    """Remove the lock that a dead driver has left, so that the sweep can run. The lock of a driver that is alive stays.

    Example: trm sweep unlock demo
    """
    from orchestrator.cli.views.console import out
    from orchestrator.records.index import last_address, load_definition, sweep_folder
    from orchestrator.storage import open_storage
    from orchestrator.storage.lease import unlock as remove_lock

    store = open_storage(storage)
    definition = load_definition(store, name)
    holder = remove_lock(sweep_folder(store, name), name, store.url)
    if holder is None:
        out.print(f"sweep {name} is not locked")
        return
    resume = resume_command(definition, store.url, last_address(store, name))
    lock = f"the lock of process {holder['pid']} on {holder.get('host', '?')}" if "pid" in holder else "a damaged lock"
    out.print(f"removed {lock}. Resume the sweep: {resume}", soft_wrap=True)


def delete(
    name: SweepArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without confirmation.")] = False,
    tracking: TrackingOption = None,
    storage: StorageOption = "runs",
) -> None:
    """Delete a sweep that does not run: its records, its checkpoints and its runs in MLflow. Datasets stay.

    Weights in the storage that nothing else starts from are deleted, too.

    Example: trm sweep delete demo
    """
    from orchestrator.api.lifecycle import delete_sweep
    from orchestrator.cli.views.console import confirm, out
    from orchestrator.records.index import load_definition
    from orchestrator.records.lifecycle import started_from
    from orchestrator.records.retention import unused_weights
    from orchestrator.storage import open_storage
    from orchestrator.sweep.text import num_bytes, plural

    store = open_storage(storage)
    sizes = store.sizes(f"sweeps/{name}")
    if not sizes and not store.is_blocked(f"sweeps/{name}/sweep.json"):
        load_definition(store, name)
    if not yes:
        weights = unused_weights(store, without=name)
        files = len(sizes) + sum(1 + len(one.shared) for one in weights)
        freed = sum(sizes.values()) + sum(one.num_bytes for one in weights)
        also = f", {plural(len(weights), 'checkpoint')} that no other sweep starts from" if weights else ""
        what = f"{plural(files, 'file')}, {num_bytes(freed)}{also}, and its runs in MLflow"
        out.print(f"sweep {name}: {what}")
        if dependent := ", ".join(sweep.name for sweep in started_from(store, name)):
            out.print(f"warm_start of {dependent} names it: a search that has not begun cannot run without it")
        confirm("Delete all of it?", f"sweep {name!r} was not deleted")
    files, runs = delete_sweep(name, store, tracking=tracking)
    out.print(f"deleted sweep {name}: {plural(files, 'file')} and {plural(runs, 'run')} in MLflow")


def rename(
    name: SweepArgument,
    new: Annotated[str, typer.Argument(help="Its new name.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Rename without a question.")] = False,
    tracking: TrackingOption = None,
    storage: StorageOption = "runs",
) -> None:
    """Rename a sweep that does not run: its records, its checkpoints and its runs in MLflow.

    Example: trm sweep rename unnamed depth
    """
    from orchestrator.api.lifecycle import rename_sweep
    from orchestrator.cli.views.console import confirm, out
    from orchestrator.records.lifecycle import renamed
    from orchestrator.storage import open_storage
    from orchestrator.sweep.text import num_bytes, plural

    store = open_storage(storage)
    renamed(store, name, new)  # an error comes before the question
    if not yes:
        sizes = store.sizes(f"sweeps/{name}")
        runs = "" if tracking == "none" else ", and its runs in MLflow"
        out.print(f"sweep {name}: {plural(len(sizes), 'file')}, {num_bytes(sum(sizes.values()))}{runs}")
        confirm(f"Rename it to {new}?", f"sweep {name!r} was not renamed")
    rename_sweep(name, store, new=new, tracking=tracking)
    out.print(f"renamed sweep {name} to {new}" + ("" if tracking == "none" else ", with its runs in MLflow"))


COMMANDS = (extend, retry, watch, logs, prune, unlock, delete, rename, watchdog)
