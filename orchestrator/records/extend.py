"""Extend a recorded sweep, and retry its trials. Nothing recorded is lost.

An extension replaces the recorded definition (the former one is kept as `history/001.json`): more explored trials, more
seeds, more values, more steps. A trial with more steps is another trial with its own id. If its first steps do not
depend on the total number of steps, it resumes from the shorter one's checkpoint, and equals a run from scratch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from orchestrator.errors import SweepError
from orchestrator.records.index import (
    BEST,
    LAST,
    last_or_best,
    load_definition,
    match_id,
    new_head,
    sweep_folder,
    trial_folder,
)
from orchestrator.records.reader import read_trials
from orchestrator.records.schema import Origin, Retry, Status, TrialRecord
from orchestrator.records.unfinished import held
from orchestrator.storage import Storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.domains import Choice, Setting
from orchestrator.sweep.matching import match_axis
from orchestrator.sweep.settings import get_setting
from orchestrator.sweep.space import require_few
from orchestrator.sweep.trials import Fingerprint, PlannedTrial, search_trial
from trm_data.errors import ConfigError
from trm_data.settings import Settings, digest
from trm_model.config import ALIASES, TrialConfig

_LETTERS = {path: letter for letter, path in ALIASES.items()}


class Extension(Settings):
    """Describe what to add to a sweep: new totals, and further values."""

    trials: int | None = None
    seeds: int | None = None
    max_steps: int | None = None
    vary: dict[str, tuple[Setting, ...]] = Field(default_factory=dict)

    def options(self) -> list[str]:
        """Return the extension as options of `trm sweep extend`, which are not quoted for a shell."""
        numbers = {"--trials": self.trials, "--seeds": self.seeds, "--max-steps": self.max_steps}
        words = [word for name, value in numbers.items() if value is not None for word in (name, str(value))]
        for path, values in self.vary.items():
            words += ["--vary", f"{_LETTERS.get(path, path)}={','.join(map(_as_option, values))}"]
        return words


def _as_option(value: Setting) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def extended(sweep: Sweep, more: Extension) -> Sweep:
    """Return the definition with the extension applied.

    Raises:
        SweepError: nothing is named, a total would not grow, or the setting does not apply to this kind of sweep.
        ConfigError: a value is refused.
    """
    if more == Extension():
        raise SweepError("nothing to extend by", "Name --trials, --seeds, --vary or --max-steps")
    values = sweep.plain()
    if more.trials is not None:
        if sweep.kind != "search":
            raise SweepError(f"{sweep.name!r} is a study: it runs every cell", "Give it more cells with --vary")
        values["trials"] = _larger("--trials", sweep.trials or 0, more.trials)
    if more.seeds is not None:
        owner = values["confirm"] if sweep.kind == "search" else values
        owner["seeds"] = _larger("--seeds", owner["seeds"], more.seeds)
    if more.max_steps is not None:
        values["base"]["train"]["max_steps"] = _larger("--max-steps", sweep.base.train.max_steps, more.max_steps)
    vary = {ALIASES.get(path, path): new for path, new in more.vary.items()}
    for path, new in vary.items():
        values["space"][path] = _wider(sweep, path, new).plain()
    try:
        return Sweep.parse(values)
    except ConfigError:
        if _is_accepted(sweep):
            raise
    # An older version accepted what this one refuses, and nobody can change it: only what is added is checked.
    space = {path: _added(sweep, path, new) for path, new in vary.items()}
    Sweep.parse({"name": "added", "base": values["base"], "equal": sweep.equal, "space": space})
    wider = Sweep.from_record(values)
    require_few(wider.search_space, wider.seeds, wider.trials, wider.confirm.seeds * wider.confirm.top)
    return wider


def _is_accepted(recorded: Sweep) -> bool:
    try:
        Sweep.parse(recorded.plain())
    except ConfigError:
        return False
    return True


def _larger(option: str, before: int, after: int) -> int:
    if after <= before:
        raise SweepError(f"{option} {after} is no more than the {before} that are recorded", "It is the new total")
    return after


def _wider(sweep: Sweep, path: str, new: Sequence[Setting]) -> Choice:
    """Return the axis with further values; a new axis starts with the base's value, which the recorded trials have."""
    domain = sweep.space.get(path, Choice(values=(get_setting(sweep.base, path),)))
    if not isinstance(domain, Choice):
        raise SweepError(f"{path} is searched over a range", "A range cannot be extended: start another sweep")
    return Choice(values=tuple(dict.fromkeys((*domain.values, *new))))


def _added(sweep: Sweep, path: str, new: Sequence[Setting]) -> Choice:
    """Return one value that an axis has, and those that are added to it."""
    first, *known = _wider(sweep, path, ()).values
    return Choice(values=(first, *(value for value in dict.fromkeys(new) if value not in (first, *known))))


