"""Print to the terminal: one style for every command, plain lines if the output is not a terminal.

No printed text is interpreted as markup: a name, a path or an error may contain `[/x]`, a terminal escape or an invalid
character. Style is given separately from the text:

    out.print(line("sweep ", (name, "bold"), " is complete"))
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout

import typer
from rich.progress import Progress, TaskID
from rich.text import Text

from orchestrator.api.terminal import SafeConsole, progress_bar
from orchestrator.sweep.fitted_table import LEAST, Column, FittedTable
from trm_data.errors import UserError

PLAIN_EVERY_S = 15.0
"""Seconds between lines of progress if the output is not a terminal."""
PLAIN_WIDTH = 120
"""Number of columns if the output is a file or a pipe, where a narrow COLUMNS would break messages into lines."""


def line(*parts: str | tuple[str, str]) -> Text:
    """Return one text of plain parts and of (part, style) pairs; no part is read as markup."""
    return Text.assemble(*parts)


def _console(stderr: bool) -> SafeConsole:
    console = SafeConsole(stderr=stderr)
    return console if console.is_terminal else SafeConsole(stderr=stderr, width=PLAIN_WIDTH)


out = _console(stderr=False)
"""Results."""
err = _console(stderr=True)
"""Progress and notes, on standard error so that `trm ... --json | jq` works."""


@contextmanager
def only_json(as_json: bool) -> Iterator[None]:
    """Send what the user's own files print to standard error while the block runs, if the output is to be JSON."""
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield


@contextmanager
def ending_with_reader() -> Iterator[None]:
    """End the command where the reader of its output has gone: it only shows what happens."""
    for console in (out, err):
        console.raises_on_closed_pipe = True
    try:
        yield
    finally:
        for console in (out, err):
            console.raises_on_closed_pipe = False


def table(
    *columns: str,
    right: Iterable[str] = (),
    words: Iterable[str] = (),
    drop: Sequence[str] = (),
    least: Mapping[str, int] | None = None,
    header: bool = True,
) -> FittedTable:
    """Return an empty table in the style of all commands.

    Args:
        right: columns of numbers, which are aligned to the right and never cut.
        words: columns of texts that people copy, which are not cut either.
        drop: columns that may be left out where the terminal is narrow, the least important first.
        least: widths below which other columns are left out instead.
    """
    ranks = {name: len(drop) - index for index, name in enumerate(drop)}
    numbers, whole = set(right), set(words)
    least = dict.fromkeys(columns, LEAST) | dict(least or {})
    made = [Column(name, name in numbers, ranks.get(name, 0), least[name], name in whole) for name in columns]
    return FittedTable(made, show_header=header)


def bar() -> Progress:
    """Return a progress bar on standard error; it draws nothing if that is not a terminal."""
    return progress_bar(err, disable=not err.is_terminal, transient=True)


class BuildBar:
    """Show the progress of a dataset build: a bar per stage."""

    def __init__(self) -> None:
        self._bar = bar()
        self._tasks: dict[str, TaskID] = {}
        self._printed_s = time.monotonic()

    def __enter__(self) -> BuildBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Update the bar of one stage, as `trm_data.build` calls it; without a terminal, print a line every 15 s."""
        task = self._tasks.get(stage)
        if task is None:
            task = self._tasks[stage] = self._bar.add_task(stage, total=max(total, 1), note="")
        self._bar.update(task, completed=done, total=max(total, 1))
        if not err.is_terminal and time.monotonic() - self._printed_s > PLAIN_EVERY_S:
            self._printed_s = time.monotonic()
            err.print(f"{clock()} building the dataset: {stage}, {done}/{total}")


def confirm(question: str, refusal: str) -> None:
    """Ask a question of yes or no. Raises UserError with the refusal unless the answer is yes."""
    try:
        typer.confirm(question, abort=True, err=True)
    except (typer.Abort, RuntimeError):  # RuntimeError: there is no standard input
        typer.echo(err=True)  # nobody has ended the line of the question
        raise UserError(refusal, "Answer y, or add --yes") from None


def clock_of(time_s: float) -> str:
    """Format a timestamp as date and time of day."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s))


def clock() -> str:
    """Return the time of day, for plain lines."""
    return time.strftime("%H:%M:%S")
