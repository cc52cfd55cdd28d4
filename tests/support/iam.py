"""Evaluate IAM policies as AWS documents it, as far as the policies of this project need it.

An explicit deny wins, then any allow, else the request is denied. Supported: Action and Resource with `*` and `?`, and
conditions StringEquals, StringLike and Bool with their `IfExists` and `ForAllValues:` forms. Anything else is an error,
so that a policy is not judged by less than it says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_KNOWN = {"Sid", "Effect", "Action", "Resource", "Condition"}


@dataclass(frozen=True)
class Request:
    """Describe a call of AWS: an action on a resource, and the condition keys that AWS sets for it."""

    action: str
    resource: str
    context: Mapping[str, str | Sequence[str]] = field(default_factory=dict)


def is_allowed(document: Mapping[str, Any], request: Request) -> bool:
    """Return whether a policy allows a request."""
    effects = [one["Effect"] for one in document["Statement"] if _applies(one, request)]
    return "Allow" in effects and "Deny" not in effects


def _applies(statement: Mapping[str, Any], request: Request) -> bool:
    if unknown := set(statement) - _KNOWN:
        raise NotImplementedError(f"elements {sorted(unknown)}")
    return (
        any(_matches(pattern.lower(), request.action.lower()) for pattern in listed(statement["Action"]))
        and any(_matches(pattern, request.resource) for pattern in listed(statement["Resource"]))
        and all(
            _holds(operator, listed(values), request.context.get(key))
            for operator, tests in statement.get("Condition", {}).items()
            for key, values in tests.items()
        )
    )


def _holds(operator: str, patterns: Sequence[str], found: str | Sequence[str] | None) -> bool:
    for_all, name = operator.startswith("ForAllValues:"), operator.removeprefix("ForAllValues:")
    if_exists, name = name.endswith("IfExists"), name.removesuffix("IfExists")
    if name not in ("StringEquals", "StringLike", "Bool"):
        raise NotImplementedError(f"condition {operator}")
    if found is None:
        return if_exists or for_all
    values = listed(found)
    matches = [any(_matches(p, value) if name == "StringLike" else p == value for p in patterns) for value in values]
    return all(matches) if for_all else any(matches)


def _matches(pattern: str, text: str) -> bool:
    parts = {"*": ".*", "?": "."}
    return re.fullmatch("".join(parts.get(char, re.escape(char)) for char in pattern), text) is not None


def listed(value: Any) -> list[str]:
    """Return a list, or a single value as a list of one."""
    return list(value) if isinstance(value, list | tuple) else [value]
