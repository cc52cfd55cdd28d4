"""Parse the JSON files of a trial; what many trials share is parsed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from orchestrator.records.contradictions import is_of
from orchestrator.records.schema import (
    Attempt,
    AttemptEnd,
    AttemptStart,
    DatasetInfo,
    GitState,
    RecordPart,
    Retry,
    TrialHead,
)
from orchestrator.records.sections import SharedValue, parse_config, parse_section
from orchestrator.records.stored import DamagedRecordError, Part, parse_json, parse_part
from trm_data.errors import ConfigError
from trm_model.config import TrialConfig

SHARED: dict[type[RecordPart], tuple[str, type[RecordPart]]] = {
    TrialHead: ("dataset", DatasetInfo),
    AttemptStart: ("git", GitState),
}
"""The field of a part that is the same in many trials, and what it holds."""


@dataclass(slots=True)
class TrialFiles:
    """Hold the JSON files of a trial, as bytes or parsed. A damaged one raises DamagedRecordError when it is used."""

    folder: str
    contents: Mapping[str, Any]

    def values(self, name: str) -> dict[str, Any] | None:
        """Return the content of a file; None if there is none."""
        value = self.contents.get(name)
        return parse_json(value, f"{self.folder}/{name}") if isinstance(value, bytes) else value

    def part(self, name: str, kind: type[Part]) -> Part | None:
        """Return a part of the record; None if there is no such file."""
        values = self.values(name)
        return None if values is None else self.parsed(values, kind, name)

    def parsed(self, values: dict[str, Any], kind: type[Part], name: str) -> Part:
        """Return a part of the record from the content of its file."""
        file = f"{self.folder}/{name}"
        if kind in SHARED:
            key, shared = SHARED[kind]
            section = values.get(key)
            if isinstance(section, dict):
                try:
                    values = {**values, key: parse_section(shared, section, key)}
                except ConfigError as error:
                    raise DamagedRecordError(file, error.what) from None
        return parse_part(values, kind, file)

    def head(self, trial_id: str) -> tuple[TrialHead, TrialConfig]:
        """Return the head of a trial, whose own id it must state if it states one, and the configuration."""
        values, file = self.values("trial.json"), f"{self.folder}/trial.json"
        if values is None:
            raise DamagedRecordError(file, "it has just been deleted")
        config = values.get("config")
        if not isinstance(config, dict):
            raise DamagedRecordError(file, "config: no JSON object")
        stated = values.get("trial_id")
        if stated not in (None, trial_id):
            raise DamagedRecordError(file, is_of(str(stated)))
        # Most trials of a sweep share the rest; a configuration has sections that are parsed once.
        head = self._head({**values, "config": {}, "trial_id": None})
        try:
            return head, parse_config(config, file)
        except ConfigError as error:
            raise DamagedRecordError(file, error.what) from None

    def _head(self, values: dict[str, Any]) -> TrialHead:
        dataset, stage, family = values.get("dataset"), values.get("stage"), values.get("family")
        if not isinstance(dataset, SharedValue) or "origin" in values:
            return self.parsed(values, TrialHead, "trial.json")
        known, key = dataset.parsed, (str(stage), str(family))  # few in a sweep
        if key not in known:
            known[key] = self.parsed(values, TrialHead, "trial.json")
        return cast(TrialHead, known[key])

    def attempts(self) -> list[Attempt]:
        """Return the attempts that have started, in order."""
        numbers = [name.split("/")[1] for name in self.contents if name.endswith("/start.json")]
        found = []
        for number in sorted((n for n in numbers if n.isdecimal()), key=int):
            start = self.part(f"attempts/{number}/start.json", AttemptStart)
            if start is not None:
                found.append(Attempt(int(number), start, self.part(f"attempts/{number}/end.json", AttemptEnd)))
        return found

    def retries(self) -> list[Retry]:
        """Return what the user asked to run again, in order."""
        names = [name for name in self.contents if name.startswith("retries/")]
        return [retry for name in sorted(names) if (retry := self.part(name, Retry)) is not None]
