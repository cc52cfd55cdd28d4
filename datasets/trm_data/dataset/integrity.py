"""Check a dataset's files before anything computes with them.

The compiled kernels check no bounds: a cell outside the vocabulary or a wrong shape would read or write foreign
memory. Two checks prevent that. The files are compared with the hashes of the manifest once; a marker file records
which files were compared. And every time a dataset is opened, all cells, shapes, indices and codes are checked
against their ranges, whole columns at a time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trm_data.dataset.manifest import AUGMENTATIONS, EXAMPLES, PLACES, PUZZLES, Manifest
from trm_data.dataset.schema import SPLITS, column, read_table
from trm_data.errors import DataError, UserError, first_line
from trm_data.files import load_json, sha256_of, write_atomic
from trm_data.jit import Bytes, Ints, Words
from trm_data.puzzles.arc import SIDE
from trm_data.puzzles.kinds import kind_of

MARK = ".checked.json"
REMEDY = "Delete the dataset's folder and build it again"
_MOST_ROWS = 16_384  # of which a temporary mask is made at once
_log = logging.getLogger(__name__)


class Fault(NamedTuple):
    """Describe one error in a file of a dataset."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


@dataclass(frozen=True, slots=True)
class Content:
    """Hold the columns of a dataset's files: of the right type and length, but with unchecked values."""

    puzzles: pa.Table
    keys: Words
    puzzle: NDArray[np.int32]
    split: Bytes
    inputs: Bytes
    labels: Bytes
    shapes: Bytes
    owners: NDArray[np.int32] | None
    """(A): the puzzle of every listed augmentation; None where augmentations are not listed."""
    codes: Words | None
    places: NDArray[np.uint16] | None


