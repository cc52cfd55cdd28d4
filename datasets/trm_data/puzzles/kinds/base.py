"""Define what every kind of puzzle has: encoding and symmetries.

Shapes: E examples of a dataset, B rows of a batch, L = side * side cells, encoded as models read them: 0 is padding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trm_data.config import Augmentation, Family
from trm_data.errors import DataError
from trm_data.jit import Bytes, Ints, Words

MOST_DERIVED = 2**31
"""Augmented copies of a puzzle, each derived from the puzzle's key and the number of the copy."""


class PuzzleKind(ABC):
    """Define one kind of puzzle. Its methods get cells and codes that are in range, and may pass them to kernels."""

    name: ClassVar[Family]
    augmentation: ClassVar[Augmentation]
    """The name of its symmetries in manifests."""
    sides: ClassVar[Collection[int]]
    """Cells per row that its puzzles can have."""
    has_tasks: ClassVar[bool] = False
    """A puzzle is a task of several examples, has an embedding of its own, and is scored by pass@k."""
    is_framed: ClassVar[bool] = False
    """Grids of any size lie in a frame of padding, where training examples are moved about."""
    is_enumerated: ClassVar[bool] = False
    """Augmented copies are the symmetries in turn, and not draws from very many."""

    @abstractmethod
    def vocab_size(self, side: int) -> int:
        """Count the distinct values of a cell, padding included."""

    def fits(self, vocab_size: int, side: int) -> bool:
        """Return whether puzzles of this kind have so many symbols and cells per row."""
        return side in self.sides and vocab_size == self.vocab_size(side)

    @property
    def least_cell(self) -> int:
        """Return the least value of a cell: only grids in a frame are padded."""
        return 0 if self.is_framed else 1

    def wrong_shapes(self, shapes: Bytes, side: int) -> NDArray[np.bool_]:
        """Return (E) whether rows of (E, 4) are not the height and width of an input and a label."""
        whole = bool((shapes == side).all())
        return np.zeros(len(shapes), bool) if whole else np.asarray((shapes != side).any(1))

    @abstractmethod
    def order(self, side: int) -> int:
        """Return the number of symmetries. Each has a code below it; 0 is the identity."""

    def most_copies(self, side: int) -> int:
        """Return how many augmented copies of a puzzle there can be, besides the original."""
        return self.order(side) - 1 if self.is_enumerated else MOST_DERIVED

    @abstractmethod
    def view(
        self, inputs: Bytes, labels: Bytes, shapes: Bytes, rows: Ints, codes: Words, places: Words, side: int
    ) -> tuple[Bytes, Bytes]:
        """Return inputs and labels (B, L) of the examples `rows` of (E, L), seen through `codes` (B).

        Args:
            shapes: (E, 4), see `Puzzles`.
            places: (B) words that choose a place in the frame, where there is one; 0 is the corner.
        """

    def undo(self, cells: Bytes, codes: Words, side: int) -> Bytes:
        """Return answers (B, L) as they would be given to the original puzzles; framed ones are cropped to their grid.

        Raises:
            DataError: answers of another size, symbols that the puzzles do not have, or codes that are no symmetry.
        """
        if cells.ndim != 2 or cells.shape[1] != side * side or codes.shape != cells.shape[:1]:
            raise DataError(f"answers of shape {cells.shape} with {codes.size} codes are not of {side}x{side} cells")
        if codes.max(initial=0) >= self.order(side):
            raise DataError(f"augmentation {codes.max()} is none of the {self.order(side)} of {self.augmentation}")
        return self._undo(cells, codes, side)

    @abstractmethod
    def _undo(self, cells: Bytes, codes: Words, side: int) -> Bytes:
        """Undo codes that are in range, of cells of any value."""

    def recover(self, labels: Bytes, inputs: Bytes, base: Ints, side: int) -> Ints:
        """Return (B) the code that makes each example from the example `base` (B), -1 where none does."""
        raise NotImplementedError(f"imported examples of {self.name} have their codes in their identifiers")
