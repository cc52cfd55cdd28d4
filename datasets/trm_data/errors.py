"""Define errors that a user can cause and correct. The command line prints them as a single line and exits with 2.

UserError
+-- ConfigError        a setting: unknown name, wrong type, value out of range
+-- DataError          a puzzle source or a built dataset
(the upper layers derive their own: SweepError, StorageError, ...)
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

from trm_data.addresses import hide_credentials

MAX_NAMED, NEAREST = 40, 5
"""A message lists at most this many names, and only the nearest ones of more."""


class UserError(Exception):
    """Raised for an error that the user can correct: states what, where and the remedy in one line, without the
    credentials that a quoted address may contain."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(hide_credentials(what))
        self.what = hide_credentials(what)
        self.remedy = hide_credentials(remedy)

    def __str__(self) -> str:
        text = f"{self.what.removesuffix('.')}. {self.remedy}" if self.remedy else self.what
        return " ".join(text.split())

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str]]:
        return type(self), (self.what, self.remedy)  # crosses process borders whole


class ConfigError(UserError):
    """Raised for a setting that does not exist or has an invalid value."""


class DataError(UserError):
    """Raised for a puzzle source or a dataset that cannot be used in its current state."""


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, or its type if it has no text. Credentials are left out."""
    lines = hide_credentials(str(error)).splitlines()
    return next((line.strip() for line in lines if line.strip()), type(error).__name__)


def causes(error: BaseException) -> list[BaseException]:
    """Return an error and the errors that it was explicitly raised from."""
    found = [error]
    while (cause := found[-1].__cause__) is not None and cause not in found:
        found.append(cause)
    return found


def is_out_of_space(error: BaseException) -> bool:
    """Return whether a disk, a quota or a limit on file sizes is exhausted, which waiting does not fix."""
    return any(isinstance(each, OSError) and each.errno in OUT_OF_SPACE for each in causes(error))


OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the device or the machine ran out of memory. Imports no torch.

    torch raises a plain RuntimeError where the allocator of the CPU or a CUDA library fails.
    """
    if any(kind.__name__ in _OUT_OF_MEMORY for kind in type(error).__mro__):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY_TEXTS)


_OUT_OF_MEMORY = {"OutOfMemoryError", "MemoryError"}
_OUT_OF_MEMORY_TEXTS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "defaultcpuallocator",
    "status_alloc_failed",  # of cuBLAS, cuDNN and cuSPARSE
)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `did you mean X?`, or the known names if none is similar: the nearest ones if they are many."""
    names = sorted(map(str, known))  # a member of an enumeration as its value
    close = [each for each in names if each.casefold() == name.casefold()]
    close = close or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    if len(names) > MAX_NAMED:
        nearby = difflib.get_close_matches(name, names, n=NEAREST, cutoff=0.0)
        return f"Known: {', '.join(nearby)} and {len(names) - len(nearby)} more"
    return f"Known: {', '.join(names)}" if names else ""
