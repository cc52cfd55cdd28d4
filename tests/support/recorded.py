"""Compare numbers with those of an earlier version, recorded in `tests/golden/recorded`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[1] / "golden/recorded"
PRECISION = 1e-9
"""Relative difference that processors and versions of numpy may make."""


def compare(name: str, found: dict[str, Any], precision: float = PRECISION) -> None:
    """Compare values, by what they are of, with `tests/golden/recorded/NAME.json`.

    `precision` is the relative difference that two numbers may have.

    A change on purpose: write the file with UPDATE_GOLDEN=1 in the environment, and look at the differences.
    """
    path, found = GOLDEN / f"{name}.json", json.loads(json.dumps(found))
    if os.environ.get("UPDATE_GOLDEN"):
        lines = (f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in found.items())
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    differences = list(_differences(json.loads(path.read_text()), found, "", precision))
    assert not differences, "\n".join([*differences[:20], f"{len(differences)} differences from {path.name}"])


def _differences(was: Any, now: Any, place: str, precision: float) -> Iterator[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        for key in was | now:
            if key in was and key in now:
                yield from _differences(was[key], now[key], f"{place}.{key}", precision)
            else:
                yield f"{place}.{key} is {'gone' if key in was else 'new'}"
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for number, (one, other) in enumerate(zip(was, now, strict=True)):
            yield from _differences(one, other, f"{place}[{number}]", precision)
    elif isinstance(was, float) and isinstance(now, float):
        if not math.isclose(was, now, rel_tol=precision, abs_tol=1e-12):
            yield f"{place} was {was!r} and is {now!r}"
    elif was != now or type(was) is not type(now):
        yield f"{place} was {was!r} and is {now!r}"
