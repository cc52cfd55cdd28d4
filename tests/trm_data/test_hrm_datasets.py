"""Datasets of HRM's own builders: imported, verified, and written out again as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.arc_tasks import task
from tests.support.commands import call
from tests.support.hrm_datasets import FIRST, LATER, Spelling, write_arc, write_mazes, write_sudoku
from trm_data import Dataset, export_official, import_official, verify
from trm_data.errors import DataError
from trm_data.generators.maze import generate as generate_mazes
from trm_data.generators.sudoku import generate as generate_sudoku
from trm_data.puzzles.symmetry import parse_augmentation

_FEW = {"input": [[1]], "output": [[1]]}
SUBSETS: dict[str, dict[str, Any]] = {
    "training": {
        "00aa": task(1),
        "00bb": {"test": task(2)["test"], "train": task(2)["train"]},
        "few": {"train": [_FEW], "test": [_FEW]},  # nine colours of one cell: not all copies exist
    },
    "evaluation": {"e1": task(3, tests=2), "e2": task(4)},
    "AboveBelow": {"AboveBelow1": task(5, tests=3)},  # a folder of ConceptARC
}


def _rows(folder: Path, split: str) -> list[bytes]:
    inputs, labels = (np.load(folder / split / f"all__{part}.npy").astype(np.uint8) for part in ("inputs", "labels"))
    return sorted(a.tobytes() + b.tobytes() for a, b in zip(inputs, labels, strict=True))


def _imported(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Dataset:
    """Import a folder by the command, have it verified, and return the dataset."""
    storage = ["--storage", str(tmp_path / "runs")]
    code, out, err = call(capsys, "data", "import-official", str(folder), "--json", *storage)
    assert code == 0, err
    name = Path(json.loads(out)["path"]).name
    code, out, err = call(capsys, "data", "verify", name, *storage)
    assert code == 0, out + err
    return import_official(folder, tmp_path / "runs/datasets")


@pytest.mark.parametrize("copies", [12, 0])
@pytest.mark.parametrize("spelling", [FIRST, LATER], ids=["digits", "hashes"])
def test_arc_dataset_of_hrm_is_imported_and_verified(
    spelling: Spelling, copies: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_arc(tmp_path / "hrm", SUBSETS, copies=copies, spelling=spelling)
    found = _imported(folder, tmp_path, capsys)
    assert sorted(found.names) == sorted(name for tasks in SUBSETS.values() for name in tasks)
    assert found.manifest.examples == {"train": 3 + 3 + 2 + 2 + 2 + 5, "validation": 0, "test": 3}
    export_official(found, tmp_path / "out", copies)
    assert _rows(tmp_path / "out", "train") == _rows(folder, "train")
    assert _rows(tmp_path / "out", "test") == _rows(folder, "test")
    written = json.loads((folder / "identifiers.json").read_text())
    assert len(found.identifiers(copies)) == len(written)
    for ours, theirs in zip(found.identifiers(copies)[1:], written[1:], strict=True):
        name, code = parse_augmentation(ours)
        assert theirs.startswith(f"{name}_t{code % 8}_" if code else name)


def test_sudoku_dataset_of_hrm_is_imported_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = generate_sudoku(9, 8, 45, 0)
    pairs = [(p.reshape(9, 9), s.reshape(9, 9)) for p, s in zip(made.puzzles, made.solutions, strict=True)]
    folder = write_sudoku(tmp_path / "hrm", pairs[:5], pairs[5:], copies=6)
    found = _imported(folder, tmp_path, capsys)
    assert found.counts == {"train": 5, "validation": 0, "test": 3} and found.num_listed.max() == 6
    export_official(found, tmp_path / "out", 6)
    for split in ("train", "test"):
        assert _rows(tmp_path / "out", split) == _rows(folder, split)


@pytest.mark.parametrize("turned", [True, False])
def test_maze_dataset_of_hrm_is_imported_and_verified(
    turned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = generate_mazes(12, 7, 20, 0)
    pairs = [(m.reshape(12, 12), s.reshape(12, 12)) for m, s in zip(made.mazes, made.labels, strict=True)]
    folder = write_mazes(tmp_path / "hrm", pairs[:4], pairs[4:], turned=turned)
    found = _imported(folder, tmp_path, capsys)
    assert found.counts == {"train": 4, "validation": 0, "test": 3}
    export_official(found, tmp_path / "out", 7 if turned else 0)
    for split in ("train", "test"):
        assert _rows(tmp_path / "out", split) == _rows(folder, split)


def test_list_of_tests_that_is_missing_from_a_dataset_of_trm_is_named(tmp_path: Path) -> None:
    folder = write_arc(tmp_path / "hrm", SUBSETS, copies=2)
    names = json.loads((folder / "identifiers.json").read_text())
    (folder / "identifiers.json").write_text(json.dumps([name.replace("_", "|||") for name in names]))
    with pytest.raises(DataError, match=r"test_puzzles\.json is missing"):
        import_official(folder, tmp_path / "data")
    assert not verify(import_official(write_arc(tmp_path / "again", SUBSETS, copies=2), tmp_path / "data"))
