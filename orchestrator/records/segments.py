"""Name the segments of an attempt's rows, and fold them into one file.

    attempts/001/rows-000000.jsonl          inherited from a shorter trial: none of it was used here
    attempts/001/rows-000001.jsonl ...      immutable: a flush each (S3 cannot append)
    attempts/001/rows-000850-folded.jsonl   segments 0 to 850

The fold is written before its segments are deleted, and a reader that sees a fold ignores the segments that it holds:
wherever a process dies, every row is read exactly once. An inherited row says that it is one (`"inherited": true`), so
that a fold can hold it. Other versions, which may write or read attempts of the same sweep, read or wrote

- up to commit 3e0c17e3: the same files without the mark. They ignore it.
- from commit 6c0fc557 on: folds without segment 0, which stayed next to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from orchestrator.records.rows import Columns, parse_rows
from orchestrator.storage import Storage

_NAME = re.compile(r"attempts/(?P<attempt>\d{3,})/rows-(?P<number>\d{6,})(?P<folded>-folded)?\.jsonl")


def segment_name(attempt: int, number: int, *, folded: bool = False) -> str:
    """Return the key of a segment, or of the fold of all segments up to it, in the folder of the trial."""
    return f"attempts/{attempt:03d}/rows-{number:06d}{'-folded' if folded else ''}.jsonl"


def attempt_of(name: str) -> int | None:
    """Return the attempt whose rows a file holds; None if it is not a segment."""
    found = _NAME.fullmatch(name)
    return int(found["attempt"]) if found else None


def is_inherited(name: str) -> bool:
    """Return whether a file holds the rows of a shorter trial and no others."""
    found = _NAME.fullmatch(name)
    return found is not None and not found["folded"] and not int(found["number"])


def is_folded(name: str) -> bool:
    """Return whether a file is a fold."""
    found = _NAME.fullmatch(name)
    return found is not None and found["folded"] is not None


def current_segments(names: Iterable[str], attempt: int) -> list[str]:
    """Return the files that hold the rows of an attempt: what it inherited, its last fold, then the segments after it.

    The fold tells whether it also holds what was inherited (`holds_inherited`); no other row is in two of them.
    """
    found = [(int(m["number"]), bool(m["folded"]), m[0]) for m in map(_NAME.fullmatch, names) if m]
    mine = [each for each in found if attempt_of(each[2]) == attempt]
    folds = [each for each in mine if each[1]]
    last = max(folds, default=None)
    after = sorted(each for each in mine if not each[1] and (last is None or each[0] > last[0]))
    inherited = [each[2] for each in mine if is_inherited(each[2])]
    return [*inherited, *([last[2]] if last else []), *(name for _, _, name in after if name not in inherited)]


def holds_inherited(fold: Columns, inherited: Columns) -> bool:
    """Return whether a fold holds the rows of the segment next to it that an attempt inherited."""
    return bool(fold.inherited.any()) or fold.begins_with(inherited)


def parts_of(segments: Mapping[str, Columns], attempt: int) -> list[Columns]:
    """Return each row of an attempt once, those marked that it is known to have inherited."""
    names = current_segments(segments, attempt)
    parts = [segments[name] for name in names]
    if not names or not is_inherited(names[0]):
        return parts
    inherited, rest = parts[0], parts[1:]
    count = len(inherited.steps)
    if len(names) > 1 and is_folded(names[1]) and holds_inherited(rest[0], inherited):
        is_marked = rest[0].inherited.any()
        return rest if is_marked else [rest[0].with_inherited(count), *rest[1:]]
    return [inherited.with_inherited(count), *rest]


def fold(folder: Storage, attempt: int, known: Mapping[str, bytes] | None = None) -> None:
    """Write all rows of an attempt into one file, then delete the files that it replaces.

    Args:
        folder: of the trial.
        known: contents of segments, which need not be read again.
    """
    names = folder.list(f"attempts/{attempt:03d}")
    parts = current_segments(names, attempt)
    if len(parts) > 1:
        contents = {name: known[name] for name in parts if known and name in known}
        contents |= folder.read_many([name for name in parts if name not in contents])
        if len(contents) < len(parts):
            return  # another process has just folded them
        if is_inherited(parts[0]) and is_folded(parts[1]):  # a process died before it deleted the former, or is late
            (inherited, _), (before, _) = (parse_rows(contents[name]) for name in parts[:2])
            parts = parts[holds_inherited(before, inherited) :]
        data = b"".join(_whole_lines(contents[name]) for name in parts)
        last = int(_NAME.fullmatch(parts[-1])["number"])  # type: ignore[index]
        target = segment_name(attempt, last, folded=True)
        folder.write(target, data)
        parts = [target]
    replaced = [name for name in names if attempt_of(name) == attempt and name not in parts]
    folder.delete_many(replaced)


def _whole_lines(data: bytes) -> bytes:
    """Return a segment that ends with a line break: damage of an interrupted write then stays in its own segment."""
    return data if not data or data.endswith(b"\n") else data + b"\n"
