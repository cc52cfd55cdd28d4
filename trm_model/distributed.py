"""Divide the batch of one run over several processes. With one process, nothing is communicated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Ranks:
    """Describe this process within the default process group (gloo on CPU, NCCL on CUDA)."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Return the ranks of `torch.distributed`, or a single process if it has not been initialised."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def share(self, batch_size: int) -> range:
        """Return the slots of the batch that this process computes."""
        size = batch_size // self.world_size
        return range(self.rank * size, (self.rank + 1) * size)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over all processes in place, and return it."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the rows of all processes, in the order of the slots."""
        if self.world_size == 1:
            return tensor
        raw = tensor.contiguous().view(torch.uint8)  # gloo supports neither bfloat16 nor short integers
        parts = [torch.empty_like(raw) for _ in range(self.world_size)]
        dist.all_gather(parts, raw)
        return torch.cat(parts).view(tensor.dtype)

    def spread(self, items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[tuple[Item, Result]]:
        """Yield every item with its result, in order and in all processes; the processes divide the work.

        A result must survive pickling and lie in the CPU's memory.
        """
        if self.world_size == 1:
            yield from ((item, work(item)) for item in items)
            return
        remaining = iter(items)
        while turn := list(islice(remaining, self.world_size)):
            mine = work(turn[self.rank]) if self.rank < len(turn) else None
            results: list[Result] = [None] * self.world_size  # type: ignore[list-item]
            dist.all_gather_object(results, mine)
            yield from zip(turn, results, strict=False)

    def broadcast_flag(self, flag: bool) -> bool:
        """Return the flag of rank 0, for decisions that depend on a clock or a signal."""
        if self.world_size == 1:
            return flag
        flags = [flag]
        dist.broadcast_object_list(flags, src=0)
        return bool(flags[0])
