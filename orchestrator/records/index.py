"""List the sweeps of a storage: their names, folders and definitions."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.errors import SweepError, command_line
from orchestrator.records.reader import read_trial, read_trials
from orchestrator.records.schema import DEFINITION, DatasetInfo, Origin, Stage, TrialHead, TrialRecord
from orchestrator.records.stored import NO_FILE, Damaged, DamagedRecordError, UnusableRecordError, read_json
from orchestrator.records.unfinished import marked, require_finished
from orchestrator.storage import Storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.lease import STOP
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.settings import require_no_credentials
from orchestrator.sweep.trials import PlannedTrial
from trm_data.errors import ConfigError, UserError, nearest
from trm_data.files import machine_id
from trm_data.own_code import classes_in, sources_in
from trm_model.config import TrialConfig

if TYPE_CHECKING:
    from trm_data import Dataset

_ADDRESS = "address.json"
LAST, BEST = "last", "best"
"""What may stand in place of a trial's id: the trial that was started last, and the one with the best score."""
SINGLE_RUNS = "train"
"""Folder of the records of `trm train`, next to the sweeps; they are never ranked."""


def sweep_name(sweep: Sweep | str) -> str:
    """Return the name of a sweep that is given by its definition or by its name."""
    return sweep.name if isinstance(sweep, Sweep) else sweep


def sweep_folder(storage: Storage, name: str) -> Storage:
    """Return the folder of a sweep."""
    return storage.sub(f"sweeps/{name}")


def trial_folder(storage: Storage, sweep: str, trial_id: str) -> Storage:
    """Return the folder of a trial."""
    return sweep_folder(storage, sweep).sub(f"trials/{trial_id}")


def note_address(storage: Storage, name: str, address: str | None) -> None:
    """Record the Ray cluster on which a driver runs a sweep; None for its own machine."""
    if address is not None:
        sweep_folder(storage, name).write(_ADDRESS, to_json_bytes({"address": address, "machine": machine_id()}))
    else:
        sweep_folder(storage, name).delete_many([_ADDRESS])


def last_address(storage: Storage, name: str) -> str | None:
    """Return the Ray cluster on which a sweep ran last, to resume it there; None if this machine cannot reach it."""
    with suppress(KeyError, AttributeError, UserError):
        last = read_json(sweep_folder(storage, name).patient(0.0), _ADDRESS)
        address = str(last.get("address"))
        is_reachable = last.get("machine") == machine_id() or not address.startswith(("127.", "localhost"))
        if is_reachable and re.fullmatch(r"[\w.\[\]:-]+:[0-9]+", address):
            return address
    return None


def load_definition(storage: Storage, name: str) -> Sweep:
    """Return the recorded definition of a sweep. Raises SweepError with the nearest known name if there is none."""
    found = find_definition(storage, name)
    if found is None:
        hint = nearest(name, sweep_names(storage)) or "No sweep was run there yet"
        raise SweepError(f"no sweep {name!r} in {storage.url}", hint)
    return found


def find_definition(storage: Storage, name: str) -> Sweep | None:
    """Return the recorded definition of a sweep, or None.

    Raises:
        UnfinishedError: the sweep is deleted or renamed in part, or another one is renamed to this name in part.
        UnusableRecordError: it is the definition of another sweep.
        DamagedRecordError: it cannot be read.
    """
    require_finished(storage, name)
    return read_definition(storage, name)


def read_definition(storage: Storage, name: str) -> Sweep | None:
    """Return the definition as `find_definition` does, also of a sweep that is deleted or renamed in part."""
    folder = sweep_folder(storage, name)
    try:
        sweep = Sweep.from_record(read_json(folder, DEFINITION))
        if sweep.name != name:
            raise UnusableRecordError(
                f"{folder.url}/{DEFINITION}",
                f"{folder.url} has the records of sweep {sweep.name!r}: the folder was copied or renamed by hand",
                f"Delete a copy with `{command_line('sweep', 'delete', name, storage=storage.url)}`, "
                f"or name the folder {sweep.name} again",
            )
        return sweep
    except KeyError:
        if folder.is_blocked(DEFINITION):
            raise DamagedRecordError(f"{folder.url}/{DEFINITION}", NO_FILE) from None
        return None
    except ConfigError as error:
        raise DamagedRecordError(f"{folder.url}/{DEFINITION}", error.what) from None


