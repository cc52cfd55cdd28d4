"""Show tables that fit the terminal: numbers are never cut, less important columns are left out first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

LEAST = 12
"""Characters of a text column that are always shown: a system's name is recognised by them."""


class Column(NamedTuple):
    """Describe a column."""

    name: str
    is_number: bool = False
    """Aligned to the right, and shown whole or not at all. Texts are folded."""
    drop: int = 0
    """The column with the largest is left out first; one with 0 never is."""
    least: int = LEAST
    """Width of a text below which other columns are left out instead."""
    is_word: bool = False
    """A text that is not folded either, because people copy it: an id, a name of a recipe."""

    @property
    def is_rigid(self) -> bool:
        """Return whether the column is shown whole or not at all."""
        return self.is_number or self.is_word


def fit(columns: Sequence[Column], natural: Sequence[int], room: int, gap: int) -> list[int | None]:
    """Choose the width of every column; None for one that is left out.

    Args:
        natural: widths that show everything.
        room: characters for all columns and the gaps between them.
        gap: characters between two columns.
    """
    widths: list[int | None] = list(natural)
    least = [
        width if column.is_rigid else min(width, column.least) for column, width in zip(columns, natural, strict=True)
    ]

    def excess(needed: Sequence[int]) -> int:
        shown = [needed[index] for index, width in enumerate(widths) if width is not None]
        return sum(shown) + gap * (len(shown) - 1) - room

    while excess(least) > 0:
        droppable = [index for index, column in enumerate(columns) if column.drop and widths[index] is not None]
        if not droppable:
            least = [width if columns[index].is_rigid else min(width, LEAST) for index, width in enumerate(least)]
            break
        widths[max(droppable, key=lambda index: columns[index].drop)] = None
    spare = max(0, -excess(least))
    for index in sorted(range(len(columns)), key=lambda index: columns[index].drop):
        if widths[index] is not None:
            more = min(spare, natural[index] - least[index])
            widths[index], spare = least[index] + more, spare - more
    return widths


@dataclass
class FittedTable:
    """Hold rows of text, and decide what fits when it is printed."""

    columns: Sequence[Column]
    title: str = ""
    caption: str = ""
    box: Box | None = None
    show_header: bool = True
    rows: list[tuple[tuple[RenderableType, ...], str | None]] = field(default_factory=list)

    def add_row(self, *cells: RenderableType, style: str | None = None) -> None:
        """Add a row with a cell for each column."""
        self.rows.append((cells, style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        natural = [
            max(
                [cell_len(column.name) if self.show_header else 0]
                + [_width(cells[index], console, options) for cells, _ in self.rows]
            )
            for index, column in enumerate(self.columns)
        ]
        gap, edge = (
            (3, 4) if self.box else (2, 0)
        )  # a box has a line and two spaces between columns, and two lines outside
        widths = fit(self.columns, natural, options.max_width - edge, gap)
        shown = [index for index, width in enumerate(widths) if width is not None]
        drawn = Table(box=self.box, pad_edge=self.box is not None, show_header=self.show_header, header_style="dim")
        if self.box is not None:
            drawn.header_style = "table.header"
        for index in shown:
            column = self.columns[index]
            drawn.add_column(
                column.name,
                justify="right" if column.is_number else "left",
                no_wrap=column.is_rigid,
                overflow="fold",
                width=widths[index],
            )
        for cells, style in self.rows:
            drawn.add_row(*(cells[index] for index in shown), style=style)
        if self.title:
            yield Text(self.title, style="italic")
        yield drawn
        if self.caption:
            yield Text(self.caption, style="dim italic")
        if hidden := [column.name for index, column in enumerate(self.columns) if index not in shown]:
            yield hidden_note(hidden)


def hidden_note(names: Sequence[str]) -> Text:
    """Return the line that names the columns that are left out."""
    return Text(f"not shown at this width: {', '.join(filter(None, names))}", style="dim")


def _width(cell: RenderableType, console: Console, options: ConsoleOptions) -> int:
    if isinstance(cell, str):
        return max(map(cell_len, cell.splitlines()), default=0)
    if isinstance(cell, Text):
        return cell_len(cell.plain)
    return Measurement.get(console, options, cell).maximum
