"""A search as Optuna's dashboard shows it: a view of the records that can be deleted and made again at any time.

    sync(storage, "demo", default_url(storage))      # as often as wanted: only what is new is written
    optuna-dashboard sqlite:////path/runs/optuna.db  # opens it as it is

One Optuna study per search, called like the sweep, one Optuna trial per explored configuration, in the order in which
they started. A finished trial is COMPLETE, one stopped early PRUNED with the steps that it reached, one that diverged,
failed or ran out of memory FAIL. RUNNING is shown only while a driver lives; what waits to go on is WAITING. The user
attributes `trial_id` and `mlflow_run_id` lead to the record and to MLflow.

Optuna never changes a trial that has ended. So where its study is no beginning of what the records say (rows were taken
back, a stopped trial goes on, two writers met), the study is deleted and written anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from orchestrator.records.extend import current
from orchestrator.records.index import load_definition, sweep_folder
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.search.optuna_trials import as_optuna, create_study
from orchestrator.storage import LocalStorage, Storage
from orchestrator.storage.lease import driver_of
from orchestrator.sweep.definition import Sweep
from orchestrator.tracking.mlflow_connection import probe
from orchestrator.tracking.mlflow_view import ended_s, started_s, without_password
from trm_data.errors import UserError, first_line
from trm_data.settings import digest

BUSY_TIMEOUT_S = 30
"""SQLite: how long a writer waits for another one, such as the dashboard."""


class OptunaError(UserError):
    """Optuna's database cannot be reached or refuses. Records lose nothing by it: synchronise again later."""


class Synced(NamedTuple):
    """What one synchronisation found and did."""

    trials: int
    """Trials that the study has now."""
    written: int
    """Of these, new or changed ones."""


def default_url(storage: Storage) -> str:
    """An SQLite file beside local records; for remote ones a file in the user's cache, since it can be made again."""
    if isinstance(storage, LocalStorage):
        return f"sqlite:///{storage.root.resolve()}/optuna.db"
    return f"sqlite:///{Path.home()}/.cache/trm/optuna-{digest(storage.url, 8)}.db"


def sync(storage: Storage, sweep_name: str, url: str, mlflow_runs: Mapping[str, str] | None = None) -> Synced:
    """Bring a search's study to what its records say; a study (every cell, no search) has none and is left out.

    Args:
        url: an SQLite file or a database as SQLAlchemy writes it; it is created where it does not exist.
        mlflow_runs: MLflow's run id of each trial, see `MlflowProjection.run_ids`; None keeps what is there.

    Raises:
        SweepError: no such sweep.
        OptunaError: the database cannot be reached or refuses.
    """
    sweep = load_definition(storage, sweep_name)
    if sweep.kind != "search":
        return Synced(0, 0)
    is_driven = driver_of(sweep_folder(storage, sweep_name)) is not None
    records = [r for r in current(sweep, read_trials(storage, sweep_name)) if r.stage == "explore"]
    records.sort(key=lambda record: (not record.attempts, started_s(record), record.trial_id))
    wanted = [_shown(record, sweep, is_driven, (mlflow_runs or {}).get(record.trial_id)) for record in records]
    with _opened(url) as database:
        known = _known(database, sweep_name)
        if known is None or not _continues(known, wanted):
            _begin(database, sweep)
            known = []
        written = sum(_update(database, *pair) for pair in zip(known, wanted, strict=False))
        study = optuna.load_study(study_name=sweep_name, storage=database)
        for trial in wanted[len(known) :]:
            study.add_trial(trial)
    return Synced(len(wanted), written + len(wanted) - len(known))


def _shown(record: TrialRecord, sweep: Sweep, is_driven: bool, mlflow_run: str | None) -> FrozenTrial:
    trial = as_optuna(record, sweep)
    if record.status is Status.RUNNING and not is_driven:
        trial.state = TrialState.WAITING
    trial.datetime_start = _time(started_s(record)) if record.attempts else None
    trial.datetime_complete = _time(ended_s(record)) if trial.state.is_finished() else None
    if mlflow_run is not None:
        trial.user_attrs["mlflow_run_id"] = mlflow_run
    return trial


