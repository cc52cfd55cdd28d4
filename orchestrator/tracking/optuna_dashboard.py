"""Sync searches to the database of Optuna's dashboard. It can be deleted and created again from the records.

    sync(storage, "demo", default_url(storage))      # as often as wanted: only what is new is written
    optuna-dashboard sqlite:////path/runs/optuna.db  # opens it as it is

Each search is an Optuna study with the name of the sweep, and each explored configuration is an Optuna trial, in the
order in which they started. A finished trial is COMPLETE, one that was stopped early is PRUNED with the steps that it
reached, one that diverged, failed or ran out of memory is FAIL. RUNNING is shown only while a driver runs the sweep; an
interrupted trial is WAITING. The user attribute `trial_id` leads to the record, and to the run in MLflow by its tag of
the same name.

Optuna never changes a trial that has ended. So where a study cannot become what the records say (rows were dropped,
a stopped trial was continued, two writers met), it is deleted and written again.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from orchestrator.records.datasets import cache_folder
from orchestrator.records.extend import current
from orchestrator.records.index import load_definition, sweep_folder
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Status, TrialRecord
from orchestrator.search.optuna_trials import as_optuna, create_study
from orchestrator.storage import LocalStorage, Storage
from orchestrator.storage.lease import driver_of
from orchestrator.sweep.definition import Sweep
from orchestrator.tracking.mlflow_connection import probe
from orchestrator.tracking.mlflow_view import ended_s, started_s
from orchestrator.tracking.sqlite import ensure_database, rows_by_table, sqlite_path, sqlite_url
from trm_data.addresses import hide_credentials, shown_address
from trm_data.errors import UserError, first_line
from trm_data.settings import digest

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 30
"""SQLite: how long a writer waits for another one, such as the dashboard."""


class OptunaError(UserError):
    """Raised if Optuna's database cannot be reached or refuses. The records are complete: sync again later."""


class SyncResult(NamedTuple):
    """Count what one sync has found and written."""

    trials: int
    """Trials that the study has now."""
    written: int
    """New or changed ones among them."""


def default_url(storage: Storage) -> str:
    """Return an SQLite file in the folder of local records; for remote ones, in the user's cache."""
    if isinstance(storage, LocalStorage):
        return sqlite_url(storage.root.resolve() / "optuna.db")
    return sqlite_url(cache_folder() / f"optuna-{digest(storage.url, 8)}.db")


def sync(storage: Storage, sweep_name: str, url: str, trials: Sequence[TrialRecord] | None = None) -> SyncResult:
    """Update the study of a search from its records. A sweep that is not a search has no study and is skipped.

    Args:
        trials: the records of the sweep, if they have just been read.
        url: an SQLite file or a database as SQLAlchemy writes it. A file that does not exist is created.

    Raises:
        SweepError: there is no such sweep.
        OptunaError: the database cannot be reached or refuses.
    """
    sweep = load_definition(storage, sweep_name)
    if sweep.kind != "search":
        return SyncResult(0, 0)
    is_driven = driver_of(sweep_folder(storage, sweep_name)) is not None
    known = read_trials(storage, sweep_name) if trials is None else trials
    records = [record for record in current(sweep, known) if record.stage == "explore"]
    records.sort(key=lambda record: (not record.attempts, started_s(record), record.trial_id))
    expected = [_expected_trial(record, sweep, is_driven) for record in records]
    with _open_database(url) as database:
        stored = _stored_trials(database, sweep_name)
        if stored is None or not _can_become(stored, expected):
            _recreate_study(database, sweep)
            stored = []
        written = sum(_update(database, *pair) for pair in zip(stored, expected, strict=False))
        study = optuna.load_study(study_name=sweep_name, storage=database)
        for trial in expected[len(stored) :]:
            study.add_trial(trial)
    return SyncResult(len(expected), written + len(expected) - len(stored))


def study_ids(url: str) -> dict[str, int]:
    """Return the studies of a database: their numbers, which the dashboard's addresses contain, by name.

    Raises:
        OptunaError: the database cannot be reached or refuses.
    """
    with _open_database(url) as database:
        return {study.study_name: int(study._study_id) for study in database.get_all_studies()}


def _expected_trial(record: TrialRecord, sweep: Sweep, is_driven: bool) -> FrozenTrial:
    trial = as_optuna(record, sweep)
    if record.status is Status.RUNNING and not is_driven:
        trial.state = TrialState.WAITING
    trial.datetime_start = _local_time(started_s(record)) if record.attempts else None
    trial.datetime_complete = _local_time(ended_s(record)) if trial.state.is_finished() else None
    return trial