def load_definitions(storage: Storage) -> tuple[list[Sweep], list[Damaged]]:
    """Return the definitions of all sweeps of a storage, and the files that cannot be read."""
    names, damaged = list_sweeps(storage)
    found = []
    for name in names:
        try:
            found.append(load_definition(storage, name))
        except DamagedRecordError as error:
            damaged.append(Damaged(error.file, error.reason))
    return found, damaged


def sweep_names(storage: Storage) -> list[str]:
    """Return the names of all sweeps of a storage that can be listed; see `list_sweeps`."""
    return list_sweeps(storage)[0]


def list_sweeps(storage: Storage) -> tuple[list[str], list[Damaged]]:
    """Return the names of all sweeps of a storage, and why others are left out: they are deleted or renamed in part, or
    something else than a file stands in place of their definition, or their name is none of a folder here."""
    folders = storage.folders("sweeps")
    names, unfinished = [], marked(storage, folders)
    damaged = [Damaged(f"{storage.url}/sweeps", reason) for reason in storage.unusable("sweeps")]
    for name in folders:
        if name in unfinished:
            try:
                require_finished(storage, name)
            except DamagedRecordError as error:
                damaged.append(Damaged(error.file, error.reason))
                continue
        if storage.exists(f"sweeps/{name}/{DEFINITION}"):
            names.append(name)
        elif storage.is_blocked(f"sweeps/{name}/{DEFINITION}"):
            damaged.append(Damaged(f"{storage.url}/sweeps/{name}/{DEFINITION}", NO_FILE))
    return names, damaged


def _with_trials(storage: Storage) -> list[str]:
    """Return the names before the slash of a trial's address: those of the sweeps, and `train` where it was used."""
    return storage.folders("sweeps")


def find_trial(storage: Storage, address: str) -> TrialRecord:
    """Return the record of the trial that `locate_trial` finds."""
    return read_trial(storage, *locate_trial(storage, address))


def locate_trial(storage: Storage, address: str) -> tuple[str, str]:
    """Return sweep and id of the trial that a user names by its id or a prefix of it, alone or as `SWEEP/ID`, or as
    `SWEEP/last` or `SWEEP/best` (see `last_or_best`).

    Raises:
        SweepError: there is none, or several ids start with the prefix.
    """
    sweep, _, start = address.rpartition("/")
    if sweep and sweep not in (found := _with_trials(storage)):
        hint = nearest(sweep, found) or "Nothing was run there"
        raise SweepError(f"no trial of a sweep {sweep!r} in {storage.url}", hint)
    if start in (LAST, BEST):
        if not sweep:
            raise SweepError(f"{start!r} needs the name of a sweep", f"Write {SINGLE_RUNS}/{start} or SWEEP/{start}")
        definition = None if sweep == SINGLE_RUNS else load_definition(storage, sweep)
        return sweep, last_or_best(read_trials(storage, sweep), start, sweep, definition).trial_id
    if sweep and start and trial_folder(storage, sweep, start).exists("trial.json"):
        return sweep, start
    names = [sweep] if sweep else _with_trials(storage)
    keys = [key.split("/") for name in names for key in storage.list(f"sweeps/{name}/trials")]
    homes = {parts[3]: parts[1] for parts in reversed(keys) if parts[4:] == ["trial.json"]}
    trial_id = match_id(homes, start, f"sweep {sweep!r}" if sweep else storage.url)
    return homes[trial_id], trial_id