def _time(epoch_s: float) -> datetime:
    """As Optuna keeps it: local, without a zone; whole seconds, since not every database keeps more."""
    return datetime.fromtimestamp(int(epoch_s))


@contextmanager
def _opened(url: str) -> Iterator[RDBStorage]:
    from sqlalchemy.exc import SQLAlchemyError

    probe(url, OptunaError)
    options: dict[str, Any] = {}
    database = None
    try:
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            options["connect_args"] = {"timeout": BUSY_TIMEOUT_S}
        database = RDBStorage(url, engine_kwargs=options)
        yield database
    except (optuna.exceptions.OptunaError, SQLAlchemyError, OSError) as error:
        raise OptunaError(
            f"Optuna's database {without_password(url)}: {first_line(error.__cause__ or error)}",
            "Records are complete without it; delete or mend it and synchronise again",
        ) from error
    finally:
        if database is not None:
            database.remove_session()
            database.engine.dispose()


def _known(database: RDBStorage, name: str) -> list[FrozenTrial] | None:
    try:
        return database.get_all_trials(database.get_study_id_from_name(name))
    except KeyError:
        return None


def _begin(database: RDBStorage, sweep: Sweep) -> None:
    """An empty study in place of what is there."""
    if any(study.study_name == sweep.name for study in database.get_all_studies()):
        optuna.delete_study(study_name=sweep.name, storage=database)
    create_study(sweep, storage=database)


def _continues(known: Sequence[FrozenTrial], wanted: Sequence[FrozenTrial]) -> bool:
    """Whether nothing that is there has to be taken back."""
    return len(known) <= len(wanted) and all(map(_leads_to, known, wanted))


def _leads_to(known: FrozenTrial, wanted: FrozenTrial) -> bool:
    if (known.params, known.distributions) != (wanted.params, wanted.distributions):
        return False
    if not _differing(known, wanted):
        return True
    begun = known.intermediate_values.items() <= wanted.intermediate_values.items()
    same_trial = known.user_attrs.get("trial_id") == wanted.user_attrs["trial_id"]
    return same_trial and begun and not known.state.is_finished()


def _differing(known: FrozenTrial, wanted: FrozenTrial) -> bool:
    """Whether there is something to write."""
    return (
        (known.state, known.values, known.intermediate_values, known.datetime_start, known.datetime_complete)
        != (wanted.state, wanted.values, wanted.intermediate_values, wanted.datetime_start, wanted.datetime_complete)
    ) or not wanted.user_attrs.items() <= known.user_attrs.items()


def _update(database: RDBStorage, known: FrozenTrial, wanted: FrozenTrial) -> bool:
    if not _differing(known, wanted):
        return False
    number = known._trial_id
    for step in wanted.intermediate_values.keys() - known.intermediate_values.keys():
        database.set_trial_intermediate_value(number, step, wanted.intermediate_values[step])
    for name, value in wanted.user_attrs.items():
        database.set_trial_user_attr(number, name, value)
    if known.state is not wanted.state:
        database.set_trial_state_values(number, wanted.state, wanted.values)
    _set_times(database, number, wanted)
    return True


def _set_times(database: RDBStorage, number: int, trial: FrozenTrial) -> None:
    """The record's own times, where Optuna would take the moment of the synchronisation."""
    from sqlalchemy import MetaData, Table, update

    trials = Table("trials", MetaData(), autoload_with=database.engine)
    times = {"datetime_start": trial.datetime_start, "datetime_complete": trial.datetime_complete}
    with database.engine.begin() as connection:
        connection.execute(update(trials).where(trials.c.trial_id == number).values(times))
