"""Draw pictures of examples: input, label and, if given, prediction and difference, next to each other.

ARC cells have the colours of arcprize.org, Sudoku givens are bold on grey, maze paths are drawn on the floor.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trm_data.config import Family
from trm_data.dataset.reader import Dataset
from trm_data.errors import ConfigError
from trm_data.files import write_output
from trm_data.jit import Bytes
from trm_data.puzzles import sudoku
from trm_data.puzzles.arc import crop

Colour = str
ARC_COLOURS = (
    "#000000",
    "#1E93FF",
    "#F93C31",
    "#4FCC30",
    "#FFDC00",
    "#999999",
    "#E53AA3",
    "#FF851B",
    "#87D8F1",
    "#921231",
)
_MAZE_COLOURS = {1: "#2B3440", 2: "#F4F1EA", 3: "#2E9E5B", 4: "#D6453D", 5: "#F2B441"}
_PAPER, _INK, _MUTED, _LINE = "#FFFFFF", "#1B1F24", "#6B7280", "#C9CED6"
_GIVEN, _FILLED, _WRONG, _RIGHT = "#EEF1F5", "#1D4ED8", "#FBD5D5", "#DDF3E4"
_PANEL, _GAP, _TITLE = 320, 24, 26
_FRAME_MS = 400
Panel = Callable[[ImageDraw.ImageDraw, int, int], None]


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, so that pictures are the same on every machine."""
    return ImageFont.load_default(size=size)


def _cells(
    pen: ImageDraw.ImageDraw, left: int, top: int, fills: list[list[Colour]], line: Colour | None, size: float
) -> None:
    for r, row in enumerate(fills):
        for c, fill in enumerate(row):
            box = (left + c * size, top + r * size, left + (c + 1) * size, top + (r + 1) * size)
            pen.rectangle(box, fill=fill, outline=line)