def last_or_best(records: Iterable[TrialRecord], word: str, sweep: str, definition: Sweep | None = None) -> TrialRecord:
    """Return the trial of a sweep that was started last, or the finished one with the best score.

    The score is the sweep's metric: of a search on validation puzzles, among the explored trials, as the search itself
    chooses; of a study and of `trm train` that of the final evaluation.

    Raises:
        SweepError: no trial was started, or none has finished.
    """
    if word == LAST:
        started = [record for record in records if record.attempts]
        if started:
            return max(started, key=lambda record: (record.attempts[-1].start.started_s, record.trial_id))
        remedy = "Train one: `trm train`" if sweep == SINGLE_RUNS else "See `trm sweep status`"
        raise SweepError(f"no trial of {sweep!r} was started", remedy)
    metric = "exact_accuracy" if definition is None else definition.metric
    scores = {
        record.trial_id: (record.result.metrics[metric], record.result.metrics.get("cell_accuracy", 0.0), record)
        for record in compared(records, definition)
        if record.result is not None and metric in record.result.metrics
    }
    if not scores:
        what = "explored trial" if definition is not None and definition.kind == "search" else "trial"
        raise SweepError(f"no {what} of {sweep!r} has finished with {metric}", f"Take {sweep}/{LAST}, or an id")
    return scores[max(scores, key=lambda trial_id: (*scores[trial_id][:2], trial_id))][2]


def compared(records: Iterable[TrialRecord], definition: Sweep | None) -> list[TrialRecord]:
    """Return the trials whose scores are of the same puzzles: of a search the explored ones, since confirmed trials are
    scored on test puzzles."""
    is_search = definition is not None and definition.kind == "search"
    return [record for record in records if record.stage == "explore" or not is_search]


def match_id(trial_ids: Iterable[str], start: str, where: str) -> str:
    """Return the only id that begins with `start`. Raises SweepError unless there is exactly one."""
    known = sorted(trial_ids)
    found = [trial_id for trial_id in known if trial_id.startswith(start)]
    if len(found) == 1:
        return found[0]
    if found:
        raise SweepError(f"{where} has {len(found)} trials that begin with {start!r}", "Give more digits")
    raise SweepError(f"{where} has no trial {start!r}", nearest(start, known) or "See `trm sweep status`")


def head_of(trial: PlannedTrial, dataset: Dataset, origin: Origin | None = None) -> TrialHead:
    """Return the content of `trial.json`."""
    facts = DatasetInfo.parse({**dataset.describe(), "name": dataset.path.name})
    return new_head(trial.stage, trial.family, trial.config, facts, origin, trial.trial_id)


def new_head(
    stage: Stage,
    family: str,
    config: TrialConfig,
    dataset: DatasetInfo,
    origin: Origin | None = None,
    trial_id: str | None = None,
) -> TrialHead:
    """Return the content of `trial.json` for a dataset that a record describes."""
    head = TrialHead(stage=stage, family=family, config=config.plain(), dataset=dataset)
    optional = {"origin": origin, "trial_id": trial_id}
    return head.model_copy(update={name: value for name, value in optional.items() if value is not None})


def write_head(folder: Storage, config: TrialConfig, head: TrialHead) -> dict[str, str]:
    """Write `trial.json` unless it exists; before it, write the sources of the classes that the configuration names.

    Returns:
        The sources, by address.

    Raises:
        ConfigError: this process does not trust a file that the configuration names, or a setting contains credentials.
    """
    require_no_credentials(plain := config.plain())
    roles, sources = classes_in(plain), sources_in(plain)
    for address, source in sources.items():
        folder.create(roles[address].file, source.encode())
    folder.create("trial.json", head.encode())
    return sources


def request_stop(folder: Storage, reason: str = "") -> None:
    """Ask the driver, wherever it is, to stop cleanly."""
    folder.write(STOP, to_json_bytes({"requested_s": time.time(), "reason": reason}))


def stop_requested(folder: Storage) -> bool:
    """Return whether a stop was requested."""
    return folder.exists(STOP)


def stop_reason(folder: Storage) -> str:
    """Return the reason of the request to stop; empty if there is no request or no reason."""
    try:
        return str(read_json(folder, STOP).get("reason", ""))
    except (KeyError, DamagedRecordError):
        return ""
