"""Build each dataset once. Its folder is named by its fingerprint and appears complete, in one rename, or never."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trm_data.benchmarks import Benchmark, complete, resolve_benchmark
from trm_data.building import arc as arc_puzzles
from trm_data.building import official_import
from trm_data.building.identity import (
    BUILDER_VERSION,
    dataset_folder,
    find,
    fingerprint,
    ranked_name,
    without_queries,
)
from trm_data.config import MANIFEST, DataRequest
from trm_data.dataset.manifest import Manifest
from trm_data.dataset.reader import Dataset
from trm_data.dataset.schema import SPLITS, Puzzles, tables, write_table
from trm_data.errors import DataError
from trm_data.files import temporary_folder, writing_remedy
from trm_data.own_code import KIND, sources_in
from trm_data.puzzles.kinds import kind_of
from trm_data.sources import arc, files, generated, maze, sudoku, sudoku_published
from trm_data.sources.files import parse_address

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


def _silent(what: str, done: int, total: int) -> None:
    pass


def _name_of(puzzles: Puzzles, request: DataRequest, benchmark: Benchmark) -> str:
    """Return `ranked_name`, unless the source's test split is known by its content to differ from the published one."""
    if request.source is None or not benchmark.test_digests or puzzles.digest_of("test") in benchmark.test_digests:
        return ranked_name(request, benchmark)
    return f"{benchmark.name}-{parse_address(request.source).stem.lower()}"


def open_dataset(path: Path | str) -> Dataset:
    """Map a built dataset into memory.

    Raises:
        DataError: the folder is not a dataset, is damaged or changed, or was made by a newer version.
    """
    return Dataset(Path(path))


def build(request: DataRequest, root: Path | str, progress: Progress | None = None) -> Dataset:
    """Return the dataset of a request: found under `root` if it was built before, otherwise built there.

    Raises:
        ConfigError, DataError: a bad request or source; nothing is left behind.
    """
    root = Path(root)
    found = find(request, root)
    if found is not None:
        return open_dataset(found)
    request = complete(request)
    puzzles = _read(request, progress or _silent)
    return _publish(puzzles, request, dataset_folder(request, root))


def import_official(folder: Path | str, root: Path | str, progress: Progress | None = None) -> Dataset:
    """Return the dataset of a folder that an official builder wrote, importing it on the first call.

    Raises:
        DataError: no official dataset, damaged, or rows that no augmentation makes.
    """
    return build(DataRequest(benchmark="official", source=str(folder)), root, progress)


def _read(request: DataRequest, progress: Progress) -> Puzzles:
    benchmark = resolve_benchmark(request.benchmark)
    if benchmark.name == "official":
        assert request.source is not None
        return official_import.load(Path(request.source), progress)
    read = _READERS.get(benchmark.family, generated.puzzles_of)
    return read(request, benchmark, progress)


def _read_tasks(request: DataRequest, benchmark: Benchmark, progress: Progress) -> Puzzles:
    content: dict[str, str] = {}
    tasks = arc.load(benchmark.name, request.source, request.extra_training, content)
    return arc_puzzles.as_puzzles(tasks, request, {"files": content}, progress)


def _read_mazes(request: DataRequest, benchmark: Benchmark, progress: Progress) -> Puzzles:
    if request.source is None:
        return maze.generated(request, benchmark, progress)
    return maze.published(parse_address(request.source), request, benchmark)


def _read_sudoku(request: DataRequest, benchmark: Benchmark, progress: Progress) -> Puzzles:
    if request.source is None:
        return sudoku.generated(request, benchmark.side, progress)
    address = parse_address(request.source)
    if benchmark.generated or files.exists(address):
        return sudoku.listed(address, request, benchmark.side)
    return sudoku_published.published(address, request, benchmark.side)


_READERS = {"arc": _read_tasks, "maze": _read_mazes, "sudoku": _read_sudoku}
"""By family: where its puzzles come from, unless its kind generates them."""


def _manifest(puzzles: Puzzles, request: DataRequest, files: dict[str, str]) -> Manifest:
    benchmark, kind = resolve_benchmark(request.benchmark), kind_of(puzzles.family)
    members = [puzzles.split == index for index in range(len(SPLITS))]
    return Manifest(
        builder_version=BUILDER_VERSION,
        benchmark=_name_of(puzzles, request, benchmark),
        generated=benchmark.generated and request.source is None,
        family=puzzles.family,
        fingerprint=fingerprint(request),
        request=without_queries(request),
        source=benchmark.source if request.source is None else str(parse_address(request.source)),
        licence=benchmark.licence if request.source is None else "the source's own",
        vocab_size=kind.vocab_size(puzzles.side),
        grid_shape=(puzzles.side, puzzles.side),
        augmentation=kind.augmentation,
        ids=puzzles.ids,
        counts={split: len(np.unique(puzzles.puzzle[rows])) for split, rows in zip(SPLITS, members, strict=True)},
        examples={split: int(rows.sum()) for split, rows in zip(SPLITS, members, strict=True)},
        files=files,
        facts=puzzles.facts,
    )


def _publish(puzzles: Puzzles, request: DataRequest, folder: Path) -> Dataset:
    """Write to a temporary folder, then rename. Of two concurrent builders the second uses the first one's folder."""
    try:
        with temporary_folder(folder.parent) as aside:
            files = {}
            for stem, table in tables(puzzles).items():
                path = aside / f"{stem}.arrow"
                write_table(path, table)
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    files[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
            _manifest(puzzles, request, files).write(aside)
            for source in sources_in({"data.benchmark": request.benchmark}).values():
                (aside / KIND.file).write_text(source, encoding="utf-8")
            open_dataset(aside)  # what cannot be read is not published
            if not (folder / MANIFEST).is_file():
                aside.rename(folder)
    except OSError as error:
        if not (folder / MANIFEST).is_file():
            raise DataError(f"cannot write {folder}: {error.strerror or error}", writing_remedy(error)) from error
    return open_dataset(folder)
