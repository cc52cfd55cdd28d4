"""Puzzle kinds: what each writes and draws is what was written and drawn before there was a class for it."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.golden import OFFICIAL
from trm_data import DataRequest, Dataset, build, draw, verify
from trm_data.errors import ConfigError
from trm_data.puzzles.kinds import KINDS, kind_that_reads

REQUESTS = {
    "sudoku": DataRequest(benchmark="sudoku-4x4", num_train=4, num_validation=1, num_test=2),
    "maze": DataRequest(benchmark="maze-8x8", num_train=4, num_validation=1, num_test=2),
    "arc": DataRequest(benchmark="arc-agi-1", source=str(OFFICIAL / "tasks/mini"), num_validation=1),
    "n-queens": DataRequest(benchmark="n-queens-8", num_train=4, num_validation=1, num_test=2),
}
GOLDEN = Path(__file__).parents[1] / "golden/kinds.json"


@pytest.fixture(params=REQUESTS, scope="module")
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(REQUESTS[request.param], tmp_path_factory.mktemp("data"))


def digest(*parts: Any) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()[:16]


def written(dataset: Dataset) -> dict[str, Any]:
    """What a dataset, its texts and its pictures are, small enough to be read in a difference."""
    kind, side, row = dataset.kind, dataset.grid_shape[0], int(dataset.rows("test")[0])
    cells, label, puzzle = dataset.inputs[row], dataset.labels[row], int(dataset.puzzle[row])
    manifest = dataset.manifest.plain()
    examples = [(dataset.inputs[row], dataset.labels[row]) for row in dataset.rows("train")[:2]]
    codes = np.array([0, 1, 5], np.uint64)
    rows, places = np.full(3, row), np.array([0, 0, 2**33 + 9], np.uint64)
    seen = kind.view(dataset.inputs, dataset.labels, dataset.shapes, rows, codes, places, side)
    wrong = np.where(np.arange(label.size) % 7 == 3, cells, label)
    guesses = np.stack([wrong] * int((dataset.puzzle == puzzle).sum()))
    picture = draw(dataset, puzzle, predictions=guesses).convert("RGB").resize((12, 6))
    return {
        "manifest": {name: manifest[name] for name in ("benchmark", "family", "vocab_size", "grid_shape", "ids")}
        | {"augmentation": manifest["augmentation"], "fingerprint": dataset.fingerprint},
        "cells": digest(dataset.inputs, dataset.labels, dataset.shapes, dataset.keys),
        "seen": digest(*seen),
        "undone": digest(kind.undo(seen[1], codes, side)),
        "valid": [None if (v := kind.valid(cells[None], a[None], label[None], side)) is None else v.tolist()
                  for a in (label, wrong)],
        "rows": [kind.write(grid, side) for grid in (cells, label)],
        "problem": kind.problem(cells, wrong, side),
        "prompt": kind.prompt(cells, side, examples if kind.has_tasks else []),
        "picture": np.asarray(picture).reshape(-1, 3).tolist(),
    }  # fmt: skip


def test_what_a_kind_writes_and_draws_stays_the_same(dataset: Dataset) -> None:
    golden = json.loads(GOLDEN.read_text())[dataset.manifest.family]
    found = written(dataset)
    # Another version of Pillow may draw a digit by a few shades otherwise.
    assert np.abs(np.array(found.pop("picture")) - golden.pop("picture")).max() <= 6
    assert found == golden
    assert verify(dataset) == []


def test_more_copies_than_a_kind_has_are_refused(dataset: Dataset) -> None:
    most = {"arc": 1000, "sudoku": 2**31, "maze": 7, "n-queens": 7}[dataset.manifest.family]
    assert dataset.num_copies(most).max() <= most
    with pytest.raises(ConfigError, match=rf"num_augmentations={most + 1} is not possible .* Take 0 to {most}$"):
        dataset.num_copies(most + 1)


def test_text_of_a_puzzle_is_read_back(dataset: Dataset) -> None:
    kind, side = dataset.kind, dataset.grid_shape[0]
    for row in dataset.rows("test"):
        lines = kind.write(dataset.inputs[row], side)
        text = "\n".join(lines)
        if kind.has_tasks:
            text = json.dumps({"test": [{"input": [[int(colour) for colour in line] for line in lines]}]})
        assert [question.cells.tolist() for question in kind.read(text, side)] == [dataset.inputs[row].tolist()]
        assert kind.read_reply(text, side) is None or not kind.has_tasks, "a task is no reply"


def test_no_two_kinds_read_one_encoding_but_the_maze_of_a_small_sudoku() -> None:
    shared = {
        (vocab_size, side)
        for side in range(2, 61)
        for vocab_size in range(3, 70)
        if sum(kind.fits(vocab_size, side) for kind in KINDS.values()) > 1
    }
    assert shared == {(6, 4)}
    assert kind_that_reads(6, 4) is KINDS["sudoku"] and kind_that_reads(7, 5) is None


def test_only_the_kinds_decide_by_the_name_of_a_kind() -> None:
    """A list of puzzles as a source is the exception: there is one for Sudoku only."""
    root = Path(__file__).parents[2]
    found = {
        path.relative_to(root).as_posix()
        for package in ("datasets", "trm_model", "orchestrator")
        for path in (root / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        for side in (node.left, *node.comparators)
        if any(isinstance(each, ast.Constant) and each.value in KINDS for each in ast.walk(side))
    }
    assert found == {"datasets/trm_data/building/identity.py"}
