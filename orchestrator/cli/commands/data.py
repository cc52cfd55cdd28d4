"""`trm data`: list, build, draw, check and export puzzle datasets."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import (
    INPUT_FOLDER,
    OUTPUT_FILE,
    OUTPUT_FOLDER,
    JsonOption,
    StorageOption,
    TrustOption,
    trust_files,
)
from trm_data.settings import strict_json

if TYPE_CHECKING:
    from trm_data import DataRequest, Dataset

app = typer.Typer(help="List, build, draw, check and export puzzle datasets.", no_args_is_help=True)

BenchmarkArgument = Annotated[
    str,
    typer.Argument(help="A benchmark: see `trm data list`. Or FILE.py:CLASS, of one's own.", show_default=False),
]
DatasetArgument = Annotated[
    str, typer.Argument(help="A built dataset's name or folder, or a benchmark with its defaults.", show_default=False)
]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="PNG file to write.", **OUTPUT_FILE)]


@app.command("list")
def list_(storage: StorageOption = "runs", trust: TrustOption = None, as_json: JsonOption = False) -> None:
    """List the benchmarks that can be built, and the datasets that have been built.

    Example: trm data list
    """
    from orchestrator.cli.views.console import err, out, table
    from orchestrator.records.datasets import local_root
    from orchestrator.storage import open_storage
    from trm_data import list_benchmarks, open_dataset
    from trm_data.dataset.manifest import UnknownKindError
    from trm_data.errors import UserError

    root = local_root(open_storage(storage))
    trust_files(trust)
    built, damaged, untrusted = [], [], []
    for manifest in sorted(root.glob("[!.]*/manifest.json")):
        try:
            built.append(open_dataset(manifest.parent))
        except UnknownKindError as error:
            untrusted.append({"path": str(manifest.parent), "reason": str(error)})
        except UserError as error:
            damaged.append({"path": str(manifest.parent), "reason": str(error)})
    if damaged:
        err.print(f"{len(damaged)} damaged dataset{'s' if len(damaged) > 1 else ''} skipped:", style="yellow")
    for each in damaged:
        err.print(f"  {each['path']}: {each['reason']}", style="yellow", soft_wrap=True)
    if as_json:
        rows = [{"name": b.name, "description": b.description, "source": b.source} for b in list_benchmarks()]
        found = {"benchmarks": rows, "built": [_row(dataset) for dataset in built], "damaged": damaged}
        found |= {"untrusted": untrusted} if untrusted else {}
        print(strict_json(found, indent=1))
        return
    known = table("benchmark", "what it is", "source", "licence", words=("benchmark",), drop=("licence", "source"))
    for benchmark in list_benchmarks():
        known.add_row(benchmark.name, benchmark.description, benchmark.source, benchmark.licence)
    out.print(known)
    if built:
        out.print(f"\nbuilt in {root}:")
    for dataset in built:
        out.print(f"  {dataset.path.name}  {_counts(dataset)}")
    for each in untrusted:
        out.print(f"not opened: {each['reason']}", soft_wrap=True)


@app.command()
def build(
    benchmark: BenchmarkArgument,
    source: Annotated[
        str | None, typer.Option("--source", help="A puzzle list, folder or address, instead of the benchmark's own.")
    ] = None,
    blanks: Annotated[int | None, typer.Option("--blanks", min=1, help="Empty cells of a generated Sudoku.")] = None,
    num_train: Annotated[int | None, typer.Option("--num-train", min=1, help="Training puzzles.")] = None,
    num_validation: Annotated[int | None, typer.Option("--num-validation", min=0, help="Validation puzzles.")] = None,
    num_test: Annotated[int | None, typer.Option("--num-test", min=0, help="Test puzzles.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the generator, the draw and the split.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting: --set ids=upstream (repeatable).", metavar="NAME=VALUE"),
    ] = None,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Build a dataset, or find it: the same request is never built twice.

    Examples:

    trm data build arc-agi-1

    trm data build sudoku-9x9 --source my-puzzles.txt --num-train 800 --num-test 200

    trm data build arc-agi-2 --set ids=upstream --set upstream_augmentations=1000

    trm data build my_puzzles.py:MyKind --num-train 500
    """
    from trm_data import DataRequest
    from trm_data.own_code import KIND, pin_named

    given = {"benchmark": pin_named(benchmark, KIND), "source": source, "blanks": blanks, "num_train": num_train}
    given |= {"num_validation": num_validation, "num_test": num_test, "build_seed": seed}
    request = DataRequest.parse({k: v for k, v in given.items() if v is not None} | _settings(set_))
    _build(request, storage, as_json)


