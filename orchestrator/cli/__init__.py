"""The command `trm`. Heavy libraries are imported by the command that needs them, so `trm --help` is quick."""

from __future__ import annotations

import sys

import typer

from trm_data.errors import UserError
from trm_model.recursion_file import distrust_all


def main(arguments: list[str] | None = None) -> None:
    """Run one command. A mistake of the user's is one line on standard error and exit code 2, never a traceback."""
    from orchestrator.cli.app import app

    distrust_all()
    try:
        code = app(args=arguments, standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader, `head` say, has seen enough
        sys.exit(0)
    except typer.TyperException as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        if message.strip():
            _fail(f"{message.strip().rstrip('.')}. See `trm --help`")
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int = 2) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
