"""Average the flat weights over time. The average never feeds back into training."""

from __future__ import annotations

import torch
from torch import Tensor


class MovingAverage:
    """Update `average = d * average + (1 - d) * weights` with d = min(rate, (1 + t) / (10 + t)) at update t = 1, 2,
    ...

    The warm-up lets the average follow the weights at the start: without it a rate of 0.99 lags by some hundred
    steps. With `warm_up=False` it is the official average, which starts at the initial weights.
    """

    def __init__(self, vector: Tensor, rate: float, *, warm_up: bool = True) -> None:
        self.vector = vector.detach().clone()
        self.rate = rate
        self.warm_up = warm_up
        self.count = 0

    @torch.no_grad()
    def update(self, vector: Tensor) -> None:
        """Update the average after an optimizer step."""
        self.count += 1
        rate = min(self.rate, (1 + self.count) / (10 + self.count)) if self.warm_up else self.rate
        self.vector.lerp_(vector, 1 - rate)
