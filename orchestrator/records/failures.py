"""Classify failures: does a failure belong to the trial, the machine, the storage or the user?

| kind | examples | what follows |
|---|---|---|
| trial | an exception of the training code, a non-finite loss, too little memory | its result; the sweep continues |
| machine | a killed process, a lost node, a preemption, a dead raylet, a connection closed by another process of | |
| | the run, a GPU that breaks or is gone, too many open files or threads, a node's cache that | |
| | cannot be written (`MachineError`) | requeued, resumes from its checkpoint |
| storage | an unreachable bucket or file server, a refused write | retried, within limits |
| | a dataset that it has lost or damaged | restored, or the sweep stops |
| | a full disk, quota, cache or database | the sweep stops |
| user | a wrong value, a missing file, Ctrl-C | one line and exit code 2, nothing is recorded |

Whatever catches an error decides by this module; the driver, which has only the reason that a trial on another machine
states, decides by its text in `orchestrator.execution.failures`: how it begins, and whether it names a full disk.
"""

from __future__ import annotations

import errno
from enum import StrEnum

from orchestrator.storage.base import UNREACHABLE, StorageError
from orchestrator.storage.patience import TransientError
from trm_data.errors import (
    LOST_PROCESSES,
    UserError,
    causes,
    first_line,
    has_class,
    is_of_machine,
    is_out_of_memory,
    is_out_of_space,
)

__all__ = [
    "ExitCode",
    "FailureKind",
    "MachineError",
    "classify",
    "exit_code",
    "is_out_of_memory",
    "is_out_of_space",
    "reason_of",
]


class FailureKind(StrEnum):
    """List what a failure can belong to."""

    TRIAL = "trial"
    MACHINE = "machine"
    STORAGE = "storage"
    USER = "user"


class MachineError(UserError):
    """Raised in a trial for what is wrong with its machine, while another one of the cluster may be able to run it."""


class ExitCode:
    """Define the exit codes of `trm`."""

    COMPLETE = 0
    """Every planned trial has a result."""
    FAILED = 1
    """Complete, or stopped by `--max-failures`, with failed trials."""
    USER = 2
    """Wrong input."""
    STOPPED = 3
    """Stopped before the end, by the user, the budget, lost machines, or a storage that is full or does not answer; the
    same command resumes."""


STORAGE_ERRNOS = UNREACHABLE | {errno.EROFS}


def classify(error: BaseException) -> FailureKind:
    """Return what a failure belongs to; an unknown error belongs to the trial.

    Storage and lack of memory count wherever they are among what an error came from (`trm_data.errors.causes`). What
    a UserError describes is no failure of the machine, unless it says so: it may be an address that nobody answers.
    """
    if is_out_of_space(error) or any(
        isinstance(each, StorageError) or (isinstance(each, OSError) and each.errno in STORAGE_ERRNOS)
        for each in causes(error)
    ):
        return FailureKind.STORAGE
    if is_out_of_memory(error):
        return FailureKind.TRIAL
    is_user = isinstance(error, UserError | KeyboardInterrupt)
    is_machine = isinstance(error, MachineError) or has_class(error, LOST_PROCESSES)
    if is_machine or (not is_user and is_of_machine(error)):
        return FailureKind.MACHINE
    return FailureKind.USER if is_user else FailureKind.TRIAL


def exit_code(error: BaseException) -> int:
    """Return the exit code of a command that an error ends: whether the same command can succeed later."""
    may_pass = is_out_of_space(error) or any(isinstance(each, TransientError) for each in causes(error))
    return ExitCode.STOPPED if may_pass or classify(error) is FailureKind.MACHINE else ExitCode.USER


def reason_of(error: BaseException) -> str:
    """Return one line: the error's type and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error)}"
