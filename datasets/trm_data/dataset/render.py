"""Draw pictures of examples: input, label and, if given, prediction and difference, next to each other.

ARC cells have the colours of arcprize.org, Sudoku givens are bold on grey, maze paths are drawn on the floor.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
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
_WRONG_INK, _RING = "#B0141E", "#C8102E"
_PANEL, _GAP, _TITLE = 320, 24, 26
_FRAME_MS = 600
"""As the page's gallery plays its steps."""
_LAST_FRAME_MS = 2400
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


def _sudoku_panel(grid: Bytes, givens: Bytes, wrong: Bytes | None, label: Bytes | None = None) -> Panel:
    """Draw a grid; a wrong cell is tinted, with the label's digit small in its corner where a label is given."""
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
            x, y = left + c * size, top + r * size
            is_wrong = wrong is not None and bool(wrong[r, c])
            corner = is_wrong and label is not None
            if value > 1:
                aside = 0.08 * size if corner else 0.0  # room for the label's digit
                given = givens[r, c] > 1
                ink = _INK if given else _WRONG_INK if is_wrong else _FILLED
                stroke = 0.6 if given else 0.0  # Pillow's font has no bold cut
                centre = (x + 0.5 * size - aside, y + 0.5 * size + aside)
                pen.text(centre, str(value - 1), ink, _font(size * 0.56), "mm", stroke_width=stroke)
            if corner and label is not None:
                digit = str(label[r, c] - 1)
                pen.text((x + 0.92 * size, y + 0.08 * size), digit, _INK, _font(size * 0.3), "ra", stroke_width=0.3)

    return paint


def _grid_panel(
    fills: list[list[Colour]], line: Colour | None, corners: Mapping[tuple[int, int], Colour] | None = None
) -> Panel:
    """Draw coloured cells; those of `corners` are wrong, with a ring and the right colour small in a corner."""
    size = _PANEL / max(len(fills), len(fills[0]) if fills else 1, 1)

    def paint(pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
        _cells(pen, left, top, fills, line, size)
        width = max(2, round(size / 12))
        for (r, c), right in (corners or {}).items():
            x, y = left + c * size, top + r * size
            pen.rectangle((x, y, x + size, y + size), outline=_PAPER, width=2 * width)
            pen.rectangle((x, y, x + size, y + size), outline=_RING, width=width)
            pen.rectangle((x + 0.64 * size, y, x + size, y + 0.36 * size), fill=right, outline=_RING)

    return paint


def _arc_panel(cells: Bytes, label: Bytes | None = None) -> Panel:
    """Draw an ARC grid in the extent of its label, if one is given, with the cells in which they differ marked."""
    grid = crop(cells)
    if label is None:
        return _grid_panel([[ARC_COLOURS[colour] for colour in row] for row in grid], "#555555")
    truth = crop(label)
    frame = math.isqrt(cells.size)
    shown = cells.reshape(frame, frame)[: truth.shape[0], : truth.shape[1]].astype(int) - 2
    fills = [[ARC_COLOURS[colour] if colour >= 0 else _PAPER for colour in row] for row in shown]
    corners = {(int(r), int(c)): ARC_COLOURS[truth[r, c]] for r, c in np.argwhere(shown != truth)}
    return _grid_panel(fills, "#555555", corners)


def _arc_difference(label: Bytes, prediction: Bytes) -> Panel:
    """Draw equal cells green and others red, over the larger of both grids."""
    truth, guess = crop(label), crop(prediction)
    height, width = np.maximum(truth.shape, guess.shape)

    def same(r: int, c: int) -> bool:
        inside = [r < grid.shape[0] and c < grid.shape[1] for grid in (truth, guess)]
        return all(inside) and bool(truth[r, c] == guess[r, c])

    return _grid_panel([[_RIGHT if same(r, c) else "#E5484D" for c in range(width)] for r in range(height)], "#FFFFFF")


def _maze_panel(grid: Bytes, label: Bytes | None = None) -> Panel:
    fills = [[_MAZE_COLOURS.get(int(cell), _PAPER) for cell in row] for row in grid]
    wrong = () if label is None else np.argwhere(grid != label)
    return _grid_panel(fills, None, {(r, c): _MAZE_COLOURS.get(int(label[r, c]), _PAPER) for r, c in wrong})  # type: ignore[index]


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


def require_picture(path: Path) -> None:
    """Raise ConfigError unless `save_answers` can write a file of that name."""
    if path.suffix.lower() not in (".png", ".gif"):
        raise ConfigError(f"{path} is not a picture that can be drawn", "Name it .png or .gif")


def save_answers(family: Family, question: Bytes, answers: list[Bytes], path: Path, label: Bytes | None = None) -> None:
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
        _side_by_side(family, side, question, answer, f"step {number} of {len(answers)}", label)
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


def _panel(family: Family, side: int, question: Bytes, cells: Bytes, label: Bytes | None) -> Panel:
    """Return the cells of a puzzle or of an answer to it, in which those that differ from the label are marked."""
    if family == "arc":
        return _arc_panel(cells, label)
    grid, truth = cells.reshape(side, side), None if label is None else label.reshape(side, side)
    if family == "maze":
        return _maze_panel(grid, truth)
    wrong = None if truth is None else np.asarray(grid != truth)
    return _sudoku_panel(grid, question.reshape(side, side), wrong, truth)


def _side_by_side(
    family: Family, side: int, question: Bytes, answer: Bytes, name: str, label: Bytes | None
) -> Image.Image:
    """Return two panels: the puzzle, and an answer with its name and the number of its cells that are wrong."""
    if label is not None:
        counts = label >= (2 if family == "arc" else 1)  # padding is not answered, nor are ARC's end markers
        wrong = int((answer != label)[counts].sum())
        name += f": {wrong} of {int(counts.sum())} cells differ" if wrong else ": all cells as in the label"
    shown = (("puzzle", question, None), (name, answer, label))
    image = Image.new("RGB", (2 * _PANEL + 3 * _GAP, _PANEL + _TITLE + 2 * _GAP), _PAPER)
    pen = ImageDraw.Draw(image)
    for column, (title, cells, truth) in enumerate(shown):
        left = _GAP + column * (_PANEL + _GAP)
        pen.text((left, _GAP - 4), title, _MUTED, _font(13))
        _panel(family, side, question, cells, truth)(pen, left, _GAP + _TITLE)
    return image
