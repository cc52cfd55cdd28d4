"""Rows of the user's own: CSV files in the storage, one per benchmark, or a file of the user's choice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.results.baselines import Baseline, benchmarks, merge, parse_baselines, read_baselines, write_baselines
from orchestrator.storage import Storage
from trm_data.benchmarks import CATALOGUE
from trm_data.errors import ConfigError, DataError, nearest
from trm_data.files import write_atomic

FOLDER = "baselines"


class OwnBaselines:
    """Where rows of one's own are kept: the file if there is one, else the storage."""

    def __init__(self, storage: Storage, file: Path | None = None) -> None:
        self._storage = storage
        self._file = file

    @property
    def where(self) -> str:
        """For people."""
        return str(self._file) if self._file else f"{self._storage.url}/{FOLDER}"

    def read(self) -> list[Baseline]:
        """Every row, those of a file that does not exist yet being none.

        Raises:
            DataError: a row that cannot be believed.
        """
        if self._file is not None:
            return read_baselines(self._file) if self._file.exists() else []
        found = []
        for key in self._storage.list(FOLDER):
            if key.endswith(".csv"):
                found += parse_baselines(_decoded(self._storage.read(key), key), key.removeprefix(f"{FOLDER}/"))
        return found

    def put(self, rows: Sequence[Baseline]) -> None:
        """Add rows; one with the key of an earlier row takes its place. Each file is written whole or not at all."""
        kept = merge(self.read(), rows)
        if self._file is not None:
            write_atomic(self._file, write_baselines(kept, self._file.stem))
            return
        for benchmark in sorted({row.benchmark for row in rows}):
            part = [row for row in kept if row.benchmark == benchmark]
            self._storage.write(f"{FOLDER}/{benchmark}.csv", write_baselines(part))


def check_benchmark(name: str) -> None:
    """Refuse a row of a benchmark that nothing can be compared with.

    Raises:
        ConfigError: it is neither published nor one that can be built.
    """
    made = {f"{known.name}-generated" for known in CATALOGUE.values() if known.generated}
    known = {*benchmarks(), *CATALOGUE, *made} - {"official"}
    if name not in known:
        raise ConfigError(f"unknown benchmark {name!r}", nearest(name, known))


def _decoded(text: bytes, key: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read baselines {key}: {error}", "It should be a CSV file in UTF-8") from None
