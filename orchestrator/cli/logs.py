"""Show the log of the libraries on standard error, in the detail that `-v` and `-q` select."""

from __future__ import annotations

import logging
import sys

from orchestrator.api.terminal import printable
from trm_data.addresses import hide_credentials
from trm_data.errors import first_line

LOGGERS = ("orchestrator", "trm_model", "trm_data")
LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
"""By the number of `-v`."""


class _Handler(logging.Handler):
    """Print one line per record; control characters of other libraries' text are dropped."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record) if logging.getLogger(LOGGERS[0]).level <= logging.DEBUG else _one_line(record)
            print(printable(hide_credentials(text)), file=sys.stderr)  # looked up now: a test may have replaced it
        except Exception:
            self.handleError(record)


def _one_line(record: logging.LogRecord) -> str:
    """Return the message with the error's first line instead of its traceback."""
    error = record.exc_info[1] if record.exc_info else None
    reason = f": {type(error).__name__}: {first_line(error)}" if error is not None else ""
    return f"{record.levelname.lower()}: {record.getMessage()}{reason}"


_handler = _Handler()
_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))


def set_levels(verbose: int, quiet: bool) -> None:
    """Set what the log shows: warnings; changes of state with one `-v`; everything with two; only errors with `-q`."""
    level = logging.ERROR if quiet else LEVELS[min(verbose, len(LEVELS) - 1)]
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        if _handler not in logger.handlers:
            logger.addHandler(_handler)
    if quiet or "orchestrator.cli.views.console" in sys.modules:  # else nothing has printed, and rich stays unloaded
        from orchestrator.cli.views.console import err

        err.quiet = quiet
