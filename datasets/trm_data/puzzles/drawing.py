"""Draw the cells of a puzzle: what the pictures of all kinds are made of. Pillow is imported when it draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

Colour = str
PAPER, INK, MUTED, LINE = "#FFFFFF", "#1B1F24", "#6B7280", "#C9CED6"
WRONG, RIGHT = "#E5484D", "#DDF3E4"
"""Cells of a difference."""
_RING = "#C8102E"
SIZE = 320
"""Pixels of the longer side of a panel."""
Panel = Callable[["ImageDraw.ImageDraw", int, int], None]
"""Draws a grid, given the pen and the position of its upper left corner."""


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, so that pictures are the same on every machine."""
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def paint_cells(
    pen: ImageDraw.ImageDraw, left: int, top: int, fills: list[list[Colour]], line: Colour | None, size: float
) -> None:
    """Fill cells of `size` pixels with their colours."""
    for r, row in enumerate(fills):
        for c, fill in enumerate(row):
            box = (left + c * size, top + r * size, left + (c + 1) * size, top + (r + 1) * size)
            pen.rectangle(box, fill=fill, outline=line)


def grid_panel(
    fills: list[list[Colour]], line: Colour | None, corners: Mapping[tuple[int, int], Colour] | None = None
) -> Panel:
    """Draw coloured cells; those of `corners` are wrong, with a ring and the right colour small in a corner."""
    size = SIZE / max(len(fills), len(fills[0]) if fills else 1, 1)

    def paint(pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
        paint_cells(pen, left, top, fills, line, size)
        width = max(2, round(size / 12))
        for (r, c), right in (corners or {}).items():
            x, y = left + c * size, top + r * size
            pen.rectangle((x, y, x + size, y + size), outline=PAPER, width=2 * width)
            pen.rectangle((x, y, x + size, y + size), outline=_RING, width=width)
            pen.rectangle((x + 0.64 * size, y, x + size, y + 0.36 * size), fill=right, outline=_RING)

    return paint


def difference_panel(wrong: Iterable[Iterable[bool]], line: Colour | None) -> Panel:
    """Draw a panel with wrong cells red and the others green."""
    return grid_panel([[WRONG if cell else RIGHT for cell in row] for row in wrong], line)
