"""Define the base of every configuration class, canonical JSON and digests.

A digest is taken over canonical JSON (sorted keys, no spaces, no NaN); a value that JSON cannot hold raises instead of
being turned into a string, because `str(object)` may contain a memory address and fork the identity.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo

from trm_data.errors import ConfigError, nearest


class Settings(BaseModel):
    """Define a frozen configuration that rejects unknown names: a misspelt setting is an error with the nearest
    valid name."""

    def __init__(self, /, **values: Any) -> None:
        """Build from keyword arguments. Raises ConfigError as `parse` does."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(*_explain(type(self), error, type(self).__name__)) from None

    # Without this, pydantic would call `__init__` for every nested value, and errors would lose the path to them.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, ser_json_inf_nan="constants")

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "", context: Mapping[str, Any] | None = None) -> Self:
        """Build from plain values. Validators receive `context`.

        Raises:
            ConfigError: naming the field, the value and, for an unknown field, its nearest valid name.
        """
        try:
            # Not model_validate, whose own checks of its arguments take as long as validating a small record.
            parsed: Self = cls.__pydantic_validator__.validate_python(values, context=dict(context or {}))
        except ValidationError as error:
            raise ConfigError(*_explain(cls, error, where)) from None
        return parsed

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return self.model_dump(mode="json")


def is_parsed(info: ValidationInfo) -> bool:
    """Return whether a validator sees plain values of `Settings.parse`, which may be stored ones. Otherwise code
    constructs the object."""
    return info.context is not None


def _explain(cls: type[Settings], error: ValidationError, where: str) -> tuple[str, str]:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    name = ".".join(path) or cls.__name__
    prefix = f"{where}: " if where and where != name else ""
    if first["type"] == "extra_forbidden":
        return f"{prefix}unknown setting {name!r}", nearest(path[-1], field_names(cls, path[:-1]))
    if first["type"] == "too_short" and not first["ctx"]["actual_length"]:
        return f"{prefix}{name} is empty", ""
    message = first["msg"].removeprefix("Value error, ")
    shown = first.get("input")
    value = f"={shown!r}" if isinstance(shown, str | int | float | bool) else ""
    return f"{prefix}{name}{value}: {message[:1].lower()}{message[1:]}", ""


def field_names(cls: type[BaseModel], path: list[str]) -> list[str]:
    """Return the names of the fields below `path` inside `cls` (empty if the path leads nowhere)."""
    current: type[BaseModel] = cls
    for part in path:
        field = current.model_fields.get(part)
        kind = field.annotation if field else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return []
        current = kind
    return list(current.model_fields)


def canonical_json(value: Any) -> str:
    """Return the canonical JSON text of a value. Raises TypeError or ValueError if JSON cannot hold it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def strict_json(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    """Return JSON that every parser reads: numbers that JSON does not have, such as NaN, become null."""
    return json.dumps(finite(value), indent=indent, sort_keys=sort_keys, allow_nan=False)


def finite(value: Any) -> Any:
    """Return a plain value with None in the place of every number that is not finite."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def digest(value: Any, length: int = 16) -> str:
    """Return the first `length` hexadecimal digits of the sha256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]
