"""`trm track`: sync MLflow, verify it against the records, or rebuild it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.completion import sweep_names
from orchestrator.cli.options import JsonOption, StorageOption, SweepArgument
from trm_data.settings import strict_json

if TYPE_CHECKING:
    from orchestrator.records.schema import TrialRecord
    from orchestrator.storage import Storage
    from orchestrator.sweep.definition import Sweep
    from orchestrator.tracking.mlflow import MlflowSync, OnProgress

app = typer.Typer(help="Sync MLflow with the records, and check it.", no_args_is_help=True)

WAIT_S = 60.0
"""Seconds to wait for another process that is writing the same sweep, which takes seconds at a time."""

SweepsArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Names of sweeps; all of them if left out.", show_default=False, autocompletion=sweep_names),
]
TrackingOption = Annotated[
    str | None, typer.Option("--tracking", help="MLflow tracking URI. SQLite in the storage folder if left out.")
]


@app.command()
def sync(
    sweeps: SweepsArgument = None,
    storage: StorageOption = "runs",
    tracking: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send what MLflow does not have yet. May be stopped and repeated at any time, also while a sweep runs.

    Examples:

    trm track sync

    trm track sync demo --tracking http://127.0.0.1:5000
    """
    _print(_for_each_sweep(sweeps, storage, tracking, "sending", _sync), as_json, _format_sent)


