"""Store large puzzle-embedding tables of checkpoints: whole in a base file once, then only the rows changed since.

With 1,000 augmentations of ARC-AGI-1 the table is 1.8 GB, and a batch changes at most 768 of its 960,000 rows. A run
starts over a base of zeros, as its table does, so that its first checkpoints need no base file. A new base is written
when the deltas over the last one would together exceed it: whatever the share of rows that change between two
checkpoints, the bytes written are then at most about twice those of the best possible moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

TABLE = "model/puzzle_embedding.weight"
CHANGED_AT = "table/changed_at"
"""(R) int32, in memory next to the table: the step at which each row was last changed."""
_ROWS, _VALUES = "table/rows", "table/values"
_SMALLEST = 2**20
"""Below this many bytes a table is written whole every time: another file would cost more than it saves."""


@dataclass(frozen=True, slots=True)
class Base:
    """Hold a table as it was at a step. Without a name it is all zeros and has no file."""

    name: str = ""
    sha256: str = ""
    step: int = 0
    delta_bytes: int = 0
    """Written so far in deltas over it."""


class Split(NamedTuple):
    """Hold a run's tensors as a checkpoint file stores them."""

    tensors: dict[str, Tensor]
    base: Base
    """Over which the rows in `tensors` are changes; unnamed and unsigned where `whole` has yet to be written."""
    shape: list[int]
    """Shape of the whole table."""
    whole: Tensor | None
    """The table itself, where a new base is due."""


def split(tensors: Mapping[str, Tensor], base: Base, step: int) -> Split | None:
    """Separate the table from a run's tensors; return None if there is none, or it is too small to be worth it."""
    table, changed_at = tensors.get(TABLE), tensors.get(CHANGED_AT)
    if table is None or changed_at is None or table.nbytes < _SMALLEST:
        return None
    rows = (changed_at > base.step).nonzero().squeeze(1)
    delta_bytes = len(rows) * (table[0].nbytes + rows.element_size())
    whole = None
    if base.delta_bytes + delta_bytes > table.nbytes:
        base, rows, whole = Base(step=step), rows[:0], table
    else:
        base = replace(base, delta_bytes=base.delta_bytes + delta_bytes)
    rest = {name: value for name, value in tensors.items() if name not in (TABLE, CHANGED_AT)}
    return Split(rest | {_ROWS: rows, _VALUES: table[rows]}, base, list(table.shape), whole)


def join(tensors: Mapping[str, Tensor], table: Tensor, step: int) -> dict[str, Tensor]:
    """Undo `split`: `table` is the base's, and is changed in place. `step` is the checkpoint's.

    Raises:
        ValueError: the changed rows are not rows of this table.
    """
    rest = {name: value for name, value in tensors.items() if name not in (_ROWS, _VALUES)}
    rows, values = tensors.get(_ROWS), tensors.get(_VALUES)
    if rows is None or values is None or rows.dtype != torch.int64 or rows.ndim != 1 or table.ndim != 2:
        raise ValueError("it has no list of the changed rows of its table")
    if values.shape != (len(rows), table.shape[1]) or values.dtype != table.dtype:
        raise ValueError(f"the changed rows of its table have shape {tuple(values.shape)}")
    if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < len(table)):
        raise ValueError(f"rows {int(rows.min())} to {int(rows.max())} of a table of {len(table)} have changed")
    table[rows] = values
    changed_at = torch.zeros(len(table), dtype=torch.int32)
    changed_at[rows] = max(step, 1)  # before any step, they differ from a base of zeros as if step 1 had changed them
    return rest | {TABLE: table, CHANGED_AT: changed_at}
