"""Write a dataset in the official layout, with every augmented copy, so that the official trainer can read it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trm_data.dataset.reader import Dataset
from trm_data.dataset.view import codes_of, fixed_places, view
from trm_data.errors import DataError
from trm_data.files import temporary_folder, writing_remedy
from trm_data.jit import Bytes, Ints
from trm_data.puzzles.arc import crop
from trm_data.puzzles.kinds import KINDS

Progress = Callable[[str, int, int], None]
_CHUNK = 16_384


def export_official(
    dataset: Dataset, folder: Path | str, num_augmentations: int, progress: Progress = lambda *_: None
) -> None:
    """Write a dataset as the official builders would; validation rows count as training rows.

    The folder appears complete, in one rename, or never.

    Raises:
        DataError: the folder is not empty, or cannot be written.
    """
    folder = Path(folder)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder} is not an empty folder", "Name a new folder")
        with temporary_folder(folder.parent) as aside:
            for name, splits in (("train", ("train", "validation")), ("test", ("test",))):
                _export_split(dataset, aside / name, splits, num_augmentations, progress)
            identifiers = dataset.identifiers(num_augmentations) if dataset.has_identifiers else ["<blank>"]
            (aside / "identifiers.json").write_text(json.dumps(identifiers))
            if dataset.kind.has_tasks:
                (aside / "test_puzzles.json").write_text(json.dumps(_test_puzzles(dataset)))
            aside.replace(folder)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}", writing_remedy(error)) from error


def _mapped(path: Path, shape: tuple[int, int]) -> Bytes:
    """Create an array file whose space is allocated: writing to a mapping without space ends the process (SIGBUS)."""
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _test_puzzles(dataset: Dataset) -> dict[str, Any]:
    """Return the test tasks in the form that the official evaluator reads."""
    tasks: dict[str, Any] = {}
    tested = set(dataset.puzzle[dataset.rows("test")].tolist())
    for row, puzzle in enumerate(dataset.puzzle.tolist()):
        if puzzle in tested:
            part = "test" if dataset.split_of(row) == "test" else "train"
            grids = {"input": crop(dataset.inputs[row]).tolist(), "output": crop(dataset.labels[row]).tolist()}
            tasks.setdefault(dataset.names[puzzle], {}).setdefault(part, []).append(grids)
    return tasks


def _copies(dataset: Dataset, rows: Ints, num_augmentations: int, is_train: bool) -> Iterator[tuple[int, int, Ints]]:
    """Yield (puzzle, copy, its examples) in the official order: puzzle after puzzle, copy after copy."""
    puzzles, first = np.unique(dataset.puzzle[rows], return_index=True)
    copies = dataset.num_copies(num_augmentations)
    if not is_train and not dataset.has_identifiers:
        copies = np.zeros_like(copies)  # only ARC's test examples are augmented, for voting
    for puzzle, members in zip(puzzles.tolist(), np.split(rows, first[1:]), strict=True):
        for copy in range(1 + copies[puzzle]):
            yield puzzle, copy, members


def _export_split(
    dataset: Dataset, folder: Path, splits: tuple[str, ...], num_augmentations: int, progress: Progress
) -> None:
    is_train = "train" in splits
    rows = dataset.rows(*splits)
    units = list(_copies(dataset, rows, num_augmentations, is_train))
    examples = np.concatenate([members for _, _, members in units])
    sizes = np.array([len(members) for _, _, members in units])
    puzzles, copies = (np.repeat([unit[i] for unit in units], sizes) for i in (0, 1))
    nth = np.arange(len(examples)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    folder.mkdir(parents=True)
    shape = (len(examples), dataset.seq_len)
    out = [_mapped(folder / f"all__{field}.npy", shape) for field in ("inputs", "labels")]
    for start in range(0, len(examples), _CHUNK):
        part = slice(start, min(start + _CHUNK, len(examples)))
        codes = codes_of(dataset, puzzles[part], copies[part])
        places = np.zeros(len(codes), np.uint64)
        if is_train:
            places = fixed_places(dataset, puzzles[part], copies[part], nth[part], np.repeat(sizes, sizes)[part])
        out[0][part], out[1][part] = view(dataset, examples[part], codes, places)
        progress(f"writing {folder.name}", part.stop, len(examples))
    layers, ranks = dataset.identifier_maps(num_augmentations) if dataset.has_identifiers else (None, None)
    unit_puzzles, unit_copies = (np.array([unit[i] for unit in units]) for i in (0, 1))
    ids = np.zeros(len(units)) if layers is None or ranks is None else layers[unit_copies] + ranks[unit_puzzles]
    groups = np.append(np.flatnonzero(unit_copies == 0), len(units))
    index = {"puzzle_identifiers": ids, "puzzle_indices": np.append(0, np.cumsum(sizes)), "group_indices": groups}
    for field, values in index.items():
        np.save(folder / f"all__{field}.npy", values.astype(np.int32))
    metadata = {
        "pad_id": 0,
        "ignore_label_id": 0,
        "blank_identifier_id": 0,
        "vocab_size": dataset.vocab_size,
        "seq_len": dataset.seq_len,
        "num_puzzle_identifiers": dataset.num_identifiers(num_augmentations),
        "total_groups": len(groups) - 1,
        "mean_puzzle_examples": len(examples) / len(units),
        "total_puzzles": len(units),
        "sets": ["all"],
    }
    if dataset.kind.name not in KINDS:
        metadata["kind"] = dataset.kind.name  # its symbols may be as many as those of another kind
    (folder / "dataset.json").write_text(json.dumps(metadata))
