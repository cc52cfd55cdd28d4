"""Account for the dollars of a measurement: no request is sent that could exceed the limit."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prices:
    """Hold prices in US dollars per million tokens."""

    usd_per_mtok_in: float
    usd_per_mtok_out: float

    def usd(self, tokens_in: int, tokens_out: int) -> float:
        """Return the cost of a number of tokens in US dollars."""
        return (tokens_in * self.usd_per_mtok_in + tokens_out * self.usd_per_mtok_out) / 1e6


class Ledger:
    """Track money spent and money reserved for open requests. Thread-safe."""

    def __init__(self, limit_usd: float, spent_usd: float) -> None:
        self.limit_usd = limit_usd
        self._spent = spent_usd
        self._reserved: list[float] = []
        self._changed = threading.Condition()

    @property
    def spent_usd(self) -> float:
        """Return the cost of answers so far, plus the upper bound of unanswered requests, in US dollars."""
        with self._changed:
            return self._spent

    def reserve(self, usd: float) -> bool:
        """Reserve the maximum cost of a request, waiting for open requests; return False if the limit is reached."""
        with self._changed:
            while self._spent + sum(self._reserved) + usd > self.limit_usd:
                if not self._reserved:
                    return False
                self._changed.wait()
            self._reserved.append(usd)
            return True

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """Replace a reservation by the actual cost."""
        with self._changed:
            self._reserved.remove(reserved_usd)
            self._spent += spent_usd
            self._changed.notify_all()
