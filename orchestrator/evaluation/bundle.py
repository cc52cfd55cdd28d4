"""Write the results of a sweep into one folder that others can verify: settings, weights, outcomes and hashes."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator.errors import SweepError, command_line
from orchestrator.evaluation.bundle_files import MANIFEST, BundleError, FileEntry, describe, manifest_bytes
from orchestrator.records.checkpoints import StoredCheckpoints
from orchestrator.records.index import (
    SINGLE_RUNS,
    find_trial,
    load_definition,
    new_head,
    sweep_folder,
    sweep_name,
    trial_folder,
)
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Attempt, TrialRecord
from orchestrator.results.leaderboard import is_confirmed
from orchestrator.storage import Storage, as_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep.definition import Sweep
from trm_data.files import temporary_name
from trm_data.own_code import SOURCE_FILES
from trm_model.checkpoints.store import checkpoint_names, name_of, read
from trm_model.checkpoints.trained import pack_scored_weights

_README = """Results of {sweep}, written by {written_by}.

Score the weights again on the same puzzles, and compare item by item:

    trm results verify .

Nothing in this folder is executed. MANIFEST.json has the sha256 of every file.
"""
ARCHIVES = (".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zst", ".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".7z", ".zst")
"""Ends of names that promise a file, which a bundle is not; the longest first."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Describe a bundle that was written."""

    path: Path
    trials: tuple[str, ...]
    left_out: dict[str, str]
    """Confirmed trials that could not be bundled, by id, and why."""
    num_bytes: int


def write_bundle(
    sweep: Sweep | str, storage: Storage | str | Path = "runs", *, path: Path | str, trial: str | None = None
) -> Bundle:
    """Write a trial of a sweep, or all its confirmed ones, into a new folder. It appears complete or not at all.

    Host names, local paths of machines and uncommitted changes of code stay out of it.

    Args:
        path: the folder, which must not exist or be empty.
        trial: the start of a trial's id; without it every confirmed trial that keeps its last checkpoint.

    Raises:
        SweepError: no such sweep or trial, or it is not finished.
        BundleError: the folder exists or is named like an archive, or the trial keeps no checkpoint of its last step.
    """
    store, name, target = as_storage(storage), sweep_name(sweep), Path(path)
    if suffix := next((suffix for suffix in ARCHIVES if target.name.lower().endswith(suffix)), None):
        what = f"{target} is named like an archive, and a bundle is a folder"
        raise BundleError(what, f"Name a folder, {str(target)[: -len(suffix)]!r} for example, and pack it afterwards")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise BundleError(f"{target} exists", "Name a new folder")
    files: dict[str, FileEntry] = {}
    left_out: dict[str, str] = {}
    records = _selected(store, name, trial)
    aside = target.absolute().with_name(temporary_name())
    try:
        aside.mkdir(parents=True)
        for record in records:
            try:
                parts = _parts(store, record)
            except BundleError as error:
                if trial is not None:
                    raise
                left_out[record.trial_id] = error.what
                continue
            for part, data in parts.items():
                file = f"trials/{record.trial_id}/{part}"
                files[file] = _write(aside, file, data)
        trials = [record.trial_id for record in records if record.trial_id not in left_out]
        if not trials:
            raise BundleError(f"no confirmed trial of {name} can be bundled: {next(iter(left_out.values()))}")
        written_by = f"trm-orchestrator {version('trm-orchestrator')}"
        shared = {"README.txt": _README.format(sweep=name, written_by=written_by).encode()}
        if sweep_folder(store, name).exists("sweep.json"):
            shared["sweep.json"] = sweep_folder(store, name).read("sweep.json")
        files |= {file: _write(aside, file, data) for file, data in shared.items()}
        _write(aside, MANIFEST, manifest_bytes(name, trials, files, written_by))
        aside.rename(target)
    except OSError as error:
        raise BundleError(f"cannot write {target}: {error.strerror or error}", "Name another folder") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Bundle(target, tuple(trials), left_out, sum(entry.num_bytes for entry in files.values()))


def _selected(storage: Storage, sweep: str, trial: str | None) -> list[TrialRecord]:
    """Return the records to bundle."""
    if trial is not None:
        record = find_trial(storage, f"{sweep}/{trial}")
        if record.result is None:
            what = f"trial {record.trial_id} is {record.status.words}"
            raise SweepError(what, "Only a finished trial can be bundled")
        return [record]
    if sweep != SINGLE_RUNS:
        load_definition(storage, sweep)
        records = [record for record in read_trials(storage, sweep) if is_confirmed(record)]
        if records:
            return records
    example = command_line("results", "bundle", sweep, "TRIAL", storage=storage.url)
    raise SweepError(f"{sweep} has no confirmed trial", f"Name a finished one: {example}")


def _parts(storage: Storage, record: TrialRecord) -> dict[str, bytes]:
    """Return the files of one trial by name.

    Raises:
        BundleError: its last checkpoint or its outcomes are not there any more.
    """
    folder, result = trial_folder(storage, record.sweep, record.trial_id), record.result
    assert result is not None, "only finished trials are selected"
    checkpoints = StoredCheckpoints(folder.sub("checkpoints"))
    last = name_of(record.step if result.steps is None else result.steps)
    if last not in checkpoint_names(checkpoints):
        raise BundleError(f"trial {record.trial_id} keeps no checkpoint of its last step", "Bundle another trial")
    if not folder.exists("outcomes.arrow"):
        raise BundleError(f"trial {record.trial_id} has no outcomes per item", "Bundle another trial")
    config = record.last_config
    parts = {
        "trial.json": new_head(record.stage, record.family, config, record.dataset, record.origin).encode(),
        "result.json": result.encode(),
        "outcomes.arrow": folder.read("outcomes.arrow"),
        "weights.safetensors": pack_scored_weights(read(checkpoints, last), config, result.weights),
        "provenance.json": to_json_bytes({"attempts": [_provenance(attempt) for attempt in record.attempts]}),
    }
    return parts | {name: folder.read(name) for name in SOURCE_FILES if folder.exists(name)}


def _provenance(attempt: Attempt) -> dict[str, Any]:
    """Return what may be published about an attempt."""
    start = attempt.start
    shown = ("from_step", "started_s", "device", "processor", "gpu_type", "gpu_name", "gpu_count", "num_threads")
    return {
        **{name: getattr(start, name) for name in (*shown, "processes", "versions")},
        "commit": start.git.commit,
        "dirty": start.git.dirty,
    }


def _write(folder: Path, name: str, data: bytes) -> FileEntry:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("xb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    return describe(data)
