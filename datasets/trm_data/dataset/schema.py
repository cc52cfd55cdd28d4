"""Define what a built dataset holds, in memory and as Arrow columns.

    puzzles.arrow        one row per puzzle (an augmentation group): name, source, rating, key
    examples.arrow       one row per (input, label) pair of a puzzle, without augmentation
    augmentations.arrow  only where augmentations are listed: their codes, see `symmetry.py`
    places.arrow         only where translations are listed: 32 * top + left

An example belongs to a split; a puzzle may have examples in several (ARC: demonstrations train, test pairs do not).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trm_data.config import Family
from trm_data.errors import DataError, first_line
from trm_data.jit import Bytes

Ids = Literal["shared", "native", "upstream"]
"""How embedding rows are numbered; `shared` where all puzzles have row 0."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Puzzles:
    """Hold the base puzzles of a benchmark: P puzzles with E examples of L cells, sorted by puzzle.

    Cells are encoded as the models read them: 0 is padding (and, in labels, ignored).
    """

    family: Family
    names: list[str]
    sources: list[str]
    ratings: NDArray[np.float32]
    """(P), NaN where unknown."""
    puzzle: NDArray[np.int32]
    """(E): the puzzle of every example."""
    split: Bytes
    """(E): index into SPLITS."""
    inputs: Bytes
    """(E, L)"""
    labels: Bytes
    """(E, L)"""
    shapes: Bytes
    """(E, 4): height and width of the input, height and width of the label."""
    codes: NDArray[np.uint64] | None = None
    """(A): listed augmentations, puzzle after puzzle; None where they are derived."""
    num_codes: NDArray[np.int32] | None = None
    """(P): how many of `codes` belong to every puzzle."""
    places: NDArray[np.uint16] | None = None
    """Listed translations, 32 * top + left: puzzle after puzzle, copy after copy, training example after example."""
    num_solutions: NDArray[np.float64] | None = None
    """(P): how many answers are equally right (mazes: shortest paths); None where it is one, or unknown (ARC)."""
    ids: Ids = "shared"
    facts: dict[str, object] = field(default_factory=dict)
    """Further facts for the manifest: hashes of the sources, number of attempts of the generator."""

    @property
    def side(self) -> int:
        """Return the number of cells per row of the grid that the model reads."""
        return math.isqrt(self.inputs.shape[1])

    def bounds(self) -> NDArray[np.int64]:
        """Return (P + 1) where every puzzle's examples begin."""
        return np.searchsorted(self.puzzle, np.arange(len(self.names) + 1)).astype(np.int64)

    def keys(self) -> NDArray[np.uint64]:
        """Return (P) 64-bit hashes of the content of every puzzle, the same in any dataset that contains it."""
        hashes = [hashlib.sha256() for _ in self.names]
        for row, puzzle in enumerate(self.puzzle):
            hashes[puzzle].update(self._pair(row))
        return np.array([int.from_bytes(h.digest()[:8], "little") for h in hashes], np.uint64)

    def digest_of(self, split: str) -> str:
        """Return sha256 of the (input, label) pairs of a split, independent of their order and names."""
        rows = np.flatnonzero(self.split == SPLITS.index(split))
        pairs = sorted(hashlib.sha256(self._pair(row)).digest() for row in rows.tolist())
        return hashlib.sha256(b"".join(pairs)).hexdigest()

    def _pair(self, row: int) -> bytes:
        pair: bytes = self.inputs[row].tobytes() + self.labels[row].tobytes()
        return pair


def _rows(cells: Bytes) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(cells).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, cells.shape[1])


def tables(puzzles: Puzzles) -> dict[str, pa.Table]:
    """Return an Arrow table per file stem."""
    made = {
        "puzzles": pa.table(
            {
                "name": pa.array(puzzles.names, pa.string()),
                "source": pa.array(puzzles.sources, pa.string()),
                "rating": pa.array(puzzles.ratings, pa.float32(), from_pandas=True),
                "key": pa.array(puzzles.keys(), pa.uint64()),
            }
        ),
        "examples": pa.table(
            {
                "puzzle": pa.array(puzzles.puzzle, pa.int32()),
                "split": pa.array(puzzles.split, pa.uint8()),
                "input": _rows(puzzles.inputs),
                "label": _rows(puzzles.labels),
                "shape": _rows(puzzles.shapes),
            }
        ),
    }
    if puzzles.codes is not None and puzzles.num_codes is not None:
        owners = np.repeat(np.arange(len(puzzles.names), dtype=np.int32), puzzles.num_codes)
        made["augmentations"] = pa.table({"puzzle": pa.array(owners), "code": pa.array(puzzles.codes)})
    if puzzles.places is not None:
        made["places"] = pa.table({"place": pa.array(puzzles.places)})
    if puzzles.num_solutions is not None:
        made["puzzles"] = made["puzzles"].append_column("num_solutions", pa.array(puzzles.num_solutions))
    return made


def write_table(path: Path, table: pa.Table) -> None:
    """Write one Arrow IPC file of a single record batch, so that columns can be read without a copy."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=max(1, table.num_rows))


def read_table(path: Path) -> pa.Table:
    """Map an Arrow IPC file into memory.

    Raises:
        DataError: it is missing, truncated or no Arrow file.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()
    except FileNotFoundError:
        raise DataError(f"{path} is missing", "Delete the dataset's folder and build it again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path} is damaged or truncated ({first_line(error)})", "Delete the dataset's folder and build it again"
        ) from None


def column(table: pa.Table, name: str) -> NDArray[Any]:
    """Return a column of numbers without gaps as a read-only view of the mapped file: (rows) or, for lists of fixed
    size, (rows, size)."""
    array = table.column(name).combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # an empty table has no chunk
        array = pa.array([], table.schema.field(name).type)
    # Not `to_numpy`, which imports pandas: 33 MB, and 0.2 s of every command that opens a dataset.
    if pa.types.is_fixed_size_list(array.type):
        return np.from_dlpack(array.flatten()).reshape(-1, array.type.list_size)
    return np.from_dlpack(array)
