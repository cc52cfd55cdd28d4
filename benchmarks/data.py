"""Measure building and loading puzzle data, compared with a plain rewrite of the official builders and loader.

    python benchmarks/data.py [--augmentations 1000] [--reference-augmentations 10] [--extra FOLDER] [--json FILE]
    python benchmarks/data.py --mazes [--json FILE]      # the generators of mazes only, beside each other

The reference below follows the published procedure: one Python object per augmented grid, padded by `np.pad`,
stacked at the end and written to disk; batches drawn puzzle by puzzle. Its cost grows with the number of
augmentations (1000 need 16 GB), so it runs with fewer and its figures are scaled; ours runs in full. Every
measurement runs in its own process: seconds of wall and of CPU time, peak memory, bytes on disk.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trm_data import DataRequest, TrainLoader, build, open_dataset

BATCH = 768


def measured(work: Callable[..., Any], *args: Any) -> dict[str, float]:
    """Run `work` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (work, args))


def _measure(work: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work(*args) or {}
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    } | result


def _disk_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


# ---------------------------------------------------------------- reference


def _reference_frame(grid: np.ndarray, row: int, col: int) -> np.ndarray:
    height, width = grid.shape
    framed = np.pad(grid + 2, ((row, 30 - row - height), (col, 30 - col - width)))
    if row + height < 30:
        framed[row + height, col : col + width] = 1
    if col + width < 30:
        framed[row : row + height, col + width] = 1
    return framed.flatten()


def reference_arc(extra: str | None, augmentations: int, folder: Path) -> dict[str, float]:
    """Build every augmented example as its own array, then one stack."""
    import hashlib

    from trm_data.puzzles.symmetry import dihedral
    from trm_data.sources.arc import load

    rng = np.random.RandomState(42)
    rows: list[np.ndarray] = []
    for task in load("arc-agi-1", None, extra, {}):
        views, seen = [task.pairs], set()
        for _ in range(5 * augmentations):
            if len(views) == augmentations + 1:
                break
            turn, colours = rng.randint(0, 8), np.append(np.uint8(0), rng.permutation(np.arange(1, 10, dtype=np.uint8)))
            view = [(dihedral(colours[a], turn), dihedral(colours[b], turn)) for a, b in task.pairs]
            pairs = sorted(hashlib.sha256(a.tobytes() + b.tobytes()).hexdigest() for a, b in view)
            name = hashlib.sha256("|".join(pairs).encode()).hexdigest()
            if name not in seen:
                seen.add(name)
                views.append(view)
        for view in views:
            fixed = rng.randint(0, len(view))
            for i, (question, answer) in enumerate(view):
                height, width = np.maximum(question.shape, answer.shape)
                row, col = (0, 0) if i == fixed else (rng.randint(0, 31 - height), rng.randint(0, 31 - width))
                rows += [_reference_frame(question, row, col), _reference_frame(answer, row, col)]
    np.save(folder / "rows.npy", np.stack(rows))
    return {"disk_mb": _disk_mb(folder)}


