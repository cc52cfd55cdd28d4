"""Say what a command waits for, and for how long it has been waiting."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

EVERY_S = 15.0


@contextmanager
def waiting_for(what: str, every_s: float = EVERY_S) -> Iterator[None]:
    """Print on standard error what is being waited for while the block runs: at once, and then every few seconds.

    Args:
        what: "packages are installed on box".
    """
    began_s, is_over = time.monotonic(), threading.Event()

    def tell() -> None:
        while not is_over.wait(every_s):
            _say(f"  {time.monotonic() - began_s:.0f} s: {what}")

    _say(f"{what} ...")
    thread = threading.Thread(target=tell, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _say(text: str) -> None:
    if logger.isEnabledFor(logging.WARNING):  # not with -q
        print(text, file=sys.stderr, flush=True)
