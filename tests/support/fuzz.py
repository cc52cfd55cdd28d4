"""Damaged and made-up input for the command line, and the judgement of what it makes of it.

`python -m tests.support.fuzz MINUTES [PYTEST OPTIONS]` repeats the tests with new input and ever more examples.
"""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import Phase, settings
from hypothesis import strategies as st

from orchestrator.cli import main

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
"""Examples per test in `make fuzz`; 0 in `make test`, which runs the same few each time."""
SHORT = 3

fuzz = settings(
    max_examples=EXAMPLES or SHORT,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),  # each example is some commands: shrinking takes minutes
)


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


def call(*arguments: str) -> Outcome:
    """Run one command in this process. Whatever it raises besides SystemExit is a traceback for a user."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int)
    return Outcome(code, out.getvalue(), err.getvalue())


def check(outcome: Outcome, also: tuple[int, ...] = ()) -> Outcome:
    """Assert that input was read, or refused in one line with exit code 2 by the code that knows what it expects.

    Args:
        also: further exit codes that the command documents.
    """
    code, out, err = outcome
    assert code in (0, 2, *also), f"exit code {code}: {err}{out}"
    assert "Traceback" not in out + err
    assert "\x1b" not in out + err, "input controls the terminal"
    if code == 2:
        lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1 and lines[0].startswith("error: "), err
        assert "shows where" not in err, f"left to the last resort: {err}"
    return outcome


def files(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, with their content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    """Give a file another content while the block runs."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


ODD_TEXTS = ["", " ", "\x00", "\x1b[2J", "a\nb", "\ud800", "../../x", "/", "x" * 300, "=1+1", "[red]", "nan", "é"]
NUMBERS = st.one_of(
    st.integers(-3, 20),
    st.sampled_from([2**31, -(2**31), 2**63, 2**64, 10**9, 10**30, 10**400]),
    st.floats(allow_nan=True, allow_infinity=True),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8), st.sampled_from(ODD_TEXTS))
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


class ByteEdit(NamedTuple):
    """Overwrite, cut, end, double or insert bytes at a part (of 1,000) of the whole."""

    kind: str
    at: int
    length: int
    fresh: bytes


class JsonEdit(NamedTuple):
    """Replace, remove or add a value: that of number `place` in the order of the document, counted round and round."""

    kind: str
    place: int
    value: Any


BYTES = st.lists(
    st.builds(
        ByteEdit,
        st.sampled_from(["overwrite", "overwrite", "cut", "end", "double", "insert"]),
        st.integers(0, 999),
        st.integers(0, 64),
        st.binary(max_size=32),
    ),
    min_size=1,
    max_size=3,
)
JSON = st.lists(
    st.builds(
        JsonEdit, st.sampled_from(["replace", "replace", "replace", "remove", "add"]), st.integers(0, 9_999), VALUES
    ),
    min_size=1,
    max_size=3,
)


def edit_bytes(data: bytes, edits: list[ByteEdit]) -> bytes:
    """Return some bytes with a part overwritten, removed, doubled or inserted."""
    for kind, at, length, fresh in edits:
        start = len(data) * at // 1_000
        if kind == "overwrite":
            data = data[:start] + fresh + data[start + len(fresh) :]
        elif kind == "cut":
            data = data[:start] + data[start + length :]
        elif kind == "end":
            data = data[:start]
        elif kind == "double":
            data = data[: start + length] + data[start:]
        else:
            data = data[:start] + fresh + data[start:]
    return data


def edit_json(document: Any, edits: list[JsonEdit]) -> Any:
    """Return a document with values replaced, removed or added."""
    changed = copy.deepcopy(document)
    for kind, place, value in edits:
        places = list(_places(changed))
        if not places:
            return value
        *way, last = places[place % len(places)]
        parent = changed
        for part in way:
            parent = parent[part]
        if kind == "remove":
            del parent[last]
        elif kind == "add" and isinstance(parent, dict):
            parent[f"new {place}"] = value
        else:
            parent[last] = value
    return changed


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in parts:
        yield from _places(inner, (*place, name))


def dump(document: Any) -> bytes:
    """Return JSON as a careless program would write it, with NaN, infinities and lone surrogates."""
    return json.dumps(document).encode("utf-8", "surrogatepass")


Edits = list[ByteEdit] | list[JsonEdit]
EITHER: st.SearchStrategy[Edits] = JSON | BYTES


def edit_document(document: Any, edits: Edits) -> bytes:
    """Return JSON with other values, or with other bytes."""
    if edits and isinstance(edits[0], ByteEdit):
        return edit_bytes(dump(document), edits)  # type: ignore[arg-type]  # all are of one kind
    return dump(edit_json(document, edits))  # type: ignore[arg-type]


def repeat(minutes: float, options: list[str]) -> int:
    """Run the tests with other examples until the time is over or one fails. Return pytest's exit code."""
    until = time.monotonic() + 60 * minutes
    examples, code = 20, 0
    while time.monotonic() < until and code == 0:
        print(f"{examples} examples of each test", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "tests/cli/test_fuzz.py", *options]
        code = subprocess.run(command, env={**os.environ, "FUZZ_EXAMPLES": str(examples)}).returncode
        examples *= 2
    return code


if __name__ == "__main__":
    sys.exit(repeat(float(sys.argv[1]), sys.argv[2:]))
