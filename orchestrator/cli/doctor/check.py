"""One finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it is, what was found, and what to do about it (empty if nothing)."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""
