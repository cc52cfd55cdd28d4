"""Limit the size of downloaded source files: a server may send without end.

The limit holds per file. `TRM_MAX_DOWNLOAD_GB` in the environment changes it.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable

from trm_data.errors import ConfigError, DataError

LIMIT_VARIABLE = "TRM_MAX_DOWNLOAD_GB"
LIMIT_GB = 4.0
"""The largest published list, Sudoku-Extreme's `train.csv`, has 0.7 GB."""
_CHUNK = 2**20


def max_bytes() -> int:
    """Return the number of bytes that a download may have.

    Raises:
        ConfigError: the environment variable is not a number of gigabytes.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        limit_gb = float(text) if text.strip() else LIMIT_GB
    except ValueError:
        limit_gb = math.nan
    if not 0 < limit_gb < math.inf:
        raise ConfigError(f"{LIMIT_VARIABLE}={text!r} is not a number of gigabytes", "Set it to 10, for example")
    return round(limit_gb * 1e9)


def check_size(where: object, size: int) -> None:
    """Raise DataError if a download has more bytes than the limit."""
    if size > (limit := max_bytes()):
        raise DataError(
            f"{where} is larger than {limit / 1e9:g} GB, the limit for a download",
            f"Check the address, or set {LIMIT_VARIABLE} to a larger number of gigabytes",
        )


def receive(read: Callable[[int], bytes], where: object, announced: int | None = None) -> bytes:
    """Read a download to its end.

    Args:
        read: returns up to the given number of bytes; none at the end.
        where: the address, for the message.
        announced: the size that the server states, if it states one.

    Raises:
        DataError: it is larger than the limit.
    """
    check_size(where, announced or 0)
    content = io.BytesIO()
    while chunk := read(_CHUNK):
        content.write(chunk)
        check_size(where, content.tell())
    return content.getvalue()
