"""Prepare the next batches in the background, while the model works on the current one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from trm_data.dataset.loader import Batch, TrainLoader


class Prefetcher:
    """Wrap a loader: `fetch` returns the same rows, but a thread prepares whole batches of the coming steps.

    The kernels hold no interpreter lock, so the thread runs parallel to the caller. Which slots will be needed is not
    known in advance; rows of other slots are dropped.

    Args:
        depth: batches made ahead.
        place: what the thread does to a whole batch, for instance copying it into pinned memory.
    """

    def __init__(self, loader: TrainLoader, depth: int = 2, place: Callable[[Batch], Batch] | None = None) -> None:
        self._loader = loader
        self._depth = depth
        self._place = place
        self._all = np.arange(loader.local_batch_size)
        self._thread = ThreadPoolExecutor(1, "trm-data-prefetch")
        self._coming: dict[int, Future[Batch]] = {}

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _make(self, step: int) -> Batch:
        batch = self._loader.fetch(step, self._all)
        return batch if self._place is None else self._place(batch)

    def fetch(self, step: int, slots: NDArray[np.integer]) -> Batch:
        """Return what `TrainLoader.fetch` returns. Steps may be requested in any order; ascending ones are fast."""
        for ahead in range(step, step + 1 + self._depth):
            if ahead not in self._coming:
                self._coming[ahead] = self._thread.submit(self._make, ahead)
        for old in [known for known in self._coming if known < step]:
            self._coming.pop(old).cancel()
        batch = self._coming[step].result()
        return batch if np.array_equal(slots, self._all) else Batch(*(rows[slots] for rows in batch))
