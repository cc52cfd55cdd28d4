"""Show example puzzles: input, answer after each supervision step, label, and halting score.

What a trial's `gallery.json` holds becomes a few strings in the page, one character per cell, from which its script
draws; an answer like the one before it is the empty string. A page holds at most `MAX_BYTES` of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from orchestrator.records.schema import TrialRecord
from orchestrator.results.leaderboard import Entry
from orchestrator.storage import Storage

MAX_BYTES = 300_000
MAX_PUZZLES = 8
MAX_TRIALS = 3
"""The best configuration and the best of each other architecture."""
MAX_TRIES = 10
"""Trials of a configuration that are asked for a gallery: storages of earlier versions have none."""
_CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""Cell values as they are stored: galleries of kinds with more are not shown."""

_DRAWN = ("sudoku", "maze", "arc")
"""Kinds that the page's script draws in a way of their own."""

GallerySource = Callable[[TrialRecord], bytes | None]
"""Returns the content of a trial's gallery; None if it has none."""


class Puzzle(BaseModel):
    """Hold one puzzle of a gallery; see `trm_model.evaluation.gallery`."""

    model_config = ConfigDict(frozen=True)

    item: int
    input: list[int]
    label: list[int]
    answers: list[list[int]] = Field(min_length=1)
    halt: list[float]
    exact: bool


class GalleryFile(BaseModel):
    """Hold the content of `gallery.json`. Fields of later versions are ignored."""

    model_config = ConfigDict(frozen=True)

    benchmark: str
    family: str | None = Field(None, pattern="^[a-z0-9-]{1,40}$")
    """Name of the kind of puzzle; None in files of earlier versions."""
    colours: list[Annotated[str, Field(pattern="^#[0-9A-Fa-f]{6}$")]] = []
    """Of each cell value from 1: what kinds are drawn with that the page does not know."""
    grid_shape: tuple[int, int]
    steps: list[int] | None = None
    """Numbers of the supervision steps shown; 1, 2, ... if None."""
    puzzles: list[Puzzle]

    @model_validator(mode="after")
    def _fits(self) -> GalleryFile:
        cells = self.grid_shape[0] * self.grid_shape[1]
        for puzzle in self.puzzles:
            grids = [puzzle.input, puzzle.label, *puzzle.answers]
            if any(len(grid) != cells or not 0 <= min(grid) <= max(grid) < len(_CHARACTERS) for grid in grids):
                raise ValueError(f"item {puzzle.item} has a grid of another size, or of unknown cells")
            if not len(puzzle.halt) == len(puzzle.answers) == len(self.steps or puzzle.answers):
                raise ValueError(f"item {puzzle.item} has not one halting score per answer")
        return self


@dataclass(frozen=True, slots=True)
class Gallery:
    """Hold the puzzles of one trial, as the page shows them."""

    system: str
    seed: int
    family: str
    colours: tuple[str, ...]
    shape: tuple[int, int]
    puzzles: tuple[dict[str, Any], ...]
    """item, exact, input, label, answers, halt, steps: grids as strings."""

    @property
    def data(self) -> str:
        """Return JSON for the script. `<` is escaped, so that nothing can close the element that contains it."""
        value = {"family": self.family, "colours": self.colours, "shape": self.shape, "puzzles": self.puzzles}
        return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def no_gallery(record: TrialRecord) -> bytes | None:
    """Return None: the source for records without a storage."""
    return None


def stored_galleries(storage: Storage) -> GallerySource:
    """Return a source that reads galleries from the records' folders."""

    def read(record: TrialRecord) -> bytes | None:
        try:
            return storage.read(f"sweeps/{record.sweep}/trials/{record.trial_id}/gallery.json")
        except KeyError:
            return None

    return read


def galleries(
    entries: Sequence[Entry], records: Sequence[TrialRecord], source: GallerySource, most_bytes: int = MAX_BYTES
) -> list[Gallery]:
    """Return the gallery of the best configuration and of the best of each other architecture, one seed each."""
    by_id = {record.trial_id: record for record in records}
    best: dict[str, Entry] = {}
    for entry in entries:
        if entry.own is not None:
            best.setdefault(entry.kind, entry)
    found: list[Gallery] = []
    for entry in list(best.values())[:MAX_TRIALS]:
        for trial_id in entry.own.trial_ids[:MAX_TRIES] if entry.own else ():
            record = by_id[trial_id]
            gallery = _read(entry.system, record, source)
            if gallery is not None:
                found.append(gallery)
                break
    return _within(found, most_bytes)


def _read(system: str, record: TrialRecord, source: GallerySource) -> Gallery | None:
    """Read a gallery; return None if there is none or it is damaged, since no result depends on it."""
    content = source(record)
    if content is None:
        return None
    try:
        file = GalleryFile.model_validate_json(content)
    except ValidationError:
        return None
    puzzles = tuple(_shown(puzzle, file.steps) for puzzle in file.puzzles[:MAX_PUZZLES])
    family = file.family or next((name for name in _DRAWN if file.benchmark.startswith(name)), "sudoku")
    colours = () if family in _DRAWN else tuple(file.colours)
    return Gallery(system, record.config.seed, family, colours, file.grid_shape, puzzles) if puzzles else None


def _shown(puzzle: Puzzle, steps: Sequence[int] | None) -> dict[str, Any]:
    answers = [_text(answer) for answer in puzzle.answers]
    return {
        "item": puzzle.item,
        "exact": puzzle.exact,
        "input": _text(puzzle.input),
        "label": _text(puzzle.label),
        "answers": ["" if i and answer == answers[i - 1] else answer for i, answer in enumerate(answers)],
        "halt": [round(score, 3) for score in puzzle.halt],
        "steps": list(steps or range(1, len(answers) + 1)),
    }


def _text(cells: Sequence[int]) -> str:
    return "".join(_CHARACTERS[cell] for cell in cells)


def _within(found: list[Gallery], most_bytes: int) -> list[Gallery]:
    """Keep as many puzzles as fit, the same number of each trial."""
    for count in range(MAX_PUZZLES, 0, -1):
        cut = [replace(gallery, puzzles=_both(gallery.puzzles, count)) for gallery in found]
        if sum(len(gallery.data) for gallery in cut) <= most_bytes:
            return cut
    return []


def _both(puzzles: tuple[dict[str, Any], ...], count: int) -> tuple[dict[str, Any], ...]:
    """Keep `count` puzzles in their order, half of them solved if possible."""
    sides = [[p for p in puzzles if p["exact"] is exact] for exact in (True, False)]
    by_turns = [p for pair in zip_longest(*sides) for p in pair if p is not None]
    chosen = [p["item"] for p in by_turns[:count]]
    return tuple(p for p in puzzles if p["item"] in chosen)
