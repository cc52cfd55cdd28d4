"""Define the result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """Hold what was checked, its status, what was found, and the remedy (empty if none is needed)."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""
