"""Run the command `trm`. Heavy libraries are imported by the command that needs them, so `trm --help` is quick."""

from __future__ import annotations

import sys
from contextlib import suppress


def main(arguments: list[str] | None = None) -> None:
    """Run one command; see `orchestrator.cli.entry`. Ctrl-C ends it during its imports as it does later."""
    try:
        from orchestrator.cli.entry import run

        run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        with suppress(OSError, ValueError):  # standard error may have no space left, or be closed
            print("error: interrupted", file=sys.stderr)
        sys.exit(130)
