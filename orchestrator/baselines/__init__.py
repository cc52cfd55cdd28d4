"""Published results as validated data: one CSV file per benchmark in `data/`, a line per result, each with its source.

Scores are percentages. A split says which puzzles were scored, a protocol how: rows that differ in split, metric or
protocol are never ranked together (see `orchestrator.leaderboard`). `docs/leaderboard.md` says how to add a row.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from trm_data.errors import DataError, nearest
from trm_data.settings import Settings

Kind = Literal["trm", "hrm", "direct", "llm", "system", "human"]
Metric = Literal["exact_accuracy", "pass@1", "pass@2", "peak_exact_accuracy"]
Protocol = Literal["single", "ensemble"]

AS_PRINTED = "as-printed"
"""The split of rows whose table mixes evaluation sets; they are shown, with what they really are, but never ranked."""

_DATA = Path(__file__).parent / "data"


class Baseline(Settings):
    """One published result."""

    benchmark: str
    system: str = Field(min_length=1)
    kind: Kind
    """trm, hrm, direct: that architecture and its near relatives. system: anything built from several parts."""
    role: Literal["headline", "reproduction", "ablation"]
    """headline: a system's own figure. reproduction: a rerun by others. ablation: a variant, for published deltas."""
    params: int | None = Field(None, ge=1)
    split: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    metric: Metric
    protocol: Protocol
    """single: one checkpoint, with the benchmark's usual vote over augmented views. ensemble: several checkpoints,
    random rollouts or model calls combined into one answer."""
    score: float = Field(ge=0, le=100)
    """Per cent."""
    items: int | None = Field(None, ge=1)
    """Puzzles or tasks scored; None where the source does not say."""
    seeds: int | None = Field(None, ge=1)
    cost_per_task_usd: float | None = Field(None, ge=0)
    source: str = Field(min_length=3)
    detail: str = ""
    date: str = Field(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")
    """Of the source, as exactly as it is known: year, month or day."""
    evidence: Literal["verified", "claimed", "quoted"]
    """verified: scored by the benchmark's owner. claimed: by whoever ran it. quoted: read second-hand only."""

    @field_validator("source")
    @classmethod
    def _names_something(cls, source: str) -> str:
        if not any(character.isalnum() for character in source):
            raise ValueError("names no source")
        return source


_COLUMNS = [name for name in Baseline.model_fields if name != "benchmark"]
_OPTIONAL = {name for name, field in Baseline.model_fields.items() if not field.is_required()}


def benchmarks() -> list[str]:
    """Names of the benchmarks that have published results."""
    return sorted(path.stem for path in _DATA.glob("*.csv"))


def load_baselines(benchmark: str | None = None, extra: Sequence[Path] = ()) -> list[Baseline]:
    """The packaged results of one benchmark, or of all, with those of the user's own files.

    A file is named after its benchmark (`maze-hard.csv`), which may be a new one; its row replaces the packaged row of
    the same system, split, metric, protocol, source and detail.

    Raises:
        DataError: no such benchmark, or a row that cannot be believed.
    """
    paths = [*sorted(_DATA.glob("*.csv")), *extra]
    names = sorted({path.stem for path in paths})
    if benchmark is not None and benchmark not in names:
        raise DataError(f"there are no published results for benchmark {benchmark!r}", nearest(benchmark, names))
    rows = (row for path in paths if benchmark in (None, path.stem) for row in read_baselines(path))
    return list({(row.benchmark, *_key(row)): row for row in rows}.values())


def read_baselines(path: Path) -> list[Baseline]:
    """The results in a CSV file that is named after its benchmark.

    Raises:
        DataError: naming the file, the line and the column.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read baselines {path}: {error}", "Name a CSV file in UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="")
    _check_columns(path, list(reader.fieldnames or []))
    return list(_parse_rows(path, reader))


def write_baselines(rows: list[Baseline]) -> bytes:
    """The CSV text of the results of one benchmark; `read_baselines` gives them back."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = row.plain()
        writer.writerow({name: "" if values[name] is None else values[name] for name in _COLUMNS})
    return text.getvalue().encode()


def _parse_rows(path: Path, reader: csv.DictReader[str]) -> Iterator[Baseline]:
    seen: dict[tuple[str, ...], int] = {}
    for values in reader:
        where = f"{path.name}, line {reader.line_num}"
        if "" in values or None in values.values():
            raise DataError(f"{where}: has not {len(_COLUMNS)} columns", "Quote a value that contains a comma")
        filled = {name: value for name, value in values.items() if value != "" or name not in _OPTIONAL}
        try:
            row = Baseline.model_validate({**filled, "benchmark": path.stem})
        except ValidationError as error:
            raise DataError(f"{where}: {_explain(error)}", "Every row needs a source and a score in per cent") from None
        key = _key(row)
        if key in seen:
            raise DataError(f"{where}: repeats line {seen[key]} ({row.system!r})", "Remove one of them")
        seen[key] = reader.line_num
        yield row


def _key(row: Baseline) -> tuple[str, ...]:
    """What makes two rows the same result."""
    return row.system, row.split, row.metric, row.protocol, row.source, row.detail


def _check_columns(path: Path, names: list[str]) -> None:
    unknown = [name for name in names if name not in _COLUMNS]
    missing = [name for name in _COLUMNS if name not in names and name not in _OPTIONAL]
    if unknown:
        raise DataError(f"{path.name}, line 1: unknown column {unknown[0]!r}", nearest(unknown[0], _COLUMNS))
    if missing:
        raise DataError(f"{path.name}, line 1: no column {missing[0]!r}", f"Columns: {', '.join(_COLUMNS)}")


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    return f"{first['loc'][0]}={first['input']!r}: {message[:1].lower()}{message[1:]}"


__all__ = [
    "AS_PRINTED",
    "Baseline",
    "Kind",
    "Metric",
    "Protocol",
    "benchmarks",
    "load_baselines",
    "read_baselines",
    "write_baselines",
]
