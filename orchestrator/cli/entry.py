"""Run one command of `trm`, and turn what it raises into one line and an exit code."""

from __future__ import annotations

import gc
import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn

import typer

from orchestrator.records.failures import exit_code
from trm_data.addresses import hide_credentials
from trm_data.errors import UserError, first_line, is_of_machine, is_out_of_memory, is_out_of_space
from trm_data.own_code import distrust_all

logger = logging.getLogger(__name__)

GARBAGE_THRESHOLDS = (50_000, 20, 20)
"""Objects until the garbage collector runs: with its defaults it scans imported modules and thousands of records again
and again, which takes a tenth of a short command's time."""


def run(arguments: list[str]) -> NoReturn:
    """Run one command. A user error is one line on standard error, never a traceback, and exit code 2: or 3 where the
    same command can succeed later (`orchestrator.records.failures.exit_code`)."""
    _open_missing_streams()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    from orchestrator.cli.app import build_app

    distrust_all()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # a test or a notebook may have put another object there
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = build_app(arguments)(args=arguments, prog_name="trm", standalone_mode=False)
        with suppress(ValueError, AttributeError):  # a command may have closed it, or the shell: `>&-`
            sys.stdout.flush()  # here, where an error can be described, and not when the interpreter ends
    except UserError as error:
        _fail(str(error), exit_code(error))
    except typer.Abort:
        sys.exit(130)
    except BrokenPipeError:
        _end_without_reader()
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):  # which the parser turns into exit code 1
            raise
        _end_without_reader()
    except typer.TyperException as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        if message.strip():
            message = message.strip()
            context = getattr(error, "ctx", None)
            words = "trm" if context is None else context.command_path
            _fail(f"{message if message.endswith('?') else message.rstrip('.') + '.'} See `{words} --help`")
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            if is_of_machine(error):
                _fail(_describe(error), exit_code(error))
            raise
        remedy = "Take smaller batches, fewer puzzles or votes, or a machine or GPU with more memory"
        _fail(f"out of memory: {first_line(error)}. {remedy}")
    except (OSError, ValueError) as error:
        if is_out_of_space(error) and getattr(error, "filename", None) is None:
            _discard_output()
            _fail("the output cannot be written: there is no space left. Free some, or send the output elsewhere")
        # The last resort for a file or value that no check covers. `-vv` shows the traceback for a bug report.
        logger.debug("%s", type(error).__name__, exc_info=error)
        is_clear = isinstance(error, OSError) and error.filename is not None
        _fail(_describe(error) + ("" if is_clear else ". `trm -vv ...` shows where"), exit_code(error))
    sys.exit(code if isinstance(code, int) else 0)


def _open_missing_streams() -> None:
    """Open the null device for standard streams that the caller has closed (`2>&-`), where Python has None.

    Otherwise the next file that is opened, a record or a socket, would take the place of one and be printed into.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        with suppress(OSError):
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # for as long as the process


def _describe(error: Exception) -> str:
    """Return one line that names the file, if the error contains it."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or first_line(error)}"
    if isinstance(error, UnicodeDecodeError):
        return f"a file is not {error.encoding} text: byte {error.object[error.start]:#04x} at position {error.start}"
    return f"{type(error).__name__}: {first_line(error)}"


def _end_without_reader() -> NoReturn:
    """End where the reader, `head` for example, has closed the pipe."""
    sys.stderr.close()
    sys.exit(0)


def _fail(message: str, code: int = 2) -> None:
    from orchestrator.api.terminal import printable

    with suppress(OSError, ValueError):  # standard error may have no space left either, or be closed
        print(f"error: {printable(hide_credentials(' '.join(message.split())))}", file=sys.stderr)
    sys.exit(code)


def _discard_output() -> None:
    """Keep the interpreter from writing at its end what could not be written."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:  # noqa: PTH123  # a device, no path
        os.dup2(nothing.fileno(), sys.stdout.fileno())
