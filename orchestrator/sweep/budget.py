"""Define the limits of what a sweep may use."""

from __future__ import annotations

from pydantic import Field

from trm_data.settings import Settings


class Budget(Settings):
    """Set limits for a sweep; None means no limit."""

    trials: int | None = Field(None, ge=1)
    """Trials that were started."""
    gpu_hours: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Shares of a GPU count as such: two trials on one GPU for an hour are one GPU-hour."""
    usd: float | None = Field(None, gt=0, allow_inf_nan=False)
    """GPU-hours at the catalogue's price of the node's market. Disks, head nodes and idle nodes are not included."""
    wall_hours: float | None = Field(None, gt=0, allow_inf_nan=False)
    """From the start of the driver: a sweep that is resumed has them again."""

    def with_limits(self, other: Budget) -> Budget:
        """Return this budget with the limits that `other` sets in place of its own."""
        return self.model_copy(update=other.model_dump(exclude_none=True))