@app.command("import-official")
def import_official(
    folder: Annotated[Path, typer.Argument(help="A folder that an official TRM or HRM builder wrote.", **INPUT_FOLDER)],
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Import a dataset of the official builders (.npy files and dataset.json).

    Example: trm data import-official data/sudoku-extreme-1k-aug-1000
    """
    from trm_data import DataRequest

    _build(DataRequest(benchmark="official", source=str(folder)), storage, as_json)


@app.command()
def show(
    dataset: DatasetArgument,
    puzzle: Annotated[str, typer.Option("--puzzle", help="Number or name of the puzzle, e.g. an ARC task id.")] = "0",
    output: OutOption = None,
    storage: StorageOption = "runs",
    trust: TrustOption = None,
) -> None:
    """Draw a puzzle as PNG: its input and its label, every example of an ARC task.

    Examples:

    trm data show arc-agi-1 --puzzle 007bbfb7

    trm data show sudoku-9x9 --puzzle 3 --out puzzle.png
    """
    from orchestrator.cli.views.console import out
    from trm_data import draw, save_png

    trust_files(trust)
    found = _find(dataset, storage)
    index = found.puzzle_index(puzzle)
    path = output or Path(f"{found.benchmark}-{found.names[index]}.png")
    save_png(draw(found, index), path)
    out.print(f"{found.title(index)}\nwrote {path}", soft_wrap=True)


@app.command()
def verify(
    dataset: DatasetArgument, storage: StorageOption = "runs", trust: TrustOption = None, as_json: JsonOption = False
) -> None:
    """Check a dataset again: hashes, counts, every puzzle and label, leaks between splits. Exit code 1 if it is wrong.

    Example: trm data verify arc-agi-1
    """
    from orchestrator.cli.views.console import BuildBar, line, out
    from orchestrator.records.datasets import locate
    from orchestrator.storage import open_storage
    from trm_data import open_dataset
    from trm_data import verify as check

    trust_files(trust)
    with BuildBar() as progress:
        folder = locate(open_storage(storage), dataset, progress)
        problems = check(folder, progress)
    if as_json:
        print(strict_json({"name": folder.name, "problems": list(map(str, problems))}, indent=1))
    else:
        for problem in problems:
            out.print(line(("wrong", "red"), f" {problem}"))
    if problems:
        raise typer.Exit(1)
    if not as_json:
        out.print(f"{folder.name}: nothing wrong; {_counts(open_dataset(folder))}")


@app.command()
def fingerprint(
    dataset: DatasetArgument, storage: StorageOption = "runs", trust: TrustOption = None, as_json: JsonOption = False
) -> None:
    """Print the identity of a dataset: a hash of its request, its source and the builder's version.

    Example: trm data fingerprint arc-agi-1
    """
    trust_files(trust)
    found = _find(dataset, storage)
    print(strict_json({"name": found.path.name, "fingerprint": found.fingerprint}) if as_json else found.fingerprint)


@app.command()
def export(
    dataset: DatasetArgument,
    folder: Annotated[Path, typer.Argument(help="A new folder.", show_default=False, **OUTPUT_FOLDER)],
    augmentations: Annotated[int, typer.Option("--augmentations", min=0, help="Augmented copies per puzzle.")] = 0,
    storage: StorageOption = "runs",
    trust: TrustOption = None,
) -> None:
    """Write a dataset as the official builders would (.npy files and dataset.json).

    Example: trm data export arc-agi-1 exported --augmentations 10
    """
    from orchestrator.cli.views.console import BuildBar, out
    from trm_data import export_official as write

    trust_files(trust)
    found = _find(dataset, storage)
    with BuildBar() as progress:
        write(found, folder, augmentations, progress)
    out.print(f"{found.path.name} with {augmentations} augmentations: {folder}")


def _settings(texts: list[str] | None) -> dict[str, Any]:
    """Parse `["ids=upstream", "allow_overlaps=a,b"]` to values of a request. Raises ConfigError for anything else."""
    from orchestrator.sweep.settings import parse_value
    from trm_data import DataRequest
    from trm_data.errors import ConfigError, nearest

    found: dict[str, Any] = {}
    for text in texts or []:
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--set {text!r} is not of the form NAME=VALUE", "Example: --set ids=upstream")
        if name not in DataRequest.model_fields:
            raise ConfigError(f"unknown setting {name!r}", nearest(name, DataRequest.model_fields))
        found[name] = value.split(",") if name == "allow_overlaps" else parse_value(value)
    return found


_LEFT_OUT = {
    "equivalent_rows_dropped": "of its puzzles, which repeat another one, perhaps turned or with other digits",
    "empty_rows_dropped": "of its rows, whose cells are empty",
    "repeated_tasks_dropped": "extra tasks, which repeat a training task",
}
"""Facts of a manifest that count what of a source is not in the dataset."""


def _build(request: DataRequest, storage: str, as_json: bool) -> None:
    from orchestrator.cli.views.console import BuildBar, out
    from orchestrator.errors import command_line
    from orchestrator.records.datasets import provide
    from orchestrator.storage import open_storage
    from orchestrator.sweep.commands import trust_words
    from orchestrator.sweep.text import duration, num_bytes

    started = time.monotonic()
    with BuildBar() as progress:
        dataset = provide(open_storage(storage), request, progress)
    spent = time.monotonic() - started
    if as_json:
        print(strict_json(_row(dataset), indent=1))
        return
    size = sum((dataset.path / name).stat().st_size for name in dataset.manifest.files)
    out.print(f"{dataset.path.name}: {_counts(dataset)}, {num_bytes(size)}, in {duration(spent)}")
    for fact, what in _LEFT_OUT.items():
        if count := dataset.manifest.facts.get(fact):
            out.print(f"left out: {count} {what}")
    trusted = trust_words({"data.benchmark": dataset.manifest.family})
    show_one = command_line("data", "show", dataset.path.name, *trusted, storage=storage)
    out.print(f"draw one: {show_one}", soft_wrap=True)


def _find(name: str, storage: str) -> Dataset:
    from orchestrator.cli.views.console import BuildBar
    from orchestrator.records.datasets import find
    from orchestrator.storage import open_storage

    with BuildBar() as progress:
        return find(open_storage(storage), name, progress)


def _counts(dataset: Dataset) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in dataset.counts.items() if count) + " puzzles"
    unanswered = sum(dataset.num_unanswered.values())
    return f"{counts}; {unanswered:,} test inputs without a known answer are in no score" if unanswered else counts


def _row(dataset: Dataset) -> dict[str, object]:
    return {
        "path": str(dataset.path),
        "name": dataset.path.name,
        **dataset.describe(),
        "unanswered": dataset.num_unanswered,
    }
