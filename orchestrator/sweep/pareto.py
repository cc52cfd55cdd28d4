"""Compute the Pareto front of points, for searches with several objectives and for plots."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the points that no other point dominates, in order. Smaller is better in every coordinate.

    A point dominates another if it is at most equal in every place and smaller in one; equal points stay together.
    """

    def is_dominated(point: Sequence[float]) -> bool:
        return any(
            all(a <= b for a, b in zip(other, point, strict=True))
            and any(a < b for a, b in zip(other, point, strict=True))
            for other in points
        )

    return [index for index, point in enumerate(points) if not is_dominated(point)]
