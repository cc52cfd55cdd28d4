"""Errors that a user can cause and correct. The command line prints one of these as a single line and exits with 2.

UserError
+-- ConfigError        a setting: unknown name, wrong type, value out of range
+-- DataError          a puzzle source or a built dataset
(the upper layers derive their own: SweepError, StorageError, ...)
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can correct: says what, where, and the remedy, in one line."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.what}. {self.remedy}" if self.remedy else self.what
        return " ".join(text.split())

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str]]:
        return type(self), (self.what, self.remedy)  # crosses process borders whole


class ConfigError(UserError):
    """A setting that does not exist or has a value that cannot work."""


class DataError(UserError):
    """A puzzle source or a dataset that cannot be used as it is."""


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, or its type if it has no text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def causes(error: BaseException) -> list[BaseException]:
    """Return an error and the errors that it was explicitly raised from."""
    found = [error]
    while (cause := found[-1].__cause__) is not None and cause not in found:
        found.append(cause)
    return found


def is_out_of_space(error: BaseException) -> bool:
    """Return whether a disk, a quota or a limit on file sizes is exhausted, which waiting does not mend."""
    return any(isinstance(each, OSError) and each.errno in _OUT_OF_SPACE for each in causes(error))


_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean X?`, or the list of known names where nothing is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(names)}" if names else ""