def _state_of(path: Path) -> list[int]:
    """Return what changes when a file is written, replaced or copied. Only the system sets the time of the last
    status change, so a marker that was copied or downloaded together with the files does not match them."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _read_mark(folder: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        mark = load_json((folder / MARK).read_bytes())
        if isinstance(mark, dict):
            return mark
    return {}


def changed_files(folder: Path, manifest: Manifest, *, trust_mark: bool = False) -> Iterator[Fault]:
    """Compare the files with the hashes of the manifest; if all match, write a marker file.

    Args:
        trust_mark: pass over files that were compared before and have not been touched since.
    """
    known = _read_mark(folder)
    seen: dict[str, Any] = {}
    for name, wanted in sorted(manifest.files.items()):
        path = folder / name
        try:
            state = [wanted, *_state_of(path)]  # before the hash: a change in between makes the mark void
            as_built = (trust_mark and known.get(name) == state) or sha256_of(path) == wanted
        except FileNotFoundError:
            yield Fault(name, "it is missing")
            continue
        except OSError as error:
            yield Fault(name, f"it cannot be read ({error.strerror or error})")
            continue
        if as_built:
            seen[name] = state
        else:
            yield Fault(name, "its content has changed since it was built")
    if len(seen) == len(manifest.files) and seen != known:
        try:
            write_atomic(folder / MARK, json.dumps(seen).encode())
        except UserError as error:  # a read-only folder is compared again at every opening
            _log.debug("no mark in %s: %s", folder, error)


def _column(table: pa.Table, name: str, kind: pa.DataType, size: int | None, path: Path) -> NDArray[Any]:
    """Return a column of the type that the builder writes, without gaps."""
    wanted = kind if size is None else pa.list_(kind, size)
    found = table.schema.field(name).type if name in table.schema.names else None
    right = found == wanted
    if found is not None and size is not None:  # the name of the inner field does not matter
        right = pa.types.is_fixed_size_list(found) and found.list_size == size and found.value_type == kind
    if not right:
        raise DataError(f"{path}: column {name!r} has type {found}, not {wanted}", REMEDY)
    values = table.column(name)
    gaps = values.null_count + (0 if size is None else sum(chunk.values.null_count for chunk in values.chunks))
    if gaps:
        raise DataError(f"{path}: column {name!r} has {gaps} empty values", REMEDY)
    found_values = column(table, name)
    if len(found_values) != table.num_rows:
        raise DataError(f"{path}: column {name!r} is shorter than its table", REMEDY)
    return found_values


def _table(path: Path) -> pa.Table:
    table = read_table(path)
    try:
        table.validate(full=True)  # offsets of texts and lengths of buffers
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is damaged ({first_line(error)})", REMEDY) from None
    return table


def read_content(folder: Path, manifest: Manifest) -> Content:
    """Map the columns of a dataset.

    Raises:
        DataError: a file is missing or damaged, or a column has another type or size than the builder writes.
    """
    cells = manifest.grid_shape[0] * manifest.grid_shape[1]
    puzzles, examples = _table(folder / PUZZLES), _table(folder / EXAMPLES)
    for name in ("name", "source"):
        if name not in puzzles.schema.names or puzzles.schema.field(name).type != pa.string():
            raise DataError(f"{folder / PUZZLES}: column {name!r} is missing or no text", REMEDY)
        if puzzles.column(name).null_count:
            raise DataError(f"{folder / PUZZLES}: column {name!r} has empty values", REMEDY)
    if "rating" not in puzzles.schema.names or puzzles.schema.field("rating").type != pa.float32():
        raise DataError(f"{folder / PUZZLES}: column 'rating' is missing or no number", REMEDY)
    owners = codes = places = None
    if AUGMENTATIONS in manifest.files:
        path = folder / AUGMENTATIONS
        table = _table(path)
        owners = _column(table, "puzzle", pa.int32(), None, path)
        codes = _column(table, "code", pa.uint64(), None, path)
    if PLACES in manifest.files:
        places = _column(_table(folder / PLACES), "place", pa.uint16(), None, folder / PLACES)
    path = folder / EXAMPLES
    return Content(
        puzzles=puzzles,
        keys=_column(puzzles, "key", pa.uint64(), None, folder / PUZZLES),
        puzzle=_column(examples, "puzzle", pa.int32(), None, path),
        split=_column(examples, "split", pa.uint8(), None, path),
        inputs=_column(examples, "input", pa.uint8(), cells, path),
        labels=_column(examples, "label", pa.uint8(), cells, path),
        shapes=_column(examples, "shape", pa.uint8(), 4, path),
        owners=owners,
        codes=codes,
        places=places,
    )


def _is_sorted_index(values: NDArray[np.int32], count: int) -> bool:
    """Return whether the values never decrease and lie in [0, count)."""
    if not len(values):
        return True
    return bool(values[0] >= 0 and values[-1] < count and (values[1:] >= values[:-1]).all())


def index_faults(content: Content, manifest: Manifest) -> Iterator[Fault]:
    """Yield errors in the columns that hold positions: puzzles, splits, codes and places."""
    count = content.puzzles.num_rows
    if not _is_sorted_index(content.puzzle, count):
        yield Fault(EXAMPLES, f"column 'puzzle' is not sorted, or names none of the {count} puzzles")
        return
    if content.split.max(initial=0) >= len(SPLITS):
        yield Fault(EXAMPLES, f"column 'split' has {content.split.max()}, the last split is {len(SPLITS) - 1}")
        return
    if content.owners is None or content.codes is None:
        return
    if not _is_sorted_index(content.owners, count):
        yield Fault(AUGMENTATIONS, f"column 'puzzle' is not sorted, or names none of the {count} puzzles")
        return
    order = order_of(manifest)
    if content.codes.max(initial=0) >= order:
        yield Fault(AUGMENTATIONS, f"code {content.codes.max()} is none of the {order} symmetries")
    if content.places is None:
        return
    listed = np.bincount(content.owners, minlength=count)
    trained = np.bincount(content.puzzle[content.split == 0], minlength=count)
    wanted = int((trained * (1 + listed)).sum())
    if len(content.places) != wanted or (content.split == 1).any():
        yield Fault(PLACES, f"it has {len(content.places)} places, the augmented training examples need {wanted}")
    elif ((content.places >> 5) >= SIDE).any() or ((content.places & 31) >= SIDE).any():
        yield Fault(PLACES, f"a place lies outside the frame of {SIDE}x{SIDE}")


def order_of(manifest: Manifest) -> int:
    """Return the number of possible augmentation codes of a dataset."""
    return kind_of(manifest.family).order(manifest.grid_shape[0])


def count_faults(content: Content, manifest: Manifest) -> Iterator[Fault]:
    """Yield splits whose number of examples differs from the manifest."""
    found = np.bincount(content.split, minlength=len(SPLITS))
    for index, split in enumerate(SPLITS):
        said = manifest.examples[split]
        if found[index] != said:
            yield Fault("manifest", f"examples of {split} is {said}, the files have {found[index]}")


def outside(cells: Bytes, low: int, high: int) -> NDArray[np.bool_]:
    """Return (E) whether rows of (E, L) have a cell below `low` or above `high`. Copies nothing if none has."""
    wrong = np.zeros(len(cells), bool)
    if not cells.size or (cells.max() <= high and (low == 0 or cells.min() >= low)):
        return wrong
    for start in range(0, len(cells), _MOST_ROWS):
        part = slice(start, start + _MOST_ROWS)
        wrong[part] = ((cells[part] < low) | (cells[part] > high)).any(1)
    return wrong


def misframed(cells: Bytes, sizes: Bytes) -> NDArray[np.bool_]:
    """Return (E) whether ARC rows (E, 900) have colours that do not exactly fill the rectangle of their (E, 2) size."""
    wrong = np.zeros(len(cells), bool)
    lines = np.arange(SIDE)
    for start in range(0, len(cells), _MOST_ROWS):
        part = slice(start, start + _MOST_ROWS)
        rows, cols = (lines < sizes[part, axis, None] for axis in (0, 1))
        colours = cells[part].reshape(-1, SIDE, SIDE) >= 2
        wrong[part] = (colours != (rows[:, :, None] & cols[:, None, :])).any((1, 2))
    return wrong


class RowFaults(NamedTuple):
    """Hold examples that must not reach a kernel."""

    sound: Ints
    """Indices of the examples without a fault."""
    faults: list[Fault]
    """First fault of every kind."""


def row_faults(content: Content, manifest: Manifest) -> RowFaults:
    """Check the cells and shapes of every example against the vocabulary and the grid of the manifest."""
    kind, side, vocabulary = kind_of(manifest.family), manifest.grid_shape[0], manifest.vocab_size
    wrong = np.zeros(len(content.inputs), bool)
    faults: list[Fault] = []

    def note(rows: NDArray[np.bool_], what: str) -> None:
        if rows.any():
            faults.append(Fault(EXAMPLES, f"example {int(rows.argmax())}: {what}"))
            wrong[rows] = True

    for name, cells in (("input", content.inputs), ("label", content.labels)):
        outsiders = outside(cells, kind.least_cell, vocabulary - 1)
        note(outsiders, f"{name} has a cell outside the vocabulary of {vocabulary}")
    misshapen = kind.wrong_shapes(content.shapes, side)
    note(misshapen, f"its shape is none of grids in a frame of {side}x{side}")
    if kind.is_framed:
        for name, cells, first in (("input", content.inputs, 0), ("label", content.labels, 2)):
            unframed = misframed(cells, content.shapes[:, first : first + 2])
            note(unframed & ~wrong, f"{name} is not a framed grid of its shape")
    return RowFaults(np.flatnonzero(~wrong), faults)


def read_checked(folder: Path, manifest: Manifest) -> Content:
    """Return the columns of a dataset whose files match their hashes and whose values are all in range.

    Raises:
        DataError: names the first file that is not, and how.
    """
    for fault in changed_files(folder, manifest, trust_mark=True):
        raise DataError(f"{folder / fault.file}: {fault.what}", REMEDY)
    content = read_content(folder, manifest)
    for check in (index_faults, count_faults):
        for fault in check(content, manifest):
            raise DataError(f"{folder / fault.file}: {fault.what}", REMEDY)
    for fault in row_faults(content, manifest).faults:
        raise DataError(f"{folder / fault.file}: {fault.what}", REMEDY)
    return content
