"""Format what people read: durations, sizes, and tables of aligned columns in plain text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

FILE_ENDINGS = (".py", ".jsonl", ".yaml", ".yml")
"""How the names of files that define sweeps end, and so the name of no sweep."""
MOST_ROWS = 16
"""Rows that a printed object shows of a longer table."""


def duration(seconds: float) -> str:
    """Format seconds as `45 s`, `3 min 20 s`, `2 h 5 min` or `3 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def readable(value: float) -> str:
    """Format a number with three significant digits, or, from 100 on, without decimals: `0.24`, `2,800`."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def about(seconds: float) -> str:
    """Format a predicted time as `45 s`, `3 min`, `5 h` or `47,000 days`: no more digits than it is good for."""
    if seconds < 1:
        return "less than 1 s"
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    if round(seconds / 60) < 60:
        return f"{round(seconds / 60)} min"
    if round(seconds / 3600) < 48:
        return f"{round(seconds / 3600)} h"
    days = seconds / 86400
    return f"{round(days) if days < 100 else amount(days)} days"


def device_time(hours: float, device: str) -> str:
    """Format the time of devices as `2,800 GPU-hours`, below an hour as `3 min of one GPU`."""
    if hours * 3600 < 3599.5:
        return f"{about(hours * 3600)} of one {device}"
    return f"{amount(hours)} {device}-hours"


def amount(value: float) -> str:
    """Format a number with two digits and separators, but whole ones below 100 as they are: `2,800`, `47`, `3.1`."""
    if value >= 100:
        return f"{float(f'{value:.2g}'):,.0f}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def num_bytes(count: float) -> str:
    """Format a number of bytes as `3.2 MB`, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def percent(share: float | None) -> str:
    """Format a share as `97.5 %`; None as `-`."""
    return "-" if share is None else f"{100 * share:.1f} %"


def plural(count: int, noun: str) -> str:
    """Format a count with its noun: `1 trial`, `2 trials`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def within(spread: float) -> str:
    """Describe the expected error of a prediction, which `1 + spread` bounds as a factor."""
    return f"give or take {100 * spread:.0f} %" if spread < 1 else f"within a factor of {1 + spread:.0f}"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> list[str]:
    """Return a table as lines: the header and at most `MOST_ROWS` rows, then how many more there are.

    Args:
        right: names of the columns that are aligned to the right.
    """
    shown = [header, *rows[:MOST_ROWS]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        ).rstrip()
        for row in shown
    ]
    return [*lines, f"... and {len(rows) - MOST_ROWS:,} more"] if len(rows) > MOST_ROWS else lines
