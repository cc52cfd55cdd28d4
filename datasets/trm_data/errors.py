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


MAX_CAUSES = 64
"""Errors of one failure that are looked at."""


def causes(error: BaseException) -> list[BaseException]:
    """Return an error and what it came from: causes, the members of groups, and errors that were being handled.

    What was being handled counts, also after `raise ... from None` (as torch's compiler does): a failed write is often
    the only reason for what the code that handles it runs into. It does not count for a UserError or an interruption,
    which say themselves what they are, whatever a handler was waiting for.
    """
    found: list[BaseException] = []
    left = [error]
    while left and len(found) < MAX_CAUSES:
        each = left.pop(0)
        if any(each is known for known in found):
            continue
        found.append(each)
        members = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        handled = each.__context__ if isinstance(each, Exception) and not isinstance(each, UserError) else None
        left += [other for other in (each.__cause__, *members, handled) if other is not None]
    return found


def is_out_of_space(error: BaseException) -> bool:
    """Return whether a disk, a quota or a limit on file sizes is exhausted, which waiting does not fix.

    Libraries that write by themselves (torch, SQLite, safetensors) say it in their text alone.
    """
    return any(
        each.errno in OUT_OF_SPACE if isinstance(each, OSError) else _says(each, _OUT_OF_SPACE_TEXTS)
        for each in causes(error)
    )


OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_OUT_OF_SPACE_TEXTS = ("no space left on device", "disk quota exceeded", "database or disk is full")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the device or the machine ran out of memory. Imports no torch.

    torch raises a plain RuntimeError where the allocator of the CPU or a CUDA library fails.
    """
    return any(
        has_class(each, _OUT_OF_MEMORY)
        or (isinstance(each, OSError) and each.errno == errno.ENOMEM)
        or (isinstance(each, RuntimeError) and _says(each, _OUT_OF_MEMORY_TEXTS))
        for each in causes(error)
    )


def is_of_machine(error: BaseException) -> bool:
    """Return whether what failed is the machine, its devices, or the connection to the run's other processes.

    Names and texts, so that neither torch nor Ray is imported to decide it.
    """
    return any(
        has_class(each, LOST_PROCESSES)
        or (isinstance(each, OSError) and each.errno in _OF_MACHINE)
        or (isinstance(each, RuntimeError) and _says(each, _OF_MACHINE_TEXTS))
        for each in causes(error)
    )


def has_class(error: BaseException, names: Iterable[str]) -> bool:
    """Return whether an error's class, or one that it derives from, has one of the names."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _says(error: BaseException, texts: Iterable[str]) -> bool:
    return not isinstance(error, UserError) and any(text in str(error).lower() for text in texts)


_OUT_OF_MEMORY = {"OutOfMemoryError", "MemoryError"}
_OUT_OF_MEMORY_TEXTS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "defaultcpuallocator",
    "status_alloc_failed",  # of cuBLAS, cuDNN and cuSPARSE
)
LOST_PROCESSES = {"ProcessLostError", "ActorDiedError", "RayActorError", "NodeDiedError", "WorkerCrashedError"}
_OF_MACHINE = {
    errno.EMFILE,
    errno.ENFILE,
    errno.EAGAIN,  # no more processes
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EPIPE,
}
_OF_MACHINE_TEXTS = (
    "uncorrectable ecc error",
    "busy or unavailable",
    "unspecified launch failure",
    "no cuda gpus are available",
    "cuda error: unknown error",
    "system not yet initialized",  # its fabric manager
    "fallen off the bus",
    "ncclsystemerror",
    "ncclremoteerror",
    "nccl error: remote process exited",
    "can't start new thread",
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "too many open files",
    "resource temporarily unavailable",
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
