"""`trm data`: what puzzles there are, building them, looking at them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import JsonOption, StorageOption

if TYPE_CHECKING:
    from trm_data import DataRequest, Dataset

app = typer.Typer(help="List, build and look at puzzle datasets.", no_args_is_help=True)

BenchmarkArgument = Annotated[str, typer.Argument(help="A benchmark: see `trm data list`.", show_default=False)]
SourceOption = Annotated[
    str | None, typer.Option("--source", help="A puzzle list (.txt, .csv), folder or address, instead of the default.")
]
BlanksOption = Annotated[int | None, typer.Option("--blanks", min=1, help="Empty cells of a generated Sudoku.")]
TrainOption = Annotated[int | None, typer.Option("--num-train", min=1, help="Training puzzles.")]
ValidationOption = Annotated[int | None, typer.Option("--num-validation", min=0, help="Validation puzzles.")]
TestOption = Annotated[int | None, typer.Option("--num-test", min=0, help="Test puzzles.")]
BuildSeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the generator, the draw and the split.")]


@app.command("list")
def list_(storage: StorageOption = "runs", as_json: JsonOption = False) -> None:
    """List the benchmarks that can be built, and the datasets that are.

    Example: trm data list
    """
    from rich.table import Table

    from orchestrator.cli.console import out
    from orchestrator.datasets import local_root
    from orchestrator.storage import open_storage
    from trm_data import list_benchmarks, open_dataset

    root = local_root(open_storage(storage))
    built = [open_dataset(manifest.parent) for manifest in sorted(root.glob("[!.]*/manifest.json"))]
    if as_json:
        rows = [{"name": b.name, "description": b.description, "source": b.source} for b in list_benchmarks()]
        print(json.dumps({"benchmarks": rows, "built": [_row(dataset) for dataset in built]}, indent=1))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("benchmark", "what it is", "source", "licence"):
        table.add_column(name)
    for benchmark in list_benchmarks():
        table.add_row(benchmark.name, benchmark.description, benchmark.source, benchmark.licence)
    out.print(table)
    if built:
        out.print(f"\nbuilt in {root}:")
        for dataset in built:
            counts = ", ".join(f"{count:,} {split}" for split, count in dataset.counts.items() if count)
            out.print(f"  {dataset.path.name}  {counts}")


@app.command()
def build(
    benchmark: BenchmarkArgument,
    source: SourceOption = None,
    blanks: BlanksOption = None,
    num_train: TrainOption = None,
    num_validation: ValidationOption = None,
    num_test: TestOption = None,
    seed: BuildSeedOption = 0,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Build a dataset, or find it: the same request is never built twice.

    Examples:

    trm data build arc-agi-1

    trm data build sudoku-9x9 --source my-puzzles.txt --num-train 800 --num-test 200
    """
    import time

    from orchestrator.cli.console import duration, num_bytes, out
    from orchestrator.storage import open_storage

    request = _request(benchmark, source, blanks, num_train, num_validation, num_test, seed)
    started = time.monotonic()
    dataset = _provide(request, storage)
    spent = time.monotonic() - started
    if as_json:
        print(json.dumps(_row(dataset), indent=1))
        return
    size = sum(file.stat().st_size for file in dataset.path.iterdir())
    counts = ", ".join(f"{count:,} {split}" for split, count in dataset.counts.items() if count)
    out.print(f"{dataset.path.name}: {counts} puzzles, {num_bytes(size)}, in {duration(spent)}")
    out.print(f"look at one: trm data show {_spelled(request)} --storage {open_storage(storage).url}")


@app.command()
def show(
    benchmark: BenchmarkArgument,
    puzzle: Annotated[str, typer.Option("--puzzle", help="Number or name of the puzzle, e.g. an ARC task id.")] = "0",
    output: Annotated[Path | None, typer.Option("--out", "-o", help="PNG file to write.")] = None,
    source: SourceOption = None,
    blanks: BlanksOption = None,
    num_train: TrainOption = None,
    num_validation: ValidationOption = None,
    num_test: TestOption = None,
    seed: BuildSeedOption = 0,
    storage: StorageOption = "runs",
) -> None:
    """Draw a puzzle as PNG: its input and its label, every example of an ARC task.

    Examples:

    trm data show arc-agi-1 --puzzle 007bbfb7

    trm data show sudoku-9x9 --puzzle 3 --out puzzle.png
    """
    from orchestrator.cli.console import out
    from trm_data import draw, save_png

    dataset = _provide(_request(benchmark, source, blanks, num_train, num_validation, num_test, seed), storage)
    index = dataset.puzzle_index(puzzle)
    path = output or Path(f"{dataset.benchmark}-{dataset.names[index]}.png")
    save_png(draw(dataset, index), path)
    out.print(f"{dataset.title(index)}\n{path}")


def _request(
    benchmark: str,
    source: str | None,
    blanks: int | None,
    num_train: int | None,
    num_validation: int | None,
    num_test: int | None,
    seed: int,
) -> DataRequest:
    from trm_data import DataRequest

    return DataRequest(
        benchmark=benchmark, source=source, blanks=blanks, num_train=num_train, num_validation=num_validation,
        num_test=num_test, build_seed=seed,
    )  # fmt: skip


def _spelled(request: DataRequest) -> str:
    """The request as it was typed."""
    names = {"build_seed": "seed"}
    values = request.model_dump(exclude_defaults=True)
    benchmark = values.pop("benchmark", request.benchmark)
    return " ".join([benchmark, *(f"--{names.get(k, k).replace('_', '-')} {v}" for k, v in values.items())])


def _provide(request: DataRequest, storage: str) -> Dataset:
    from orchestrator.cli.console import BuildBar
    from orchestrator.datasets import provide
    from orchestrator.storage import open_storage

    with BuildBar() as progress:
        return provide(open_storage(storage), request, progress)


def _row(dataset: Dataset) -> dict[str, object]:
    return {"path": str(dataset.path), **dataset.describe()}
