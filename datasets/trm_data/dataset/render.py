"""Draw pictures of examples: input, label and, if given, prediction and difference, next to each other.

ARC cells have the colours of arcprize.org, Sudoku givens are bold on grey, maze paths are drawn on the floor.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from trm_data.dataset.reader import Dataset
from trm_data.errors import ConfigError
from trm_data.files import write_output
from trm_data.jit import Bytes
from trm_data.puzzles.drawing import INK, MUTED, PAPER, SIZE, font
from trm_data.puzzles.kinds import PuzzleKind

_GAP, _TITLE = 24, 26
_FRAME_MS = 600
"""As the page's gallery plays its steps."""
_LAST_FRAME_MS = 2400


def draw(
    dataset: Dataset, puzzle: int | str, *, predictions: Bytes | None = None, max_examples: int = 8
) -> Image.Image:
    """Return a puzzle, one row of panels per example.

    Args:
        puzzle: its number or name.
        predictions: (examples of the puzzle, L), drawn next to the labels, with differences marked.
        max_examples: ARC tasks have several; the rest is left out.

    Raises:
        ConfigError: there is no such puzzle.
    """
    index = dataset.puzzle_index(puzzle)
    rows = np.flatnonzero(dataset.puzzle == index)[:max_examples]
    if predictions is not None and len(predictions) < len(rows):
        raise ConfigError(f"{len(predictions)} predictions for {len(rows)} examples of {dataset.names[index]}")
    kind, side = dataset.kind, dataset.grid_shape[0]
    lines = []
    for i, row in enumerate(rows):
        given, label = dataset.inputs[row], dataset.labels[row]
        panels = {"input": kind.panel(given, given, None, side), "label": kind.panel(given, label, None, side)}
        if predictions is not None:
            panels["prediction"] = kind.prediction_panel(given, predictions[i], label, side)
            panels["difference"] = kind.difference_panel(label, predictions[i], side)
        lines.append(panels)
    width = _GAP + len(lines[0]) * (SIZE + _GAP)
    height = _GAP + _TITLE + len(lines) * (SIZE + _TITLE + _GAP)
    image = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((_GAP, _GAP - 6), dataset.title(index), INK, font(18), stroke_width=0.4)
    for i, panels in enumerate(lines):
        top = _GAP + _TITLE + i * (SIZE + _TITLE + _GAP)
        for j, (name, paint) in enumerate(panels.items()):
            left = _GAP + j * (SIZE + _GAP)
            pen.text((left, top + 4), f"{name} ({dataset.split_of(rows[i])})" if j == 0 else name, MUTED, font(13))
            paint(pen, left, top + _TITLE)
    return image


def save_png(image: Image.Image, path: Path | str) -> None:
    """Write a picture atomically.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    write_output(Path(path), buffer.getvalue())


def require_picture(path: Path) -> None:
    """Raise ConfigError unless `save_answers` can write a file of that name."""
    if path.suffix.lower() not in (".png", ".gif"):
        raise ConfigError(f"{path} is not a picture that can be drawn", "Name it .png or .gif")


def save_answers(
    kind: PuzzleKind, question: Bytes, answers: list[Bytes], path: Path, label: Bytes | None = None
) -> None:
    """Draw a puzzle next to its answer after each supervision step: `.png` the last one, `.gif` all of them in turn.

    Args:
        question: (L); answers: (L) each.
        label: (L), the right answer; cells that differ from it are marked as in the gallery of a report.

    Raises:
        ConfigError: another kind of file.
        UserError: the disk is full or the folder cannot be written.
    """
    require_picture(path)
    side = math.isqrt(question.size)
    frames = [
        _side_by_side(kind, side, question, answer, f"step {number} of {len(answers)}", label)
        for number, answer in enumerate(answers, 1)
    ]
    if path.suffix.lower() == ".png":
        save_png(frames[-1], path)
        return
    buffer = io.BytesIO()
    times = [*[_FRAME_MS] * (len(frames) - 1), _LAST_FRAME_MS]
    # Without optimisation Pillow keeps a frame that equals the one before: one per step.
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=False)
    write_output(path, buffer.getvalue())


def _side_by_side(
    kind: PuzzleKind, side: int, question: Bytes, answer: Bytes, name: str, label: Bytes | None
) -> Image.Image:
    """Return two panels: the puzzle, and an answer with its name and the number of its cells that are wrong."""
    if label is not None:
        counts = label >= kind.least_answer
        wrong = int((answer != label)[counts].sum())
        name += f": {wrong} of {int(counts.sum())} cells differ" if wrong else ": all cells as in the label"
    shown = (("puzzle", question, None), (name, answer, label))
    image = Image.new("RGB", (2 * SIZE + 3 * _GAP, SIZE + _TITLE + 2 * _GAP), PAPER)
    pen = ImageDraw.Draw(image)
    for column, (title, cells, truth) in enumerate(shown):
        left = _GAP + column * (SIZE + _GAP)
        pen.text((left, _GAP - 4), title, MUTED, font(13))
        kind.panel(question, cells, truth, side)(pen, left, _GAP + _TITLE)
    return image