def reference_sudoku(source: Path, augmentations: int, folder: Path) -> dict[str, float]:
    """Build every shuffled puzzle as its own array, then one stack."""
    dataset = open_dataset(source)
    started = time.perf_counter()
    train = dataset.rows("train")
    rng = np.random.RandomState(0)
    rows = []
    for puzzle, solution in zip(dataset.inputs[train] - 1, dataset.labels[train] - 1, strict=True):
        for k in range(augmentations + 1):
            grids = puzzle.reshape(9, 9), solution.reshape(9, 9)
            if k:
                digits = np.append(0, rng.permutation(np.arange(1, 10)))
                turned = rng.rand() < 0.5
                lines = [np.concatenate([b * 3 + rng.permutation(3) for b in rng.permutation(3)]) for _ in range(2)]
                mapping = np.array([lines[0][i // 9] * 9 + lines[1][i % 9] for i in range(81)])
                grids = tuple(digits[(g.T if turned else g).flatten()[mapping]].reshape(9, 9) for g in grids)
            rows += [grid.flatten() + 1 for grid in grids]
    np.save(folder / "rows.npy", np.stack(rows))
    return {"disk_mb": _disk_mb(folder), "augment_s": time.perf_counter() - started}


def reference_loading(rows: Path, augmentations: int, examples: int, batches: int) -> dict[str, float]:
    """Draw batches group by group from stored rows, as upstream, one batch after another."""
    data = np.load(rows, mmap_mode="r").reshape(-1, 2, np.load(rows, mmap_mode="r").shape[1])
    groups = len(data) // (examples * (augmentations + 1))
    rng = np.random.Generator(np.random.Philox(0))
    order, at = rng.permutation(groups), 0
    started = time.perf_counter()
    for _ in range(batches):
        chosen: list[np.ndarray] = []
        size = 0
        while size < BATCH:
            if at == groups:
                order, at = rng.permutation(groups), 0
            copy = rng.integers(0, augmentations + 1)
            first = (order[at] * (augmentations + 1) + copy) * examples
            chosen.append(first + np.random.choice(examples, min(examples, BATCH - size), replace=False))
            size += len(chosen[-1])
            at += 1
        batch = data[np.concatenate(chosen)].astype(np.int32)
        batch[:, 1][batch[:, 1] == 0] = -100
    return {"batches_per_s": batches / (time.perf_counter() - started)}


# --------------------------------------------------------------------- ours


def ours_build(request: dict[str, Any], root: Path) -> dict[str, float]:
    """Build the dataset; compiled kernels come from their cache, as in every run but the first on a machine."""
    dataset = build(DataRequest(**request), root)
    return {"disk_mb": _disk_mb(dataset.path)}


def ours_loading(path: Path, augmentations: int, batches: int) -> dict[str, float]:
    """Load batches with one thread, augmented on the fly."""
    loader = TrainLoader(open_dataset(path), batch_size=BATCH, num_augmentations=augmentations, seed=0)
    slots = np.arange(BATCH)
    loader.fetch(0, slots)
    started = time.perf_counter()
    for step in range(batches):
        loader.fetch(step, slots)
    return {"batches_per_s": batches / (time.perf_counter() - started)}


def _line(name: str, ours: float, reference: float, unit: str, more_is_better: bool = False) -> str:
    ratio = ours / reference if more_is_better else reference / ours
    return f"{name:<44} {ours:>10.2f} {unit:<9} {reference:>12.2f} {unit:<9} {ratio:>8.1f} x"


def _print_builds(name: str, results: dict[str, Any], key: str, scale: float) -> None:
    """Print wall and CPU time, memory and disk; values that grow with the augmentations are scaled for the
    reference."""
    for field, unit in (("wall_s", "s"), ("cpu_s", "s"), ("peak_mb", "MB"), ("disk_mb", "MB")):
        ours, reference = results[key][field], results[f"{key}_reference"][field]
        bare = results[f"{key}_bare"][field]  # without augmentations: what does not grow with their number
        known = bare + (reference - bare) * scale
        print(_line(f"{name}, {field}", ours, known, unit), flush=True)


def run(augmentations: int, reference: int, extra: str | None) -> dict[str, Any]:
    """Run all measurements, and print each when it is done."""
    print(f"{'':<44} {'ours':>10} {'':<9} {'reference':>12} {'':<9} {'better by':>8}")
    results: dict[str, Any] = {}
    scale = augmentations / reference
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        arc = {"benchmark": "arc-agi-1", "extra_training": extra}
        sudoku = {"benchmark": "sudoku-9x9", "blanks": 50, "num_train": 1000, "num_validation": 0, "num_test": 200}
        measured(ours_build, arc | {"build_seed": 9}, root / "warm")  # compiles, where nothing is cached yet
        for name in ("arc", "sudoku"):
            (root / name).mkdir()
        results["arc"] = measured(ours_build, arc, root)
        results["arc_bare"] = measured(reference_arc, extra, 0, root / "arc")
        results["arc_reference"] = measured(reference_arc, extra, reference, root / "arc")
        _print_builds(f"ARC-1 x {augmentations}", results, "arc", scale)
        results["sudoku"] = measured(ours_build, sudoku, root)
        path = build(DataRequest(**sudoku), root).path
        results["sudoku_bare"] = measured(reference_sudoku, path, 0, root / "sudoku")
        results["sudoku_reference"] = measured(reference_sudoku, path, reference, root / "sudoku")
        _print_builds(f"Sudoku 1000 x {augmentations}", results, "sudoku", scale)
        for name, request, examples in (("arc", arc, 4), ("sudoku", sudoku, 1)):
            path = build(DataRequest(**request), root).path
            results[f"{name}_loading"] = ours = measured(ours_loading, path, augmentations, 300)
            stored = root / name / "rows.npy"
            results[f"{name}_loading_reference"] = ref = measured(reference_loading, stored, reference, examples, 100)
            rates = ours["batches_per_s"], ref["batches_per_s"]
            print(_line(f"{name}: batches of {BATCH} per second", *rates, "batches/s", more_is_better=True))
            print(_line(f"{name}: memory of the loading process", ours["peak_mb"], ref["peak_mb"], "MB"), flush=True)
    return results


def ours_mazes(benchmark: str, count: int) -> dict[str, float]:
    """Generate mazes; compiled kernels come from their cache."""
    from trm_data.benchmarks import resolve_benchmark
    from trm_data.sources.maze import generated

    request = DataRequest(
        benchmark=benchmark, num_train=count, shortest_path=resolve_benchmark(benchmark).shortest_path
    )
    generated(request.model_copy(update={"num_train": 1}), resolve_benchmark(benchmark), lambda *_: None)
    started = time.process_time()
    generated(request, resolve_benchmark(benchmark), lambda *_: None)
    return {"mazes_per_cpu_s": count / (time.process_time() - started)}


def run_mazes() -> dict[str, Any]:
    """Measure the generators of mazes, and print each when it is done."""
    results: dict[str, Any] = {}
    for benchmark, count in (
        ("maze-10x10", 4000),
        ("maze-unique-12x12", 4000),
        ("maze-30x30", 100),
        ("maze-unique", 4000),
    ):
        results[benchmark] = found = measured(ours_mazes, benchmark, count)
        print(
            f"{benchmark:<20} {found['mazes_per_cpu_s']:>9.0f} mazes per CPU second {found['peak_mb']:>6.0f} MB",
            flush=True,
        )
    return results


def main() -> None:
    """Parse, measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--augmentations", type=int, default=1000)
    parser.add_argument("--reference-augmentations", type=int, default=10)
    parser.add_argument("--extra", help="more ARC training tasks, such as ConceptARC")
    parser.add_argument("--mazes", action="store_true", help="measure the generators of mazes only")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if options.mazes:
        results = run_mazes()
    else:
        results = run(options.augmentations, options.reference_augmentations, options.extra)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
