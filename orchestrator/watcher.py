"""What a driver tells its surroundings."""

from __future__ import annotations

from orchestrator.planner import Planner
from orchestrator.record import TrialRecord


class Watcher:
    """Hears how a sweep gets on. This one says nothing."""

    def building(self, stage: str, done: int, total: int) -> None:
        """A dataset is being built."""

    def started(self, planner: Planner, slots: int) -> None:
        """Trials are about to start."""

    def refresh(self, planner: Planner) -> None:
        """Called a few times a second from the main thread."""

    def trial_ended(self, planner: Planner, record: TrialRecord) -> None:
        """A trial has ended. Called from the driver's own thread."""

    def remark(self, text: str) -> None:
        """Something that the user should know, in one line. Called from any thread."""
