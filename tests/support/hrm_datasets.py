"""Write datasets in the layout of HRM's own builders: no list of test tasks, and identifiers of its own.

An implementation of our own of what those builders do (sapientinc/HRM, `dataset/`): every copy is written out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.uint8]
Pair = tuple[Grid, Grid]
Copy = tuple[str, list[Pair]]
"""The identifier of an augmented puzzle, and its examples."""
FRAME = 30
TURNS: tuple[Callable[[Grid], Grid], ...] = (
    lambda grid: grid,
    lambda grid: np.rot90(grid, 1),
    lambda grid: np.rot90(grid, 2),
    lambda grid: np.rot90(grid, 3),
    np.fliplr,
    np.flipud,
    np.transpose,
    lambda grid: np.fliplr(np.rot90(grid, 1)),
)


class Spelling(NamedTuple):
    """Say how a version of the builder writes colours, and which examples it moves."""

    colours: Callable[[Sequence[int]], str]
    one_stays_per_copy: bool
    """The example that is not translated is drawn for every copy, or once for all copies of a task."""
    moves_evaluation: bool


FIRST = Spelling(lambda colours: "".join(map(str, colours)), one_stays_per_copy=True, moves_evaluation=True)
LATER = Spelling(lambda colours: str(hash(tuple(colours))), one_stays_per_copy=False, moves_evaluation=False)


def _save(folder: Path, groups: Sequence[Sequence[Copy]], numbers: Mapping[str, int], vocabulary: int) -> None:
    """Write one split; examples are encoded already."""
    folder.mkdir(parents=True)
    copies = [copy for group in groups for copy in group]
    pairs = [pair for _, examples in copies for pair in examples]
    arrays: dict[str, Any] = {
        "inputs": np.stack([question.ravel() for question, _ in pairs]),
        "labels": np.stack([answer.ravel() for _, answer in pairs]),
        "puzzle_identifiers": np.array([numbers[name] for name, _ in copies], np.int32),
        "puzzle_indices": np.cumsum([0, *(len(examples) for _, examples in copies)], dtype=np.int32),
        "group_indices": np.cumsum([0, *(len(group) for group in groups)], dtype=np.int32),
    }
    for name, values in arrays.items():
        np.save(folder / f"all__{name}.npy", values)
    facts = {
        "pad_id": 0,
        "ignore_label_id": 0,
        "blank_identifier_id": 0,
        "vocab_size": vocabulary,
        "seq_len": pairs[0][0].size,
        "num_puzzle_identifiers": max(numbers.values()) + 1,
        "total_groups": len(groups),
        "mean_puzzle_examples": len(pairs) / len(copies),
        "sets": ["all"],
    }
    (folder / "dataset.json").write_text(json.dumps(facts))


def _framed(grid: Grid, top: int, left: int) -> Grid:
    """Place a grid of colours in the frame, with end markers below it and to its right where there is room."""
    frame = np.zeros((FRAME + 1, FRAME + 1), np.uint8)
    height, width = grid.shape
    frame[top : top + height + 1, left : left + width + 1] = 1
    frame[top + height, left + width] = 0
    frame[top : top + height, left : left + width] = grid + 2
    return frame[:FRAME, :FRAME]


def _placed(pairs: Sequence[Pair], stays: int | None, rng: np.random.Generator) -> list[Pair]:
    """Place examples at random offsets, except number `stays`; None: all stay in the corner."""
    placed = []
    for number, pair in enumerate(pairs):
        room = [FRAME - max(grid.shape[axis] for grid in pair) + 1 for axis in (0, 1)]
        top, left = (0, 0) if stays is None or number == stays else (int(rng.integers(most)) for most in room)
        placed.append((_framed(pair[0], top, left), _framed(pair[1], top, left)))
    return placed


def _variants(
    name: str, pairs: Sequence[Pair], copies: int, spelling: Spelling, rng: np.random.Generator
) -> Iterator[Copy]:
    """Yield a task and its distinct augmented copies, as many as are found in five tries each."""
    seen = set()
    for attempt in range(1 + 5 * copies):
        turn = int(rng.integers(8)) if attempt else 0
        colours = np.concatenate([[0], rng.permutation(9) + 1 if attempt else np.arange(1, 10)]).astype(np.uint8)
        made = [(TURNS[turn](colours[question]), TURNS[turn](colours[answer])) for question, answer in pairs]
        content = tuple(sorted((q.shape, q.tobytes(), a.shape, a.tobytes()) for q, a in made))
        if content not in seen and len(seen) <= copies:
            seen.add(content)
            yield f"{name}_t{turn}_{spelling.colours(colours.tolist())}" if attempt else name, made


def write_arc(
    folder: Path,
    subsets: Mapping[str, Mapping[str, Any]],
    *,
    copies: int,
    spelling: Spelling = FIRST,
    seed: int = 42,
) -> Path:
    """Write ARC tasks (JSON, by subset and name); the tests of `evaluation` are the test split, all others train."""
    rng = np.random.default_rng(seed)
    train: list[list[Copy]] = []
    test: list[list[Copy]] = []
    for subset, tasks in subsets.items():
        names = list(tasks)
        rng.shuffle(names)
        for name in names:
            parts = {
                part: [(np.array(one["input"], np.uint8), np.array(one["output"], np.uint8)) for one in examples]
                for part, examples in tasks[name].items()
            }
            count, held_out = len(parts["train"]), subset == "evaluation"
            group = list(_variants(name, parts["train"] + parts["test"], copies, spelling, rng))
            trained = [(title, pairs[:count] if held_out else pairs) for title, pairs in group]
            stays = int(rng.integers(len(trained[0][1])))
            placed: list[Copy] = []
            for title, pairs in trained:
                one = int(rng.integers(len(pairs))) if spelling.one_stays_per_copy else stays
                moves = spelling.moves_evaluation or not held_out
                placed.append((title, _placed(pairs, one if moves else None, rng)))
            train.append(placed)
            if held_out:
                test.append([(title, _placed(pairs[count:], None, rng)) for title, pairs in group])
    rng.shuffle(test)  # type: ignore[arg-type]  # the later version collects tasks from a pool of processes
    numbers: dict[str, int] = {"<blank>": 0}
    for group in train:
        for title, _ in group:
            numbers.setdefault(title, len(numbers))
    _save(folder / "train", train, numbers, 12)
    _save(folder / "test", test, numbers, 12)
    (folder / "identifiers.json").write_text(json.dumps(list(numbers)))
    return folder


def write_sudoku(folder: Path, train: Sequence[Pair], test: Sequence[Pair], *, copies: int, seed: int = 0) -> Path:
    """Write Sudoku 9x9 (0 = blank), every training puzzle with `copies` random equivalents."""
    rng = np.random.default_rng(seed)

    def lines() -> NDArray[np.int64]:
        return np.concatenate([3 * band + rng.permutation(3) for band in rng.permutation(3)])

    def shuffled(pair: Pair) -> Pair:
        digits = np.concatenate([[0], rng.permutation(9) + 1]).astype(np.uint8)
        is_turned, rows, columns = rng.random() < 0.5, lines(), lines()
        first, second = (digits[(grid.T if is_turned else grid)[np.ix_(rows, columns)]] for grid in pair)
        return first, second

    groups = [[pair, *(shuffled(pair) for _ in range(copies))] for pair in train]
    return _write_shared(folder, groups, [[pair] for pair in test], 1, 11)


def write_mazes(folder: Path, train: Sequence[Pair], test: Sequence[Pair], *, turned: bool) -> Path:
    """Write encoded mazes, the training ones once or in their eight views."""
    views = TURNS if turned else TURNS[:1]
    groups = [[(turn(question), turn(answer)) for turn in views] for question, answer in train]
    return _write_shared(folder, groups, [[pair] for pair in test], 0, 6)


def _write_shared(
    folder: Path, train: Sequence[Sequence[Pair]], test: Sequence[Sequence[Pair]], offset: int, vocabulary: int
) -> Path:
    """Write puzzles that share the identifier 0."""
    for split, groups in (("train", train), ("test", test)):
        shifted = [[("<blank>", [(one + np.uint8(offset), two + np.uint8(offset))]) for one, two in g] for g in groups]
        _save(folder / split, shifted, {"<blank>": 0}, vocabulary)
    (folder / "identifiers.json").write_text('["<blank>"]')
    return folder