def _sudoku_panel(grid: Bytes, givens: Bytes, wrong: Bytes | None) -> Panel:
    side = grid.shape[0]
    box_rows, box_cols = sudoku.BOXES[side]
    size = _PANEL / side

    def paint(pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
        def fill(r: int, c: int) -> Colour:
            if wrong is not None and wrong[r, c]:
                return _WRONG
            return _GIVEN if givens[r, c] > 1 else _PAPER

        _cells(pen, left, top, [[fill(r, c) for c in range(side)] for r in range(side)], None, size)
        for i in range(side + 1):
            wide_row, wide_col = (3 if i % box == 0 else 1 for box in (box_rows, box_cols))
            at = round(i * size)
            pen.line((left, top + at, left + _PANEL, top + at), _INK if wide_row == 3 else _LINE, wide_row)
            pen.line((left + at, top, left + at, top + _PANEL), _INK if wide_col == 3 else _LINE, wide_col)
        for (r, c), value in np.ndenumerate(grid):
            if value > 1:
                centre = (left + (c + 0.5) * size, top + (r + 0.5) * size)
                given = givens[r, c] > 1
                ink = _INK if given else "#B42318" if wrong is not None and wrong[r, c] else _FILLED
                stroke = 0.6 if given else 0.0  # Pillow's font has no bold cut
                pen.text(centre, str(value - 1), ink, _font(size * 0.56), "mm", stroke_width=stroke)

    return paint


def _grid_panel(fills: list[list[Colour]], line: Colour | None) -> Panel:
    size = _PANEL / max(len(fills), len(fills[0]) if fills else 1, 1)

    def paint(pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
        _cells(pen, left, top, fills, line, size)

    return paint


def _arc_panel(cells: Bytes) -> Panel:
    grid = crop(cells)
    return _grid_panel([[ARC_COLOURS[colour] for colour in row] for row in grid], "#555555")


def _arc_difference(label: Bytes, prediction: Bytes) -> Panel:
    """Draw equal cells green and others red, over the larger of both grids."""
    truth, guess = crop(label), crop(prediction)
    height, width = np.maximum(truth.shape, guess.shape)

    def same(r: int, c: int) -> bool:
        inside = [r < grid.shape[0] and c < grid.shape[1] for grid in (truth, guess)]
        return all(inside) and bool(truth[r, c] == guess[r, c])

    return _grid_panel([[_RIGHT if same(r, c) else "#E5484D" for c in range(width)] for r in range(height)], "#FFFFFF")


def _maze_panel(grid: Bytes) -> Panel:
    return _grid_panel([[_MAZE_COLOURS.get(int(cell), _PAPER) for cell in row] for row in grid], None)


def _difference_fills(wrong: Bytes) -> list[list[Colour]]:
    return [["#E5484D" if cell else _RIGHT for cell in row] for row in wrong]


def _panels(family: str, side: int, question: Bytes, label: Bytes, prediction: Bytes | None) -> list[tuple[str, Panel]]:
    if family == "arc":
        panels = [("input", _arc_panel(question)), ("label", _arc_panel(label))]
        if prediction is not None:
            panels += [("prediction", _arc_panel(prediction)), ("difference", _arc_difference(label, prediction))]
        return panels
    given, truth = question.reshape(side, side), label.reshape(side, side)
    guess = None if prediction is None else prediction.reshape(side, side)
    wrong = None if guess is None else np.asarray(guess != truth)
    if family == "maze":
        panels = [("input", _maze_panel(given)), ("label", _maze_panel(truth))]
        if guess is not None and wrong is not None:
            panels += [("prediction", _maze_panel(guess)), ("difference", _grid_panel(_difference_fills(wrong), None))]
        return panels
    panels = [("input", _sudoku_panel(given, given, None)), ("label", _sudoku_panel(truth, given, None))]
    if guess is not None and wrong is not None:
        panels += [("prediction", _sudoku_panel(guess, given, wrong))]
        panels += [("difference", _grid_panel(_difference_fills(wrong), "#FFFFFF"))]
    return panels


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
    family, side = dataset.manifest.family, dataset.grid_shape[0]
    lines = []
    for i, row in enumerate(rows):
        guess = None if predictions is None else predictions[i]
        lines.append(_panels(family, side, dataset.inputs[row], dataset.labels[row], guess))
    width = _GAP + len(lines[0]) * (_PANEL + _GAP)
    height = _GAP + _TITLE + len(lines) * (_PANEL + _TITLE + _GAP)
    image = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((_GAP, _GAP - 6), dataset.title(index), _INK, _font(18), stroke_width=0.4)
    for i, panels in enumerate(lines):
        top = _GAP + _TITLE + i * (_PANEL + _TITLE + _GAP)
        for j, (name, paint) in enumerate(panels):
            left = _GAP + j * (_PANEL + _GAP)
            pen.text((left, top + 4), f"{name} ({dataset.split_of(rows[i])})" if j == 0 else name, _MUTED, _font(13))
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


def save_answers(family: Family, question: Bytes, answers: list[Bytes], path: Path) -> None:
    """Draw a puzzle next to its answer after each supervision step: `.png` the last one, `.gif` all of them in turn.

    Args:
        question: (L); answers: (L) each.

    Raises:
        ConfigError: another kind of file.
        UserError: the disk is full or the folder cannot be written.
    """
    if path.suffix not in (".png", ".gif"):
        raise ConfigError(f"{path} is not a picture that can be drawn", "Name it .png or .gif")
    side = math.isqrt(question.size)
    frames = [_side_by_side(family, side, question, answer, number) for number, answer in enumerate(answers, 1)]
    if path.suffix == ".png":
        save_png(frames[-1], path)
        return
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=_FRAME_MS, loop=0)
    write_output(Path(path), buffer.getvalue())


def _panel(family: Family, side: int, question: Bytes, cells: Bytes) -> Panel:
    """Return the cells of a puzzle or of an answer to it."""
    if family == "arc":
        return _arc_panel(cells)
    grid = cells.reshape(side, side)
    return _maze_panel(grid) if family == "maze" else _sudoku_panel(grid, question.reshape(side, side), None)


def _side_by_side(family: Family, side: int, question: Bytes, answer: Bytes, number: int) -> Image.Image:
    """Return two panels: the puzzle, and the answer after a number of steps."""
    shown = (("puzzle", question), (f"step {number}", answer))
    image = Image.new("RGB", (2 * _PANEL + 3 * _GAP, _PANEL + _TITLE + 2 * _GAP), _PAPER)
    pen = ImageDraw.Draw(image)
    panels = [(name, _panel(family, side, question, cells)) for name, cells in shown]
    for column, (name, paint) in enumerate(panels):
        left = _GAP + column * (_PANEL + _GAP)
        pen.text((left, _GAP - 4), name, _MUTED, _font(13))
        paint(pen, left, _GAP + _TITLE)
    return image
