"""Failures of the machine, the storage and the user are told apart from those of the trial, which are final."""

from __future__ import annotations

import errno
import os
import sqlite3

import pytest

from orchestrator.records.failures import FailureKind, classify, is_out_of_memory, is_out_of_space
from orchestrator.storage import StorageError, patience
from orchestrator.storage.patience import TransientError, retry_transient
from trm_data.errors import ConfigError, DataError

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
TRIAL, MACHINE, STORAGE, USER = FailureKind.TRIAL, FailureKind.MACHINE, FailureKind.STORAGE, FailureKind.USER


def chained(error: BaseException, cause: BaseException) -> BaseException:
    """Return an error that was raised from another one."""
    error.__cause__ = cause
    return error


def handling(error: BaseException, handled: BaseException, *, from_none: bool = False) -> BaseException:
    """Return an error that was raised while another one was handled."""
    error.__context__ = handled
    error.__suppress_context__ = from_none
    return error


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: all CUDA-capable devices are busy or unavailable",
        "CUDA error: unspecified launch failure",
        "No CUDA GPUs are available",
        "can't start new thread",
        "[third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:6210",
    ],
)
def test_broken_gpu_and_lost_process_are_failures_of_the_machine(text: str) -> None:
    assert classify(RuntimeError(text)) is MACHINE
    assert classify(chained(RuntimeError("the step failed"), RuntimeError(text))) is MACHINE


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        (MACHINE, ["EMFILE", "ENFILE", "EAGAIN", "ECONNRESET", "EPIPE"]),
        (STORAGE, ["EHOSTDOWN", "EHOSTUNREACH", "ENETUNREACH", "EREMOTEIO", "ENOLCK", "EBUSY", "EIO", "ESTALE"]),
        (STORAGE, ["ENOSPC", "EDQUOT", "EROFS", "ETIMEDOUT", "ENOTCONN"]),
        (TRIAL, ["ENOENT", "EINVAL", "ENOMEM"]),
    ],
)
def test_error_of_the_system_belongs_to_what_it_is_about(kind: FailureKind, codes: list[str]) -> None:
    for code in codes:
        number = getattr(errno, code)
        assert classify(OSError(number, os.strerror(number))) is kind, code


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)"),
        sqlite3.OperationalError("database or disk is full"),
        ExceptionGroup("two writers", [ValueError("x"), ExceptionGroup("inner", [FULL])]),
        handling(RuntimeError("write failed"), FULL),
        handling(RuntimeError("compilation failed"), FULL, from_none=True),
        chained(ConfigError("torch.compile fails"), handling(RuntimeError("inductor"), FULL, from_none=True)),
    ],
)
def test_lack_of_space_is_found_wherever_it_stands(error: BaseException) -> None:
    assert is_out_of_space(error) and classify(error) is STORAGE


def test_failure_that_follows_a_failure_of_the_storage_is_not_the_trials() -> None:
    assert classify(handling(RuntimeError("boom"), StorageError("away"))) is STORAGE
    assert not is_out_of_space(handling(RuntimeError("boom"), StorageError("away")))


@pytest.mark.parametrize("cause", [MemoryError(), type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")])
def test_lack_of_memory_is_found_behind_another_error(cause: Exception) -> None:
    error = chained(RuntimeError("a worker of the loader failed"), cause)
    assert is_out_of_memory(error) and classify(error) is TRIAL


def test_what_a_handler_was_waiting_for_does_not_change_what_the_user_did(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    def away() -> None:
        raise TransientError("away")

    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.001)
    with pytest.raises(KeyboardInterrupt) as stopped:
        retry_transient(away, 300.0, sleep=interrupt)
    assert isinstance(stopped.value.__context__, TransientError) and classify(stopped.value) is USER
    assert classify(handling(ConfigError("T must be a number"), FULL)) is USER


def test_address_that_refuses_is_wrong_input_and_no_broken_machine() -> None:
    refused = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    assert classify(chained(DataError("cannot download the puzzles"), refused)) is USER


def test_errors_that_name_each_other_are_looked_at_once() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    chained(first, second)
    handling(second, first)
    assert classify(first) is TRIAL