def _local_time(epoch_s: float) -> datetime:
    """Return a time as Optuna stores it: local, without a zone; in whole seconds, since some databases keep no more."""
    return datetime.fromtimestamp(int(epoch_s))


@contextmanager
def _open_database(url: str) -> Iterator[RDBStorage]:
    from sqlalchemy.exc import SQLAlchemyError

    probe(url, OptunaError)
    options: dict[str, Any] = {}
    database = None
    try:
        path = sqlite_path(url)
        if path is not None:
            ensure_database(path, _is_usable, _create_tables)
            options["connect_args"] = {"timeout": BUSY_TIMEOUT_S}
        database = RDBStorage(url, engine_kwargs=options)
        yield database
    except (optuna.exceptions.OptunaError, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise OptunaError(
            f"Optuna's database {shown_address(url)}: {hide_credentials(first_line(error.__cause__ or error))}",
            "Records are complete without it: repair it or name another one, and sync again",
        ) from error
    finally:
        if database is not None:
            _close(database)


def _is_usable(path: Path) -> bool:
    """Return whether a file can be used as it is: complete, not empty, or not Optuna's."""
    try:
        tables = rows_by_table(path)
    except sqlite3.Error:
        return True  # no database: Optuna's own message says so
    if not tables:
        return path.stat().st_size > 0
    is_complete = bool(tables.get("version_info") and tables.get("alembic_version"))
    return is_complete or "study_directions" not in tables or bool(tables.get("studies"))


def _create_tables(path: Path) -> None:
    _close(RDBStorage(sqlite_url(path)))


def _close(database: RDBStorage) -> None:
    database.remove_session()
    database.engine.dispose()


def _stored_trials(database: RDBStorage, name: str) -> list[FrozenTrial] | None:
    try:
        return database.get_all_trials(database.get_study_id_from_name(name))
    except KeyError:
        return None


def _recreate_study(database: RDBStorage, sweep: Sweep) -> None:
    """Replace the stored study by an empty one, if there is one."""
    if any(study.study_name == sweep.name for study in database.get_all_studies()):
        logger.info("Optuna's study %s does not match the records: it is written again", sweep.name)
        optuna.delete_study(study_name=sweep.name, storage=database)
    create_study(sweep, storage=database)


def _can_become(stored: Sequence[FrozenTrial], expected: Sequence[FrozenTrial]) -> bool:
    """Return whether no stored trial has to be removed or changed back."""
    return len(stored) <= len(expected) and all(map(_can_be_updated, stored, expected))


def _can_be_updated(stored: FrozenTrial, expected: FrozenTrial) -> bool:
    if (stored.params, stored.distributions) != (expected.params, expected.distributions):
        return False
    if not _differs(stored, expected):
        return True
    is_beginning = stored.intermediate_values.items() <= expected.intermediate_values.items()
    same_trial = stored.user_attrs.get("trial_id") == expected.user_attrs["trial_id"]
    return same_trial and is_beginning and not stored.state.is_finished()


def _differs(stored: FrozenTrial, expected: FrozenTrial) -> bool:
    """Return whether there is something to write."""
    return _state_of(stored) != _state_of(expected) or not expected.user_attrs.items() <= stored.user_attrs.items()


def _state_of(trial: FrozenTrial) -> tuple[Any, ...]:
    return trial.state, trial.values, trial.intermediate_values, trial.datetime_start, trial.datetime_complete


def _update(database: RDBStorage, stored: FrozenTrial, expected: FrozenTrial) -> bool:
    if not _differs(stored, expected):
        return False
    number = stored._trial_id
    for step in expected.intermediate_values.keys() - stored.intermediate_values.keys():
        database.set_trial_intermediate_value(number, step, expected.intermediate_values[step])
    for name, value in expected.user_attrs.items():
        database.set_trial_user_attr(number, name, value)
    if stored.state is not expected.state:
        database.set_trial_state_values(number, expected.state, expected.values)
    _set_times(database, number, expected)
    return True


def _set_times(database: RDBStorage, number: int, trial: FrozenTrial) -> None:
    """Store the record's own times, where Optuna would take the moment of the sync."""
    from sqlalchemy import MetaData, Table, update

    trials = Table("trials", MetaData(), autoload_with=database.engine)
    times = {"datetime_start": trial.datetime_start, "datetime_complete": trial.datetime_complete}
    with database.engine.begin() as connection:
        connection.execute(update(trials).where(trials.c.trial_id == number).values(times))
