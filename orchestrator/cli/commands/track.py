"""`trm track`: MLflow brought up to date, compared with the records, or filled anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import JsonOption, StorageOption

if TYPE_CHECKING:
    from orchestrator.records.schema import TrialRecord
    from orchestrator.storage import Storage
    from orchestrator.sweep.definition import Sweep
    from orchestrator.tracking.mlflow import Listener, MlflowProjection

app = typer.Typer(help="Bring MLflow up to date with the records, and check it.", no_args_is_help=True)

WAIT_S = 60.0
"""A running sweep writes for seconds at a time."""

SweepsArgument = Annotated[
    list[str] | None, typer.Argument(help="Names of sweeps; all of them if left out.", show_default=False)
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
    _report(_each(sweeps, storage, tracking, "sending", _synced), as_json, _sent_words)


@app.command()
def rebuild(
    sweeps: SweepsArgument = None,
    storage: StorageOption = "runs",
    tracking: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete the sweeps' runs from MLflow, with whatever was written beside them there, and send everything anew.

    Example: trm track rebuild demo --tracking http://127.0.0.1:5000
    """
    _report(_each(sweeps, storage, tracking, "rebuilding", _rebuilt), as_json, _sent_words)


@app.command()
def verify(
    sweeps: SweepsArgument = None,
    storage: StorageOption = "runs",
    tracking: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """See that MLflow has every point of every trial exactly once; name what is missing or too many. Only reads.

    Exit code 1 where anything differs.

    Examples:

    trm track verify demo

    trm track verify --json --tracking http://127.0.0.1:5000
    """
    found = _each(sweeps, storage, tracking, "comparing", _compared)
    _report(found, as_json, _verified_words)
    raise typer.Exit(1 if any(sweep["differences"] for sweep in found["sweeps"]) else 0)


@app.command()
def register(
    sweep: Annotated[str, typer.Argument(help="Name of a sweep.", show_default=False)],
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
    from orchestrator.records.index import load_definition
    from orchestrator.records.reader import read_trials
    from orchestrator.storage import open_storage
    from orchestrator.tracking.live import artifact_location, only_writer
    from orchestrator.tracking.mlflow import MlflowProjection
    from orchestrator.tracking.registry import winner
    from trm_model.checkpoints.trained import load_trained

    store = open_storage(storage)
    uri = _address(store, tracking)
    definition = load_definition(store, sweep)
    records = read_trials(store, sweep)
    won = winner(records, sweep)
    trial, result = won.record, won.record.result
    assert result is not None, "only a finished trial wins"
    trained = load_trained(find_checkpoint(f"{sweep}/{trial.trial_id}", store).load(), result.weights)
    projection = MlflowProjection(uri, artifacts=artifact_location(store))
    with only_writer(store, sweep, uri, wait_s=WAIT_S):
        projection.sync(records, sweep, definition.plain())
        name, version, is_new = projection.register(won, trained)
    if as_json:
        print(json.dumps({"name": name, "version": version, "new": is_new, "trial_id": trial.trial_id}, indent=1))
        return
    seeds = f"mean {100 * won.mean:.1f} % over {len(won.scores)} seeds"
    out.print(f"{'registered' if is_new else 'already registered'}: {name} version {version}: {trial.family}, {seeds}")
    out.print(f'mlflow.set_tracking_uri("{_shown(uri)}"); mlflow.pyfunc.load_model("models:/{name}/{version}")')


Found = dict[str, Any]
"""One sweep in the answer, as --json prints it."""
Work = Callable[["MlflowProjection", "Sweep", "list[TrialRecord]", "Listener"], Found]


def _synced(projection: MlflowProjection, sweep: Sweep, records: list[TrialRecord], listen: Listener) -> Found:
    sent = projection.sync(records, sweep.name, sweep.plain(), listen)
    return {"trials_changed": sent.trials, "points_sent": sent.points}


def _rebuilt(projection: MlflowProjection, sweep: Sweep, records: list[TrialRecord], listen: Listener) -> Found:
    sent = projection.rebuild(records, sweep.name, sweep.plain(), listen)
    return {"trials_changed": sent.trials, "points_sent": sent.points}


def _compared(projection: MlflowProjection, sweep: Sweep, records: list[TrialRecord], listen: Listener) -> Found:
    differences = projection.verify(records, sweep.name, listen)
    return {"differences": [difference._asdict() | {"text": str(difference)} for difference in differences]}


def _each(names: list[str] | None, url: str, tracking: str | None, verb: str, work: Work) -> dict[str, Any]:
    """Do `work` for every sweep, one writer at a time."""
    from orchestrator.cli.views.console import bar
    from orchestrator.records.index import load_definition, sweep_names
    from orchestrator.records.reader import read_trials
    from orchestrator.storage import open_storage
    from orchestrator.tracking.live import artifact_location, only_writer
    from orchestrator.tracking.mlflow import MlflowProjection

    storage = open_storage(url)
    uri = _address(storage, tracking)
    definitions = [load_definition(storage, name) for name in names or sweep_names(storage)]
    projection = MlflowProjection(uri, artifacts=artifact_location(storage))
    results = []
    with bar() as progress:
        for sweep in definitions:
            task = progress.add_task(f"{verb} {sweep.name}", total=1, note="trials")

            def listen(done: int, total: int, task: Any = task) -> None:
                progress.update(task, completed=done, total=total)

            with only_writer(storage, sweep.name, uri, wait_s=WAIT_S):
                records = read_trials(storage, sweep.name)
                found = {"sweep": sweep.name, "trials": len(records), "points": _num_points(records)}
                results.append(found | work(projection, sweep, records, listen))
    return {"tracking": _shown(uri), "sweeps": results}


def _address(storage: Storage, tracking: str | None) -> str:
    from orchestrator.tracking.live import resolve_uri
    from orchestrator.tracking.mlflow_connection import TrackingError

    uri = resolve_uri(storage, tracking)
    if uri is None:
        raise TrackingError(f"no tracker is named for {storage.url}", "Name one: --tracking http://HOST:PORT")
    return uri


def _shown(uri: str) -> str:
    from orchestrator.tracking.mlflow_view import without_password

    return without_password(uri)


def _num_points(records: list[TrialRecord]) -> int:
    from orchestrator.tracking import mlflow_view

    return sum(len(row.metrics) for record in records for row in mlflow_view.rows(record))


def _report(found: dict[str, Any], as_json: bool, words: Callable[[Found], str]) -> None:
    from orchestrator.cli.views.console import out

    if as_json:
        print(json.dumps(found, indent=1))
        return
    for sweep in found["sweeps"]:
        out.print(words(sweep))
    if not found["sweeps"]:
        out.print("no sweeps there")


def _sent_words(found: Found) -> str:
    name, trials = found["sweep"], found["trials"]
    if not found["trials_changed"]:
        return f"{name}: {trials} trials, nothing new"
    return f"{name}: {found['points_sent']:,} points of {found['trials_changed']} of {trials} trials sent"


def _verified_words(found: Found) -> str:
    head = f"{found['sweep']}: {found['trials']} trials, {found['points']:,} points"
    lines = [difference["text"] for difference in found["differences"]]
    return "\n".join([f"{head}, each exactly once" if not lines else f"{head}: {len(lines)} differences", *lines])