@app.command()
def rebuild(
    sweeps: SweepsArgument = None,
    storage: StorageOption = "runs",
    tracking: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete the sweeps' runs from MLflow, with notes and files that were added there, and send everything again.

    Example: trm track rebuild demo --tracking http://127.0.0.1:5000
    """
    _print(_for_each_sweep(sweeps, storage, tracking, "rebuilding", _rebuild), as_json, _format_sent)


@app.command()
def verify(
    sweeps: SweepsArgument = None,
    storage: StorageOption = "runs",
    tracking: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that MLflow has every point of every trial exactly once, and list what differs. Changes nothing.

    Exit code 1 where anything differs.

    Examples:

    trm track verify demo

    trm track verify --json --tracking http://127.0.0.1:5000
    """
    report = _for_each_sweep(sweeps, storage, tracking, "comparing", _verify, is_writer=False)
    _print(report, as_json, _format_verified)
    raise typer.Exit(1 if any(sweep["differences"] for sweep in report["sweeps"]) else 0)


@app.command()
def register(
    sweep: SweepArgument,
    storage: StorageOption = "runs",
    tracking: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the sweep's confirmed winner into MLflow's model registry, ready for `mlflow.pyfunc.load_model`.

    The configuration with the highest mean over at least three seeds on the test split, with its lowest seed's weights.

    Example: trm track register demo
    """
    from orchestrator.cli.views.console import out
    from orchestrator.records.checkpoints import find_checkpoint
    from orchestrator.records.index import load_definition, sweep_folder
    from orchestrator.records.reader import read_trials
    from orchestrator.storage import open_storage
    from orchestrator.storage.lease import driver_of
    from orchestrator.sweep.text import plural
    from orchestrator.tracking.live import artifact_location, only_writer
    from orchestrator.tracking.mlflow import MlflowSync
    from orchestrator.tracking.registry import winner
    from trm_data.addresses import shown_address
    from trm_model.checkpoints.trained import load_trained

    store = open_storage(storage)
    uri = _tracking_uri(store, tracking)
    definition = load_definition(store, sweep)
    records = read_trials(store, sweep)
    won = winner(records, sweep)
    trial, result = won.record, won.record.result
    assert result is not None, "only a finished trial wins"
    trained = load_trained(find_checkpoint(f"{sweep}/{trial.trial_id}", store).load(), result.weights)
    mlflow = MlflowSync(uri, artifacts=artifact_location(store))
    with only_writer(store, sweep, uri, wait_s=WAIT_S):
        mlflow.sync(definition, records, is_driven=driver_of(sweep_folder(store, sweep)) is not None)
        name, version, is_new = mlflow.register(won, trained)
    if as_json:
        print(strict_json({"name": name, "version": version, "new": is_new, "trial_id": trial.trial_id}, indent=1))
        return
    seeds = f"mean {100 * won.mean:.1f} % over {plural(len(won.scores), 'seed')}"
    out.print(f"{'registered' if is_new else 'already registered'}: {name} version {version}: {trial.family}, {seeds}")
    code = f'mlflow.set_tracking_uri("{shown_address(uri)}"); mlflow.pyfunc.load_model("models:/{name}/{version}")'
    out.print(code, markup=False, soft_wrap=True)


Report = dict[str, Any]
"""What is reported of one sweep, as --json prints it."""
Work = Callable[["MlflowSync", "Sweep", "list[TrialRecord]", "OnProgress", bool], Report]


def _sync(
    mlflow: MlflowSync, sweep: Sweep, records: list[TrialRecord], on_progress: OnProgress, is_driven: bool
) -> Report:
    sent = mlflow.sync(sweep, records, on_progress, is_driven=is_driven)
    return {"trials_changed": sent.trials, "points_sent": sent.points}


def _rebuild(
    mlflow: MlflowSync, sweep: Sweep, records: list[TrialRecord], on_progress: OnProgress, is_driven: bool
) -> Report:
    sent = mlflow.rebuild(sweep, records, on_progress, is_driven=is_driven)
    return {"trials_changed": sent.trials, "points_sent": sent.points}


def _verify(
    mlflow: MlflowSync, sweep: Sweep, records: list[TrialRecord], on_progress: OnProgress, is_driven: bool
) -> Report:
    differences = mlflow.verify(sweep, records, on_progress, is_driven=is_driven)
    return {"differences": [difference._asdict() | {"text": str(difference)} for difference in differences]}


def _for_each_sweep(
    names: list[str] | None, url: str, tracking: str | None, verb: str, work: Work, is_writer: bool = True
) -> dict[str, Any]:
    """Do `work` for every sweep. A writer holds the sweep's lease, since two would create the same runs."""
    from contextlib import nullcontext

    from orchestrator.cli.views.console import bar
    from orchestrator.cli.views.status import show_damaged
    from orchestrator.records.index import load_definition, load_definitions, sweep_folder
    from orchestrator.records.reader import read_trials
    from orchestrator.storage import open_storage
    from orchestrator.storage.lease import driver_of
    from orchestrator.tracking.live import artifact_location, only_writer
    from orchestrator.tracking.mlflow import MlflowSync
    from trm_data.addresses import shown_address

    storage = open_storage(url)
    uri = _tracking_uri(storage, tracking)
    if names:
        definitions = [load_definition(storage, name) for name in names]
    else:
        definitions, damaged = load_definitions(storage)
        show_damaged(damaged)
    mlflow = MlflowSync(uri, artifacts=artifact_location(storage))
    reports = []
    with bar() as progress:
        for sweep in definitions:
            task = progress.add_task(f"{verb} {sweep.name}", total=1, note="trials")

            def on_progress(done: int, total: int, task: Any = task) -> None:
                progress.update(task, completed=done, total=total)

            with only_writer(storage, sweep.name, uri, wait_s=WAIT_S) if is_writer else nullcontext():
                is_driven = driver_of(sweep_folder(storage, sweep.name)) is not None
                records = read_trials(storage, sweep.name)
                report = {"sweep": sweep.name, "trials": len(records), "points": _num_points(records)}
                reports.append(report | work(mlflow, sweep, records, on_progress, is_driven))
    return {"tracking": shown_address(uri), "sweeps": reports}


def _tracking_uri(storage: Storage, tracking: str | None) -> str:
    from orchestrator.tracking.live import resolve_uri
    from orchestrator.tracking.mlflow_connection import TrackingError

    uri = resolve_uri(storage, tracking)
    if uri is None:
        raise TrackingError(f"no tracker is named for {storage.url}", "Name one: --tracking http://HOST:PORT")
    return uri


def _num_points(records: list[TrialRecord]) -> int:
    from orchestrator.tracking import mlflow_view

    return sum(len(row.metrics) for record in records for row in mlflow_view.rows(record))


def _print(report: dict[str, Any], as_json: bool, format_sweep: Callable[[Report], str]) -> None:
    from orchestrator.cli.views.console import out

    if as_json:
        print(strict_json(report, indent=1))
        return
    for sweep in report["sweeps"]:
        out.print(format_sweep(sweep), markup=False)
    if not report["sweeps"]:
        out.print("no sweeps there")


def _format_sent(report: Report) -> str:
    from orchestrator.sweep.text import plural

    name, trials = report["sweep"], plural(report["trials"], "trial")
    if not report["trials_changed"]:
        return f"{name}: {trials}, nothing new"
    return f"{name}: {plural(report['points_sent'], 'point')} of {report['trials_changed']} of {trials} sent"


def _format_verified(report: Report) -> str:
    from orchestrator.sweep.text import plural

    head = f"{report['sweep']}: {plural(report['trials'], 'trial')}, {plural(report['points'], 'point')}"
    lines = [difference["text"] for difference in report["differences"]]
    return "\n".join(
        [f"{head}, each exactly once" if not lines else f"{head}: {plural(len(lines), 'difference')}", *lines]
    )
