"""Read and write rows of the user's own: CSV files in the storage, one per benchmark, or a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from orchestrator.results.baselines import Baseline, benchmarks, merge, parse_baselines, read_baselines, write_baselines
from orchestrator.storage import Storage
from trm_data.benchmarks import CATALOGUE
from trm_data.errors import ConfigError, DataError, nearest
from trm_data.files import write_atomic

FOLDER = "baselines"


class OwnBaselines:
    """Store the user's rows in a file if one is named, else in the storage."""

    def __init__(self, storage: Storage, file: Path | None = None) -> None:
        self._storage = storage
        self._file = file

    @property
    def where(self) -> str:
        """Return the path or address, for messages."""
        return str(self._file) if self._file else f"{self._storage.url}/{FOLDER}"

    def read(self) -> list[Baseline]:
        """Read all rows; none if the file does not exist yet.

        Raises:
            DataError: a malformed row, with its file and line.
        """
        if self._file is not None:
            return read_baselines(self._file) if self._file.exists() else []
        found = []
        for key in self._storage.list(FOLDER):
            if key.endswith(".csv"):
                found += parse_baselines(_decoded(self._storage.read(key), key), key.removeprefix(f"{FOLDER}/"))
        return found

    def put(self, rows: Sequence[Baseline]) -> None:
        """Add rows; a row replaces an earlier one with the same key. Each file is written atomically."""
        kept = merge(self.read(), rows)
        if self._file is not None:
            write_atomic(self._file, write_baselines(kept, self._file.stem))
            return
        for benchmark in sorted({row.benchmark for row in rows}):
            part = [row for row in kept if row.benchmark == benchmark]
            self._storage.write(f"{FOLDER}/{benchmark}.csv", write_baselines(part))


def check_benchmark(name: str) -> None:
    """Raise an error unless a benchmark is published or can be built.

    Raises:
        ConfigError: it is neither.
    """
    if not can_have_results(name):
        raise ConfigError(f"unknown benchmark {name!r}", nearest(name, known_benchmarks()))


def known_benchmarks() -> set[str]:
    """Return the names of benchmarks that are published or in `trm data list`, and of those that are generated."""
    made = {f"{known.name}-generated" for known in CATALOGUE.values() if known.generated}
    return {*benchmarks(), *CATALOGUE, *made} - {"official"}


def can_have_results(name: str) -> bool:
    """Return whether a benchmark is published or can be built, mazes of any side included."""
    return name in known_benchmarks() or re.fullmatch(r"maze-(unique-)?(\d+)x\2(-generated)?", name) is not None


def _decoded(text: bytes, key: str) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read baselines {key}: {error}", "It should be a CSV file in UTF-8") from None
