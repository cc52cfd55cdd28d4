"""What people see while they wait: one style for every command, plain lines where there is no terminal."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_WIDTH = 120
"""Columns where the output is a file or a pipe, which have no width of their own."""


def _console(stderr: bool) -> Console:
    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


out = _console(stderr=False)
"""Results."""
err = _console(stderr=True)
"""Progress and remarks: `trm ... --json | jq` stays clean."""


def bar() -> Progress:
    """A progress bar on standard error; it draws nothing where that is not a terminal."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=32),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    )


class BuildBar:
    """`progress` of a dataset build: a bar per stage."""

    def __init__(self) -> None:
        self._bar = bar()
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> BuildBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        task = self._tasks.get(stage)
        if task is None:
            task = self._tasks[stage] = self._bar.add_task(stage, total=max(total, 1), note="")
        self._bar.update(task, completed=done, total=max(total, 1))


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def num_bytes(count: float) -> str:
    """`3.2 MB`, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def clock_of(time_s: float) -> str:
    """A moment, as date and time of day."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s))


def clock() -> str:
    """The time of day, for plain lines."""
    return time.strftime("%H:%M:%S")
