"""Parse parts that many trials have in common once: sections of configurations, datasets, the state of the code."""

from __future__ import annotations

import marshal
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

from trm_data.settings import Settings
from trm_model.config import TrialConfig

Section = TypeVar("Section", bound=Settings)

MAX_SECTIONS = 10_000
SECTIONS: dict[str, type[Settings]] = {
    name: info.annotation
    for name, info in TrialConfig.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, Settings)
}
"""The sections of a configuration."""

_known: dict[tuple[type[Settings], bytes], Settings] = {}
"""The trials of a sweep share most of their sections, in memory as well."""


class SharedValue(dict[str, Any]):
    """Hold a JSON object that is part of many records, and what was parsed from it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.parsed: dict[Hashable, Settings] = {}


def parse_section(kind: type[Section], values: dict[str, Any], where: str) -> Section:
    """Return a part of a record; equal values give the same object.

    Raises:
        ConfigError: the values are not those of a `kind`.
    """
    if isinstance(values, SharedValue) and kind in values.parsed:
        return values.parsed[kind]  # type: ignore[return-value]
    key = kind, marshal.dumps(dict(values))  # four times as fast as text
    section = _known.get(key)
    if section is None:
        section = kind.parse(values, where=where)
        if len(_known) < MAX_SECTIONS:
            _known[key] = section
    if isinstance(values, SharedValue):
        values.parsed[kind] = section
    return section  # type: ignore[return-value]


def parse_config(values: Mapping[str, Any], where: str) -> TrialConfig:
    """Return a configuration, which shares its sections with others.

    Raises:
        ConfigError: the values are none.
    """
    shared = dict(values)
    for name, kind in SECTIONS.items():
        section = values.get(name)
        if isinstance(section, SharedValue) and kind in section.parsed:
            shared[name] = section.parsed[kind]
        elif isinstance(section, dict):
            shared[name] = parse_section(kind, section, f"{where}: {name}")
    return TrialConfig.parse(shared, where)
