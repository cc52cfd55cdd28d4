"""Print text from outside literally to a console: names, paths and errors are never markup or terminal control."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

_CONTROL = re.compile(
    "\x1b\\[[0-?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?|\x9b[0-?]*[ -/]*[@-~]"  # whole escape sequences
    "|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb]"  # controls, direction
    "|[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2065\u3164\ufeff\uffa0]"  # no width
    "|[\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """Return the text without what would control a terminal; line breaks and tabs stay.

    Bytes of a file name that are not UTF-8 become `\\xff`.
    """
    text = _CONTROL.sub("", text)
    return _SURROGATE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)


class SafeConsole(Console):
    """Print every text literally and without control characters, in tables and live displays too.

    Where the reader of a pipe has gone, nothing more is printed and the work goes on: a sweep must not end, or machines
    stay half set up, because somebody has closed a pager. `raises_on_closed_pipe` is for work that is only shown.
    """

    raises_on_closed_pipe = False

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Print nothing more. Raises BrokenPipeError where what is printed is all that the command does."""
        self.quiet = True
        with suppress(OSError, ValueError):  # what is still buffered would fail again when the interpreter ends
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self.file.fileno())
            os.close(devnull)
        if self.raises_on_closed_pipe:
            raise BrokenPipeError

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does. A text with a command, and any text that goes to a file or a pipe, gets no line breaks.

        A command with a line break in it cannot be pasted. A terminal shows a long line in several rows by itself.
        """
        is_text = bool(objects) and all(isinstance(each, (str, Text)) for each in objects)
        if is_text and (not self.is_terminal or any("trm " in str(each) for each in objects)):
            options.setdefault("soft_wrap", True)
        super().print(*objects, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does. Every text passes here, whichever renderable it belongs to."""
        for segment in super().render(renderable, options):
            if segment.control is None and (_CONTROL.search(segment.text) or _SURROGATE.search(segment.text)):
                yield Segment(printable(segment.text), segment.style)
            else:
                yield segment


def progress_bar(console: Console, **options: Any) -> Progress:
    """Return a progress display whose tasks have a description, a count, a `note`, and the elapsed and remaining time.

    Args:
        options: of `rich.progress.Progress`.
    """
    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=32),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        **options,
    )
