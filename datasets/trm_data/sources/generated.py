"""Take puzzles from the `generate` of their kind: all different up to symmetry, each with a label that solves it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trm_data.benchmarks import Benchmark
from trm_data.config import DataRequest
from trm_data.dataset.schema import SPLITS, Puzzles
from trm_data.errors import DataError, first_line
from trm_data.jit import Bytes
from trm_data.puzzles.kinds import Examples, PuzzleKind, kind_of

Progress = Callable[[str, int, int], None]
_FEWEST_ASKED, _FEWEST_REPEATED = 16, 4


def puzzles_of(request: DataRequest, benchmark: Benchmark, progress: Progress) -> Puzzles:
    """Generate the puzzles of a complete request, in the order train, validation, test.

    Raises:
        DataError: there are too few different ones, they are of another size or have unknown values, or a label is
            wrong by the kind's own rules; or the kind's code fails.
    """
    kind, side = kind_of(benchmark.family), benchmark.side
    sizes = [getattr(request, f"num_{split}") or 0 for split in SPLITS]
    _require_repeatable(kind, side, request.build_seed)
    inputs, labels = _distinct(kind, side, sum(sizes), request.build_seed, progress)
    made = _as_puzzles(kind, benchmark, inputs, labels, sizes)
    fault = next(kind.faults(_examples(made)), None)
    if fault is not None:
        raise DataError(f"{kind.name}, {fault}", "Correct its class")
    return made


def _require_repeatable(kind: PuzzleKind, side: int, seed: int) -> None:
    """Raise DataError where one seed gives different puzzles, which the identity of a dataset could not tell apart."""
    first, again = (_checked(kind, side, kind.generate(side, _FEWEST_REPEATED, seed)) for _ in range(2))
    if not all(map(np.array_equal, first, again)):
        raise DataError(
            f"generate of the puzzle kind {kind.name} gives other puzzles for the same seed",
            "Draw everything from np.random.default_rng(seed)",
        )


def _distinct(kind: PuzzleKind, side: int, total: int, seed: int, progress: Progress) -> tuple[Bytes, Bytes]:
    """Return `total` inputs and labels; ask again, with another seed, as long as that gives a new puzzle."""
    seen: dict[bytes, None] = {}
    parts: list[tuple[Bytes, Bytes]] = []
    rounds = np.random.SeedSequence(seed)
    while len(seen) < total:
        progress(f"generating {kind.name} puzzles", len(seen), total)
        missing, before = total - len(seen), len(seen)
        asked = missing + max(_FEWEST_ASKED, missing // 4)
        inputs, labels = _checked(kind, side, kind.generate(side, asked, _next_seed(rounds)))
        new = []
        for row, key in enumerate(kind.keys(inputs, side)):
            if key not in seen and len(seen) < total:
                seen[key] = None
                new.append(row)
        parts.append((inputs[new], labels[new]))
        if len(seen) == before:
            raise DataError(
                f"{kind.name} gives only {len(seen)} different puzzles, and {total} are asked for",
                "Ask for fewer: num_train, num_validation, num_test",
            )
    inputs, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return inputs, labels


def _next_seed(rounds: np.random.SeedSequence) -> int:
    return int(rounds.spawn(1)[0].generate_state(1, np.uint64)[0] >> np.uint64(1))


def _checked(kind: PuzzleKind, side: int, made: object) -> tuple[Bytes, Bytes]:
    """Return what `generate` gave as two arrays of (count, L)."""
    what = f"generate of the puzzle kind {kind.name}"
    if not isinstance(made, tuple) or len(made) != 2:
        raise DataError(f"{what} returned no pair of inputs and labels", "Return two arrays: (inputs, labels)")
    try:
        grids = [np.asarray(part) for part in made]
    except ValueError as error:
        raise DataError(f"{what} returned no arrays: {first_line(error)}", "Return (inputs, labels)") from None
    for name, grid in zip(("inputs", "labels"), grids, strict=True):
        if grid.shape[1:] not in ((side * side,), (side, side)) or grid.shape[0] != grids[0].shape[0]:
            raise DataError(
                f"{what}: its {name} are of shape {grid.shape}", f"Return (count, {side}, {side}), as many of each"
            )
        least, most = kind.least_cell, kind.vocab_size(side) - 1
        if grid.dtype.kind not in "iub" or (grid.size and not least <= grid.min() <= grid.max() <= most):
            raise DataError(
                f"{what}: its {name} hold other values than whole numbers from {least} to {most}",
                "A value is the index of its symbol in `symbols`, of which the first is padding",
            )
    inputs, labels = (grid.reshape(len(grid), side * side).astype(np.uint8) for grid in grids)
    return inputs, labels


def _as_puzzles(kind: PuzzleKind, benchmark: Benchmark, inputs: Bytes, labels: Bytes, sizes: list[int]) -> Puzzles:
    count, numbers = len(inputs), kind.num_solutions(inputs, benchmark.side)
    return Puzzles(
        family=benchmark.family,
        names=[f"{kind.name[0]}{i:06d}" for i in range(count)],
        sources=["generator"] * count,
        ratings=np.full(count, np.nan, np.float32),
        num_solutions=None if numbers is None else numbers.astype(np.float64),
        puzzle=np.arange(count, dtype=np.int32),
        split=np.repeat(np.arange(len(SPLITS), dtype=np.uint8), sizes),
        inputs=inputs,
        labels=labels,
        shapes=np.full((count, 4), benchmark.side, np.uint8),
    )


def _examples(made: Puzzles) -> Examples:
    numbers = np.arange(len(made.inputs))
    return Examples(
        made.side, made.facts, made.names, numbers, made.puzzle.astype(np.int64), made.split, SPLITS, made.inputs,
        made.labels, made.shapes,
    )  # fmt: skip
