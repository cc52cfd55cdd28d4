"""Settings by name: a path (`model.cycles`) or one of the paper's letters (`T`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.sweep.domains import Value
from trm_data.errors import ConfigError, nearest
from trm_data.settings import field_names
from trm_model.config import ALIASES, TrialConfig
from trm_model.recursion_file import short


def check_path(path: str) -> None:
    """Raises ConfigError with the nearest valid name where `path` is not a setting of a trial."""
    parts = ALIASES.get(path, path).split(".")
    inside = field_names(TrialConfig, parts)
    if inside:
        raise ConfigError(f"{path!r} is a group of settings", f"Name one of: {', '.join(inside)}")
    if parts[-1] in field_names(TrialConfig, parts[:-1]):
        return
    every = [
        ".".join(filter(None, [section, name]))
        for section in ["", *TrialConfig.model_fields]
        for name in field_names(TrialConfig, [section] if section else [])
    ]
    same_leaf = [name for name in every if name.rsplit(".", 1)[-1] == path]
    hint = (
        f"Did you mean {same_leaf[0]!r}?" if same_leaf else nearest(path, every if "." in path else [*ALIASES, *every])
    )
    raise ConfigError(f"unknown setting {path!r}", hint if hint.startswith("Did") else "See `trm train --show-config`")


def configure(base: TrialConfig, settings: Mapping[str, Value]) -> TrialConfig:
    """The base with some settings replaced. Raises ConfigError naming the field and the remedy."""
    values = base.model_dump()
    for name, value in settings.items():
        check_path(name)
        *sections, leaf = ALIASES.get(name, name).split(".")
        target = values
        for section in sections:
            target = target[section]
        target[leaf] = value
    return TrialConfig.parse(values)


def get_setting(config: TrialConfig, name: str) -> Any:
    """The value at a path or alias."""
    value: Any = config
    for part in ALIASES.get(name, name).split("."):
        value = getattr(value, part)
    return value


def short_name(path: str) -> str:
    """The paper's letter where there is one, else the last part of the path."""
    return {full: alias for alias, full in ALIASES.items()}.get(path, path.rsplit(".", 1)[-1])


def label(settings: Mapping[str, Value]) -> str:
    """`T=2 n=4`: the name of a cell."""
    return " ".join(f"{short_name(path)}={_show(value)}" for path, value in settings.items()) or "base"


def _show(value: Value) -> str:
    if isinstance(value, str):
        return short(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
