"""Retry operations that fail for transient reasons: exponential back-off with full jitter, up to a total time."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from orchestrator.storage.base import StorageError

T = TypeVar("T")
logger = logging.getLogger(__name__)

PATIENCE_S = 300.0
"""Total time in seconds for which requests to a storage that has answered before are retried."""
FIRST_CONTACT_S = 5.0
"""The same for a storage that has not answered this process yet: its address may be wrong."""
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 20.0


class TransientError(StorageError):
    """Raised for a storage error whose cause may be transient: a lost connection, a busy server."""


def retry_transient(
    call: Callable[[], T],
    patience_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return the result of `call`, which is repeated after a TransientError until `patience_s` seconds have passed.

    Raises:
        StorageError: the last error of `call`.
    """
    deadline = clock() + patience_s
    longest = FIRST_PAUSE_S
    while True:
        try:
            return call()
        except TransientError as error:
            left = deadline - clock()
            if left <= 0:
                raise
            pause = min(random.uniform(0, longest), left)
            logger.warning("%s; tried again in %.1f s", error, pause)
            sleep(pause)
            longest = min(2 * longest, LONGEST_PAUSE_S)
