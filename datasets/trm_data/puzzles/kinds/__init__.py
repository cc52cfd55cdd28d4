"""Define the kinds of puzzles: what decides by Sudoku, maze or ARC is a method of one class with an instance each."""

from __future__ import annotations

from trm_data.errors import ConfigError
from trm_data.own_kinds import own_kind
from trm_data.puzzles.kinds.arc import Arc
from trm_data.puzzles.kinds.base import Examples, PuzzleKind, Question
from trm_data.puzzles.kinds.maze import Maze
from trm_data.puzzles.kinds.queens import Queens
from trm_data.puzzles.kinds.sudoku import Sudoku

__all__ = ["KINDS", "Examples", "PuzzleKind", "Question", "kind_of", "kind_that_reads"]

KINDS: dict[str, PuzzleKind] = {kind.name: kind for kind in (Arc(), Sudoku(), Maze(), Queens())}
"""By name. Where several have the same encoding, as a maze of 4x4 and a Sudoku of 4x4, the first is meant."""


def kind_of(family: str) -> PuzzleKind:
    """Return the kind of that name: built in, an entry point's, or that of the class at a pinned address.

    Raises:
        ConfigError: there is none in this environment, its file is not trusted, or it fails.
    """
    if family in KINDS:
        return KINDS[family]
    own = own_kind(family)
    if own is None:
        raise ConfigError(f"there is no kind of puzzle {family!r} here", "Install the package that defines it")
    kind: PuzzleKind = own.kind
    return kind


def kind_that_reads(vocab_size: int, side: int) -> PuzzleKind | None:
    """Return the kind whose puzzles have this many symbols and cells per row; None if there is none."""
    return next((kind for kind in KINDS.values() if kind.fits(vocab_size, side)), None)
