"""Dollars of a measurement: no question is sent whose answer could carry the sum over the limit."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars per million tokens."""

    usd_per_mtok_in: float
    usd_per_mtok_out: float

    def usd(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost."""
        return (tokens_in * self.usd_per_mtok_in + tokens_out * self.usd_per_mtok_out) / 1e6


class Ledger:
    """Money spent and money reserved for what is under way; safe to use from several threads."""

    def __init__(self, limit_usd: float, spent_usd: float) -> None:
        self.limit_usd = limit_usd
        self._spent = spent_usd
        self._reserved: list[float] = []
        self._changed = threading.Condition()

    @property
    def spent_usd(self) -> float:
        """Answers so far, and what was lost on the way at the most that it can have cost."""
        with self._changed:
            return self._spent

    def reserve(self, usd: float) -> bool:
        """Set aside the most that a question can cost, waiting for others to settle if need be; False if the limit
        does not allow it any more."""
        with self._changed:
            while self._spent + sum(self._reserved) + usd > self.limit_usd:
                if not self._reserved:
                    return False
                self._changed.wait()
            self._reserved.append(usd)
            return True

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """A question is over: free what was set aside for it and book what it cost."""
        with self._changed:
            self._reserved.remove(reserved_usd)
            self._spent += spent_usd
            self._changed.notify_all()