def extension_between(old: Sweep, new: Sweep) -> list[str]:
    """Return the options of `trm sweep extend` that lead from one definition to another; empty if none do."""
    vary: dict[str, tuple[Setting, ...]] = {}
    for path, domain in new.space.items():
        before = old.space.get(path)
        if isinstance(domain, Choice) and domain != before:
            known = before.values if isinstance(before, Choice) else (get_setting(old.base, path),)
            vary[path] = tuple(value for value in domain.values if value not in known)
    seeds = (old.confirm.seeds, new.confirm.seeds) if old.kind == "search" else (old.seeds, new.seeds)
    steps = (old.base.train.max_steps, new.base.train.max_steps)
    more = Extension(
        trials=new.trials if new.trials != old.trials else None,
        seeds=seeds[1] if seeds[0] != seeds[1] else None,
        max_steps=steps[1] if steps[0] != steps[1] else None,
        vary=vary,
    )
    try:
        leads_there = extended(old, more).definition() == new.definition()
    except SweepError:
        return []
    return more.options() if leads_there else []


def extend(storage: Storage, name: str, more: Extension) -> Sweep:
    """Replace the recorded definition of a sweep that is not running. Return the new one.

    Nothing is written if the recorded definition has all of that already.

    Raises:
        SweepError: there is no such sweep, it is running, or this extension does not apply to it.
    """
    sweep = load_definition(storage, name)
    if extended(sweep, more).definition() == sweep.definition():
        return sweep
    folder = sweep_folder(storage, name)
    with held(storage, name):
        sweep = load_definition(storage, name)  # another process may have extended, renamed or deleted it since
        wider = extended(sweep, more)
        number = 1 + len(folder.list("history"))
        folder.write(f"history/{number:03d}.json", to_json_bytes({**sweep.plain(), "replaced_s": time.time()}))
        for trial, shorter in _longer_searches(wider, read_trials(storage, name)):
            origin = Origin(kind="continued", trial_id=shorter.trial_id)
            head = new_head(trial.stage, trial.family, trial.config, shorter.dataset, origin, trial.trial_id)
            trial_folder(storage, name, trial.trial_id).create("trial.json", head.encode())
        folder.write("sweep.json", to_json_bytes(wider.plain()))
    return wider


def _longer_searches(sweep: Sweep, records: Iterable[TrialRecord]) -> Iterable[tuple[PlannedTrial, TrialRecord]]:
    """Yield explored trials that continue with the new number of steps; a study's cells follow from its definition."""
    for record in records:
        if record.stage != "explore" or record.status.is_failure or is_current(sweep, record):
            continue
        yield (
            search_trial(sweep, _fingerprint_of(record), record.family, sweep.search_space.cell_of(record.config)),
            record,
        )


def _fingerprint_of(record: TrialRecord) -> Fingerprint:
    return lambda _: record.dataset.fingerprint


def is_current(sweep: Sweep, record: TrialRecord) -> bool:
    """Return whether a recorded trial has the number of steps of the current definition, and not of a former one."""
    chosen = {
        ALIASES.get(path, path) for variant in (*sweep.variants, *sweep.confirm.controls) for path in variant.settings
    }
    if "train.max_steps" in chosen | set(sweep.space):
        return True
    train = record.config.train.model_copy(update={"max_steps": sweep.base.train.max_steps})
    asked = match_axis(record.config.model_copy(update={"train": train}), sweep.base, sweep.equal)
    return asked.train.max_steps == record.config.train.max_steps


def current(sweep: Sweep, records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the records that belong to the current definition. The others stay on disk and in reports."""
    # Thousands of trials differ in nothing but the seed, and share the objects that their configurations consist of.
    known = list(records)
    by_sections = {tuple(map(id, record.config.sections)): record for record in known}
    mine = {key: is_current(sweep, record) for key, record in by_sections.items()}
    return [record for record in known if mine[tuple(map(id, record.config.sections))]]


def _path(config: TrialConfig) -> str:
    """Return a key that is equal for two configurations with the same weights after every step that both run."""
    return digest(config.trajectory())


def retry(storage: Storage, name: str, trials: Sequence[str] = ()) -> list[TrialRecord]:
    """Allow trials of a sweep that is not running to run again; a stopped trial that is named is not stopped again.

    Returns the trials as they were. Their records are kept.

    Raises:
        SweepError: no such sweep, it runs, no such trial, or one that does not need it.
    """
    load_definition(storage, name)
    with held(storage, name):
        definition = load_definition(storage, name)  # another process may have changed it since
        known = {record.trial_id: record for record in read_trials(storage, name)}
        named = [_named(known, definition, text) for text in trials]
        failed = [record for record in known.values() if record.status.is_failure]
        chosen = list({record.trial_id: record for record in named or failed}.values())  # two words may name one trial
        for record in chosen:
            allow_retry(trial_folder(storage, name, record.trial_id), record)
    return chosen


def allow_retry(folder: Storage, record: TrialRecord) -> None:
    """Let a trial run again. Its record, in `folder`, is kept."""
    last = record.attempts[-1].number if record.attempts else 0
    again = Retry(was=record.status, reason=record.reason, after_attempt=last, requested_s=time.time())
    folder.write(f"retries/{1 + len(record.retries):03d}.json", again.encode())


def _named(known: Mapping[str, TrialRecord], sweep: Sweep, text: str) -> TrialRecord:
    word = text.removeprefix(f"{sweep.name}/")
    if word in (LAST, BEST):
        record = last_or_best(known.values(), word, sweep.name, sweep)
    else:
        record = known[match_id(known, word, f"sweep {sweep.name!r}")]
    if not (record.status.is_failure or record.status is Status.STOPPED):
        raise SweepError(
            f"trial {record.trial_id} is {record.status.words}",
            "Only trials that failed, diverged, ran out of memory or were stopped early can run again",
        )
    return record
