"""Classify failures: does a failure belong to the trial, the machine, the storage or the user?

| kind | examples | what follows |
|---|---|---|
| trial | an exception of the training code, a non-finite loss, too little memory | its result; the sweep continues |
| machine | a killed process, a lost node, a preemption, a dead raylet | requeued, resumes from its checkpoint |
| storage | an unreachable bucket, a refused write, a full disk | retried, within limits; a full disk stops the sweep |
| user | a wrong value, a missing file, Ctrl-C | one line and exit code 2, nothing is recorded |

Whatever catches an error decides by this module; the driver, which has only the reason that a trial on another machine
states, decides by its text in `orchestrator.execution.failures`: how it begins, and whether it names a full disk.
"""

from __future__ import annotations

import errno
from enum import StrEnum

from orchestrator.storage.base import StorageError
from trm_data.errors import UserError, causes, first_line, is_out_of_memory, is_out_of_space

__all__ = ["ExitCode", "FailureKind", "classify", "is_out_of_memory", "is_out_of_space", "reason_of"]


class FailureKind(StrEnum):
    """List what a failure can belong to."""

    TRIAL = "trial"
    MACHINE = "machine"
    STORAGE = "storage"
    USER = "user"


class ExitCode:
    """Define the exit codes of `trm` commands that run trials."""

    COMPLETE = 0
    """Every planned trial has a result."""
    FAILED = 1
    """Complete, or stopped by `--max-failures`, with failed trials."""
    USER = 2
    """Wrong input."""
    STOPPED = 3
    """Stopped before the end, by the user, the budget, the storage or lost machines; the same command resumes."""


MACHINE_ERRORS = ("ProcessLostError", "ActorDiedError", "RayActorError", "NodeDiedError", "WorkerCrashedError")
"""By name, so that neither torch nor Ray is imported to classify a failure."""
STORAGE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.ENOTCONN, errno.ETIMEDOUT}


def classify(error: BaseException) -> FailureKind:
    """Return what a failure belongs to; an unknown error belongs to the trial."""
    if is_out_of_space(error) or any(
        isinstance(each, StorageError) or _errno(each) in STORAGE_ERRNOS for each in causes(error)
    ):
        return FailureKind.STORAGE
    if is_out_of_memory(error):
        return FailureKind.TRIAL
    if any(kind.__name__ in MACHINE_ERRORS for kind in type(error).__mro__):
        return FailureKind.MACHINE
    if isinstance(error, UserError | KeyboardInterrupt):
        return FailureKind.USER
    return FailureKind.TRIAL


def reason_of(error: BaseException) -> str:
    """Return one line: the error's type and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error)}"


def _errno(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else None
