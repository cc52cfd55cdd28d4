"""Read published results from validated CSV files: one per benchmark in `data/`, a line per result, each with a source.

Scores are percentages. `orchestrator.results.leaderboard.comparable` decides which rows are ranked together.
`docs/leaderboard.md` says how to add a row.
"""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from trm_data.errors import DataError, nearest
from trm_data.settings import Settings

Kind = Literal["trm", "hrm", "direct", "llm", "system", "human"]
Metric = Literal["exact_accuracy", "pass@1", "pass@2", "peak_exact_accuracy"]
Protocol = Literal["single", "ensemble", "search"]

AS_PRINTED = "as-printed"
"""The split of rows whose table mixes evaluation sets; they are shown, with what they really are, but never ranked."""

_DATA = Path(__file__).parent / "data"


class Baseline(Settings):
    """Hold one published result."""

    benchmark: str
    system: str = Field(pattern=r"\S")
    kind: Kind
    """trm, hrm, direct: that architecture and its near relatives. system: anything built from several parts."""
    role: Literal["headline", "reproduction", "ablation"]
    """headline: a system's own figure. reproduction: a rerun by others. ablation: a variant, for published deltas."""
    params: int | None = Field(None, ge=1)
    split: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    metric: Metric
    protocol: Protocol
    """single: one checkpoint, with the benchmark's usual vote over augmented views. ensemble: several checkpoints,
    random rollouts or model calls combined into one answer. search: answers are proposed, checked by rules, by
    verifiers or by the model itself, and taken back."""
    score: float = Field(ge=0, le=100)
    """Per cent."""
    items: int | None = Field(None, ge=1)
    """Puzzles or tasks scored; None where the source does not say."""
    seeds: int | None = Field(None, ge=1)
    passes: int | None = Field(None, ge=1)
    """Supervision steps at evaluation; None where the source does not say, as in the next three."""
    votes: int | None = Field(None, ge=1)
    """Views per puzzle that vote on the answer."""
    samples: int | None = Field(None, ge=1)
    """Answers per attempt that are combined: rollouts, samples of a language model, checkpoints."""
    curve: str = ""
    """Name of the trained model whose rows, at several numbers of passes, are points of one depth curve."""
    train_puzzles: int | None = Field(None, ge=1)
    """Training puzzles, or tasks, before augmentation."""
    correct: Literal["label", "valid"] | None = None
    """What counts where a puzzle has several valid answers: the stored one, or any. None: see `comparable`."""
    train_gpu_hours: float | None = Field(None, gt=0, allow_inf_nan=False)
    train_gpu: str = ""
    """Type of the GPUs of training."""
    cost_per_task_usd: float | None = Field(None, ge=0, allow_inf_nan=False)
    source: str = Field(min_length=3)
    detail: str = ""
    date: str = Field(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")
    """Of the source, as exactly as it is known: year, month or day."""
    evidence: Literal["verified", "claimed", "quoted"]
    """verified: scored by the benchmark's owner. claimed: by whoever ran it. quoted: read second-hand only."""

    @field_validator("benchmark", "system", "curve", "train_gpu", "source", "detail")
    @classmethod
    def _is_printable(cls, text: str) -> str:
        # These are shown in terminals, pages and spreadsheets; a control character could forge what is shown.
        if not text.isprintable():
            raise ValueError("contains a character that cannot be printed")
        return text.strip()

    @field_validator("source")
    @classmethod
    def _names_something(cls, source: str) -> str:
        if not any(character.isalnum() for character in source.removeprefix("arXiv")):
            raise ValueError("names no source")
        return source

    @field_validator("date")
    @classmethod
    def _is_a_date(cls, date: str) -> str:
        try:
            datetime.date.fromisoformat(f"{date}-01-01"[:10])
        except ValueError:
            raise ValueError("there is no such date") from None
        return date

    @property
    def key(self) -> tuple[str, ...]:
        """Return the columns that identify a result: two rows of the same result agree in them."""
        return self.benchmark, self.system, self.split, self.metric, self.protocol, self.source, self.detail


_COLUMNS = [name for name in Baseline.model_fields if name != "benchmark"]
_OPTIONAL = {name for name, field in Baseline.model_fields.items() if not field.is_required()}
_SAME_ON_A_CURVE = ("params", "split", "metric", "protocol", "votes", "samples", "train_puzzles", "correct")
_ONE_MODEL = "A curve is one trained model that was scored in one way at several numbers of passes"


def benchmarks() -> list[str]:
    """Return the names of the benchmarks that have published results."""
    return sorted(path.stem for path in _DATA.glob("*.csv"))


def load_baselines(benchmark: str | None = None, own: Sequence[Baseline] = ()) -> list[Baseline]:
    """Return the packaged results of one benchmark, or of all, with rows of the user's own.

    Own rows may belong to another benchmark, and replace a packaged row with the same key.

    Raises:
        DataError: no such benchmark, or a malformed row.
    """
    names = sorted({*benchmarks(), *(row.benchmark for row in own)})
    if benchmark is not None and benchmark not in names:
        raise DataError(f"there are no published results for benchmark {benchmark!r}", nearest(benchmark, names))
    packaged = (_DATA / f"{name}.csv" for name in benchmarks() if benchmark in (None, name))
    rows = [row for path in packaged for row in read_baselines(path)]
    return merge(rows, [row for row in own if benchmark in (None, row.benchmark)])


def merge(rows: Iterable[Baseline], later: Iterable[Baseline]) -> list[Baseline]:
    """Merge two lists; a later row replaces an earlier one with the same key."""
    return list({row.key: row for row in (*rows, *later)}.values())


def check_point(row: Baseline, known: Iterable[Baseline], *, least: int = 1) -> None:
    """Raise an error unless a row that names a depth curve can be a point of it, beside the known rows that name it.

    Args:
        known: may hold the row itself, which is passed over.
        least: number of points that the curve must have, the row included.

    Raises:
        DataError: naming both rows and the column.
    """
    if not row.curve:
        return
    if row.passes is None:
        raise DataError(f"{row.system!r} is a point of curve {row.curve!r}, but has no passes", "State its passes")
    names = row.benchmark, row.curve
    others = [other for other in known if (other.benchmark, other.curve) == names and other.key != row.key]
    for other in others:
        differing = [name for name in _SAME_ON_A_CURVE if getattr(row, name) != getattr(other, name)]
        both = f"{row.system!r} and {other.system!r} of curve {row.curve!r}"
        if differing:
            raise DataError(f"{both} differ in {differing[0]}", _ONE_MODEL)
        if row.passes == other.passes:
            raise DataError(f"{both} have the same passes, {row.passes}", _ONE_MODEL)
    if len(others) + 1 < least:
        raise DataError(f"{row.system!r} is the only row of curve {row.curve!r}", _ONE_MODEL)


def read_baselines(path: Path) -> list[Baseline]:
    """Read the results in a CSV file that names their benchmark in a column or in its own name (`maze-hard.csv`).

    Raises:
        DataError: naming the file, the line and the column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read baselines {path}: {error}", "Name a CSV file in UTF-8") from error
    return parse_baselines(text, path.name)


def parse_baselines(text: str, name: str) -> list[Baseline]:
    """Parse the text of the file `name`; see `read_baselines`."""
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="")
    try:
        columns = list(reader.fieldnames or [])
        _check_columns(name, columns)
        benchmark = {} if "benchmark" in columns else {"benchmark": name.removesuffix(".csv")}
        return list(_parse_rows(name, len(columns), benchmark, reader))
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.reader.line_num}: {error}", "Correct the row: it is not CSV") from None


def write_baselines(rows: Sequence[Baseline], stem: str | None = None) -> bytes:
    """Return the CSV text of results, for `read_baselines`.

    The benchmark has a column unless all rows are of the one that the file is called after (`stem`; any one if None).
    """
    names = {row.benchmark for row in rows}
    columns = _COLUMNS if len(names) == 1 and stem in (None, *names) else ["benchmark", *_COLUMNS]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = row.plain()
        writer.writerow({name: "" if values[name] is None else values[name] for name in columns})
    return text.getvalue().encode()


def _parse_rows(
    name: str, num_columns: int, benchmark: dict[str, str], reader: csv.DictReader[str]
) -> Iterator[Baseline]:
    seen: dict[tuple[str, ...], int] = {}
    points: list[Baseline] = []
    for values in reader:
        where = f"{name}, line {reader.line_num}"
        if "" in values or None in values.values():
            raise DataError(f"{where}: has not {num_columns} columns", "Quote a value that contains a comma")
        filled = {column: value for column, value in values.items() if value != "" or column not in _OPTIONAL}
        try:
            row = Baseline.model_validate(benchmark | filled)
        except ValidationError as error:
            raise DataError(f"{where}: {_explain(error)}", "Every row needs a source and a score in per cent") from None
        if row.key in seen:
            raise DataError(f"{where}: repeats line {seen[row.key]} ({row.system!r})", "Remove one of them")
        seen[row.key] = reader.line_num
        if row.curve:
            try:
                check_point(row, points)
            except DataError as error:
                raise DataError(f"{where}: {error.what}", error.remedy) from None
            points.append(row)
        yield row


def _check_columns(name: str, columns: list[str]) -> None:
    unknown = [column for column in columns if column not in Baseline.model_fields]
    missing = [column for column in _COLUMNS if column not in columns and column not in _OPTIONAL]
    if unknown:
        raise DataError(f"{name}, line 1: unknown column {unknown[0]!r}", nearest(unknown[0], _COLUMNS))
    if missing:
        raise DataError(f"{name}, line 1: no column {missing[0]!r}", f"Columns: {', '.join(_COLUMNS)}")


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
    "check_point",
    "load_baselines",
    "merge",
    "parse_baselines",
    "read_baselines",
    "write_baselines",
]
