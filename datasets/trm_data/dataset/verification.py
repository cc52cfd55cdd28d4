"""Verify a built dataset from its bytes: files, counts, splits, and every puzzle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from trm_data.dataset.integrity import changed_files, count_faults, index_faults, read_content, row_faults
from trm_data.dataset.manifest import Manifest
from trm_data.dataset.reader import Dataset
from trm_data.dataset.schema import SPLITS
from trm_data.errors import DataError
from trm_data.jit import Bytes
from trm_data.puzzles.kinds import Examples, kind_of

Progress = Callable[[str, int, int], None]


def verify(dataset: Dataset | Path | str, progress: Progress = lambda *_: None) -> list[str]:
    """Return the errors of a dataset or the folder of one, one line each; an empty list if there are none.

    Checks the hash of every file, the counts of the manifest, the ranges of all values, then, of the examples that are
    in range, the puzzles of the family (Sudoku: valid and with one solution; mazes: labels shortest; ARC: frames) and
    that no puzzle is in two splits, up to symmetry. A folder may be too damaged to be opened.

    Raises:
        DataError: the folder has no manifest, or a damaged one.
    """
    folder = dataset.path if isinstance(dataset, Dataset) else Path(dataset)
    manifest = Manifest.read(folder)
    kind = kind_of(manifest.family)
    checks = (("puzzles", kind.faults), ("leaks", kind.leaks))
    progress("checking files", 0, 2 + len(checks))
    problems = [str(fault) for fault in changed_files(folder, manifest)]
    progress("checking ranges", 1, 2 + len(checks))
    try:
        content = read_content(folder, manifest)
    except DataError as error:
        return [*problems, str(error)]
    indices = [str(fault) for fault in index_faults(content, manifest)]
    if indices:
        return problems + indices
    sound, faults = row_faults(content, manifest)
    problems += [str(fault) for fault in (*count_faults(content, manifest), *faults)]
    examples = Examples(
        manifest.grid_shape[0],
        manifest.facts,
        content.puzzles.column("name").to_pylist(),
        sound,
        content.puzzle[sound].astype(np.int64),
        content.split[sound],
        SPLITS,
        *(values[sound] for values in (content.inputs, content.labels, content.shapes)),
    )
    problems += _counts(manifest, content.puzzle, content.split)
    for done, (what, check) in enumerate(checks, 2):
        progress(f"checking {manifest.family} {what}", done, 2 + len(checks))
        problems += check(examples)
    return problems


def _counts(manifest: Manifest, puzzle: np.ndarray, split: Bytes) -> Iterator[str]:
    for index, name in enumerate(SPLITS):
        found = len(np.unique(puzzle[split == index]))
        if manifest.counts[name] != found:
            yield f"manifest: counts of {name} is {manifest.counts[name]}, the files have {found}"
